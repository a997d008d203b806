"""The loop: exact resume, starting points, meshes, and what it refuses."""

import dataclasses
import json
import logging
import math
import os
import shutil
import signal
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import programs
from tests.reference import clips
from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.checkpoints.orbax import Checkpoints
from voc2vec_jax.config import Config, MeshConfig, ModelConfig, OptimConfig, TrainConfig
from voc2vec_jax.distributed import sharding
from voc2vec_jax.errors import (
    CheckpointMismatchError,
    CheckpointWriteError,
    ConfigError,
    PreemptedError,
    TrainingDivergedError,
)
from voc2vec_jax.objectives import ProbeTask, Wav2Vec2Task
from voc2vec_jax.training.log.metrics_file import (
    PARTS,
    MetricsFile,
    Window,
    read_events,
    read_metrics,
)
from voc2vec_jax.training.log.run_log import real_samples
from voc2vec_jax.training.loop import _Run, fit
from voc2vec_jax.training.starting_point import Start
from voc2vec_jax.training.update import FINITE, SKIPPED, Training
from voc2vec_jax.training.validation import BestInMemory

pytestmark = [pytest.mark.unoptimised, pytest.mark.usefixtures("shared_programs")]

MODEL = ModelConfig(
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    conv_dim=(8, 8, 8),  # few, for they take the longest to compile
    conv_kernel=(10, 8, 8),
    conv_stride=(5, 8, 8),
    num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
    num_codevectors_per_group=4,
    codevector_dim=8,
    proj_codevector_dim=8,
    num_negatives=5,
)
CONFIG = Config(
    model=MODEL,
    optim=OptimConfig(learning_rate=3e-3, warmup_steps=2),
    train=TrainConfig(num_steps=9, log_every_steps=2, checkpoint_every_steps=4),
)


class Clips:
    """Training data made of noise, that fails or stops the process where it is told to."""

    batches_per_epoch = 4
    batch_sizes = (4,)
    padded_samples = eval_padded_samples = (4_000,)
    corpus_hours = 0.01

    def __init__(self, fingerprint: str = "noise"):
        self.fingerprint = fingerprint
        self.fail_at = self.terminate_at = -1
        self.poisoned: Container[int] = ()

    def batches(self, start_step: int, stop_step: int) -> Iterator[dict[str, np.ndarray]]:
        for step in range(start_step, stop_step):
            if step == self.fail_at:
                raise OSError("the disk went away")
            if step == self.terminate_at:
                os.kill(os.getpid(), signal.SIGTERM)
            waveform, lengths = clips([3_000 + 400 * (step % 3), 2_500, 1_000, 700], seed=step)
            waveform = np.pad(waveform, ((0, 0), (0, 4_000 - waveform.shape[1])))
            if step in self.poisoned:
                waveform[1, 7] = np.nan
            yield {"waveform": waveform, "lengths": lengths}

    def eval_batches(self) -> Iterator[dict[str, np.ndarray]]:
        for index in range(2):
            waveform, lengths = clips([4_000, 2_500, 1_000, 700], seed=100 + index)
            window = np.arange(4, dtype=np.int32) + 4 * index
            weight = np.array([1, 1, 1, 1 - index], np.int32)
            yield {"waveform": waveform, "lengths": lengths, "window": window, "weight": weight}


def run(workdir: Path, data: Clips, config: Config = CONFIG) -> dict[str, bytes]:
    workdir.mkdir(exist_ok=True)
    params = fit(config, Wav2Vec2Task(config), data, workdir)
    return {path: np.asarray(value).tobytes() for path, value in params.items()}


def figures(workdir: Path) -> list[dict[str, object]]:
    """What was logged, without what depends on the clock."""
    return [
        {name: value for name, value in entry.items() if not name.startswith("time_")}
        for entry in read_metrics(workdir / "metrics.jsonl")
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], Path]:
    workdir = tmp_path_factory.mktemp("undisturbed")
    programs.forget()  # this run shows what compiling costs
    return run(workdir, Clips()), workdir


