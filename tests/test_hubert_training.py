"""HuBERT through the whole loop: micro-batches, bf16, resume, alarm, refusals."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.conftest import ARCHITECTURES, NO_DROPOUT
from tests.reference import clips
from tests.test_hubert import targets_of
from tests.test_trainer import Clips, figures
from tests.test_update import changed, operations
from voc2vec_jax.config import (
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)
from voc2vec_jax.distributed import sharding
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.objectives import HubertTask, build_task
from voc2vec_jax.training.dry_run import dry_run
from voc2vec_jax.training.log.alarm import LINES, CollapseAlarm, symptoms
from voc2vec_jax.training.log.curves import plot_metrics
from voc2vec_jax.training.log.metrics_file import read_metrics
from voc2vec_jax.training.loop import fit
from voc2vec_jax.training.update import Training

pytestmark = [pytest.mark.unoptimised, pytest.mark.usefixtures("shared_programs")]

CONFIG = Config(
    task="hubert",
    model=ModelConfig(  # with the dropout and layer drop that are the defaults
        model_type="hubert",
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8, 8, 8),
        conv_kernel=(10, 8, 8),
        conv_stride=(5, 8, 8),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        final_dim=8,
        num_clusters=12,
    ),
    data=DataConfig(labels="labels"),
    optim=OptimConfig(learning_rate=3e-3, warmup_steps=2),
    train=TrainConfig(num_steps=9, log_every_steps=2, checkpoint_every_steps=4),
)
PLAIN = changed(CONFIG, model=NO_DROPOUT)


def batch_of(step: int) -> dict[str, np.ndarray]:
    """Eight clips of noise of unequal length, with random labels."""
    waveform, lengths = clips([4_000, 3_700, 3_300, 3_000, 2_500, 2_000, 1_500, 900], seed=step)
    targets = targets_of(CONFIG.model, lengths, waveform.shape[1], seed=step)
    return {"waveform": waveform, "lengths": lengths, "targets": targets}


@functools.cache
def run(config: Config, steps: int, devices: int = 1) -> list[dict[str, float]]:
    """Means of all metrics, update by update."""
    mesh = sharding.build_mesh(config.mesh, jax.devices()[:devices])
    training = Training(config, build_task(config), mesh)
    state, means = training.initial_state(), []
    for step in range(steps):
        state, metrics = training.step(state, sharding.place_batch(batch_of(step), mesh))
        means.append({k: float(v.total) / float(v.count) for k, v in metrics.items()})
    return means


STEPS = 6


@pytest.mark.thorough
@pytest.mark.parametrize(("devices", "unmasked"), [(1, 0.5), (2, 0.0)])
def test_micro_batches_add_up_to_their_batch(devices: int, unmasked: float) -> None:
    """All but how labels are spread, which is that of a micro-batch."""
    config = changed(PLAIN, objective={"unmasked_weight": unmasked})
    split = run(changed(config, train={"accumulate_steps": 4}), 4, devices)
    of_parts = {"majority_rate", "target_entropy", "target_perplexity", "prediction_perplexity"}
    for ours, theirs in zip(split, run(config, 4), strict=True):
        for name in theirs.keys() - of_parts:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name


@pytest.mark.thorough
def test_bf16_follows_fp32() -> None:
    rounded = run(changed(CONFIG, train={"precision": "bf16"}), 4)
    for ours, theirs in zip(rounded, run(CONFIG, 4), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)
        assert ours["loss"] != theirs["loss"]


@pytest.mark.parametrize("layout", ARCHITECTURES)
def test_the_head_and_its_loss_stay_float32_under_bf16(layout: str) -> None:
    config = changed(CONFIG, model=ARCHITECTURES[layout], train={"precision": "bf16"})
    training = Training(config, HubertTask(config), sharding.build_mesh(MeshConfig()))
    batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch_of(0).items()}
    batch |= dict.fromkeys(("window", "weight"), batch["lengths"])
    params, key = training.abstract_state["params"], jax.random.key(0)
    traced = jax.make_jaxpr(training._evaluate)(params, batch, key)
    seen = list(operations(traced.jaxpr))
    in_float32 = [ins for name, ins, _ in seen if name == "dot_general" and "float32" in ins]
    assert all(set(operands) == {"float32"} for operands in in_float32)
    # Projection and logits; a base model on a CPU has six products for its first convolution.
    assert len(in_float32) == 2 + (6 if layout == "base" else 0)
    for name, operands, _ in seen:
        if name in ("exp", "log", "rsqrt", "sqrt", "integer_pow", "square", "argmax"):
            assert "bfloat16" not in operands, name


class LabelledClips(Clips):
    """Noise with random labels."""

    def batches(self, start_step: int, stop_step: int) -> Iterator[dict[str, np.ndarray]]:
        for step, batch in enumerate(super().batches(start_step, stop_step), start=start_step):
            yield {**batch, "targets": self._targets(batch, step)}

    def eval_batches(self) -> Iterator[dict[str, np.ndarray]]:
        for index, batch in enumerate(super().eval_batches()):
            yield {**batch, "targets": self._targets(batch, 100 + index)}

    @staticmethod
    def _targets(batch: dict[str, np.ndarray], seed: int) -> np.ndarray:
        return targets_of(CONFIG.model, batch["lengths"], batch["waveform"].shape[1], seed)


def train(workdir: Path, data: Clips, config: Config = CONFIG) -> dict[str, bytes]:
    workdir.mkdir(exist_ok=True)
    params = fit(config, HubertTask(config), data, workdir)
    return {path: np.asarray(value).tobytes() for path, value in params.items()}


def test_a_resumed_run_ends_identical_and_is_evaluated(tmp_path: Path) -> None:
    config = changed(CONFIG, data={"eval_share": 0.1})
    whole = train(tmp_path / "whole", LabelledClips(), config)
    data = LabelledClips()
    data.fail_at = 7
    with pytest.raises(OSError, match="disk"):
        train(tmp_path / "cut", data, config)
    assert train(tmp_path / "cut", LabelledClips(), config) == whole
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")
    (last,) = figures(tmp_path / "whole")[-1:]
    for name in ("eval_loss", "eval_masked_accuracy", "eval_majority_rate", "target_entropy"):
        assert isinstance(last[name], float), name
    plot_metrics(read_metrics(tmp_path / "whole" / "metrics.jsonl"), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


@pytest.mark.thorough
def test_a_dry_run_does_one_update() -> None:
    config = changed(CONFIG, objective={"feature_penalty_weight": 0.0})
    report = dry_run(config, HubertTask(config), LabelledClips())
    assert report["batch"]["targets"] == [4, 12]
    # Above ln(12), since in so few dimensions cosines differ much, and they count ten times.
    assert np.log(12) < report["first_loss"] < 8


FIGURES = {
    "healthy": (9, 40.0, 20.0, set()),
    "one label, learning rate still rising": (2, 40.0, 1.0, set()),
    "one label": (3, 40.0, 1.2, {"constant"}),
    "labels all alike": (1, 1.5, 1.0, {"labels"}),
}


@pytest.mark.parametrize("case", FIGURES)
def test_symptoms(case: str) -> None:
    step, targets, predictions, expected = FIGURES[case]
    entry = {
        "step": step,
        "target_perplexity": targets,
        "prediction_perplexity": predictions,
        "accuracy": 0.0,
    }
    assert symptoms(CONFIG, entry).keys() == expected


def test_the_alarm_says_what_to_do() -> None:
    alarm = CollapseAlarm(CONFIG)
    entries = [
        {"step": 10 * i, "target_perplexity": 30.0, "prediction_perplexity": 1.0}
        for i in range(1, LINES + 1)
    ]
    (event,) = [event for event in map(alarm.see, entries) if event is not None]
    assert event["symptoms"] == ["constant"]
    assert "prediction_perplexity=1 (alarm below 2; that of the labels is 30)" in event["saw"]
    assert "ower optim.learning_rate (now 0.003)" in event["try"]
    assert json.loads(json.dumps(event)) == event


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"data": DataConfig()}, "data.labels=None", "python -m tools.make_labels"),
    ({"model": ModelConfig()}, "model.model_type='wav2vec2'", "task='hubert'"),
    ({"task": "wav2vec2"}, "model.model_type='hubert'", "task='wav2vec2'"),
    (
        {"task": "wav2vec2", "model": ModelConfig()},
        "data.labels='labels'",
        "task='wav2vec2' predicts no frame labels",
    ),
]


@pytest.mark.parametrize(("changes", "start", "fix"), REFUSED)
def test_a_task_without_what_it_needs_is_refused(
    changes: dict[str, Any], start: str, fix: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(CONFIG, **changes)
    assert str(caught.value).startswith(start)
    assert fix in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"masked_weight": 0.0}, r"objective\.masked_weight=0\.0: .*above 0"),
        ({"unmasked_weight": -1.0}, r"objective\.unmasked_weight=-1\.0: .*negative"),
        ({"logit_temperature": 0.0}, r"objective\.logit_temperature=0\.0: .*positive"),
        ({"label_embeddings": "new"}, r"objective\.label_embeddings='new': .*keep, reset"),
    ],
)
def test_impossible_objectives_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ObjectiveConfig(**values)
