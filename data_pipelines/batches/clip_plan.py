"""Which clips make up a batch of fine-tuning: each of them once an epoch.

A batch holds a number of clips of like length. The last one of each length is filled up with rows
that are not real, so that all batches of a length have the same shape and no clip counts twice.
"""

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_pipelines.batches.buckets import bucket_of, fill_buckets, permutation, random_bits
from data_pipelines.batches.window_plan import PlannedBatch
from voc2vec_jax.audio.frame_grid import MIN_SAMPLES
from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.config import DataConfig
from voc2vec_jax.errors import ConfigError, DataError

Heard = Literal["crop", "windows", "first"]
"""Of a clip longer than `max_seconds`: a part drawn anew in each epoch; all of it, in windows of
equal length; or its beginning."""
Ints = NDArray[np.integer]

# What a random stream is for; `window_plan.py` and `buckets.py` have 1 to 4.
_ROW_ORDER, _BATCH_ORDER, _CROPS = 5, 6, 7


@dataclass(frozen=True, eq=False)
class _Epoch:
    """All that changes from one epoch to the next."""

    rows: list[NDArray[np.int64]]
    """Per bucket: its windows, in the order in which they are heard."""
    starts: NDArray[np.int64]
    """[windows] first sample of each inside its clip."""
    order: NDArray[np.int64]
    """[batches of all buckets] in which order they are heard; numbered bucket by bucket."""


class ClipPlan:
    """The batches of some clips, each a pure function of (seed, step).

    Args:
        lengths: [all clips] samples at 16 kHz.
        clips: Index of those that the plan is about.
        data: Its buckets, and the clips or seconds in a batch.
        seed: Below 2**32; decides order and crops.
        heard: What is heard of long clips.
        shuffled: Another order in each epoch, or always the same.

    Raises:
        ConfigError: `data.max_seconds` would cut clips into windows without a single frame.
        DataError: There are no clips.

    Attributes:
        longest: Samples that are heard of a clip at a time, at most.
    """

    def __init__(
        self,
        lengths: Ints,
        clips: Ints,
        data: DataConfig,
        seed: int,
        *,
        heard: Heard,
        shuffled: bool,
    ):
        if len(clips) == 0:
            raise DataError("no clip is left to train or to evaluate on")
        self.seed, self.heard, self.shuffled = seed, heard, shuffled
        self.longest = longest = round(data.max_seconds * SAMPLE_RATE)
        own = np.asarray(lengths, np.int64)[clips]
        pieces = -(-own // longest) if heard == "windows" else np.ones_like(own)
        if np.any(own // pieces < MIN_SAMPLES):
            raise ConfigError(
                f"data.max_seconds={data.max_seconds}: windows are at least half as long, and a"
                f" frame needs {MIN_SAMPLES} samples, so at least {2 * MIN_SAMPLES / SAMPLE_RATE}"
            )
        owner = np.repeat(np.arange(len(own)), pieces)
        place = np.arange(len(owner)) - (np.cumsum(pieces) - pieces)[owner]
        ends = (place + 1) * own[owner] // pieces[owner]
        self._clips = np.asarray(clips)[owner].astype(np.int32)
        self._starts = place * own[owner] // pieces[owner]
        self._lengths = np.minimum(ends - self._starts, longest).astype(np.int32)
        self._room = own[owner] - self._lengths if heard == "crop" else np.zeros_like(owner)
        number = bucket_of(self._lengths, data)
        self._buckets = fill_buckets(number, np.ones(len(owner)), data)
        self._rows = [np.sort(bucket.windows) for bucket in self._buckets]
        self.clips = len(own)
        self.batches_per_epoch = sum(bucket.batches for bucket in self._buckets)
        self.shapes = [(bucket.batch_size, bucket.samples) for bucket in self._buckets]
        self.heard_seconds_per_epoch = float(self._lengths.sum()) / SAMPLE_RATE
        self._epoch = functools.lru_cache(maxsize=2)(self._draw_epoch)

    def batch(self, step: int) -> PlannedBatch:
        """The batch of a step (0, 1, …), whatever was asked before."""
        epoch, index = divmod(step, self.batches_per_epoch)
        table = self._epoch(epoch if self.shuffled or self.heard == "crop" else 0)
        number = int(table.order[index])
        place = 0
        while number >= self._buckets[place].batches:
            number -= self._buckets[place].batches
            place += 1
        bucket, windows = self._buckets[place], table.rows[place]
        chosen = windows[number * bucket.batch_size :][: bucket.batch_size]
        rows = np.resize(chosen, bucket.batch_size)
        return PlannedBatch(
            step=step,
            epoch=epoch,
            bucket_samples=bucket.samples,
            clips=self._clips[rows],
            starts=table.starts[rows],
            lengths=self._lengths[rows],
            windows=np.asarray(rows, np.int64),
            real=np.arange(bucket.batch_size) < len(chosen),
        )

    def _draw_epoch(self, epoch: int) -> _Epoch:
        rows, starts = self._rows, self._starts
        order = np.arange(self.batches_per_epoch)
        if self.shuffled:
            order = permutation(self.batches_per_epoch, _BATCH_ORDER, self.seed, epoch)
            rows = [
                windows[permutation(len(windows), _ROW_ORDER, self.seed, epoch, bucket.number)]
                for bucket, windows in zip(self._buckets, rows, strict=True)
            ]
        if self.heard == "crop":
            drawn = random_bits(len(self._clips), _CROPS, self.seed, epoch)
            fraction = (drawn >> np.uint64(11)) * 2.0**-53  # [0, 1)
            starts = starts + (fraction * (self._room + 1)).astype(np.int64)
        return _Epoch(rows, starts, order)
