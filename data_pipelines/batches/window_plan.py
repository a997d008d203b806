"""Which clips, which windows and which bucket make up the batch of a step.

A batch is a pure function of (seed, step) and of the clip lengths, so that resuming a run needs
nothing but its step, on any number of processes.

    clip  ─ one window, or ceil(L / max) of them when the clip is longer than `max_seconds`
    window ─ falls into the smallest bucket (padded length) that holds it
    epoch ─ each window once: shuffled inside its bucket, cut into batches, batches shuffled

How many windows a clip gives, and into which bucket they fall, depends on its length only. The
number of batches in an epoch is therefore a constant, and (epoch, index) = divmod(step, constant).
"""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from data_pipelines.batches.buckets import (
    Bucket,
    bucket_of,
    bucket_samples,
    fill_buckets,
    fit_batches,
    permutation,
    random_bits,
)
from voc2vec_jax.audio.frame_grid import MIN_SAMPLES
from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.config import DataConfig
from voc2vec_jax.errors import ConfigError, DataError

# What a random stream is for; streams of different purposes never overlap.
_CUTS, _WINDOW_ORDER, _BATCH_ORDER = 1, 2, 3


@dataclass(frozen=True, eq=False)
class PlannedBatch:
    """The rows of one global batch; all are padded to `bucket_samples`."""

    step: int
    epoch: int
    bucket_samples: int
    clips: NDArray[np.int32]
    """[B] index of the clip in the corpus."""
    starts: NDArray[np.int64]
    """[B] first sample of the window inside its clip."""
    lengths: NDArray[np.int32]
    """[B] samples in the window, at most `bucket_samples`."""
    windows: NDArray[np.int64]
    """[B] number of the window in the plan, whatever the size of batches."""
    real: NDArray[np.bool_]
    """[B] False for a row that fills up the last batch of its bucket."""

    def rows(self, numbers: NDArray[np.int64]) -> Self:
        """Some of its rows as a batch."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        taken: dict[str, Any] = {
            k: v[numbers] for k, v in values.items() if isinstance(v, np.ndarray)
        }
        return dataclasses.replace(self, **taken)


@dataclass(frozen=True, eq=False)
class _Windows:
    """The windows of an epoch before jitter, clip by clip; each field is [W]."""

    clips: NDArray[np.int32]
    starts: NDArray[np.int64]
    room: NDArray[np.int64]
    """How far the start may move either way: 0 where the clip starts."""
    clip_ends: NDArray[np.int64]
    is_last: NDArray[np.bool_]
    """Of its clip."""
    buckets: NDArray[np.int64]
    """Index into `DataConfig.used_bucket_seconds`."""

    def lengths(self, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """[W] samples in each window when each lasts until the next one of its clip starts."""
        return np.where(self.is_last, self.clip_ends, np.append(starts[1:], 0)) - starts


@dataclass(frozen=True, eq=False)
class _Epoch:
    """All that changes from one epoch to the next."""

    starts: NDArray[np.int64]
    """[W] first sample of each window inside its clip."""
    lengths: NDArray[np.int32]
    """[W] samples in each window."""
    rows: list[NDArray[np.int64]]
    """Per bucket [batches, batch_size]: the windows of each batch."""
    order: NDArray[np.int64]
    """[batches of all buckets] in which order they are heard; numbered bucket by bucket."""


def _cut(kept: NDArray[np.int64], lengths: NDArray[np.int64], data: DataConfig) -> _Windows:
    """Lay out the windows of the kept clips, which have `lengths` samples."""
    pieces = -(-lengths // round(data.max_seconds * SAMPLE_RATE))  # windows of each clip
    longest, shortest = -(-lengths // pieces), lengths // pieces
    if np.any(shortest < MIN_SAMPLES):
        raise ConfigError(
            f"data.max_seconds={data.max_seconds}: a longer clip is cut into windows of at least"
            f" half of it, and a frame needs {MIN_SAMPLES} samples, so at least"
            f" {2 * MIN_SAMPLES / SAMPLE_RATE}"
        )
    bucket = bucket_of(longest, data)
    # A start may move so far that all windows still fit the bucket and keep half their length.
    room = np.minimum((bucket_samples(data)[bucket] - longest) // 2, lengths // (4 * pieces))
    room = np.minimum(room, (shortest - MIN_SAMPLES) // 2)

    owner = np.repeat(np.arange(len(kept)), pieces)
    first = np.cumsum(pieces) - pieces  # index of each clip's first window
    place = np.arange(len(owner)) - first[owner]  # 0 .. pieces - 1
    return _Windows(
        clips=kept[owner].astype(np.int32),
        starts=place * lengths[owner] // pieces[owner],
        room=np.where(place > 0, room[owner], 0),
        clip_ends=lengths[owner],
        is_last=place == pieces[owner] - 1,
        buckets=bucket[owner],
    )


def long_enough(lengths: NDArray[np.integer], data: DataConfig) -> NDArray[np.bool_]:
    """[clips] bool, which of the clips of `lengths` samples are at least `min_seconds` long."""
    return np.asarray(lengths) >= round(data.min_seconds * SAMPLE_RATE)


class WindowPlan:
    """The batches of a corpus, each a pure function of (seed, step).

    A clip of L samples that is longer than `max_seconds` is cut into n = ceil(L / max) windows at
    i·L/n + jitter, 0 < i < n; the jitter is drawn anew in each epoch. The windows share no sample
    and leave none out. The last batch of each bucket is filled up with windows of that bucket that
    are heard a second time (`repeats_per_epoch`).

    Args:
        lengths: [clips] samples in each clip at 16 kHz.
        data: which clips are long enough, the buckets and the batch size.
        seed: below 2**32; another seed is another order, and other cuts of long clips.
        rates: [clips] how often an epoch hears each clip on average, above 0; once if None.
        chosen: [clips] bool, the clips that this plan is about; None for all.
        fit: whether a bucket of few clips has batches as small as they are, for evaluation.

    Raises:
        DataError: no clip is as long as `data.min_seconds`.
        ConfigError: `data.max_seconds` would cut clips into windows without a single frame.

    Attributes:
        clips: clips that are heard.
        dropped_short: clips left out because they are shorter than `data.min_seconds`.
        windows_per_epoch: windows that an epoch hears; without a mixture each once.
        repeats_per_epoch: rows that hear a window of the epoch again.
        batches_per_epoch: a constant of the corpus and the configuration.
        corpus_seconds: duration of all chosen clips, dropped ones included.
        heard_seconds_per_epoch: duration of what an epoch hears, repeats not counted.
        padding_share: expected share of padding among all samples of an epoch's batches.
        shapes: the (batch, samples) shapes that occur, shortest bucket first.
    """

    def __init__(
        self,
        lengths: NDArray[np.integer],
        data: DataConfig,
        seed: int,
        rates: NDArray[np.float64] | None = None,
        chosen: NDArray[np.bool_] | None = None,
        *,
        fit: bool = False,
    ) -> None:
        samples = np.asarray(lengths, np.int64)
        assert samples.ndim == 1
        chosen = np.ones(len(samples), bool) if chosen is None else chosen
        kept = np.flatnonzero(chosen & long_enough(samples, data))
        if len(kept) == 0:
            raise DataError(
                f"data.min_seconds={data.min_seconds}: none of the {len(samples)} clips is as long"
                f" (the longest has {samples.max(initial=0) / SAMPLE_RATE:.3f} s); lower it, or"
                " choose another corpus"
            )
        self.seed = seed
        self.clips = len(kept)
        self.dropped_short = int(chosen.sum()) - len(kept)
        self.corpus_seconds = float(samples[chosen].sum()) / SAMPLE_RATE

        self._windows = _cut(kept, samples[kept], data)
        clip_rates = np.ones(len(samples)) if rates is None else np.asarray(rates, np.float64)
        assert clip_rates.shape == samples.shape
        assert (clip_rates > 0).all()
        window_rates = clip_rates[self._windows.clips]
        self._buckets = fill_buckets(self._windows.buckets, window_rates, data)
        if fit:
            self._buckets = fit_batches(self._buckets)
        self.windows_per_epoch = sum(bucket.heard for bucket in self._buckets)
        self._mean_lengths = self._windows.lengths(self._windows.starts)
        self.heard_seconds_per_epoch = sum(
            bucket.heard * bucket.mean_over_heard(self._mean_lengths) / SAMPLE_RATE
            for bucket in self._buckets
        )
        self.batches_per_epoch = sum(bucket.batches for bucket in self._buckets)
        rows = sum(bucket.batches * bucket.batch_size for bucket in self._buckets)
        self.repeats_per_epoch = rows - self.windows_per_epoch
        self.shapes = [(bucket.batch_size, bucket.samples) for bucket in self._buckets]
        self.padding_share = self._expected_padding()
        self._epoch = functools.lru_cache(maxsize=2)(self._draw_epoch)  # safe with many threads

    @property
    def has_equal_lengths(self) -> bool:
        """Whether every batch, of any epoch, holds windows of one length only."""
        lengths = self._windows.lengths(self._windows.starts)
        still = not self._windows.room.any()  # a window that moves takes from its neighbour
        return still and all(np.ptp(lengths[bucket.windows]) == 0 for bucket in self._buckets)

    def _expected_padding(self) -> float:
        """Exact mean over epochs: jitter and the choice of repeats do not change the mean."""
        heard = padded = 0.0
        for bucket in self._buckets:
            rows = bucket.batches * bucket.batch_size
            heard += rows * bucket.mean_over_heard(self._mean_lengths)
            padded += rows * bucket.samples
        return 1 - heard / padded

    def _draw_epoch(self, epoch: int) -> _Epoch:
        windows = self._windows
        drawn = random_bits(len(windows.clips), _CUTS, self.seed, epoch)
        fraction = (drawn >> np.uint64(11)) * 2.0**-53  # [0, 1)
        starts = windows.starts + (fraction * (2 * windows.room + 1)).astype(np.int64)
        starts -= windows.room
        rows = [self._shuffled(epoch, bucket) for bucket in self._buckets]
        order = permutation(self.batches_per_epoch, _BATCH_ORDER, self.seed, epoch)
        return _Epoch(starts, windows.lengths(starts).astype(np.int32), rows, order)

    def _shuffled(self, epoch: int, bucket: Bucket) -> NDArray[np.int64]:
        """[batches, batch_size] windows: the epoch's, then as many again as fill the rest."""
        key = (_WINDOW_ORDER, self.seed, epoch, bucket.number)
        windows = bucket.draw(self.seed, epoch)
        count, rows = bucket.heard, bucket.batches * bucket.batch_size
        turns = math.ceil(rows / count)
        # One permutation per turn through the bucket, all from a single stream.
        drawn = random_bits(turns * count, *key).reshape(turns, count)
        order = np.argsort(drawn, axis=1, kind="stable").ravel()[:rows]
        return windows[order].reshape(bucket.batches, bucket.batch_size)

    def batch(self, step: int) -> PlannedBatch:
        """The global batch of a step (0, 1, …), whatever was asked before; safe to share."""
        assert step >= 0
        epoch, index = divmod(step, self.batches_per_epoch)
        table = self._epoch(epoch)
        number = int(table.order[index])
        place = 0
        while number >= self._buckets[place].batches:
            number -= self._buckets[place].batches
            place += 1
        bucket, windows = self._buckets[place], table.rows[place][number]
        return PlannedBatch(
            step=step,
            epoch=epoch,
            bucket_samples=bucket.samples,
            clips=self._windows.clips[windows],
            starts=table.starts[windows],
            lengths=table.lengths[windows],
            windows=windows,
            real=number * bucket.batch_size + np.arange(bucket.batch_size) < bucket.heard,
        )

    def summary(self) -> str:
        """What an epoch hears and what it costs, in a few `key=value` lines."""
        shapes = ", ".join(f"{rows}x{samples / SAMPLE_RATE:g}s" for rows, samples in self.shapes)
        return (
            f"clips={self.clips} dropped_short={self.dropped_short}"
            f" corpus_hours={self.corpus_seconds / 3600:.3f}"
            f" heard_hours_per_epoch={self.heard_seconds_per_epoch / 3600:.3f}\n"
            f"windows_per_epoch={self.windows_per_epoch}"
            f" repeats_per_epoch={self.repeats_per_epoch}"
            f" batches_per_epoch={self.batches_per_epoch}"
            f" padding_share={self.padding_share:.3f}\n"
            f"shapes={shapes}"
        )
