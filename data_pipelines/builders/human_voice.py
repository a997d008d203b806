"""HumanVoiceDataset: notes and vowels sung by one man."""

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
class HumanVoiceConfig(tfds.core.BuilderConfig):
    """Which of the takes."""

    stereo: bool = True
    """With the stereo exports, which repeat the mono ones."""


class HumanVoice(VocalisationBuilder):
    """No label. Group: singer, of whom there is one."""

    BUILDER_CONFIGS: ClassVar = [
        HumanVoiceConfig(name="all", description="Every exported take, as in the paper."),
        HumanVoiceConfig(name="mono", description="Each take once.", stereo=False),
    ]
    FACTS = Facts(
        title="HumanVoiceDataset of vocobox",
        description="Notes (75 takes, exported in mono and again in stereo) and vowels (29 takes)"
        " of one singer, 44.1 kHz.",
        homepage="https://github.com/vocobox/human-voice-dataset",
        licence="MIT",
        citation="vocobox: Human voice dataset, https://github.com/vocobox/human-voice-dataset",
        downloads=(Archive("https://github.com/vocobox/human-voice-dataset/archive/HEAD.zip"),),
        obtain="git clone https://github.com/vocobox/human-voice-dataset, or its zip",
        expected=Expected(clips=179, hours=0.0575, paper_clips=179, paper_hours=0.06),
    )

    @property
    def expected(self) -> Expected:
        """179 takes, or 104 in mono."""
        return self.FACTS.expected if self.builder_config.stereo else Expected(clips=104)

    def find_clips(self, files: ManualFiles) -> Iterator[Found]:
        """`voices/<singer>/<notes|voyels>/exports/<mono|stereo>/*.wav`."""
        for file in files.audio():
            below = file.below("voices")
            if below is None or len(below) != 4 or below[2] != "exports":
                continue
            singer, kind, _, channels = below
            if channels != "stereo" or self.builder_config.stereo:
                yield self.clip(file, f"{singer}/{kind}/{channels}/{file.stem}", group=singer)
