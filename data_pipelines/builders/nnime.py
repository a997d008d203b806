"""NNIME: improvised dyads of Mandarin speakers, cut into sentences and non-verbal sounds."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import tensorflow_datasets as tfds

from data_pipelines.builders.common.base import Facts, VocalisationBuilder
from data_pipelines.builders.common.manual_files import ManualFiles
from data_pipelines.builders.common.matching import Found
from data_pipelines.stores.report import Expected

NAME = re.compile(r"[a-z]+_(?P<team>\d+)_[ab]_\d+")
SAME_PERSON = {"04": "04+22", "22": "04+22"}
"""4B and 22A are one person."""


@dataclass(eq=False)
class NnimeConfig(tfds.core.BuilderConfig):
    """Which types of segments, and how many there are."""

    types: tuple[str, ...] = ()
    clips: int = 0


class Nnime(VocalisationBuilder):
    """Label: type of segment, by its folder. Group: team of two."""

    FACTS = Facts(
        title="NTHU-NTUA Chinese Interactive Multimodal Emotion Corpus (NNIME)",
        description="Sentence-level segments, 85 % of them speech.",
        homepage="https://nnime.ee.nthu.edu.tw",
        licence="academic use by signed agreement, no redistribution",
        citation="H.-C. Chou et al.: NNIME: The NTHU-NTUA Chinese interactive multimodal emotion"
        " corpus. ACII, 2017",
        obtain="the archive 'Sentence Level', on request at https://nnime.ee.nthu.edu.tw/down/",
        expected=Expected(clips=5596, tolerance=0.01, paper_clips=5596, paper_hours=3.55),
        classes=("speech", "laugh", "audien_laugh", "sigh", "sobbing", "others"),
    )
    BUILDER_CONFIGS: ClassVar = [
        NnimeConfig(
            name="all",
            description="Every type, as in the paper.",
            types=FACTS.classes,
            clips=5596,
        ),
        NnimeConfig(
            name="nonspeech",
            description="Every type but speech.",
            types=FACTS.classes[1:],
            clips=858,
        ),
        NnimeConfig(name="speech", description="Speech only.", types=FACTS.classes[:1], clips=4738),
    ]

    @property
    def expected(self) -> Expected:
        """By the counts of a licensee."""
        if self.builder_config.name == "all":
            return self.FACTS.expected
        return Expected(clips=self.builder_config.clips, tolerance=0.01)

    def find_clips(self, files: ManualFiles) -> Iterator[Found]:
        """`<type>/<atmosphere>_<team>_<A|B>_<number>.wav`; whole recordings have no number."""
        # Whether the folders say Audien_Laugh, AudienLaugh or Audien Laugh was not seen.
        types = {name.replace("_", ""): name for name in self.class_names}
        for file in files.audio():
            kinds = [re.sub(r"[^a-z]", "", folder) for folder in file.folders]
            label = next((types[kind] for kind in reversed(kinds) if kind in types), None)
            if label is None or label not in self.builder_config.types:
                continue
            name = NAME.fullmatch(file.stem.lower())
            if name is None:
                yield Found(file, None, "its name is not <atmosphere>_<team>_<A|B>_<number>")
                continue
            team = name["team"].zfill(2)
            group = SAME_PERSON.get(team, team)
            yield self.clip(file, f"{label}/{file.stem}", label=label, group=group)
