"""AudioSet: the segments with vocal sounds, as far as the user has got hold of their audio."""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import tensorflow_datasets as tfds

from data_pipelines.builders.common.audioset_labels import BORDERLINE, CORE, SPEECH_AND_MUSIC
from data_pipelines.builders.common.base import Facts, VocalisationBuilder
from data_pipelines.builders.common.manual_files import File, ManualFiles
from data_pipelines.builders.common.matching import Found
from data_pipelines.stores.report import Expected
from voc2vec_jax.errors import DataError

LABELS = {**CORE, **BORDERLINE}
# <video id>[_<start>-<end>]; an id has eleven characters, dashes and underscores among them.
NAME = re.compile(r"(?P<video>[\w-]{11})(?:_(?P<start>\d+(?:\.\d+)?)-\d+(?:\.\d+)?)?", re.ASCII)
LABEL_FILE = "vocalization_labels.txt"


@dataclass(eq=False)
class AudiosetConfig(tfds.core.BuilderConfig):
    """Which segments."""

    mixed: bool = True
    """With segments that are labelled as speech or music too, about 60 % of them."""


class AudiosetVocalization(VocalisationBuilder):
    """Label: the one chosen label of a segment, unknown if it has several. Group: video."""

    BUILDER_CONFIGS: ClassVar = [
        AudiosetConfig(name="all", description="Every segment with a chosen label."),
        AudiosetConfig(name="pure", description="Without speech and music labels.", mixed=False),
    ]
    FACTS = Facts(
        title="AudioSet (vocalisations)",
        description="Segments of 10 s from YouTube with one of 35 labels. The paper does not say"
        " which labels it chose.",
        homepage="https://research.google.com/audioset",
        licence="labels CC BY 4.0; the audio belongs to its uploaders",
        citation="J. F. Gemmeke et al.: Audio Set: An ontology and human-labeled dataset for audio"
        " events. ICASSP, 2017",
        obtain="audio files named <video id>.<suffix> or <video id>_<start>-<end>.<suffix>, as"
        " by the package audioset-download, and the *_segments.csv of"
        " https://research.google.com/audioset/download.html (without a CSV, a folder's name is"
        f" the label of its files); {LABEL_FILE}, one identifier or name a line, chooses other"
        " labels",
        expected=Expected(
            paper_clips=13439,
            paper_hours=36.94,
            note="the paper's labels are not known, and many videos are gone",
        ),
        classes=tuple(LABELS.values()),
    )

    def find_clips(self, files: ManualFiles) -> Iterator[Found]:
        """Segments that the tables, or else their folders, give a chosen label."""
        chosen = self._chosen(files)
        tables = files.named(r".*segments.*\.csv")
        segments = {video: labels for table in tables for video, labels in _segments(table)}
        by_folder = {_plain(name): mid for mid, name in LABELS.items()}
        for file in files.audio():
            name = NAME.fullmatch(file.stem)
            if name is None:
                yield Found(file, None, "its name does not begin with a video id of 11 characters")
                continue
            labels = segments.get(name["video"])
            if labels is None:
                folder = by_folder.get(_plain(file.folders[-1])) if file.folders else None
                labels = {folder} if folder else set()
            vocal = [LABELS[mid] for mid in LABELS if mid in labels & chosen.keys()]
            if vocal and (self.builder_config.mixed or not labels & SPEECH_AND_MUSIC):
                start = f"-{float(name['start']):g}" if name["start"] else ""
                yield self.clip(
                    file,
                    name["video"] + start,
                    label=vocal[0] if len(vocal) == 1 else "",
                    group=name["video"],
                )

    def _chosen(self, files: ManualFiles) -> Mapping[str, str]:
        """The user's own choice of labels, or the core ones; by identifier."""
        own = files.named(re.escape(LABEL_FILE))
        if not own:
            return CORE
        mids = {name.lower(): mid for mid, name in LABELS.items()} | {m: m for m in LABELS}
        lines = [line.strip() for line in own[0].path.read_text().splitlines() if line.strip()]
        for line in lines:
            if line not in mids and line.lower() not in mids:
                known = "; ".join(LABELS.values())
                raise DataError(f"{own[0].path}: {line!r} is none of the vocal labels: {known}")
        return {mid: LABELS[mid] for mid in (mids.get(x) or mids[x.lower()] for x in lines)}


def _segments(table: File) -> Iterator[tuple[str, set[str]]]:
    """Video and label identifiers of `id, start, end, "mid,mid"`; a single one may lack quotes."""
    with open(table.path, newline="", encoding="utf-8") as file:
        for row in csv.reader(file, skipinitialspace=True):
            if len(row) > 3 and not row[0].startswith("#"):
                yield row[0].strip(), {mid.strip() for mid in ",".join(row[3:]).split(",")}


def _plain(name: str) -> str:
    """Folder names differ in what they do to commas and blanks."""
    return re.sub(r"[^a-z]", "", name.lower())
