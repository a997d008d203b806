"""The flat store: a decoded corpus on disk, read at any place.

    <cache>/folder-babies-1f3a…/
        samples.int16   all clips back to back: little-endian int16, 16 kHz, mono
        index.json      ids, lengths, labels, groups, sources, statistics, hash of the samples
        report.json     clips, hours, classes, groups, and which files were dropped and why

A folder, a table or the synthetic corpus is decoded once. The name of the directory holds a hash of
what went in, so that the next run finds it again, and a changed corpus is decoded anew. A directory
under its final name is complete: it is written under another name and then renamed.
"""

import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from voc2vec_jax.audio import SAMPLE_RATE

FORMAT_VERSION = 1
"""Raised whenever the files or the way of decoding change, so that old stores are not reused."""

Int16Array = NDArray[np.int16]
logger = logging.getLogger(__name__)


class DataError(ValueError):
    """Input data that cannot be used. The message names the file and what to do about it."""


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


@dataclass(frozen=True, eq=False)
class FlatStore:
    """A decoded corpus; fields are per clip, in a fixed order.

    `means` and `variances` are float32 and those that `normalize` would compute.
    """

    directory: Path
    ids: list[str]
    lengths: NDArray[np.int64]
    """[clips] samples at 16 kHz."""
    labels: NDArray[np.int32]
    groups: list[str]
    sources: list[str]
    class_names: list[str]
    means: NDArray[np.float32]
    variances: NDArray[np.float32]
    offsets: NDArray[np.int64]
    """[clips] where each clip starts, in samples."""
    samples_fd: int
    """Open file of all samples. Not a memory map: that kills the process if the file is cut."""
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
            [FORMAT_VERSION, SAMPLE_RATE, index["ids"], index["lengths"], index["samples_sha256"]]
        )
        samples_fd = os.open(path, os.O_RDONLY)
        store = cls(
            directory=directory,
            ids=index["ids"],
            lengths=lengths,
            labels=np.array(index["labels"], np.int32),
            groups=index["groups"],
            sources=index["sources"],
            class_names=index["class_names"],
            means=np.array(index["means"], np.float32),
            variances=np.array(index["variances"], np.float32),
            offsets=np.cumsum(lengths) - lengths,
            samples_fd=samples_fd,
            fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
        )
        weakref.finalize(store, os.close, samples_fd)
        return store

    def read(self, clip: int, start: int, length: int) -> Int16Array:
        """int16 [length]: samples `start` to `start + length` of a clip.

        Raises:
            DataError: the file has been cut short since `open`, or the disk fails.
        """
        assert 0 <= start <= start + length <= self.lengths[clip]
        samples = np.empty(length, "<i2")
        path = self.directory / "samples.int16"
        try:
            filled = os.preadv(self.samples_fd, [samples.data], 2 * int(self.offsets[clip] + start))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error}); run again") from error
        if filled != samples.nbytes:
            raise DataError(f"{path}: has been cut short; {_delete(self.directory)}")
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


def build_store(
    directory: str | Path,
    clips: Iterable[tuple[Clip, Int16Array | str]],
    *,
    dataset: str,
    class_names: Sequence[str] = (),
    ignored_files: int = 0,
) -> FlatStore:
    """Write a store, or open the one that is there already.

    Args:
        directory: becomes the store; its parents are made.
        clips: each with its int16 samples at 16 kHz, or with the reason why it is dropped. Not
            touched if the store exists; held in memory one at a time.
        dataset: name for the report.
        class_names: what the labels 0, 1, … mean.
        ignored_files: files beside the audio, for the report.

    Raises:
        DataError: two clips share an id, or no clip is left.
    """
    directory = Path(directory)
    if directory.exists():
        logger.info("corpus=%s reused=%s", dataset, directory)
        return FlatStore.open(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _only_builder(directory):
        if not directory.exists():
            name = f".{directory.name}.{secrets.token_hex(4)}.tmp"
            unfinished = directory.with_name(name)
            unfinished.mkdir()
            try:
                _write(unfinished, clips, dataset, class_names, ignored_files)
                unfinished.rename(directory)
            except OSError:
                # Where locks do not work, another process may have finished the same store.
                if not directory.exists():
                    raise
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return FlatStore.open(directory)


@contextmanager
def _only_builder(directory: Path) -> Iterator[None]:
    """Wait until nobody else builds this store; then clear away what a killed build left."""
    with open(directory.with_name(f".{directory.name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            logger.warning("lock=%s supported=False", lock.name)
        else:
            for leftover in directory.parent.glob(f".{directory.name}.*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
        yield


def _write(
    directory: Path,
    clips: Iterable[tuple[Clip, Int16Array | str]],
    dataset: str,
    class_names: Sequence[str],
    ignored_files: int,
) -> None:
    kept: list[Clip] = []
    lengths: list[int] = []
    means: list[float] = []
    variances: list[float] = []
    dropped: list[dict[str, str]] = []
    content = hashlib.sha256()
    with open(directory / "samples.int16", "wb") as file:
        for clip, samples in clips:
            if isinstance(samples, str) or len(samples) == 0:
                reason = samples if isinstance(samples, str) else "has no samples"
                dropped.append({"file": clip.source, "reason": reason})
                continue
            waveform = from_int16(samples)
            kept.append(clip)
            lengths.append(len(samples))
            means.append(float(waveform.mean()))
            variances.append(float(waveform.var()))
            content.update(samples.tobytes())
            file.write(samples.tobytes())
    require_unique_ids([clip.id for clip in kept], dataset)
    for drop in dropped:
        logger.warning("dropped=%s reason=%s", drop["file"], drop["reason"])
    if not kept:
        example = f"; the first: {dropped[0]['file']}: {dropped[0]['reason']}" if dropped else ""
        raise DataError(f"{dataset}: none of {len(dropped)} files could be read{example}")
    index = {
        "format_version": FORMAT_VERSION,
        "sample_rate": SAMPLE_RATE,
        "samples_sha256": content.hexdigest(),
        "class_names": list(class_names),
        "ids": [clip.id for clip in kept],
        "lengths": lengths,
        "labels": [clip.label for clip in kept],
        "groups": [clip.group for clip in kept],
        "sources": [clip.source for clip in kept],
        "means": means,
        "variances": variances,
    }
    per_class = Counter(clip.label for clip in kept)
    report = {
        "dataset": dataset,
        "clips": len(kept),
        "hours": sum(lengths) / SAMPLE_RATE / 3600,
        "classes": {name: per_class[label] for label, name in enumerate(class_names)},
        "groups": len({clip.group for clip in kept} - {""}),
        "dropped": dropped,
        "ignored_files": ignored_files,
        "expected": {"clips": None, "hours": None},
    }
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    logger.info(
        "corpus=%s clips=%d hours=%.3f dropped=%d ignored_files=%d",
        *(dataset, len(kept), report["hours"], len(dropped), ignored_files),
    )


def require_unique_ids(ids: list[str], where: object) -> None:
    repeated = [clip_id for clip_id, count in Counter(ids).items() if count > 1]
    if repeated:
        shown = ", ".join(repeated[:10]) + (", …" if len(repeated) > 10 else "")
        raise DataError(f"{where}: {len(repeated)} ids are given to several clips: {shown}")
