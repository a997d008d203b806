"""ASVP-ESD: emotional sounds and utterances from films, television and the web."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import tensorflow_datasets as tfds

from data_pipelines.builders.common.base import Facts, VocalisationBuilder
from data_pipelines.builders.common.download import Deposit
from data_pipelines.builders.common.manual_files import File, ManualFiles
from data_pipelines.builders.common.matching import Found
from data_pipelines.stores.report import Expected

# <modality>-<channel>-<emotion>-<intensity>-<statement>-<actor>-…; later fields may be missing,
# and five names of Bonus have a blank before the last dash.
NAME = re.compile(r"\d+-(?P<channel>\d+)-(?P<emotion>\d+)-\d+-\d+-(?P<actor>\d+)(?: ?[-_]\d+)*")
# 171 of the 172 sounds of breath lie in a folder without a number, `actor_`.
FOLDER = re.compile(r"actor_(\d*)")
NON_SPEECH = 2
CITATION = (
    "D. T. T. Landry, Q. He, W. Xie: Audio, Speech and Vision Processing lab Emotional Sound"
    " Database (ASVP-ESD), doi:10.5281/zenodo.7132783"
)


@dataclass(eq=False)
class AsvpEsdConfig(tfds.core.BuilderConfig):
    """Which vocal channels."""

    speech: bool = True


class AsvpEsd(VocalisationBuilder):
    """Label: third field of the name. Group: sixth, actors, a few of whom are many persons.

    Compared with the listing of all 13,964 files in emo-box/EmoBox, data/asvpesd/asvpesd.jsonl
    (08280f2), by which Audio has 15.07 h and Bonus 2.91 h, as in the paper.
    """

    BUILDER_CONFIGS: ClassVar = [
        AsvpEsdConfig(name="all", description="Speech and non-speech, as in the paper."),
        AsvpEsdConfig(name="nonspeech", description="Channel 02 only.", speech=False),
    ]
    FACTS = Facts(
        title="ASVP-ESD, the folder Audio",
        description="13 emotions in speech and non-speech sounds, partly noisy.",
        homepage="https://doi.org/10.5281/zenodo.7132783",
        licence="CC BY 4.0",
        citation=CITATION,
        downloads=(Deposit("10.5281/zenodo.7132783", r"ASVP-ESD-Update\.zip"),),
        obtain="ASVP-ESD-Update.zip from https://zenodo.org/records/7132783",
        expected=Expected(clips=12625, hours=15.0705, paper_clips=12625, paper_hours=15.07),
        classes=(
            *("boredom", "neutral", "happy", "sad", "angry", "fearful", "disgust", "surprised"),
            *("excited", "pleasure", "pain", "disappointment", "breath"),
        ),
    )
    # 17 occurs for disgust beside 07.
    EMOTIONS: ClassVar[Mapping[int, str]] = {
        **dict(enumerate(FACTS.classes, start=1)),
        17: "disgust",
    }
    ACTORS_ARE_GROUPS: ClassVar[bool] = True

    @property
    def expected(self) -> Expected:
        """By the listing."""
        return self.FACTS.expected if self.builder_config.speech else Expected(clips=7545)

    def belongs(self, file: File) -> bool:
        """Recordings that are not in the part of the babies."""
        return file.below("bonus") is None

    def find_clips(self, files: ManualFiles) -> Iterator[Found]:
        """`actor_[<n>]/<name>.wav` in the part that belongs to this dataset."""
        for file in files.audio():
            folder = FOLDER.fullmatch(file.folders[-1]) if file.folders else None
            if folder is None or not self.belongs(file):
                continue
            name = NAME.fullmatch(file.stem)
            code = int(name["emotion"]) if name else 0
            if name is None or code not in self.EMOTIONS:
                known = ", ".join(f"{code:02d}" for code in self.EMOTIONS)
                yield Found(file, None, f"its name has no emotion ({known}) as its third field")
            elif self.builder_config.speech or int(name["channel"]) == NON_SPEECH:
                clip_id = f"actor_{folder[1]}/{file.stem}"
                group = f"actor_{int(name['actor'])}" if self.ACTORS_ARE_GROUPS else ""
                yield self.clip(file, clip_id, label=self.EMOTIONS[code], group=group)
