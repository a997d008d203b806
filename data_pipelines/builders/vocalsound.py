"""VocalSound: six sounds, recorded by 3,365 volunteers over the web."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

import tensorflow_datasets as tfds

from data_pipelines.builders.common.base import Facts, VocalisationBuilder
from data_pipelines.builders.common.download import Archive, Source
from data_pipelines.builders.common.manual_files import ManualFiles
from data_pipelines.builders.common.matching import Found
from data_pipelines.stores.report import Expected

NAME = re.compile(r"(?P<speaker>[fm]\d{4})_\d+_(?P<label>[a-z]+)")
FOLDS = {"tr": "train", "val": "validation", "te": "test"}


@dataclass(eq=False)
class VocalsoundConfig(tfds.core.BuilderConfig):
    """Which of the two archives, should both be there."""

    rate: str = "16k"


class Vocalsound(VocalisationBuilder):
    """Label and group: the name. Fold: `datafiles/{tr,val,te}.json`, where they are there.

    Their entries hold paths of the authors' machines, as in src/prep_data.py of
    YuanGongND/vocalsound (337ac55); jimbozhang/xares takes the parts from meta/, by speaker.
    """

    BUILDER_CONFIGS: ClassVar = [
        VocalsoundConfig(name="16k", description="vs_release_16k.zip."),
        VocalsoundConfig(name="44k", description="vs_release_44k.zip.", rate="44k"),
    ]
    FACTS = Facts(
        title="VocalSound",
        description="21 024 recordings; the official parts share no speaker.",
        homepage="https://github.com/YuanGongND/vocalsound",
        licence="CC BY-SA 4.0",
        citation="Y. Gong, J. Yu, J. Glass: VocalSound: A dataset for improving human vocal sounds"
        " recognition. ICASSP, 2022, doi:10.1109/ICASSP43922.2022.9746828",
        obtain="vs_release_16k.zip by the link in https://github.com/YuanGongND/vocalsound",
        expected=Expected(
            clips=21024,
            tolerance=0.005,
            paper_clips=20985,
            paper_hours=24.37,
            note="which 39 the paper leaves out is not known",
        ),
        classes=("cough", "laughter", "sigh", "sneeze", "sniff", "throatclearing"),
    )
    DOWNLOADS: ClassVar = {
        "16k": Archive(
            "https://www.dropbox.com/s/c5ace70qh1vbyzb/vs_release_16k.zip?dl=1",
            "sha256:66b83ee62e79c059b051c6f4afac06497945931c10c7f643a928b92f1ff9b9f2",
        ),
        "44k": Archive("https://www.dropbox.com/s/ybgaprezl8ubcce/vs_release_44k.zip?dl=1"),
    }

    @property
    def downloads(self) -> tuple[Source, ...]:
        """The archive of this rate."""
        return (self.DOWNLOADS[self.builder_config.rate],)

    def find_clips(self, files: ManualFiles) -> Iterator[Found]:
        """`audio_16k/<speaker>_<collection>_<label>.wav`, or whatever the folder is called."""
        folds = {
            PurePosixPath(entry["wav"]).name.lower(): FOLDS[file.stem.lower()]
            for file in files.named(r"(tr|val|te)\.json")
            for entry in json.loads(file.path.read_text())["data"]
        }
        other = "44k" if self.builder_config.rate == "16k" else "16k"
        for file in files.audio():
            if file.folders and file.folders[-1].endswith(f"_{other}"):
                continue
            name = NAME.fullmatch(file.stem.lower())
            if name is None:
                yield Found(file, None, "its name is not <speaker>_<collection>_<label>")
                continue
            yield self.clip(
                file,
                file.stem,
                label=name["label"],
                group=name["speaker"],
                fold=folds.get(file.name.lower(), ""),
            )
