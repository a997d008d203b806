"""The baby cries of TUT Rare Sound Events 2017, mixed into everyday scenes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import tensorflow_datasets as tfds

from data_pipelines.builders.common.base import Facts, VocalisationBuilder
from data_pipelines.builders.common.manual_files import ManualFiles
from data_pipelines.builders.common.matching import Found
from data_pipelines.stores.report import Expected

NAME = re.compile(r"mixture_(?P<fold>devtrain|devtest|evaltest)_babycry_.+")


@dataclass(eq=False)
class TutBabiesConfig(tfds.core.BuilderConfig):
    """Which of the recordings."""

    sources: bool = True
    """With the recordings that the cries were cut from."""
    silent_scenes: bool = True
    """With the half of the mixtures in which nobody cries."""


class TutBabies(VocalisationBuilder):
    """No label, no group. Fold: part of the challenge."""

    BUILDER_CONFIGS: ClassVar = [
        TutBabiesConfig(name="all", description="Mixtures and sources; nearest to the paper."),
        TutBabiesConfig(name="mixtures", description="Mixtures only.", sources=False),
        TutBabiesConfig(
            name="cries", description="Sources and mixtures with a cry.", silent_scenes=False
        ),
    ]
    FACTS = Facts(
        title="TUT Rare Sound Events 2017, class babycry",
        description="Mixtures of 30 s, 44.1 kHz 24-bit, half of them without a baby.",
        homepage="https://doi.org/10.5281/zenodo.401395",
        licence="TUT EULA (research, non-commercial); events by file: CC0, CC BY, CC BY-NC,"
        " Sampling+",
        citation="A. Diment, A. Mesaros, T. Heittola, T. Virtanen: TUT Rare sound events,"
        " Development dataset, 2017, doi:10.5281/zenodo.401395",
        obtain="the archives of https://zenodo.org/records/401395 (development, synthesised by its"
        " own code) and https://zenodo.org/records/1160455 (evaluation)",
        expected=Expected(
            paper_clips=1540,
            paper_hours=13.17,
            note="the paper's 1540 are probably 1500 mixtures and 40 sources",
        ),
    )

    def find_clips(self, files: ManualFiles) -> Iterator[Found]:
        """`mixture_<part>_babycry_<number>_<hash>.wav` and `events/babycry/<id>.wav`."""
        # Tab-separated without a header: file, and onset, offset and label if somebody cries; the
        # fields are those of DCASE-REPO/dcase_util, dcase_util/datasets/tut.py.
        crying = {
            fields[0].strip().lower()
            for table in files.named(r"event_list_(devtrain|devtest|evaltest)_babycry\.csv")
            for line in table.path.read_text().splitlines()
            if len(fields := line.split("\t")) > 1
        }
        for file in files.audio():
            name = NAME.fullmatch(file.stem.lower())
            if name and (self.builder_config.silent_scenes or file.name.lower() in crying):
                yield self.clip(file, file.stem, fold=name["fold"])
            elif file.below("events", "babycry") is not None and self.builder_config.sources:
                yield self.clip(file, f"event/{file.stem}")
