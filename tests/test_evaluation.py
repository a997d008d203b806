"""Held-out figures in the log, and the checkpoint that is best by them."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests import programs
from tests.meshes import CONFIG as SMALL
from tests.reference import clips
from tests.test_hubert import targets_of
from tests.test_hubert_training import CONFIG as HUBERT
from tests.test_trainer import Clips, figures
from tests.test_update import changed
from voc2vec_jax.checkpoints.orbax import Checkpoints
from voc2vec_jax.config import Config, TrainConfig
from voc2vec_jax.distributed import sharding
from voc2vec_jax.errors import ConfigError, PreemptedError, TrainingDivergedError
from voc2vec_jax.models.parameters import Params
from voc2vec_jax.objectives import Wav2Vec2Task
from voc2vec_jax.training import loop
from voc2vec_jax.training.loop import fit
from voc2vec_jax.training.update import Training
from voc2vec_jax.training.validation import held_out_figures

pytestmark = [pytest.mark.unoptimised, pytest.mark.usefixtures("shared_programs")]

CONFIG = dataclasses.replace(
    changed(SMALL, data={"eval_share": 0.1}),
    train=TrainConfig(
        num_steps=7,
        log_every_steps=4,
        eval_every_steps=3,
        checkpoint_every_steps=100,
        keep_checkpoints=1,
    ),
)


def train(workdir: Path, config: Config = CONFIG, data: Clips | None = None) -> Params:
    return fit(config, Wav2Vec2Task(config), data or Clips(), workdir)


def kept(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.mark.thorough
def test_evaluations_are_logged_and_survive_a_resume(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    train(tmp_path / "a")
    lines = figures(tmp_path / "a")
    assert [line["step"] for line in lines] == [3, 4, 6, 7]
    assert [line["step"] for line in lines if "eval_loss" in line] == [3, 6, 7]
    assert lines[0]["eval_loss"] != lines[2]["eval_loss"]
    assert "eval_temperature" not in lines[0], "evaluation takes the likeliest codes"

    (tmp_path / "b").mkdir()
    data = Clips()
    data.terminate_at = 3  # seen after update 4, between two evaluations
    with pytest.raises(PreemptedError):
        train(tmp_path / "b", data=data)
    train(tmp_path / "b")
    assert figures(tmp_path / "b") == lines


def test_the_same_parameters_get_the_same_figures() -> None:
    """Whatever the step, so that curves can be compared; without dropout, which CONFIG has."""
    training = programs.training_of(CONFIG)
    state = training.initial_state()
    batch = sharding.place_batch(next(Clips().eval_batches()), training.mesh)
    again = {**batch}
    others = {**batch, "window": batch["window"] + 1}
    first, second, other = (
        jax.device_get(training.evaluate(state["params"], b)) for b in (batch, again, others)
    )
    assert first.contrastive.loss == second.contrastive.loss
    assert first.contrastive.loss != other.contrastive.loss, "each window has masks of its own"


@pytest.mark.parametrize("task", ["wav2vec2", pytest.param("hubert", marks=pytest.mark.thorough)])
def test_held_out_figures_are_those_of_the_clips_whatever_the_batches(task: str) -> None:
    """Also where batches are filled up, and split into micro-batches."""
    sizes = [4_000, 3_100, 2_500, 1_900, 1_000, 700, 3_000, 900]
    waveform, lengths = clips(sizes, seed=3)
    config = CONFIG if task == "wav2vec2" else HUBERT
    rows = {
        "waveform": np.pad(waveform, ((0, 0), (0, 4_000 - waveform.shape[1]))),
        "lengths": lengths,
        "window": np.arange(8, dtype=np.int32),
        "weight": np.ones(8, np.int32),
    }
    if task == "hubert":
        rows["targets"] = targets_of(config.model, lengths, 4_000, 5)

    def batch(numbers: list[int], fill: int) -> dict[str, np.ndarray]:
        taken = {name: value[numbers + [0] * fill] for name, value in rows.items()}
        taken["weight"] = np.array([1] * len(numbers) + [0] * fill, np.int32)
        return taken

    def judged(batches: list[dict[str, np.ndarray]], micro_batches: int = 1) -> dict[str, float]:
        of_run = changed(config, train={"accumulate_steps": micro_batches})
        training = programs.training_of(of_run)
        params = training.initial_state()["params"]
        return {k: v or 0.0 for k, v in held_out_figures(training, params, batches).items()}

    whole = judged([rows])
    assert whole["loss"] > 0
    for other in (
        judged([batch([0], 3), batch([1, 2], 2), batch([3, 4, 5, 6, 7], 3)]),
        judged([batch([5, 3, 1], 5), batch([0, 2, 4, 6, 7], 3)], micro_batches=2),
    ):
        assert other.keys() == whole.keys()
        for name, value in whole.items():
            assert other[name] == pytest.approx(value, abs=1e-6, rel=1e-6), name


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Held-out losses to hand out, one per evaluation, instead of real ones."""
    losses: list[float] = []

    def figures_of(training: Training, params: Params, batches: Any) -> dict[str, float]:
        loss = losses.pop(0)
        return {"loss": loss, "contrastive_loss": loss}

    monkeypatch.setattr(loop, "held_out_figures", figures_of)
    return losses


@pytest.mark.parametrize("export", ["last", "best"])
def test_the_best_checkpoint_is_kept_and_can_be_exported(
    tmp_path: Path, judged: list[float], export: str, capsys: pytest.CaptureFixture[str]
) -> None:
    judged += [2.0, 1.0, 1.5]  # after 3, 6 and 7 updates
    config = changed(CONFIG, train={"export_checkpoint": export})
    params = train(tmp_path, config)
    assert kept(tmp_path) == [6, 7], "the newest one, and the best"
    training = programs.training_of(config)
    step = 6 if export == "best" else 7
    with Checkpoints(tmp_path / "checkpoints", keep=None) as checkpoints:
        expected = checkpoints.restore(step, training.described_state)["params"]
    for path, value in params.items():
        np.testing.assert_array_equal(value, expected[path], err_msg=path)
    said = capsys.readouterr().err
    assert "lowest eval_loss=1 at step 6" in said
    assert f"exporting the parameters after step {step}" in said


def test_a_held_out_loss_that_is_not_a_number_stops_the_run(
    tmp_path: Path, judged: list[float]
) -> None:
    judged += [2.0, float("nan")]
    with pytest.raises(
        TrainingDivergedError,
        match=r"eval_loss is nan at step 6 \(last checkpoint: step 3\)",
    ):
        train(tmp_path)
    assert kept(tmp_path) == [3]
    assert [line["step"] for line in figures(tmp_path)] == [3, 4]


def test_a_collapsed_model_is_never_the_best(tmp_path: Path, judged: list[float]) -> None:
    """With one code for everything there is nothing to tell apart, and the loss is 0."""
    judged += [2.0, 0.0, 1.9]
    train(tmp_path)
    with Checkpoints(tmp_path / "checkpoints", keep=None) as checkpoints:
        assert checkpoints.read_meta(7)["progress"]["best_value"] == 1.9
    assert kept(tmp_path) == [7]


@pytest.mark.parametrize("field", [{"eval_every_steps": 5}, {"export_checkpoint": "best"}])
def test_evaluation_needs_something_held_out(field: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"train\.{next(iter(field))}.*give data\.eval_share"):
        changed(Config(), train=field)


def test_without_a_rhythm_of_their_own_evaluations_come_with_checkpoints() -> None:
    assert Config().eval_every_steps is None
    assert changed(Config(), data={"eval_share": 0.05}).eval_every_steps == 1_000
