"""The plan keeps its promises for any corpus and any configuration."""

import dataclasses
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data_pipelines.batches.window_plan import PlannedBatch, WindowPlan
from voc2vec_jax.audio.frame_grid import MIN_SAMPLES
from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.config import DataConfig

# Short buckets make long clips, which are cut, cheap and common.
SMALL = DataConfig(
    min_seconds=0.05,
    max_seconds=0.5,
    bucket_seconds=(0.1, 0.3, 0.5),
    batch_seconds=1.5,
    batch_multiple=2,
)
MAX_SAMPLES = 8_000

corpora = st.lists(st.integers(1, 30_000), min_size=1, max_size=60).filter(
    lambda lengths: max(lengths) >= 800
)
seeds = st.integers(0, 2**32 - 1)
deterministic = settings(derandomize=True, deadline=None, max_examples=60)


def epoch_of(plan: WindowPlan, epoch: int = 0) -> list[PlannedBatch]:
    first = epoch * plan.batches_per_epoch
    return [plan.batch(step) for step in range(first, first + plan.batches_per_epoch)]


def rows_of(batches: list[PlannedBatch]) -> list[tuple[int, int, int]]:
    """(clip, start, length) of every row."""
    return [
        (int(clip), int(start), int(length))
        for batch in batches
        for clip, start, length in zip(batch.clips, batch.starts, batch.lengths, strict=True)
    ]


