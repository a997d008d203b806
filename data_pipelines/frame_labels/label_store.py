"""The label store: to which cluster every frame of a corpus belongs, by clip id.

    emogator-mfcc-100/
        labels.uint16   the labels of all clips back to back, little-endian
        index.json      per clip, in the order of that file: id, samples, number of labels, and
                        the sha256 of the sound that they are of
        manifest.json   what the labels are and how they were made; see `Manifest`
        centroids.npy   float32 [clusters, D]; only where the labels were made here

`building.py` writes one; a directory under its final name is complete.
"""

import dataclasses
import hashlib
import json
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.errors import DataError
from voc2vec_jax.files import array_sha256

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 1 does not say which sound was labelled, and has another hash of the model."""
MAX_CLUSTERS = 65_536
MAX_DISAGREEMENT_SECONDS = 0.1
"""Between a clip and its labels; fairseq's bound."""
LABELS, INDEX, MANIFEST, CENTROIDS = "labels.uint16", "index.json", "manifest.json", "centroids.npy"
REMAKE = "make it anew with python -m tools.make_labels"

Labels = NDArray[np.uint16]


@dataclass(frozen=True)
class Grid:
    """Windows of equal length at equal distances, the first one at the clip's first sample."""

    window_samples: int
    hop_samples: int

    @property
    def rate_hz(self) -> float:
        """Windows per second."""
        return SAMPLE_RATE / self.hop_samples

    def count(self, samples: int) -> int:
        """Windows that lie within a number of samples."""
        return max((samples - self.window_samples) // self.hop_samples + 1, 0)


@dataclass(frozen=True)
class Manifest:
    """What the labels of a store are."""

    clusters: int
    """Labels are 0 to this less 1, whether or not each occurs."""
    features: str
    """`mfcc`; `layer:6` for the output of a model's sixth layer; `fairseq` for imported labels."""
    grid: Grid
    """Which samples a label is about."""
    corpus: str
    """Name of the corpus; for people."""
    corpus_fingerprint: str
    model: str | None = None
    """Whose layer it is: a path or hub id, as it was given."""
    model_sha256: str | None = None
    """`PretrainedModel.sha256` of the model as loaded, whatever file it came from."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What was asked for; two stores with equal settings and corpora have equal labels."""
    fit: dict[str, Any] = field(default_factory=dict)
    """How the clusters were found: k-means, its sample, sha256 of the centroids."""
    quality: dict[str, Any] = field(default_factory=dict)
    """Inertia per frame, usage, entropy, and with classes purity and PNMI."""
    format_version: int = FORMAT_VERSION

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"rate_hz": self.grid.rate_hz, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Undoes `to_dict`."""
        known = {key: value for key, value in values.items() if key != "rate_hz"}
        return cls(**known | {"grid": Grid(**known["grid"])})


@dataclass(frozen=True, eq=False)
class LabelStore:
    """The labels of a corpus; fields are per clip, in the order of the index."""

    directory: Path
    manifest: Manifest
    ids: list[str]
    samples: NDArray[np.int64]
    """[clips] length of each clip at 16 kHz."""
    counts: NDArray[np.int64]
    """[clips] labels of each clip."""
    offsets: NDArray[np.int64]
    """[clips] where the labels of each begin in the file."""
    clip_sha256: list[str]
    """Of the sound that was labelled, as `FlatStore` has it; empty in a store of version 1."""
    labels_fd: int
    """Open file of labels. Not a memory map: that kills the process if the file is cut."""
    fingerprint: str
    """sha256 that two stores share if, and only if, they give every clip the same labels, of as
    many clusters and at the same times."""

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """Open a store without reading its labels.

        Raises:
            DataError: A file is missing or damaged, or another version wrote it.
        """
        directory = Path(directory)
        manifest = read_manifest(directory)
        index = _read_json(directory / INDEX)
        try:
            ids: list[str] = index["ids"]
            counts = np.array(index["counts"], np.int64)
            samples = np.array(index["samples"], np.int64)
            content: str = index["labels_sha256"]
            sounds: list[str] = [] if manifest.format_version == 1 else index["clip_sha256"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{directory / INDEX}: is damaged ({error!r}); {REMAKE}") from error
        path = directory / LABELS
        found = path.stat().st_size if path.exists() else 0
        whole = len(ids) == len(counts) == len(samples) and len(sounds) in (len(ids), 0)
        if not whole or found != 2 * counts.sum():
            raise DataError(
                f"{path}: has {found} bytes, and {INDEX} wants {2 * counts.sum()} for the labels"
                f" of {len(ids)} clips; {REMAKE}"
            )
        grid = dataclasses.astuple(manifest.grid)
        facts = [manifest.clusters, grid, sorted(zip(ids, index["counts"], strict=True)), content]
        store = cls(
            directory=directory,
            manifest=manifest,
            ids=ids,
            samples=samples,
            counts=counts,
            offsets=np.cumsum(counts) - counts,
            clip_sha256=sounds,
            labels_fd=os.open(path, os.O_RDONLY),
            fingerprint=hashlib.sha256(json.dumps(facts).encode()).hexdigest(),
        )
        weakref.finalize(store, os.close, store.labels_fd)
        return store

    def read(self, clip: int, start: int = 0, count: int | None = None) -> Labels:
        """uint16 [count]: labels of a clip of this store, from `start` on; all if None.

        Raises:
            DataError: The file has been cut short since `open`, or the disk fails.
        """
        count = int(self.counts[clip]) - start if count is None else count
        assert 0 <= start <= start + count <= self.counts[clip]
        labels = np.empty(count, "<u2")
        path = self.directory / LABELS
        try:
            filled = os.preadv(self.labels_fd, [labels.data], 2 * int(self.offsets[clip] + start))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error}); run again") from error
        if filled != labels.nbytes:
            raise DataError(f"{path}: has been cut short; {REMAKE}")
        return labels

    def rows_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """[ids] where each clip stands in this store, -1 where it does not."""
        place = {clip_id: row for row, clip_id in enumerate(self.ids)}
        return np.array([place.get(clip_id, -1) for clip_id in ids], np.int64)

    def centroids(self) -> NDArray[np.float32]:
        """float32 [clusters, D], to label other clips with.

        Raises:
            DataError: There are none, or they are not those that the labels were made with.
        """
        path = self.directory / CENTROIDS
        if not path.exists():
            raise DataError(
                f"{path}: is missing; labels that were imported cannot be given to other clips,"
                " fit clusters anew"
            )
        centroids: NDArray[np.float32] = np.load(path, allow_pickle=False)
        if array_sha256(centroids) != self.manifest.fit.get("centroids_sha256"):
            raise DataError(f"{path}: is not what the labels were made with; {REMAKE}")
        return centroids

    def summary(self) -> str:
        """A line for the log."""
        source = f" model={self.manifest.model}" if self.manifest.model else ""
        return (
            f"labels={self.directory} features={self.manifest.features}{source}"
            f" clusters={self.manifest.clusters} rate_hz={self.manifest.grid.rate_hz:g}"
            f" clips={len(self.ids)}"
        )


def read_manifest(directory: Path) -> Manifest:
    """What the labels in a directory are.

    Raises:
        DataError: There is no manifest, or it cannot be read.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise DataError(f"{directory}: is no label store (it has no {MANIFEST}); {REMAKE}")
    values = _read_json(path)
    version = values.get("format_version") if isinstance(values, dict) else None
    if version not in READABLE_VERSIONS:
        raise DataError(
            f"{path}: format version {version}, this code reads up to {FORMAT_VERSION}; {REMAKE}"
        )
    try:
        return Manifest.from_dict(values)
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: is damaged ({error!r}); {REMAKE}") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {REMAKE}") from error
