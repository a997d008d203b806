"""VIVAE: affect bursts of eleven speakers at four intensities."""

import re
from collections.abc import Iterator

from data_pipelines.builders.common.base import Facts, VocalisationBuilder
from data_pipelines.builders.common.download import Deposit
from data_pipelines.builders.common.manual_files import ManualFiles
from data_pipelines.builders.common.matching import Found
from data_pipelines.stores.report import Expected

NAME = re.compile(r"(?P<speaker>s\d\d)_(?P<emotion>[a-z]+)_(?:low|moderate|strong|peak)_[^_]+")


class Vivae(VocalisationBuilder):
    """Label: second field of the name. Group: speaker.

    Compared with all 1,085 rows of felixbur/nkululeko, data/vivae/vivae.csv (a1e2bd19).
    """

    FACTS = Facts(
        title="Variably Intense Vocalizations of Affect and Emotion (VIVAE)",
        description="Non-speech bursts of three positive and three negative states, 44.1 kHz.",
        homepage="https://doi.org/10.5281/zenodo.4066235",
        licence="CC BY-NC 4.0 (by its README)",
        citation="N. Holz, P. Larrouy-Maestri, D. Poeppel: The variably intense vocalizations of"
        " affect and emotion (VIVAE) corpus prompts new perspective on nonspeech perception."
        " Emotion, 2022, doi:10.1037/emo0001048",
        downloads=(Deposit("10.5281/zenodo.4066235", r"VIVAE\.zip"),),
        obtain="VIVAE.zip from https://zenodo.org/records/4066235; full_set/ is read, core_set/"
        " repeats a part of it",
        expected=Expected(clips=1085, paper_clips=1085, paper_hours=0.27),
        classes=("achievement", "anger", "fear", "pain", "pleasure", "surprise"),
    )

    def find_clips(self, files: ManualFiles) -> Iterator[Found]:
        """Every recording outside of the core set, flat or in folders by emotion."""
        for file in files.audio():
            if file.below("core_set") is not None:
                continue
            name = NAME.fullmatch(file.stem.lower())
            if name:
                yield self.clip(
                    file, file.stem, label=name["emotion"], group=name["speaker"].upper()
                )
            elif file.below("full_set") is not None:
                yield Found(file, None, "its name is not <speaker>_<emotion>_<intensity>_<item>")
