"""Mixtures: every dataset its share, every clip its turn, every batch a function of the step."""

import logging
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.batches.pipeline import Share, batches
from data_pipelines.batches.pretraining import open_training_corpus
from data_pipelines.batches.window_plan import PlannedBatch, WindowPlan
from data_pipelines.corpora import voc125
from data_pipelines.corpora.sources import open_corpus
from data_pipelines.corpora.voc125 import mixture_rates, statement
from data_pipelines.preparation.prepare import builder_class
from data_pipelines.stores.building import build_store
from data_pipelines.stores.flat_store import Clip, FlatStore
from tests.test_plan import voc125_like
from tools.prepare_data import main
from voc2vec_jax.cli.config_files import load_config
from voc2vec_jax.config import DataConfig
from voc2vec_jax.errors import BAD_DATA, DONE, ConfigError, DataError

ROOT = Path(__file__).parents[1]

DATA = DataConfig(
    max_seconds=0.5, bucket_seconds=(0.1, 0.3, 0.5), batch_seconds=2.0, batch_multiple=4
)


def epoch_of(plan: WindowPlan, epoch: int) -> list[PlannedBatch]:
    first = epoch * plan.batches_per_epoch
    return [plan.batch(step) for step in range(first, first + plan.batches_per_epoch)]


def corpus(directory: Path, clips: int, seconds: float, seed: int) -> FlatStore:
    random = np.random.default_rng(seed)
    lengths = random.integers(int(8_000 * seconds), int(24_000 * seconds), clips)
    return build_store(
        directory,
        (
            (Clip(f"c{i}", f"c{i}.wav", i % 2, f"g{i % 3}" if i % 4 else "", "test"), noise)
            for i, n in enumerate(lengths)
            for noise in [random.integers(-9_000, 9_000, n).astype(np.int16)]
        ),
        dataset=directory.name,
        class_names=("x", "y"),
    )


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FlatStore]:
    root = tmp_path_factory.mktemp("parts")
    return {
        "small": corpus(root / "small", 12, 0.2, 0),
        "middle": corpus(root / "middle", 20, 0.4, 1),
        "large": corpus(root / "large", 30, 1.5, 2),
    }


@pytest.fixture(scope="module")
def joined(parts: dict[str, FlatStore]) -> FlatStore:
    return FlatStore.join(parts)


def test_joined_corpora_read_as_each_alone(parts: dict[str, FlatStore], joined: FlatStore) -> None:
    clip = 0
    for name, store in parts.items():
        for own in range(len(store.ids)):
            length = int(store.lengths[own])
            assert joined.ids[clip] == f"{name}/{store.ids[own]}"
            assert joined.groups[clip] == (f"{name}/{store.groups[own]}" if own % 4 else "")
            assert joined.sources[clip] == f"{name}/c{own}.wav"
            assert joined.folds[clip] == "test"
            np.testing.assert_array_equal(
                joined.read(clip, 5, length - 5), store.read(own, 5, length - 5)
            )
            assert joined.means[clip] == store.means[own]
            clip += 1
    assert clip == len(joined.ids)
    assert set(joined.labels) == {-1}
    assert joined.name == "small+middle+large"
    assert FlatStore.join({"a": parts["small"]}).fingerprint != joined.fingerprint


def test_joined_corpora_outlive_their_parts(tmp_path: Path) -> None:
    joined = FlatStore.join({"a": corpus(tmp_path / "a", 3, 0.2, 0)})
    assert joined.read(2, 0, 10).shape == (10,)


@pytest.mark.parametrize("temperature", [2.0, 5.0, 1e6])
def test_an_epoch_hears_each_dataset_by_its_share(joined: FlatStore, temperature: float) -> None:
    hours = np.bincount(joined.parts, weights=joined.lengths)
    shares = hours ** (1 / temperature) / (hours ** (1 / temperature)).sum()
    rates = mixture_rates(joined, temperature)
    plan = WindowPlan(joined.lengths, DATA, seed=0, rates=rates)
    heard = np.zeros(3)
    for epoch in range(20):
        for batch in epoch_of(plan, epoch):
            heard += np.bincount(joined.parts[batch.clips], weights=batch.lengths, minlength=3)
    # Cells are rounded to whole windows, and repeats that fill a batch come on top.
    np.testing.assert_allclose(heard / heard.sum(), shares, atol=0.04)
    epoch_seconds = plan.heard_seconds_per_epoch
    assert epoch_seconds == pytest.approx(joined.lengths.sum() / 16_000, rel=0.03)


