"""Making a label store: whole or not at all, and on from where a killed run stopped."""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from data_pipelines.frame_labels.label_store import (
    CENTROIDS,
    INDEX,
    LABELS,
    MANIFEST,
    MAX_CLUSTERS,
    LabelStore,
    Manifest,
    read_manifest,
)
from data_pipelines.stores.building import only_builder
from data_pipelines.stores.flat_store import FlatStore
from voc2vec_jax.errors import ConfigError, DataError
from voc2vec_jax.files import array_sha256, differences

LINES = "journal.jsonl"
TERMS = {
    "corpus": "the clips of the corpus",
    "model_sha256": "the model's parameters or configuration",
    "centroids_sha256": "the clusters",
    "files_sha256": "fairseq's files",
}
"""Words for what an error compares."""


class LabelBuild:
    """The labels of a corpus while they are being made; a context.

    Attributes:
        directory: Where; intermediate results may lie here too, and are gone in the end.
        counts: [clips of the corpus] labels that are there already, -1 where there are none yet.
        distances: [clips of the corpus] sum over frames of the squared distance to the centroid,
            as it was given; 0 where there are no labels yet.
    """

    def __init__(self, directory: Path, corpus: FlatStore) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._corpus = corpus
        self._order: list[int] = []
        self.counts = np.full(len(corpus.ids), -1, np.int64)
        self.distances = np.zeros(len(corpus.ids))
        for entry in _recover(directory, len(corpus.ids)):
            self._count(entry["clip"], entry["count"], entry["distance"])
        self._files = ExitStack()

    def __enter__(self) -> Self:
        self._labels = self._files.enter_context(open(self.directory / LABELS, "ab"))
        self._lines = self._files.enter_context(open(self.directory / LINES, "a"))
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def _count(self, clip: int, count: int, distance: float) -> None:
        self.counts[clip], self.distances[clip] = count, distance
        self._order.append(clip)

    def append(self, clip: int, labels: NDArray[np.integer], distance: float = 0.0) -> None:
        """Adds the labels [T] of a clip of the corpus, numbered as there."""
        assert self.counts[clip] == -1
        assert labels.ndim == 1
        assert labels.size == 0 or 0 <= labels.min() <= labels.max() < MAX_CLUSTERS
        content = labels.astype("<u2").tobytes()
        self._labels.write(content)
        self._labels.flush()
        entry = {
            "clip": int(clip),
            "count": len(labels),
            "distance": float(distance),
            "crc32": zlib.crc32(content),
        }
        self._lines.write(json.dumps(entry) + "\n")
        self._lines.flush()
        self._count(int(clip), len(labels), float(distance))

    def read(self) -> Iterator[tuple[int, NDArray[np.uint16]]]:
        """All clips that are there with their labels, in the order in which they came."""
        with open(self.directory / LABELS, "rb") as file:
            for clip in self._order:
                yield clip, np.frombuffer(file.read(2 * int(self.counts[clip])), "<u2")

    def write_index(self) -> None:
        """Writes what lies where, once all clips are there."""
        assert (self.counts >= 0).all()
        index = {
            "ids": [self._corpus.ids[clip] for clip in self._order],
            "samples": [int(self._corpus.lengths[clip]) for clip in self._order],
            "counts": [int(self.counts[clip]) for clip in self._order],
            "labels_sha256": self._sha256(),
            "clip_sha256": [self._corpus.clip_sha256[clip] for clip in self._order],
        }
        (self.directory / INDEX).write_text(json.dumps(index), encoding="utf-8")

    def _sha256(self) -> str:
        """Of the labels in the order of the clips' ids, whatever order they came in."""
        counts = self.counts[self._order]
        places = dict(zip(self._order, np.cumsum(counts) - counts, strict=True))
        found = hashlib.sha256()
        with open(self.directory / LABELS, "rb") as file:
            for clip in sorted(self._order, key=lambda clip: self._corpus.ids[clip]):
                file.seek(2 * int(places[clip]))
                found.update(file.read(2 * int(self.counts[clip])))
        return found.hexdigest()


