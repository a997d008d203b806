"""VocalSketch: sounds of all kinds, imitated by voice."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import tensorflow_datasets as tfds

from data_pipelines.builders.common.base import Facts, VocalisationBuilder
from data_pipelines.builders.common.download import Deposit
from data_pipelines.builders.common.manual_files import ManualFiles, read_rows
from data_pipelines.builders.common.matching import Found
from data_pipelines.stores.report import Expected

NAME = re.compile(r".+ - (?P<id>\d+)")
# The first release had {included,excluded}_vocal_imitations/.
FOLDER = re.compile(r"(?:(?:in|ex)cluded_)?vocal_imitations(?:_set2)?")


@dataclass(eq=False)
class VocalsketchConfig(tfds.core.BuilderConfig):
    """Which of the imitations."""

    excluded: bool = True
    """With those that its authors rejected, drafts and silence among them."""


class Vocalsketch(VocalisationBuilder):
    """No label. Group: participant, from the table of set 1.

    vocal_imitaitons_set2.csv of interactiveaudiolab/VocalSketchDataSet (939e07f) has its ids
    rounded: at least five people of participant_survey_set2.csv would be 5.68E+15.
    """

    BUILDER_CONFIGS: ClassVar = [
        VocalsketchConfig(name="all", description="Both sets, as probably in the paper."),
        VocalsketchConfig(name="included", description="Accepted imitations.", excluded=False),
    ]
    FACTS = Facts(
        title="VocalSketch Data Set 1.1.2",
        description="Imitations of instruments, synthesizers and everyday sounds in two sets. The"
        " sounds themselves (sound_recordings/) are no voices and are left out.",
        homepage="https://doi.org/10.5281/zenodo.1251982",
        licence="not confirmed (see its Zenodo page)",
        citation="M. Cartwright, B. Pardo: VocalSketch: Vocally imitating audio concepts. CHI,"
        " 2015, doi:10.1145/2702123.2702387",
        downloads=(Deposit("10.5281/zenodo.1251982", r".*\.zip"),),
        obtain="the archive of https://zenodo.org/records/1251982, or git clone"
        " https://github.com/interactiveaudiolab/VocalSketchDataSet",
        expected=Expected(
            paper_clips=10705,
            paper_hours=10.53,
            note="other counts in use are 10700 and 10750; in set 2, the release has rounded the"
            " ids of the speakers, so its clips have no group",
        ),
    )

    def find_clips(self, files: ManualFiles) -> Iterator[Found]:
        """`vocal_imitations[_set2]/{included,excluded}/<sound> - <imitation>.wav`."""
        # The table of the second set is misspelt in the release: vocal_imitaitons_set2.csv.
        participants = {
            row["filename"].lower(): row["participantid"]
            for table in files.named(r"vocal_imita[a-z]+(_set2)?\.csv")
            for row in read_rows(table, "filename", "participantid")
        }
        for file in files.audio():
            if not any(FOLDER.fullmatch(folder) for folder in file.folders):
                continue
            if any("excluded" in f for f in file.folders) and not self.builder_config.excluded:
                continue
            name = NAME.fullmatch(file.stem)
            if name is None:
                yield Found(file, None, "its name does not end in ' - <number of the imitation>'")
            else:
                group = participants.get(file.name.lower(), "")
                yield self.clip(file, name["id"], group=group)