def test_by_hours_every_clip_is_heard_once(joined: FlatStore) -> None:
    assert mixture_rates(joined, 1.0) is None
    with pytest.raises(ConfigError, match=r"data\.mixture_temperature=0\.5: .* at least 1"):
        mixture_rates(joined, 0.5)
    assert mixture_rates(FlatStore.join({"a": joined_part(joined)}), 3.0) is None
    natural = WindowPlan(joined.lengths, DATA, seed=4)
    ones = WindowPlan(joined.lengths, DATA, seed=4, rates=np.ones(len(joined.ids)))
    for step in range(natural.batches_per_epoch):
        np.testing.assert_array_equal(natural.batch(step).clips, ones.batch(step).clips)


def joined_part(joined: FlatStore) -> FlatStore:
    return FlatStore.open(joined.directories[0])


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.lists(st.integers(800, 30_000), min_size=3, max_size=30),
    st.lists(st.sampled_from([0.1, 0.34, 1.0, 2.5]), min_size=3, max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_no_clip_is_forgotten_and_none_favoured(
    lengths: list[int], choices: list[float], seed: int
) -> None:
    rates = np.array([choices[i % 3] for i in range(len(lengths))])
    plan = WindowPlan(np.array(lengths), DATA, seed, rates)
    for bucket in plan._buckets:
        drawn = [bucket.draw(seed, epoch) for epoch in range(20)]
        assert {len(windows) for windows in drawn} == {bucket.heard}
        for windows, heard in bucket.cells:
            counts = Counter(np.concatenate(drawn).tolist())
            times = [counts[int(window)] for window in windows]
            assert sum(times) == 20 * heard
            # An endless row of shuffles: after any number of epochs, turns differ by at most one.
            assert max(times) - min(times) <= 1
    assert sum(bucket.heard for bucket in plan._buckets) == plan.windows_per_epoch


def test_padding_share_of_a_mixture_is_the_mean_over_epochs(joined: FlatStore) -> None:
    plan = WindowPlan(joined.lengths, DATA, seed=0, rates=mixture_rates(joined, 3.0))
    drawn = [batch for epoch in range(100) for batch in epoch_of(plan, epoch)]
    heard = sum(int(batch.lengths.sum()) for batch in drawn)
    padded = sum(len(batch.clips) * batch.bucket_samples for batch in drawn)
    assert plan.padding_share == pytest.approx(1 - heard / padded, abs=5e-3)


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_mixed_batches_resume_on_any_number_of_processes(
    joined: FlatStore, process_count: int
) -> None:
    def plan() -> WindowPlan:
        return WindowPlan(joined.lengths, DATA, seed=9, rates=mixture_rates(joined, 2.0))

    last = 2 * plan().batches_per_epoch
    start = last - 7
    unbroken = list(batches(joined, plan(), DATA, start_step=0, stop_step=last))[start:]
    shares = [
        list(
            batches(
                *(joined, plan(), DATA),
                start_step=start,
                stop_step=last,
                share=Share((index,), process_count),
            )
        )
        for index in range(process_count)
    ]
    assert len(unbroken) == 7
    for step, whole in enumerate(unbroken):
        for name in ("waveform", "lengths"):
            union = np.concatenate([share[step][name] for share in shares])  # type: ignore[literal-required]
            np.testing.assert_array_equal(union, whole[name])  # type: ignore[literal-required]


def test_the_ten_are_those_of_the_paper() -> None:
    clips, hours = zip(*voc125.PAPER.values(), strict=True)
    assert sum(clips) == 68_067
    assert sum(hours) == pytest.approx(125.19)
    for name, row in voc125.PAPER.items():
        expected = builder_class(name).FACTS.expected
        assert (expected.paper_clips, expected.paper_hours) == row, name


def test_padding_of_the_configuration_for_voc125() -> None:
    """On clips as many and as long as the paper's table says."""
    seconds = voc125_like() / 16_000
    data = load_config(str(ROOT / "configs" / "voc2vec_base.py")).data
    plan = WindowPlan(voc125_like(), data, seed=0)
    order = np.random.default_rng(0).permutation(len(seconds))[: len(seconds) // 64 * 64]
    batches_of_64 = np.minimum(seconds, data.max_seconds)[order].reshape(-1, 64)
    to_longest = 1 - batches_of_64.mean() / batches_of_64.max(axis=1).mean()
    to_seven = 1 - np.minimum(seconds, 7).mean() / 7
    cut_off = 1 - np.minimum(seconds, 7).sum() / seconds.sum()
    print(
        f"padding: {len(plan.shapes)} buckets {plan.padding_share:.3f}, to the longest of 64"
        f" {to_longest:.3f}, to 7 s {to_seven:.3f} (which also leaves out {cut_off:.3f} of the"
        " audio)"
    )
    assert plan.heard_seconds_per_epoch == pytest.approx(plan.corpus_seconds)
    assert plan.padding_share < 0.10 < to_seven < to_longest


@pytest.mark.slow
def test_batches_come_fast_and_memory_stays_flat(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    clips = (
        (Clip(f"c{i}", f"c{i}"), random.integers(-9_000, 9_000, n).astype(np.int16))
        for i, n in enumerate(random.integers(8_000, 160_000, 2_000))
    )
    store = build_store(tmp_path / "noise", clips, dataset="noise")
    data = DataConfig(
        max_seconds=10.0,
        bucket_seconds=(1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0),
        batch_seconds=87.5,
        batch_multiple=8,
    )
    plan = WindowPlan(store.lengths, data, seed=0)
    memory = []
    for epoch in range(3):
        first = epoch * plan.batches_per_epoch
        started, cpu_started = time.perf_counter(), time.process_time()
        heard = 0
        for batch in batches(
            store, plan, data, start_step=first, stop_step=first + plan.batches_per_epoch
        ):
            heard += int(batch["lengths"].sum())
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu_started
        memory.append(psutil.Process().memory_info().rss / 2**20)
        rate, per_core = heard / 16_000 / wall, heard / 16_000 / cpu
        print(
            f"epoch {epoch}: {rate:.0f} audio s/s, {per_core:.0f} per CPU s, {memory[-1]:.0f} MiB"
        )
    assert per_core > 2_000
    assert memory[2] - memory[0] < 30


def test_statement_says_what_is_missing() -> None:
    some = dict.fromkeys(voc125.PAPER) | {"nnime": {"clips": 5_596, "hours": 3.547}}
    text = statement(some)
    assert text.startswith("voc125: 1 of 10 datasets; 5596 of 68067 clips, 3.55 of 125.19 h")
    assert "freesound_babies (23.42 h)" in text
    assert "nnime (" not in text
    every = {name: {"clips": n, "hours": h} for name, (n, h) in voc125.PAPER.items()}
    assert statement(every).endswith("68067 of 68067 clips, 125.19 of 125.19 h; complete")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the ten, prepared by the command."""
    root = tmp_path_factory.mktemp("voc125")
    random = np.random.default_rng(0)
    for name in (
        "human_voice/data/voices/martin/notes/exports/mono/A3.wav",
        "singing_database/monophonic/western/fem_12/pos_1.wav",
        "singing_database/monophonic/western/fem_12/pos_2.wav",
    ):
        path = root / "manual" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * random.standard_normal(20_000), 16_000)
    arguments = ["voc125", "--manual-dir", str(root / "manual"), "--data-dir", str(root)]
    assert main(arguments) == main(arguments) == DONE
    return root


def test_any_subset_trains_and_says_so(prepared: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = DataConfig(
        name="voc125",
        data_dir=str(prepared),
        mixture_temperature=2.0,
        max_seconds=1.0,
        bucket_seconds=(1.0,),
        batch_seconds=8.0,
    )
    with caplog.at_level(logging.WARNING):
        training = open_training_corpus(data, seed=0)
    assert "voc125: 2 of 10 datasets; 3 of 68067 clips" in caplog.text
    assert "missing: audioset_vocalization (36.94 h), freesound_babies" in caplog.text
    assert [ids.split("/")[0] for ids in training.store.ids] == [
        "human_voice",
        "singing_database",
        "singing_database",
    ]
    summary = training.summary()
    assert summary.count("unreadable_files=0") == 2
    assert next(training.batches(0, 1))["waveform"].shape == (8, 16_000)
    other = DataConfig(**{**vars(data), "mixture_temperature": 3.0})
    assert open_training_corpus(other, seed=0).fingerprint != training.fingerprint


def test_mixture_by_names(prepared: Path) -> None:
    def opened(name: str) -> FlatStore:
        return open_corpus(DataConfig(name=name, data_dir=str(prepared)))

    assert len(opened("singing_database/all+human_voice").ids) == 3
    with pytest.raises(ConfigError, match="names a dataset twice"):
        opened("human_voice+human_voice")
    with pytest.raises(DataError, match="nnime: is not prepared"):
        opened("human_voice+nnime")


def test_nothing_of_voc125(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["voc125", "--data-dir", str(tmp_path)]) == BAD_DATA
    assert "no folder named like one of audioset_vocalization" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"voc125: none of its datasets is prepared"):
        open_corpus(DataConfig(name="voc125", data_dir=str(tmp_path)))