def _recover(directory: Path, clips: int) -> Iterator[dict[str, Any]]:
    """The entries whose line and labels are whole; cuts off the rest."""
    labels, lines = directory / LABELS, directory / LINES
    labels.touch()
    lines.touch()
    label_bytes = line_bytes = 0
    with open(labels, "rb") as label_file, open(lines, "rb") as line_file:
        for line in line_file:
            # After a power failure the line may have reached the disk and the labels not.
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if entry is None or not 0 <= entry["clip"] < clips:
                break
            content = label_file.read(2 * entry["count"])
            if len(content) != 2 * entry["count"] or zlib.crc32(content) != entry["crc32"]:
                break
            label_bytes += len(content)
            line_bytes += len(line)
            yield entry
    os.truncate(labels, label_bytes)
    os.truncate(lines, line_bytes)


def _workspace(directory: Path, settings: Mapping[str, Any], corpus: FlatStore) -> Path:
    """Where the unfinished store of these settings lies; others do not get in its way."""
    key = hashlib.sha256(
        json.dumps([settings, corpus.fingerprint], sort_keys=True).encode()
    ).hexdigest()
    return directory.with_name(f".{directory.name}.{key[:12]}.unfinished")


@contextmanager
def building(
    directory: str | Path, corpus: FlatStore, settings: Mapping[str, Any]
) -> Iterator[LabelBuild | None]:
    """Makes a store, or says that it is there: yields None then.

    Whoever comes here with the same settings after a kill finds what had been made. While one
    process builds, another one that wants the same directory waits for it.

    Args:
        directory: Becomes the store, when `finish` is called on the build.
        corpus: Whose clips get labels.
        settings: What is asked for, as plain values.

    Raises:
        ConfigError: The directory has the labels of other settings or of another corpus.
        DataError: It exists, and holds no label store.
    """
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with only_builder(directory):
        if directory.exists():
            _require_same(directory, corpus, settings)
            yield None
            return
        with LabelBuild(_workspace(directory, settings, corpus), corpus) as build:
            yield build


def _require_same(directory: Path, corpus: FlatStore, settings: Mapping[str, Any]) -> None:
    if not any(directory.iterdir()):
        raise DataError(f"{directory}: is an empty directory; delete it, or choose another one")
    made = read_manifest(directory)
    fix = "choose another directory, or delete it"
    if made.model_sha256 and made.format_version == 1:
        raise ConfigError(
            f"{directory}: was made by an older version of this package, which knew the model"
            f" ({made.model}) by another hash, so that nothing says whether it has these labels;"
            f" training still reads it; here, {fix}"
        )
    changed = differences(
        {**made.settings, "corpus": made.corpus_fingerprint},
        {**settings, "corpus": corpus.fingerprint},
        TERMS,
    )
    if changed:
        of = f" of {made.corpus}" + (f" and {made.model}" if made.model else "")
        raise ConfigError(f"{directory}: has other labels,{of} ({'; '.join(changed)}); {fix}")


def finish(
    build: LabelBuild,
    directory: str | Path,
    manifest: Manifest,
    centroids: NDArray[np.float32] | None = None,
) -> LabelStore:
    """Turns a build with all its clips into the store at `directory`."""
    build.write_index()
    if centroids is not None:
        assert manifest.fit["centroids_sha256"] == array_sha256(centroids)
        np.save(build.directory / CENTROIDS, centroids)
    text = json.dumps(manifest.to_dict(), indent=2) + "\n"
    (build.directory / MANIFEST).write_text(text, encoding="utf-8")
    for path in build.directory.iterdir():
        if path.name not in (LABELS, INDEX, MANIFEST, CENTROIDS):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    build.directory.rename(directory)
    return LabelStore.open(directory)
