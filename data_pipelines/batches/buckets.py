"""Buckets of windows that are padded to the same length, and what an epoch hears of them.

A window goes into the shortest bucket that holds it (`bucket_of`).

Without a mixture an epoch hears each window once. In a mixture it hears a window `rate` times on
average: of the windows that share a bucket and a rate (a cell) the same number in every epoch,
taken from an endless row of shuffles, so that none is forgotten and the number of batches is a
constant.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.config import DataConfig

# What a random stream is for; `window_plan.py` has 1 to 3, and streams never overlap.
_MIXTURE = 4


def random_bits(count: int, *key: int) -> NDArray[np.uint64]:
    """uint64 [count], a pure function of `key` (at most four integers below 2**32).

    NumPy promises raw bits to stay the same in its later versions, but not what it makes of them
    (shuffles, integers in a range); those are made here.
    """
    # SeedSequence pads with zeros, so that keys of different lengths could be equal: always 4.
    entropy = (*key, 0, 0, 0, 0)[:4]
    bits = np.random.Philox(np.random.SeedSequence(entropy))
    return bits.random_raw(count).astype(np.uint64, copy=False)


def permutation(count: int, *key: int) -> NDArray[np.int64]:
    return np.argsort(random_bits(count, *key), kind="stable")


def bucket_samples(data: DataConfig) -> NDArray[np.int64]:
    """Padded lengths in samples, ascending, of the buckets that a window can fall into."""
    return np.array([round(s * SAMPLE_RATE) for s in data.used_bucket_seconds])


def bucket_of(lengths: NDArray[np.integer], data: DataConfig) -> NDArray[np.int64]:
    """[W] number of the shortest bucket that holds each window of `lengths` [W] samples."""
    return np.searchsorted(bucket_samples(data), lengths)


@dataclass(frozen=True, eq=False)
class Bucket:
    """Windows that are padded to the same length."""

    number: int
    samples: int
    batch_size: int
    cells: list[tuple[NDArray[np.int64], int]]
    """Indices into the windows of an epoch that share a rate, and how many an epoch hears."""

    @property
    def windows(self) -> NDArray[np.int64]:
        """All windows of this length, heard in any epoch or not, in no useful order."""
        return np.concatenate([windows for windows, _ in self.cells])

    @property
    def heard(self) -> int:
        """Windows that an epoch hears, those that fill up its last batch not counted."""
        return sum(heard for _, heard in self.cells)

    @property
    def batches(self) -> int:
        return math.ceil(self.heard / self.batch_size)

    def mean_over_heard(self, values: NDArray[np.integer]) -> float:
        """Mean over epochs of a value of each window."""
        total = sum(heard * float(values[windows].mean()) for windows, heard in self.cells)
        return total / self.heard

    def draw(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """[heard] the windows of an epoch, in no useful order."""
        return np.concatenate([_draw_cell(seed, epoch, *cell) for cell in self.cells])


def _draw_cell(seed: int, epoch: int, windows: NDArray[np.int64], heard: int) -> NDArray[np.int64]:
    count = len(windows)
    if heard == count:
        return windows
    first, last = epoch * heard, (epoch + 1) * heard  # places in the endless row
    turns = range(first // count, -(-last // count))
    # The first window tells the cells apart.
    key = (_MIXTURE, seed, int(windows[0]))
    row = np.concatenate([windows[permutation(count, *key, turn)] for turn in turns])
    return row[first - turns.start * count :][:heard]


def fill_buckets(
    bucket_of_window: NDArray[np.int64], rates: NDArray[np.float64], data: DataConfig
) -> list[Bucket]:
    """The buckets that hold any window, shortest first; `rates` are per window."""
    buckets = []
    for number, seconds in enumerate(data.used_bucket_seconds):
        windows = np.flatnonzero(bucket_of_window == number)
        cells = []
        for rate in np.unique(rates[windows]):
            of_rate = windows[rates[windows] == rate]
            cells.append((of_rate, max(round(float(rate) * len(of_rate)), 1)))
        if cells:
            buckets.append(
                Bucket(number, round(seconds * SAMPLE_RATE), data.clips_per_batch(seconds), cells)
            )
    return buckets


def fit_batches(buckets: list[Bucket]) -> list[Bucket]:
    """The same in batches that their windows just fill, up to the divisor that all sizes share.

    No batch is larger than it was, and no bucket has more of them.
    """
    unit = math.gcd(*(bucket.batch_size for bucket in buckets))
    return [
        dataclasses.replace(
            bucket, batch_size=unit * math.ceil(bucket.heard / bucket.batches / unit)
        )
        for bucket in buckets
    ]
