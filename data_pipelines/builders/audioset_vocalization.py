"""AudioSet: the segments with vocal sounds, as far as the user has got hold of their audio."""

import csv
import re
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import tensorflow_datasets as tfds

from data_pipelines.builders.common.audioset_labels import (
    BORDERLINE,
    CORE,
    SPEECH_SINGING_AND_MUSIC,
)
from data_pipelines.builders.common.audioset_names import segment_of
from data_pipelines.builders.common.base import Facts, VocalisationBuilder
from data_pipelines.builders.common.manual_files import File, ManualFiles
from data_pipelines.builders.common.matching import Found
from data_pipelines.stores.report import Expected
from voc2vec_jax.errors import DataError

LABELS = {**CORE, **BORDERLINE}
LABEL_FILE = "vocalization_labels.txt"
SEGMENTS = "https://research.google.com/audioset/download.html"
SAME_START_SECONDS = 1.0
"""Names of files have rounded starts."""


@dataclass(eq=False)
class AudiosetConfig(tfds.core.BuilderConfig):
    """Which segments."""

    mixed: bool = True
    """With segments that are labelled as speech, singing or music too, about 60 % of them."""


class AudiosetVocalization(VocalisationBuilder):
    """Label: the one chosen label of a segment, unknown if it has several. Group: video."""

    BUILDER_CONFIGS: ClassVar = [
        AudiosetConfig(name="all", description="Every segment with a chosen label."),
        AudiosetConfig(
            name="pure", description="Without speech, singing and music labels.", mixed=False
        ),
    ]
    FACTS = Facts(
        title="AudioSet (vocalisations)",
        description="Segments of 10 s from YouTube with one of 35 labels. The paper does not say"
        " which labels it chose.",
        homepage="https://research.google.com/audioset",
        licence="labels CC BY 4.0; the audio belongs to its uploaders",
        citation="J. F. Gemmeke et al.: Audio Set: An ontology and human-labeled dataset for audio"
        " events. ICASSP, 2017",
        obtain="audio files named by the id of the video, with or without start and end, as the"
        " packages audioset-download and others write them, and the *_segments.csv of"
        f" {SEGMENTS} (without a CSV, a folder's name is the label of its files, and there is no"
        f" variant pure); {LABEL_FILE}, one identifier or name a line, chooses other labels",
        expected=Expected(
            paper_clips=13439,
            paper_hours=36.94,
            note="the paper's labels are not known, and many videos are gone",
        ),
        classes=tuple(LABELS.values()),
    )

    def find_clips(self, files: ManualFiles) -> Iterator[Found]:
        """Segments that the tables, or else their folders, give a chosen label.

        Raises:
            DataError: The variant is `pure`, and there is no table that says what is.
        """
        mixed, chosen = self.builder_config.mixed, self._chosen(files)
        tables = files.named(r".*segments.*\.csv")
        if not tables and not mixed:
            raise DataError(
                f"{files.root}: {self.title} leaves out segments that are labelled as speech,"
                " singing or music, and no table of labels is there; put the tables of the audio,"
                " such as balanced_train_segments.csv, eval_segments.csv or"
                f" unbalanced_train_segments.csv of {SEGMENTS}, into that folder, or prepare"
                f" {self.name}/all"
            )
        audio = [(file, segment_of(file.stem)) for file in files.audio()]
        videos = {segment[0] for _, segment in audio if segment}
        listed = {
            video: (start, labels)
            for table in tables
            for video, start, labels in _segments(table, videos)
        }
        by_folder = self._labels_of_folders(audio)
        other = SPEECH_SINGING_AND_MUSIC - chosen.keys()
        for file, segment in audio:
            if segment is None:
                yield Found(file, None, "its name has no video id of 11 characters")
                continue
            video, start = segment
            if video in listed:
                listed_start, labels = listed[video]
                if start is not None and abs(start - listed_start) > SAME_START_SECONDS:
                    yield Found(
                        file,
                        None,
                        f"begins at {start:g} s; the tables label that video from"
                        f" {listed_start:g} s on",
                    )
                    continue
            elif mixed:
                labels = by_folder[video]
            else:
                yield Found(file, None, "is in no table of segments, which would say if it is pure")
                continue
            vocal = [LABELS[mid] for mid in LABELS if mid in labels & chosen.keys()]
            if vocal and (mixed or not labels & other):
                yield self.clip(
                    file,
                    video if start is None else f"{video}-{start:g}",
                    label=vocal[0] if len(vocal) == 1 else "",
                    group=video,
                )

    @staticmethod
    def _labels_of_folders(
        audio: Sequence[tuple[File, tuple[str, float | None] | None]],
    ) -> Mapping[str, set[str]]:
        """By video: audioset-download puts a copy of a segment into a folder for each label."""
        names = {_plain(name): mid for mid, name in LABELS.items()}
        # rafaelgreca/audioset-downloader names a folder after the label's first part.
        names |= {_plain(name.split(",")[0]): mid for mid, name in LABELS.items()}
        labels: dict[str, set[str]] = defaultdict(set)
        for file, segment in audio:
            mid = names.get(_plain(file.folders[-1])) if file.folders else None
            if segment and mid:
                labels[segment[0]].add(mid)
        return labels

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


def _segments(table: File, videos: Container[str]) -> Iterator[tuple[str, float, set[str]]]:
    """Video, start and label identifiers of `id, start, end, "mid,mid"`, quoted or not."""
    with open(table.path, newline="", encoding="utf-8") as file:
        for row in csv.reader(file, skipinitialspace=True):
            if len(row) > 3 and row[0].strip() in videos:
                labels = {mid.strip() for mid in ",".join(row[3:]).split(",")}
                yield row[0].strip(), float(row[1]), labels


def _plain(name: str) -> str:
    """Folder names differ in what they do to commas and blanks."""
    return re.sub(r"[^a-z]", "", name.lower())