def same(left: PlannedBatch, right: PlannedBatch) -> bool:
    pairs = zip(dataclasses.astuple(left), dataclasses.astuple(right), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@deterministic
@given(corpora, seeds, st.integers(0, 3))
def test_windows_of_an_epoch_partition_every_kept_clip(
    lengths: list[int], seed: int, epoch: int
) -> None:
    plan = WindowPlan(np.array(lengths), SMALL, seed)
    rows = rows_of(epoch_of(plan, epoch))
    expected = {clip: -(-n // MAX_SAMPLES) for clip, n in enumerate(lengths) if n >= 800}
    distinct = sorted(set(rows))
    assert len(distinct) == plan.windows_per_epoch == sum(expected.values())
    assert len(rows) - len(distinct) == plan.repeats_per_epoch
    for clip, count in expected.items():
        windows = [(start, length) for owner, start, length in distinct if owner == clip]
        ends = [start + length for start, length in windows]
        assert len(windows) == count
        assert [start for start, _ in windows] == [0, *ends[:-1]]
        assert ends[-1] == lengths[clip]
    assert plan.dropped_short == len(lengths) - len(expected)


@deterministic
@given(corpora, seeds, st.sampled_from([8, 16, 24, 64]))
def test_an_evaluation_hears_the_same_windows_once_whatever_the_batches(
    lengths: list[int], seed: int, rows: int
) -> None:
    def heard(plan: WindowPlan) -> dict[int, tuple[int, int, int]]:
        batches = epoch_of(plan)
        told = np.concatenate([batch.real for batch in batches])
        numbers = np.concatenate([batch.windows for batch in batches])[told]
        assert len(set(numbers)) == len(numbers)
        kept = [row for row, counts in zip(rows_of(batches), told, strict=True) if counts]
        return dict(zip(map(int, numbers), kept, strict=True))

    usual = WindowPlan(np.array(lengths), SMALL, seed)
    data = dataclasses.replace(SMALL, batch_seconds=rows * SMALL.max_seconds)
    fitted = WindowPlan(np.array(lengths), data, seed, fit=True)
    assert heard(fitted) == heard(usual)
    assert len(heard(fitted)) == fitted.windows_per_epoch
    loose = WindowPlan(np.array(lengths), data, seed)
    assert fitted.repeats_per_epoch <= loose.repeats_per_epoch
    assert fitted.batches_per_epoch == loose.batches_per_epoch
    smaller = zip(fitted.shapes, loose.shapes, strict=True)
    assert all(a[0] <= b[0] and a[0] % SMALL.batch_multiple == 0 for a, b in smaller)


@deterministic
@given(corpora, seeds)
def test_rows_fit_their_bucket_and_batches_have_the_planned_shape(
    lengths: list[int], seed: int
) -> None:
    plan = WindowPlan(np.array(lengths), SMALL, seed)
    sizes = {1_600: 14, 4_800: 4, 8_000: 2}  # 1.5 s over the bucket, rounded down to even
    for batch in epoch_of(plan):
        assert len(batch.clips) == sizes[batch.bucket_samples]
        assert (len(batch.clips), batch.bucket_samples) in plan.shapes
        assert batch.lengths.min() >= MIN_SAMPLES
        assert batch.lengths.max() <= batch.bucket_samples
        dtypes = [array.dtype.name for array in (batch.clips, batch.starts, batch.lengths)]
        assert dtypes == ["int32", "int64", "int32"]
        for clip in batch.clips:
            pieces = -(-lengths[clip] // MAX_SAMPLES)
            longest = -(-lengths[clip] // pieces)
            assert batch.bucket_samples == min(size for size in sizes if size >= longest)


@deterministic
@given(corpora, seeds, st.randoms(use_true_random=False))
def test_a_batch_does_not_depend_on_what_was_asked_before(
    lengths: list[int], seed: int, order: object
) -> None:
    used, fresh = (WindowPlan(np.array(lengths), SMALL, seed) for _ in range(2))
    steps = list(range(3 * used.batches_per_epoch))
    expected = [fresh.batch(step) for step in steps]
    order.shuffle(steps)  # type: ignore[attr-defined]
    assert all(same(used.batch(step), expected[step]) for step in steps)


def test_epochs_and_seeds_differ_in_order_and_cuts() -> None:
    lengths = np.full(40, 20_000)
    plan, other = (WindowPlan(lengths, SMALL, seed) for seed in (0, 1))
    first, second = rows_of(epoch_of(plan, 0)), rows_of(epoch_of(plan, 1))
    assert [row[0] for row in first] != [row[0] for row in second]
    assert set(first) != set(second)
    assert set(first) != set(rows_of(epoch_of(other, 0)))
    assert plan.batches_per_epoch == other.batches_per_epoch


def test_golden_batch() -> None:
    """Moves only when the random streams change, and then every run resumes differently."""
    batch = WindowPlan(np.arange(1_000, 40_000, 1_000), SMALL, seed=7).batch(11)
    assert (batch.epoch, batch.bucket_samples) == (0, 8_000)
    assert batch.clips.tolist() == [31, 34]
    assert batch.starts.tolist() == [16000, 20727]


def test_threads_get_the_same_batches() -> None:
    lengths = np.random.default_rng(0).integers(800, 30_000, 200)
    shared, alone = (WindowPlan(lengths, SMALL, seed=3) for _ in range(2))
    steps = range(0, 5 * shared.batches_per_epoch, 7)
    found: dict[int, PlannedBatch] = {}

    def ask(order: list[int]) -> None:
        for step in order:
            found[step] = shared.batch(step)

    threads = [threading.Thread(target=ask, args=([*steps][i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(found[step], alone.batch(step)) for step in steps)


def test_hours_heard_are_the_hours_kept() -> None:
    plan = WindowPlan(np.array([16_000, 20_001, 400]), SMALL, seed=0)
    assert plan.dropped_short == 1
    assert plan.corpus_seconds == pytest.approx(36_401 / SAMPLE_RATE)
    assert plan.heard_seconds_per_epoch == pytest.approx(36_001 / SAMPLE_RATE)
    assert "dropped_short=1" in plan.summary()


def test_one_clip_fills_a_whole_batch() -> None:
    plan = WindowPlan(np.array([1_200]), SMALL, seed=0)
    assert plan.batches_per_epoch == 1
    assert plan.repeats_per_epoch == 13
    assert plan.batch(5).clips.tolist() == [0] * 14


def test_padding_share_is_the_mean_over_epochs() -> None:
    lengths = np.random.default_rng(1).integers(800, 30_000, 50)
    plan = WindowPlan(lengths, SMALL, seed=0)
    batches = [batch for epoch in range(100) for batch in epoch_of(plan, epoch)]
    heard = sum(int(batch.lengths.sum()) for batch in batches)
    padded = sum(len(batch.clips) * batch.bucket_samples for batch in batches)
    assert plan.padding_share == pytest.approx(1 - heard / padded, abs=2e-3)


@pytest.mark.parametrize(
    ("lengths", "equal"),
    [
        ([4_000, 4_000, 4_000], True),
        ([4_000, 1_200, 4_000], True),  # in buckets of their own
        ([4_000, 4_001], False),
        ([16_000], True),  # two windows that fill their bucket
        ([12_000], False),  # two windows whose border moves
        ([4_000, 500], True),  # the short one is left out
    ],
)
def test_whether_clips_of_a_batch_are_equally_long(lengths: list[int], equal: bool) -> None:
    plan = WindowPlan(np.array(lengths), SMALL, seed=0)
    assert plan.has_equal_lengths is equal
    batches = [batch for epoch in range(3) for batch in epoch_of(plan, epoch)]
    assert all(np.ptp(batch.lengths) == 0 for batch in batches) or not equal


def voc125_like() -> NDArray[np.int64]:
    """Samples per clip: counts and mean durations of the Voc125 table, spread by hand."""
    random = np.random.default_rng(0)
    table = (  # clips, mean seconds, log-normal spread
        (13_439, 9.9, 0.02),
        (1_450, 58.15, 1.0),
        (179, 1.21, 0.3),
        (5_596, 2.28, 0.6),
        (6_983, 3.46, 0.4),
        (7_077, 1.25, 0.6),
        (113, 126.48, 0.5),
        (1_540, 30.79, 0.01),
        (10_705, 3.54, 0.5),
        (20_985, 4.18, 0.4),
    )
    seconds = [
        mean * random.lognormal(-(spread**2) / 2, spread, clips) for clips, mean, spread in table
    ]
    return (np.concatenate(seconds).clip(0.05) * SAMPLE_RATE).astype(np.int64)


def test_padding_of_a_voc125_like_corpus() -> None:
    lengths = voc125_like()
    plan = WindowPlan(lengths, DataConfig(), seed=0)
    print(plan.summary())
    assert plan.shapes[0] == (120, 16_000)
    assert plan.shapes[-1] == (8, 250_000)
    assert plan.padding_share < 0.20
    # A fifth of these clips last 10 s: without a bucket for them they are padded to 15.6 s.
    coarser = DataConfig(bucket_seconds=(1.0, 2.0, 4.0, 8.0, 15.625))
    assert WindowPlan(lengths, coarser, seed=0).padding_share > 0.25
