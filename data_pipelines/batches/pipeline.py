"""From a store and a plan to batches of static shape, made ahead of time by tf.data.

tf.data brings threads and prefetching; a batch itself is made by NumPy, in one Python call that
reads what it needs of the store. A call per clip would cost ten times as much.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_pipelines.batches.augment import Augmentation
from data_pipelines.batches.window_plan import PlannedBatch, WindowPlan
from data_pipelines.stores.flat_store import FlatStore
from voc2vec_jax.audio.signal import normalize
from voc2vec_jax.config import DataConfig
from voc2vec_jax.errors import ConfigError

PARALLEL_CALLS = 2
PREFETCHED_BATCHES = 2

Batch = dict[str, NDArray[np.float32] | NDArray[np.int32]]


class Joined(Protocol):
    """Integers that are known of every clip, and go along with its samples."""

    @property
    def name(self) -> str:
        """Of the array in a batch."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal if, and only if, every clip has the same integers."""
        ...

    def rows(self, batch: PlannedBatch) -> NDArray[np.int32]:
        """[b, ...] int32 for the windows of `batch`, one shape per bucket."""
        ...


@dataclass(frozen=True)
class Share:
    """The rows of every batch that one of several processes reads: some of `count` blocks."""

    blocks: tuple[int, ...] = (0,)
    """Ascending."""
    count: int = 1

    def rows(self, batch_size: int) -> NDArray[np.int64]:
        """Index of its rows in a batch.

        Raises:
            ConfigError: A batch does not divide into blocks.
        """
        if batch_size % self.count:
            raise ConfigError(
                f"data.batch_multiple: a batch of {batch_size} clips cannot be split into"
                f" {self.count} blocks for data × fsdp devices; make it a multiple of {self.count}"
            )
        size = batch_size // self.count
        return np.concatenate([np.arange(b * size, (b + 1) * size) for b in self.blocks])


ALL_ROWS = Share()


@dataclass(frozen=True)
class PlanColumn:
    """What the plan knows of each row: a field of `PlannedBatch`."""

    name: str
    field: str
    fingerprint: str = ""

    def rows(self, batch: PlannedBatch) -> NDArray[np.int32]:
        """See `Joined`."""
        return np.asarray(getattr(batch, self.field), np.int32)


@dataclass(frozen=True, eq=False)
class ClassLabels:
    """The class of every clip as `labels` [b] int32, -1 where it is unknown."""

    store: FlatStore
    name: str = "labels"

    @property
    def fingerprint(self) -> str:
        """See `Joined`."""
        return hashlib.sha256(json.dumps(list(map(int, self.store.labels))).encode()).hexdigest()

    def rows(self, batch: PlannedBatch) -> NDArray[np.int32]:
        """See `Joined`."""
        return np.asarray(self.store.labels, np.int32)[batch.clips]


def batches(
    store: FlatStore,
    plan: WindowPlan,
    data: DataConfig,
    *,
    start_step: int,
    stop_step: int,
    joined: Sequence[Joined] = (),
    augmentation: Augmentation | None = None,
    share: Share = ALL_ROWS,
) -> Iterator[Batch]:
    """The batches of steps `start_step` to `stop_step` - 1, this process's rows of each.

    Args:
        store: the corpus from whose lengths the plan was made.
        plan: what each step hears.
        data: says how to normalise.
        start_step: first step; batches do not depend on where a run started.
        stop_step: the step after the last.
        joined: what goes along with the samples.
        augmentation: changes each window after its normalisation.
        share: the rows that are read here.

    Yields:
        `waveform` float32 [b, S], zero-padded at the end, and `lengths` int32 [b] in samples,
        where b rows are the `share` of B, and (B, S) is one of `plan.shapes`; further arrays as
        `joined`. All are read-only.

    Raises:
        ConfigError: a batch cannot be split evenly over the processes.
        DataError: while iterating, when the samples file has been cut short or cannot be read.
    """
    assert 0 <= start_step <= stop_step
    shares = {batch_size: share.rows(batch_size) for batch_size, _ in plan.shapes}
    names = ["waveform", "lengths", *(item.name for item in joined)]
    types = [np.float32, *[np.int32] * (len(names) - 1)]

    def make(step: int) -> list[NDArray[Any]]:
        batch = plan.batch(step)
        numbers = shares[len(batch.clips)]
        rows = batch.rows(numbers)
        waveform = assemble(store, rows, data.normalize, augmentation, numbers)
        return [waveform, rows.lengths, *(item.rows(rows) for item in joined)]

    made = _ahead_of_time(make, types, start_step, stop_step)
    return (dict(zip(names, arrays, strict=True)) for arrays in made)


def _ahead_of_time(
    make: Callable[[int], list[NDArray[Any]]],
    types: Sequence[type[np.generic]],
    start_step: int,
    stop_step: int,
) -> Iterator[tuple[NDArray[Any], ...]]:
    """What `make` returns for each step, in order, made by threads of tf.data."""
    tf = _import_tensorflow()
    failures: list[Exception] = []

    def make_or_fail(step: np.int64) -> list[NDArray[Any]]:
        try:
            return make(int(step))
        except Exception as error:
            # TensorFlow would bury it in a traceback of its own; an empty batch gets through.
            failures.append(error)
            return [np.zeros(0, kind) for kind in types]

    dataset = (
        tf.data.Dataset.range(start_step, stop_step)
        .map(
            lambda step: tf.numpy_function(make_or_fail, [step], list(types)),
            num_parallel_calls=PARALLEL_CALLS,
            deterministic=True,
        )
        .prefetch(PREFETCHED_BATCHES)
    )
    for arrays in dataset.as_numpy_iterator():
        if len(arrays[0]) == 0:
            raise failures[0]
        yield arrays


def _import_tensorflow() -> Any:
    """TensorFlow, quiet and kept off accelerators, whose memory it would take from JAX."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # announces itself at any log level
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        # It refuses once it is in use; whoever used it before us has then chosen its devices.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], kind)
    return tf


def assemble(
    store: FlatStore,
    batch: PlannedBatch,
    mode: str,
    augmentation: Augmentation | None = None,
    numbers: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Crop, normalise, augment and pad the windows of a batch: waveform float32 [b, S].

    Args:
        store: The corpus.
        batch: What of it.
        mode: As `data.normalize`, or `heard`: as `clip`, but over each window alone.
        augmentation: Changes each window after its normalisation.
        numbers: Those of the batch's rows in the whole batch, if it is not the whole.
    """
    waveform = np.zeros((len(batch.clips), batch.bucket_samples), np.float32)
    numbers = np.arange(len(batch.clips)) if numbers is None else numbers
    windows = zip(numbers, waveform, batch.clips, batch.starts, batch.lengths, strict=True)
    for number, row, clip, start, length in windows:
        window = row[:length]
        window[:] = store.waveform(clip, start, length)
        if mode == "clip":
            # As `audio.signal.normalize` on the whole clip, in place.
            window -= store.means[clip]
            window /= np.sqrt(store.variances[clip] + 1e-7)
        elif mode == "heard":
            window[:] = normalize(window)
        elif mode == "padded":
            row[:] = normalize(row)
        if augmentation is not None:
            augmentation(window, batch.step, int(number))
    return waveform
