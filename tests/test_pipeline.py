"""Batches carry the right samples, in the right rows, with the right normalisation."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.batches.augment import Augmentation
from data_pipelines.batches.pipeline import Batch, ClassLabels, Share, batches
from data_pipelines.batches.window_plan import WindowPlan
from data_pipelines.stores.building import build_store
from data_pipelines.stores.flat_store import Clip, FlatStore
from data_pipelines.stores.sound import from_int16
from voc2vec_jax.audio.signal import normalize, pad_batch
from voc2vec_jax.config import DataConfig
from voc2vec_jax.errors import ConfigError, DataError

DATA = DataConfig(
    max_seconds=0.5, bucket_seconds=(0.1, 0.3, 0.5), batch_seconds=2.0, batch_multiple=4
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FlatStore:
    random = np.random.default_rng(0)
    lengths = [400, 1_600, 1_601, 8_000, 8_001, 20_000, *random.integers(400, 12_000, 30)]
    clips = (
        (Clip(f"clip{i}", "noise"), random.integers(-9_000, 12_000, n).astype(np.int16))
        for i, n in enumerate(lengths)
    )
    return build_store(tmp_path_factory.mktemp("cache") / "noise", clips, dataset="noise")


@pytest.fixture(scope="module")
def plan(store: FlatStore) -> WindowPlan:
    return WindowPlan(store.lengths, DATA, seed=5)


def collect(
    store: FlatStore, plan: WindowPlan, start: int, stop: int, data: DataConfig = DATA
) -> list[Batch]:
    return list(batches(store, plan, data, start_step=start, stop_step=stop))


def assert_same(left: Batch, right: Batch) -> None:
    for name in ("waveform", "lengths"):
        np.testing.assert_array_equal(left[name], right[name])


def test_shapes_and_padding(store: FlatStore, plan: WindowPlan) -> None:
    for step, batch in enumerate(collect(store, plan, 0, plan.batches_per_epoch)):
        planned = plan.batch(step)
        assert batch["waveform"].shape == (len(planned.clips), planned.bucket_samples)
        assert batch["waveform"].dtype == np.float32
        assert batch["lengths"].dtype == np.int32
        np.testing.assert_array_equal(batch["lengths"], planned.lengths)
        for row, length in zip(batch["waveform"], batch["lengths"], strict=True):
            assert not row[length:].any()


def test_clip_normalisation_is_that_of_the_whole_clip_bit_for_bit(
    store: FlatStore, plan: WindowPlan
) -> None:
    cropped = 0
    for step, batch in enumerate(collect(store, plan, 0, plan.batches_per_epoch)):
        planned = plan.batch(step)
        for row, clip, start, length in zip(
            batch["waveform"], planned.clips, planned.starts, planned.lengths, strict=True
        ):
            whole = normalize(from_int16(store.read(clip, 0, store.lengths[clip])))
            np.testing.assert_array_equal(row[:length], whole[start : start + length])
            cropped += length < store.lengths[clip]
    assert cropped > 0


@pytest.mark.parametrize("mode", ["none", "padded"])
def test_other_normalisations_are_those_of_pad_batch(
    store: FlatStore, plan: WindowPlan, mode: str
) -> None:
    data = dataclasses.replace(DATA, normalize=mode)  # type: ignore[arg-type]
    for step, batch in enumerate(collect(store, plan, 0, 6, data)):
        planned = plan.batch(step)
        rows = zip(planned.clips, planned.starts, planned.lengths, strict=True)
        waveforms = [from_int16(store.read(*row)) for row in rows]
        expected, _ = pad_batch(
            waveforms,
            normalize=mode,  # type: ignore[arg-type]
            pad_to=planned.bucket_samples,
        )
        np.testing.assert_array_equal(batch["waveform"], expected)


def test_resumed_batches_equal_those_of_an_unbroken_run(store: FlatStore, plan: WindowPlan) -> None:
    unbroken = collect(store, plan, 0, 7)
    assert len(unbroken) == 7
    for left, right in zip(unbroken[3:], collect(store, plan, 3, 7), strict=True):
        assert_same(left, right)


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_processes_share_the_global_batch(
    store: FlatStore, plan: WindowPlan, process_count: int
) -> None:
    parts = [
        list(
            batches(
                store,
                plan,
                DATA,
                start_step=2,
                stop_step=6,
                share=Share((index,), process_count),
            )
        )
        for index in range(process_count)
    ]
    for step, whole in enumerate(collect(store, plan, 2, 6)):
        joined: Batch = {
            name: np.concatenate([part[step][name] for part in parts])
            for name in ("waveform", "lengths")
        }
        assert_same(joined, whole)


def test_a_process_may_hold_blocks_that_are_apart(store: FlatStore, plan: WindowPlan) -> None:
    """As on a mesh that follows the wiring of the devices; the augmentation goes by global row."""
    change = Augmentation(seed=3, gain_db=6.0, noise_snr_db=(10.0, 20.0))
    whole = batches(store, plan, DATA, start_step=0, stop_step=3, augmentation=change)
    shares = [
        batches(
            *(store, plan, DATA),
            start_step=0,
            stop_step=3,
            augmentation=change,
            share=Share(blocks, 4),
        )
        for blocks in ((0, 2), (1, 3))
    ]
    for batch, even, odd in zip(whole, *shares, strict=True):
        for name in ("waveform", "lengths"):
            rows = batch[name].reshape(2, 2, -1, *batch[name].shape[1:])
            np.testing.assert_array_equal(even[name].reshape(rows[:, 0].shape), rows[:, 0])
            np.testing.assert_array_equal(odd[name].reshape(rows[:, 1].shape), rows[:, 1])


def test_uneven_split_is_refused_at_once(store: FlatStore, plan: WindowPlan) -> None:
    with pytest.raises(ConfigError, match=r"a batch of 20 .* 3 blocks"):
        batches(store, plan, DATA, start_step=0, stop_step=1, share=Share((0,), 3))


def one_clip(directory: Path) -> tuple[FlatStore, WindowPlan]:
    store = build_store(
        directory, [(Clip("a", "a"), np.arange(5_000, dtype=np.int16))], dataset="corpus"
    )
    return store, WindowPlan(store.lengths, DATA, seed=0)


def test_samples_cut_short_are_named(tmp_path: Path) -> None:
    store, plan = one_clip(tmp_path / "corpus")
    stream = batches(store, plan, DATA, start_step=0, stop_step=100)
    next(stream)
    # While other threads are reading ahead: a memory map would now kill the process.
    os.truncate(tmp_path / "corpus" / "samples.int16", 100)
    with pytest.raises(DataError, match=r"samples\.int16: has been cut short; delete"):
        list(stream)


def test_a_deleted_store_is_read_to_the_end(tmp_path: Path) -> None:
    store, plan = one_clip(tmp_path / "corpus")
    expected = collect(store, plan, 0, 20)
    stream = batches(store, plan, DATA, start_step=0, stop_step=20)
    first = next(stream)
    shutil.rmtree(tmp_path / "corpus")
    for batch, undisturbed in zip([first, *stream], expected, strict=True):
        assert_same(batch, undisturbed)


def test_an_error_comes_after_the_batches_before_it(
    store: FlatStore, plan: WindowPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan.batch

    def fail_at_four(step: int) -> object:
        if step == 4:
            raise DataError("step 4 went wrong")
        return planned(step)

    monkeypatch.setattr(plan, "batch", fail_at_four)
    stream = batches(store, plan, DATA, start_step=0, stop_step=8)
    for _ in range(4):
        next(stream)
    with pytest.raises(DataError, match="step 4 went wrong"):
        next(stream)


def test_no_steps_give_no_batches(store: FlatStore, plan: WindowPlan) -> None:
    assert collect(store, plan, 4, 4) == []


@pytest.mark.parametrize("process_count", [1, 2])
def test_augmentation_changes_level_and_adds_noise_as_asked(
    store: FlatStore, plan: WindowPlan, process_count: int
) -> None:
    augmentation = Augmentation(seed=3, gain_db=6.0, noise_snr_db=(10.0, 20.0))

    def heard(start: int, process: int) -> list[Batch]:
        return list(
            batches(
                *(store, plan, DATA),
                start_step=start,
                stop_step=6,
                augmentation=augmentation,
                share=Share((process,), process_count),
            )
        )

    levels, ratios = [], []
    parts = [heard(0, process) for process in range(process_count)]
    resumed = [heard(3, process) for process in range(process_count)]
    for step, plain in enumerate(collect(store, plan, 0, 6)):
        changed = np.concatenate([part[step]["waveform"] for part in parts])
        if step >= 3:
            again = np.concatenate([part[step - 3]["waveform"] for part in resumed])
            np.testing.assert_array_equal(again, changed)
        for row, before, length in zip(changed, plain["waveform"], plain["lengths"], strict=True):
            assert not row[length:].any()
            signal, mixed = before[:length].astype(np.float64), row[:length].astype(np.float64)
            gain = mixed @ signal / (signal @ signal)
            noise = mixed - gain * signal
            levels.append(20 * np.log10(gain))
            ratios.append(10 * np.log10(gain**2 * np.mean(signal**2) / np.mean(noise**2)))
    # The noise is not quite orthogonal to the signal, which moves both figures a little.
    assert -6.5 < min(levels) < -3
    assert 3 < max(levels) < 6.5
    assert 9 < min(ratios) < 13
    assert 17 < max(ratios) < 21


def test_class_labels_go_along(store: FlatStore, plan: WindowPlan) -> None:
    labelled = dataclasses.replace(store, labels=np.arange(len(store.ids)))
    joined = [ClassLabels(labelled)]
    for step, batch in enumerate(
        batches(store, plan, DATA, start_step=0, stop_step=4, joined=joined)
    ):
        assert batch["labels"].dtype == np.int32
        np.testing.assert_array_equal(batch["labels"], plan.batch(step).clips)
