"""The flat store: a decoded corpus on disk, read at any place.

    <cache>/folder-babies-1f3a…/
        samples.int16   all clips back to back: little-endian int16, 16 kHz, mono
        index.json      per clip: id, length, label, group, fold, source, statistics, hash
        report.json     clips, hours, classes, groups, and which files were dropped and why

`building.py` writes one; a directory under its final name is complete.
"""

import hashlib
import json
import os
import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.errors import DataError

FORMAT_VERSION = 2
"""Raised whenever the files or the way of decoding change, so that old stores are not reused."""

Int16Array = NDArray[np.int16]


@dataclass(frozen=True)
class Clip:
    """What is known of a clip besides its samples."""

    id: str
    source: str
    """The file it came from."""
    label: int = -1
    """Index into the class names; -1 where unknown."""
    group: str = ""
    """Speaker, session or upload, whose clips belong on one side of a split; '' where unknown."""
    fold: str = ""
    """Part of a split that comes with the corpus, such as `test`; '' where there is none."""


@dataclass(frozen=True, eq=False)
class FlatStore:
    """A decoded corpus, or several joined; fields are per clip, in a fixed order.

    `means` and `variances` are float32 and those that `normalize` would compute.
    """

    directories: list[Path]
    """One for each corpus."""
    parts: NDArray[np.int32]
    """[clips] index of the corpus that a clip is from."""
    ids: list[str]
    lengths: NDArray[np.int64]
    """[clips] samples at 16 kHz."""
    labels: NDArray[np.int32]
    groups: list[str]
    folds: list[str]
    sources: list[str]
    class_names: list[str]
    means: NDArray[np.float32]
    variances: NDArray[np.float32]
    clip_sha256: list[str]
    """Of the samples of each clip: equal where two clips are the same sound."""
    offsets: NDArray[np.int64]
    """[clips] where each clip starts in the file of its corpus, in samples."""
    samples_fds: list[int]
    """Open files of samples. Not memory maps: those kill the process if the file is cut."""
    fingerprint: str
    """sha256 that two stores share if, and only if, they hold the same clips in the same order."""

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """Open a store without reading its samples.

        Raises:
            DataError: a file is missing or damaged, or another version wrote it.
        """
        directory = Path(directory)
        index = _read_index(directory)
        lengths = np.array(index["lengths"], np.int64)
        path = directory / "samples.int16"
        _check_size(path, 2 * int(lengths.sum()))
        identity = json.dumps(
            [FORMAT_VERSION, SAMPLE_RATE, index["ids"], index["lengths"], index["sha256"]]
        )
        store = cls(
            directories=[directory],
            parts=np.zeros(len(lengths), np.int32),
            ids=index["ids"],
            lengths=lengths,
            labels=np.array(index["labels"], np.int32),
            groups=index["groups"],
            folds=index["folds"],
            sources=index["sources"],
            class_names=index["class_names"],
            means=np.array(index["means"], np.float32),
            variances=np.array(index["variances"], np.float32),
            clip_sha256=index["clip_sha256"],
            offsets=np.cumsum(lengths) - lengths,
            samples_fds=[os.open(path, os.O_RDONLY)],
            fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
        )
        weakref.finalize(store, os.close, store.samples_fds[0])
        return store

    @classmethod
    def join(cls, stores: Mapping[str, Self]) -> Self:
        """Several corpora as one: ids, groups and sources get the corpus' name in front.

        Labels are left out, since the classes of one corpus are not those of another.
        """
        assert stores
        named, each = list(stores.items()), list(stores.values())
        counts = [len(store.ids) for store in each]
        fingerprints = json.dumps([store.fingerprint for store in each])
        joined = cls(
            directories=[store.directory for store in each],
            parts=np.repeat(np.arange(len(each), dtype=np.int32), counts),
            ids=[f"{name}/{clip_id}" for name, store in named for clip_id in store.ids],
            lengths=np.concatenate([store.lengths for store in each]),
            labels=np.full(sum(counts), -1, np.int32),
            groups=[group and f"{name}/{group}" for name, s in named for group in s.groups],
            folds=[fold for store in each for fold in store.folds],
            sources=[f"{name}/{source}" for name, store in named for source in store.sources],
            class_names=[],
            means=np.concatenate([store.means for store in each]),
            variances=np.concatenate([store.variances for store in each]),
            clip_sha256=[digest for store in each for digest in store.clip_sha256],
            offsets=np.concatenate([store.offsets for store in each]),
            samples_fds=[os.dup(store.samples_fds[0]) for store in each],
            fingerprint=hashlib.sha256(fingerprints.encode()).hexdigest(),
        )
        for samples_fd in joined.samples_fds:
            weakref.finalize(joined, os.close, samples_fd)
        return joined

    @property
    def directory(self) -> Path:
        """Where the only corpus lies."""
        (directory,) = self.directories
        return directory

    @property
    def name(self) -> str:
        """The names of the directories."""
        return "+".join(directory.name for directory in self.directories)

    def read(self, clip: int, start: int, length: int) -> Int16Array:
        """int16 [length]: samples `start` to `start + length` of a clip.

        Raises:
            DataError: the file has been cut short since `open`, or the disk fails.
        """
        assert 0 <= start <= start + length <= self.lengths[clip]
        samples = np.empty(length, "<i2")
        part = self.parts[clip]
        path = self.directories[part] / "samples.int16"
        place = 2 * int(self.offsets[clip] + start)
        try:
            filled = os.preadv(self.samples_fds[part], [samples.data], place)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error}); run again") from error
        if filled != samples.nbytes:
            raise DataError(f"{path}: has been cut short; {_delete(path.parent)}")
        return samples


def _read_index(directory: Path) -> dict[str, Any]:
    path = directory / "index.json"
    try:
        index: dict[str, Any] = json.loads(path.read_text())
        version = index["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {_delete(directory)}") from error
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path}: format version {version}, this code reads {FORMAT_VERSION};"
            f" {_delete(directory)}"
        )
    return index


def _check_size(path: Path, expected: int) -> None:
    found = path.stat().st_size if path.exists() else None
    if found != expected:
        what = "is missing" if found is None else f"has {found} bytes instead of {expected}"
        raise DataError(f"{path}: {what}; {_delete(path.parent)}")


def _delete(directory: Path) -> str:
    return f"delete {directory} and run again, then it is made anew"


def to_int16(waveform: NDArray[np.float32]) -> Int16Array:
    """Float samples, full scale ±1, rounded and clipped to int16; a 16-bit file comes out exact."""
    return np.clip(np.rint(waveform * 32768), -32768, 32767).astype("<i2")


def from_int16(samples: Int16Array) -> NDArray[np.float32]:
    """Undo `to_int16` up to rounding."""
    return samples.astype(np.float32) / np.float32(32768)


def require_unique_ids(ids: list[str], where: object) -> None:
    repeated = [clip_id for clip_id, count in Counter(ids).items() if count > 1]
    if repeated:
        shown = ", ".join(repeated[:10]) + (", …" if len(repeated) > 10 else "")
        raise DataError(f"{where}: {len(repeated)} ids are given to several clips: {shown}")
