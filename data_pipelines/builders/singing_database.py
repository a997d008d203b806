"""Singing Voice Audio Dataset: phrases of Chinese opera and Western singers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import tensorflow_datasets as tfds

from data_pipelines.builders.common.base import Facts, VocalisationBuilder
from data_pipelines.builders.common.download import Archive
from data_pipelines.builders.common.manual_files import ManualFiles
from data_pipelines.builders.common.matching import Found
from data_pipelines.stores.report import Expected


@dataclass(eq=False)
class SingingDatabaseConfig(tfds.core.BuilderConfig):
    """Which of the recordings."""

    polyphonic: bool = True
    """With those that have an accompaniment."""


class SingingDatabase(VocalisationBuilder):
    """No label. Group: singer, by the folders that Amphion's preprocessors/opera.py reads."""

    BUILDER_CONFIGS: ClassVar = [
        SingingDatabaseConfig(name="all", description="With and without accompaniment."),
        SingingDatabaseConfig(name="monophonic", description="Voice alone.", polyphonic=False),
    ]
    FACTS = Facts(
        title="Singing Voice Audio Dataset (SingingDatabase)",
        description="Whole songs of positive and negative emotion, about two minutes each.",
        homepage="http://isophonics.net/SingingVoiceDataset",
        licence="not confirmed (see its home page)",
        citation="D. A. A. Black, M. Li, M. Tian: Automatic identification of emotional cues in"
        " Chinese opera singing. ICMPC, 2014",
        downloads=(
            Archive("http://www.isophonics.net/sites/isophonics.net/files/SingingDatabase.zip"),
        ),
        obtain="http://www.isophonics.net/sites/isophonics.net/files/SingingDatabase.zip",
        expected=Expected(
            paper_clips=113,
            paper_hours=3.97,
            note="whether the paper's 113 are all or the monophonic ones is not known",
        ),
    )

    def find_clips(self, files: ManualFiles) -> Iterator[Found]:
        """`{mono,poly}phonic/<style>/<singer>/<emotion>_<song>.wav`."""
        for file in files.audio():
            for kind in ("monophonic", "polyphonic"):
                below = file.below(kind)
                if below is None or (kind == "polyphonic" and not self.builder_config.polyphonic):
                    continue
                if len(below) == 2:
                    group = "/".join(below)
                    yield self.clip(file, f"{kind}/{group}/{file.stem}", group=group)
                else:
                    yield Found(file, None, f"does not lie in {kind}/<style>/<singer>/")
