"""The flat store: a decoded corpus on disk, read at any place.

    <cache>/folder-babies-1f3a…/
        samples.int16   all clips back to back: little-endian int16, 16 kHz, mono
        index.arrow     per clip: id, length, label, group, fold, source, statistics, hash, scale
        report.json     clips, hours, classes, groups, and which files were left out and why

`building.py` writes one; a directory under its final name is complete.
"""

import functools
import hashlib
import json
import logging
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from data_pipelines.stores.columns import Digests, Strings
from data_pipelines.stores.index import MIX, read_index, to_delete
from data_pipelines.stores.sound import Int16Array, from_int16
from voc2vec_jax.errors import DataError

logger = logging.getLogger(__name__)


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
    ids: Strings
    lengths: NDArray[np.int64]
    """[clips] samples at 16 kHz."""
    labels: NDArray[np.int32]
    groups: Strings
    folds: Strings
    sources: Strings
    class_names: list[str]
    means: NDArray[np.float32]
    variances: NDArray[np.float32]
    scales: NDArray[np.float32]
    """[clips] what the samples of each are multiplied by; 1 for those within full scale."""
    clip_sha256: Digests
    """Of the sound of each clip: equal where two clips are the same sound."""
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
        index = read_index(directory)
        lengths = index.column("length").to_numpy()
        path = directory / "samples.int16"
        _check_size(path, 2 * int(lengths.sum()))
        if index.facts.mixed_by < MIX:
            _name_older_mix(directory)
        if index.facts.perhaps_cut_off:
            _name_cut_off(directory, index.facts.perhaps_cut_off)
        store = cls(
            directories=[directory],
            parts=np.zeros(len(lengths), np.int32),
            ids=Strings(index.column("id")),
            lengths=lengths,
            labels=index.column("label").to_numpy(),
            groups=Strings(index.column("group")),
            folds=Strings(index.column("fold")),
            sources=Strings(index.column("source")),
            class_names=index.facts.class_names,
            means=index.column("mean").to_numpy(),
            variances=index.column("variance").to_numpy(),
            scales=index.column("scale").to_numpy(),
            clip_sha256=Digests(index.column("sha256")),
            offsets=np.cumsum(lengths) - lengths,
            samples_fds=[os.open(path, os.O_RDONLY)],
            fingerprint=index.facts.fingerprint,
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
            ids=Strings.joined([store.ids.prefixed(f"{name}/") for name, store in named]),
            lengths=np.concatenate([store.lengths for store in each]),
            labels=np.full(sum(counts), -1, np.int32),
            groups=Strings.joined([store.groups.prefixed(f"{name}/") for name, store in named]),
            folds=Strings.joined([store.folds for store in each]),
            sources=Strings.joined([store.sources.prefixed(f"{name}/") for name, store in named]),
            class_names=[],
            means=np.concatenate([store.means for store in each]),
            variances=np.concatenate([store.variances for store in each]),
            scales=np.concatenate([store.scales for store in each]),
            clip_sha256=Digests.joined([store.clip_sha256 for store in each]),
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

    def waveform(self, clip: int, start: int = 0, length: int | None = None) -> NDArray[np.float32]:
        """float32 [length], full scale ±1: a clip from `start` on, to its end if length is None.

        Raises:
            DataError: as `read`.
        """
        length = int(self.lengths[clip]) - start if length is None else length
        return from_int16(self.read(clip, start, length), float(self.scales[clip]))

    def read(self, clip: int, start: int, length: int) -> Int16Array:
        """int16 [length]: samples `start` to `start + length` of a clip, for its scale.

        Whoever wants to hear the clip takes `waveform`.

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
            raise DataError(f"{path}: has been cut short; {to_delete(path.parent)}")
        return samples


def _check_size(path: Path, expected: int) -> None:
    found = path.stat().st_size if path.exists() else None
    if found != expected:
        what = "is missing" if found is None else f"has {found} bytes instead of {expected}"
        raise DataError(f"{path}: {what}; {to_delete(path.parent)}")


@functools.cache  # once for each store
def _name_older_mix(directory: Path) -> None:
    logger.warning(
        "store=%s: an older version made it, which did not notice channels that cancel under noise"
        " or a lossy codec; if it holds such stereo, delete the store, or prepare the dataset again"
        " with --overwrite",
        directory,
    )


@functools.cache  # once for each store
def _name_cut_off(directory: Path, clips: int) -> None:
    logger.warning(
        "store=%s perhaps_cut_off=%d: an older version made it, which cut off sound beyond full"
        " scale, and %d of its clips reach full scale. To hear them whole delete the store, or"
        " prepare the dataset again with --overwrite (report.json lists them: clipped)",
        *(directory, clips, clips),
    )