def test_every_logged_step_stands_once_with_its_loss(
    undisturbed: tuple[dict[str, bytes], Path],
) -> None:
    entries = figures(undisturbed[1])
    assert [entry["step"] for entry in entries] == [2, 4, 6, 8, 9]
    assert all(isinstance(entry["loss"], float) for entry in entries)
    assert entries[-1]["epoch"] == 9 / 4
    heard = sum(int(batch["lengths"].sum()) for batch in Clips().batches(0, 9))
    assert entries[-1]["hours_heard"] == pytest.approx(heard / 16_000 / 3_600)
    assert entries[-1]["corpus_hours"] == 0.01


def test_a_log_line_says_where_the_time_went(undisturbed: tuple[dict[str, bytes], Path]) -> None:
    entries = read_metrics(undisturbed[1] / "metrics.jsonl")
    spent = {part: [entry[f"time_{part}_seconds"] for entry in entries] for part in PARTS}
    assert spent["step"][0] == max(spent["step"]), "the first one compiles"
    assert sum(map(sum, spent.values())) <= entries[-1]["time_elapsed_seconds"] + 0.1
    # A checkpoint is written after the line of its own step.
    assert [seconds > 0 for seconds in spent["checkpoint"]] == [False, False, True, False, True]
    assert sum(spent["evaluation"]) == 0
    assert {entry["time_compiled_programs"] for entry in entries} == {1}


def test_the_same_seed_gives_the_same_run(
    undisturbed: tuple[dict[str, bytes], Path], tmp_path: Path
) -> None:
    assert run(tmp_path, Clips()) == undisturbed[0]
    assert figures(tmp_path) == figures(undisturbed[1])


@pytest.mark.parametrize("way", ["failure", "signal"])
def test_a_resumed_run_ends_identical(
    undisturbed: tuple[dict[str, bytes], Path], tmp_path: Path, way: str
) -> None:
    data = Clips()
    if way == "failure":
        data.fail_at = 7  # the newest checkpoint is that of step 4, line 6 is logged beyond it
        with pytest.raises(OSError, match="disk"):
            run(tmp_path, data)
    else:
        data.terminate_at = 6  # seen after that update: saved at 7, in the middle of a log window
        with pytest.raises(PreemptedError, match="SIGTERM at step 7"):
            run(tmp_path, data)
    params = run(tmp_path, Clips())
    assert params == undisturbed[0]
    assert figures(tmp_path) == figures(undisturbed[1])
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    resumed = [entry for entry in events if entry.get("event") == "resume"]
    assert resumed == [{"event": "resume", "step": 4 if way == "failure" else 7}]


