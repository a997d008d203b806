"""The babies of ASVP-ESD: its folder Bonus."""

from collections.abc import Mapping
from typing import ClassVar

from data_pipelines.builders.asvp_esd import CITATION, AsvpEsd, AsvpEsdConfig
from data_pipelines.builders.common.base import Facts
from data_pipelines.builders.common.download import Deposit
from data_pipelines.builders.common.manual_files import File
from data_pipelines.stores.report import Expected


class AsvpEsdBabies(AsvpEsd):
    """Label: third field of the name. Group: none; its three "actors" are collections."""

    BUILDER_CONFIGS: ClassVar = [
        AsvpEsdConfig(name="all", description="Everything, as in the paper.")
    ]
    FACTS = Facts(
        title="ASVP-ESD, the folder Bonus",
        description="Sounds of babies in seven classes, from three collections.",
        homepage="https://doi.org/10.5281/zenodo.7132783",
        licence="CC BY 4.0",
        citation=CITATION,
        downloads=(Deposit("10.5281/zenodo.7132783", r"ASVP-ESD-Update\.zip"),),
        obtain="ASVP-ESD-Update.zip from https://zenodo.org/records/7132783",
        expected=Expected(clips=1339, hours=2.9054, paper_clips=1339, paper_hours=2.91),
        classes=("boredom", "calm", "happy", "sad", "fearful", "pain", "disgust"),
    )
    EMOTIONS: ClassVar[Mapping[int, str]] = {
        **{1: "boredom", 2: "calm", 3: "happy", 4: "sad", 6: "fearful", 11: "pain"},
        **{17: "disgust", 7: "disgust"},
    }
    ACTORS_ARE_GROUPS = False

    def belongs(self, file: File) -> bool:
        """Recordings in the part of the babies."""
        return file.below("bonus") is not None
