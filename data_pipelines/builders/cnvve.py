"""CNVVE: six non-verbal voice expressions for the control of devices."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import tensorflow_datasets as tfds

from data_pipelines.builders.common.base import Facts, VocalisationBuilder
from data_pipelines.builders.common.download import Deposit
from data_pipelines.builders.common.manual_files import ManualFiles
from data_pipelines.builders.common.matching import Found
from data_pipelines.stores.report import Expected

RELEASES = ("cleaned", "raw", "padded")
MADE = re.compile(r"stretched|.*_augmented")
"""Folders that the authors' own normalize.py and augment.py write beside the releases."""


@dataclass(eq=False)
class CnvveConfig(tfds.core.BuilderConfig):
    """Which release, and whether to believe in its file names."""

    release: str = "cleaned"
    actors: bool = False
    """Group: second field of the name, which one third-party loader takes for the speaker."""


class Cnvve(VocalisationBuilder):
    """Label: folder, as in createmeta.py of hedeshy/CNVVE (962cc92), whose classes these are.

    Group: none, since no speaker list is published.
    """

    BUILDER_CONFIGS: ClassVar = [
        CnvveConfig(name="cleaned", description="16 kHz, silence trimmed; probably the paper's."),
        CnvveConfig(name="cleaned_actors", description="With groups from names.", actors=True),
        CnvveConfig(name="raw", description="As recorded.", release="raw"),
        CnvveConfig(name="padded", description="Padded to 1 s.", release="padded"),
    ]
    FACTS = Facts(
        title="CNVVE: non-verbal voice expressions",
        description="950 recordings of 42 speakers.",
        homepage="https://github.com/hedeshy/CNVVE",
        licence="not confirmed (see its DaRUS page)",
        citation="R. Hedeshy, R. Menges, S. Staab: CNVVE: Dataset and benchmark for classifying"
        " non-verbal voice expressions. Interspeech, 2023, doi:10.21437/Interspeech.2023-201",
        downloads=(Deposit("10.18419/darus-3898"),),
        obtain="the cleaned release, https://doi.org/10.18419/darus-3898 (raw:"
        " https://doi.org/10.18419/darus-3897)",
        expected=Expected(
            paper_clips=921,
            paper_hours=0.2,
            note="the paper's 921 fit the cleaned release, whose script leaves out empty clips",
        ),
        classes=("confirm", "decline", "continuous", "hush", "psst", "ahem"),
    )

    def find_clips(self, files: ManualFiles) -> Iterator[Found]:
        """Below the first folder that is named after a class."""
        others = set(RELEASES) - {self.builder_config.release}
        for file in files.audio():
            label = next((f for f in file.folders if f in self.class_names), None)
            if label is None or others & set(file.folders):
                continue
            if any(MADE.fullmatch(folder) for folder in file.folders):
                continue
            fields = file.stem.split("_")
            group = fields[1] if self.builder_config.actors and len(fields) > 2 else ""
            clip_id = "/".join([label, *(file.below(label) or ()), file.stem])
            yield self.clip(file, clip_id, label=label, group=group)