def test_a_finished_run_is_left_alone(
    undisturbed: tuple[dict[str, bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, workdir = undisturbed
    before = figures(workdir)
    monkeypatch.setattr(Training, "initial_state", None)
    assert run(workdir, Clips()) == params
    assert figures(workdir) == before


def test_another_seed_gives_another_model(
    undisturbed: tuple[dict[str, bytes], Path], tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, seed=1))
    assert run(tmp_path, Clips(), config) != undisturbed[0]


def test_an_update_that_is_not_finite_changes_nothing_but_the_step() -> None:
    training = programs.training_of(CONFIG)
    data = Clips()
    data.poisoned = [1]
    states, counts = [training.initial_state()], []
    for batch in data.batches(0, 3):
        before = jax.tree.map(np.array, states[-1])  # an update uses up what it is given
        state, metrics = training.step(states[-1], sharding.place_batch(batch, training.mesh))
        states[-1] = before
        states.append(state)
        counts.append(tuple(int(state[name]) for name in SKIPPED))
        assert math.isfinite(metrics["gradient_norm"].total) == (counts[-1][1] == 0)
    assert counts == [(0, 0), (1, 1), (1, 0)]
    parts = [(state["params"], state["opt_state"][1]) for state in states]  # Adam's moments
    jax.tree.map(np.testing.assert_array_equal, parts[1], parts[2])
    assert all(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(parts[2]), jax.tree.leaves(parts[3]), strict=True)
        if np.any(b)
    )
    assert [int(state["step"]) for state in states] == [0, 1, 2, 3]


def head_on_vectors(**optim: Any) -> Training:
    model = dataclasses.replace(MODEL, labels=("a", "b"))
    optim = {"learning_rate": 1e-3, "warmup_steps": 0, **optim}
    config = Config(task="classify", model=model, optim=OptimConfig(**optim))
    mesh = sharding.build_mesh(MeshConfig(), jax.devices()[:1])
    return Training(config, ProbeTask(config), mesh)


def vectors(scale: float = 1.0) -> dict[str, np.ndarray]:
    features = np.random.default_rng(0).standard_normal((4, 1, 16)).astype(np.float32)
    return {
        "features": np.float32(scale) * features,
        "lengths": np.full(4, 400, np.int32),
        "labels": np.array([0, 1, 0, 1], np.int32),
        "weight": np.ones(4, np.float32),
    }


@pytest.mark.parametrize(
    ("bad", "scale", "rate"),
    [("gradient_norm", 1e20, 1e-3), ("update_norm", 1.0, 1e30)],
)
def test_a_finite_loss_is_not_enough(bad: str, scale: float, rate: float) -> None:
    training = head_on_vectors(learning_rate=rate, weight_decay=0.0)
    batch = sharding.place_batch(vectors(scale), training.mesh)
    before = training.initial_state()
    kept = jax.tree.map(np.array, before["params"])
    after, metrics = training.step(before, batch)
    fine = {name: bool(jnp.isfinite(metrics[name].total)) for name in FINITE}
    assert fine == {name: name != bad for name in FINITE}
    assert int(after["skipped"]) == 1
    jax.tree.map(np.testing.assert_array_equal, after["params"], kept)


def test_the_schedule_goes_by_all_updates_and_adam_by_those_that_were_made() -> None:
    """So that the rate still reaches 0 at the last update, and the logged one is the one used."""
    training = head_on_vectors(warmup_steps=4, weight_decay=0.0)
    skipped, undisturbed = training.initial_state(), training.initial_state()
    good, poisoned = vectors(), vectors(float("nan"))
    for step in range(4):
        batch = sharding.place_batch(poisoned if step < 3 else good, training.mesh)
        skipped, metrics = training.step(skipped, batch)
    moved = {
        path: np.abs(np.asarray(value) - undisturbed["params"][path]).max()
        for path, value in skipped["params"].items()
    }
    # The first step of Adam has the size of the rate, whatever the gradient.
    rate = float(metrics["learning_rate"].total)
    assert rate == pytest.approx(1e-3 * 3 / 4)
    assert max(moved.values()) == pytest.approx(rate, rel=1e-2)
    assert int(skipped["opt_state"][1].count) == 1


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_skipped_update_is_counted_and_left_out_of_the_means(
    tmp_path: Path, interrupted: bool
) -> None:
    data = Clips()
    data.poisoned = [3, 5]
    if interrupted:
        data.fail_at = 6
        with pytest.raises(OSError, match="disk"):
            run(tmp_path, data)
        data.fail_at = -1
    run(tmp_path, data)
    entries = figures(tmp_path)
    assert [entry["skipped_updates"] for entry in entries] == [0, 1, 2, 2, 2]
    assert all(math.isfinite(float(str(v))) for entry in entries for v in entry.values())
    assert {name for name in entries[0] if name not in entries[1]} == set()
    skipped = read_events(tmp_path / "metrics.jsonl", "skipped_update")
    assert [(event["step"], event["in_a_row"]) for event in skipped] == [(4, 1), (6, 1)]
    assert skipped[0]["what"].startswith("loss is nan")
    heard = sum(int(batch["lengths"].sum()) for batch in Clips().batches(0, 9))
    assert entries[-1]["hours_heard"] == pytest.approx(heard / 16_000 / 3_600), "heard all the same"


@pytest.mark.parametrize(("steps", "last", "saved"), [(9, 7, "step 4"), (2, 2, "none yet")])
def test_skipped_updates_in_a_row_end_the_run(
    tmp_path: Path, steps: int, last: int, saved: str
) -> None:
    """Three of them, or all that there are."""
    train = dataclasses.replace(CONFIG.train, num_steps=steps, max_skipped_updates=3)
    optim = dataclasses.replace(CONFIG.optim, warmup_steps=1)
    data = Clips()
    data.poisoned = range(4 if steps == 9 else 0, 9)
    message = rf"update {last}: loss is nan.* last of {min(3, steps)} skipped in a row .*{saved}"
    with pytest.raises(TrainingDivergedError, match=message):
        run(tmp_path, data, dataclasses.replace(CONFIG, train=train, optim=optim))
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        assert checkpoints.latest_step() == (4 if steps == 9 else None)


def test_a_checkpoint_from_before_updates_were_skipped_is_resumed(
    undisturbed: tuple[dict[str, bytes], Path], tmp_path: Path
) -> None:
    data = Clips()
    data.terminate_at = 4
    with pytest.raises(PreemptedError):
        run(tmp_path, data)
    training = programs.training_of(CONFIG)
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        state = checkpoints.restore(5, training.described_state)
        meta = checkpoints.read_meta(5)
    shutil.rmtree(tmp_path / "checkpoints")
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        checkpoints.save(5, {k: v for k, v in state.items() if k not in SKIPPED}, meta)
    assert run(tmp_path, Clips()) == undisturbed[0]


def test_another_architecture_is_refused(undisturbed: tuple[dict[str, bytes], Path]) -> None:
    model = dataclasses.replace(MODEL, do_stable_layer_norm=True)
    with pytest.raises(CheckpointMismatchError, match=r"model\.do_stable_layer_norm: False then"):
        run(undisturbed[1], Clips(), dataclasses.replace(CONFIG, model=model))


def test_the_progress_of_a_newer_version_is_named(
    undisturbed: tuple[dict[str, bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Checkpoints.read_meta

    def newer(self: Checkpoints, step: int) -> dict[str, Any]:
        meta = read(self, step)
        return {**meta, "progress": {**meta["progress"], "moods": 3}}

    monkeypatch.setattr(Checkpoints, "read_meta", newer)
    with pytest.raises(CheckpointMismatchError, match="9: holds moods in its progress"):
        run(undisturbed[1], Clips())


def test_hours_of_a_batch_do_not_overflow() -> None:
    lengths = jnp.full(4_000, 60 * SAMPLE_RATE + 7, jnp.int32)  # 67 h
    weight = jnp.arange(4_000) > 0
    seconds, rest = map(int, real_samples(lengths, weight))
    assert seconds * SAMPLE_RATE + rest == 3_999 * (60 * SAMPLE_RATE + 7)


def test_only_orbax_is_silenced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Checkpoints(tmp_path, keep=1), caplog.at_level(logging.INFO, logger="absl"):
        logging.getLogger("absl").info("of somebody else")
    assert "of somebody else" in caplog.text


def test_other_data_are_refused(undisturbed: tuple[dict[str, bytes], Path]) -> None:
    with pytest.raises(CheckpointMismatchError, match="other data"):
        run(undisturbed[1], Clips("other noise"))


def test_starting_points_in_order(
    undisturbed: tuple[dict[str, bytes], Path], tmp_path: Path
) -> None:
    """Workdir, then --resume, then given parameters, then scratch."""
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, num_steps=4))
    task = Wav2Vec2Task(config)
    asked = []

    def given() -> Mapping[str, np.ndarray]:
        asked.append(1)
        return {"project_q.bias": np.full(8, 7.0, np.float32)}

    workdir = tmp_path / "a"
    workdir.mkdir()
    params = fit(config, task, Clips(), workdir, given)
    assert asked == [1]
    assert float(params["project_q.bias"].mean()) == pytest.approx(7.0, abs=0.1)

    fit(config, task, Clips(), workdir, given, resume=undisturbed[1])
    assert asked == [1], "the workdir's own checkpoint comes first"

    other = tmp_path / "b"
    other.mkdir()
    resumed = fit(CONFIG, task, Clips(), other, given, resume=undisturbed[1])
    assert asked == [1], "a checkpoint to resume from comes before given parameters"
    assert {k: np.asarray(v).tobytes() for k, v in resumed.items()} == undisturbed[0]

    with pytest.raises(CheckpointMismatchError, match="holds no checkpoint"):
        fit(config, task, Clips(), other / "c", resume=tmp_path)
    assert not (tmp_path / "checkpoints").exists(), "looking for a checkpoint makes nothing"


def test_fewer_steps_than_are_done_are_refused(
    undisturbed: tuple[dict[str, bytes], Path],
) -> None:
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, num_steps=8))
    with pytest.raises(ConfigError, match=r"train\.num_steps=8: the checkpoint has 9 updates"):
        run(undisturbed[1], Clips(), config)


