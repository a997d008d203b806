"""Deeply's public sample of sixteen non-verbal vocal and oral sounds."""

import re
from collections.abc import Iterator

from data_pipelines.builders.common.base import Facts, VocalisationBuilder
from data_pipelines.builders.common.download import Archive
from data_pipelines.builders.common.manual_files import ManualFiles
from data_pipelines.builders.common.matching import Found
from data_pipelines.stores.report import Expected

# <speaker>_<class>_<trial>_<sex>_<age>_<location>_<quality>_<noise>
NAME = re.compile(r"(?P<speaker>[^_]+)_(?P<label>\d+)(?:_[^_]+){6}")


class DeeplyNonverbal(VocalisationBuilder):
    """Label: second field of the name. Group: speaker."""

    FACTS = Facts(
        title="Deeply Nonverbal Vocalization Dataset (public sample)",
        description="410 speakers, 257 of them with a single file, 16 kHz. Several teeth and lip"
        " sounds are near the noise floor.",
        homepage="https://github.com/deeplyinc/Nonverbal-Vocalization-Dataset",
        licence="CC BY-NC-ND 4.0",
        citation="Deeply Inc.: Nonverbal Vocalization Dataset, 2021, https://www.openslr.org/99",
        downloads=(
            Archive("https://github.com/deeplyinc/Nonverbal-Vocalization-Dataset/archive/HEAD.zip"),
        ),
        obtain="git clone https://github.com/deeplyinc/Nonverbal-Vocalization-Dataset, or"
        " https://www.openslr.org/resources/99/NonverbalVocalization.tgz",
        expected=Expected(
            clips=727,
            hours=0.5731,
            paper_clips=800,
            paper_hours=0.6,
            note="the paper's 800 clips and 0.6 h are the rounded figures of the README",
        ),
        classes=(
            *("teeth-chattering", "teeth-grinding", "tongue-clicking", "nose-blowing", "coughing"),
            *("yawning", "throat-clearing", "sighing", "lip-popping", "lip-smacking", "panting"),
            *("crying", "laughing", "sneezing", "moaning", "screaming"),
        ),
    )

    def find_clips(self, files: ManualFiles) -> Iterator[Found]:
        """Recordings in the folders of the classes, whatever lies above those."""
        for file in files.audio():
            folder = file.folders[-1] if file.folders else ""
            name = NAME.fullmatch(file.stem)
            if name is None or int(name["label"]) >= len(self.class_names):
                if folder in self.class_names:
                    yield Found(file, None, "its name has not the eight fields of this dataset")
                continue
            label = self.class_names[int(name["label"])]
            if folder in self.class_names and folder != label:
                yield Found(file, None, f"its name says {label}, its folder {folder}")
            else:
                yield self.clip(file, file.stem, label=label, group=name["speaker"])