def test_a_full_disk_stops_the_run_and_spares_the_checkpoint_before(
    undisturbed: tuple[dict[str, bytes], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Disk:
        free = 2**40

    class FillingClips(Clips):
        def batches(self, start_step: int, stop_step: int) -> Iterator[dict[str, np.ndarray]]:
            for step, batch in enumerate(super().batches(start_step, stop_step)):
                Disk.free = 2**10 if step >= 5 else 2**40  # full when the save of step 8 comes
                yield batch

    monkeypatch.setattr("shutil.disk_usage", lambda path: Disk)
    with pytest.raises(CheckpointWriteError, match=r"checkpoints: .* MiB, 0 are free.*make room"):
        run(tmp_path, FillingClips())
    monkeypatch.undo()
    with Checkpoints(tmp_path / "checkpoints", keep=None) as checkpoints:
        assert checkpoints.latest_step() == 4
    assert run(tmp_path, Clips()) == undisturbed[0]


def test_the_best_checkpoint_outlives_the_newest(tmp_path: Path) -> None:
    state = {"params": {"a": jax.numpy.zeros(2)}}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in range(1, 7):
            checkpoints.save(step, state, {}, best=2 if step >= 2 else None)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [2, 5, 6]


def test_batches_that_do_not_divide_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    train = dataclasses.replace(CONFIG.train, accumulate_steps=2)
    with pytest.raises(ConfigError, match=r"4 clips does not divide over 2 micro-batches × data"):
        run(tmp_path, Clips(), dataclasses.replace(CONFIG, train=train))
    assert not (tmp_path / "config.json").exists()


def test_the_state_is_donated(undisturbed: tuple[dict[str, bytes], Path]) -> None:
    """Without it two copies of parameters and moments would live through every update."""
    training = programs.training_of(CONFIG)
    state = training.initial_state()
    batch = sharding.place_batch(next(Clips().batches(0, 1)), training.mesh)
    training.step(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_a_checkpoint_moves_to_another_mesh(
    undisturbed: tuple[dict[str, bytes], Path],
) -> None:
    task = Wav2Vec2Task(CONFIG)
    mesh = sharding.build_mesh(MeshConfig(data=1, fsdp=2), jax.devices()[:2])
    training = Training(CONFIG, task, mesh)
    with Checkpoints(undisturbed[1] / "checkpoints", keep=9) as checkpoints:
        state = checkpoints.restore(9, training.described_state)
    kernel = state["params"]["wav2vec2.encoder.layers.0.attention.q_proj.kernel"]
    assert kernel.sharding.num_devices == 2
    assert not kernel.sharding.is_fully_replicated
    restored = {path: np.asarray(value).tobytes() for path, value in state["params"].items()}
    assert restored == undisturbed[0]


@pytest.mark.parametrize("several", [False, True])
def test_ctrl_c_reaches_all_of_several_processes_as_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several: bool
) -> None:
    """JAX watches for that, and tells the others."""
    monkeypatch.setattr("voc2vec_jax.distributed.processes.several", lambda: several)
    terminated: list[int] = []
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    ours = signal.signal(signal.SIGTERM, lambda number, frame: terminated.append(number))
    training: Any = SimpleNamespace(config=CONFIG)
    try:
        run = _Run(training, Clips(), BestInMemory(), tmp_path, Start({}))
        signal.raise_signal(signal.SIGINT)
        assert terminated == [signal.SIGTERM] * several
        assert run.signal == (None if several else signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == before[0], "a second one acts at once"
        run.close()
    finally:
        signal.signal(signal.SIGTERM, ours)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_meshes_and_batches_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 devices"):
        sharding.build_mesh(MeshConfig(data=3))
    mesh = sharding.build_mesh(MeshConfig())
    with pytest.raises(ConfigError, match="6 clips does not divide over data × fsdp = 4"):
        sharding.check_batch(6, mesh)


def test_window_means_are_sums_over_counts() -> None:
    window = Window()
    window.add({"loss": (6.0, 2.0), "never": (0.0, 0.0)})
    again = Window(json.loads(json.dumps(window.sums)))
    again.add({"loss": (1.0, 8.0)})
    assert again.take() == {"loss": 0.7, "never": None}
    assert again.take() == {}


def test_metrics_beyond_the_restored_step_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2}\n{"event": "resume", "step": 3}\n{"step": 4}\n{"step": 6}\n{"st')
    MetricsFile(path, resumed_at=4).close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 2},
        {"event": "resume", "step": 3},
        {"step": 4},
        {"event": "resume", "step": 4},
    ]
    MetricsFile(path, resumed_at=None).close()
    assert path.read_text() == ""
