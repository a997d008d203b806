"""What a run that starts from trained weights takes over, and what freezing leaves alone."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.programs import training_of
from tests.reference import clips
from tests.test_trainer import CONFIG, Clips, run
from voc2vec_jax.checkpoints import loading
from voc2vec_jax.checkpoints.pretrained import Preprocessor, PretrainedModel
from voc2vec_jax.checkpoints.saving import save_pretrained
from voc2vec_jax.config import Config, ObjectiveConfig
from voc2vec_jax.distributed import sharding
from voc2vec_jax.errors import CheckpointMismatchError, ConfigError
from voc2vec_jax.models import Wav2Vec2ForPreTraining
from voc2vec_jax.models.parameters import describe, merge, split
from voc2vec_jax.objectives import Wav2Vec2Task
from voc2vec_jax.training.log.metrics_file import read_metrics
from voc2vec_jax.training.loop import fit

pytestmark = [pytest.mark.unoptimised, pytest.mark.usefixtures("shared_programs")]

CODEBOOK = {
    "quantizer.codevectors",
    "quantizer.weight_proj.kernel",
    "quantizer.weight_proj.bias",
    "project_q.kernel",
    "project_q.bias",
}


def with_optim(**values: object) -> Config:
    return dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, **values))


@pytest.mark.thorough
def test_temperature_goes_on_where_a_resumed_run_was(tmp_path: Path) -> None:
    """It follows the updates done, which the checkpoint holds, not those of the process."""
    objective = ObjectiveConfig(gumbel_temperature_decay=0.9)
    config = dataclasses.replace(
        CONFIG,
        objective=objective,
        train=dataclasses.replace(CONFIG.train, log_every_steps=1, checkpoint_every_steps=3),
    )
    data = Clips()
    data.fail_at = 5
    with pytest.raises(OSError, match="went away"):
        run(tmp_path, data, config)
    run(tmp_path, Clips(), config)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"event": "resume", "step": 3} in lines
    found = {e["step"]: e["temperature"] for e in read_metrics(tmp_path / "metrics.jsonl")}
    # The line of step n is written after the n-th update, which n - 1 updates preceded.
    assert found == pytest.approx({n: 2 * 0.9 ** (n - 1) for n in range(1, 10)}, rel=1e-5)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of the test model, from another seed."""
    folder = tmp_path_factory.mktemp("source")
    _, params = split(Wav2Vec2Task(CONFIG).init(jax.random.key(77)))
    model = PretrainedModel(
        Wav2Vec2ForPreTraining, CONFIG.model, params, preprocessor=Preprocessor()
    )
    save_pretrained(model, folder)
    return folder


@pytest.mark.parametrize("codebook", ["keep", "reset"])
def test_a_restart_keeps_or_redraws_the_codebook(source: Path, codebook: str) -> None:
    objective = ObjectiveConfig(codebook=codebook, gumbel_temperature_start=0.75)
    config = dataclasses.replace(CONFIG, objective=objective)
    task = Wav2Vec2Task(config)
    given, ledger = loading.load_params(
        source, task.architecture, config.model, redrawn=task.redrawn
    )
    state = training_of(config).initial_state(given)
    fresh = training_of(config).initial_state()
    _, theirs = split(task.init(jax.random.key(77)))
    for path, value in state["params"].items():
        redrawn = codebook == "reset" and path in CODEBOOK
        expected = fresh["params"][path] if redrawn else theirs[path]
        np.testing.assert_array_equal(value, expected, err_msg=path)
    assert set(ledger.new) == (CODEBOOK if codebook == "reset" else set())
    assert len(ledger.dropped) == len(ledger.new)
    # Everything else begins anew, and the user is told.
    assert int(state["step"]) == 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(state["opt_state"]))
    assert float(task.temperature(state["step"])) == 0.75
    words = task.restart_rules()
    assert "temperature begins at 0.75 (objective.gumbel_temperature_start" in words
    assert f"codebook {codebook} (objective.codebook" in words
    assert "optimiser state, updates done and learning rate begin anew" in words


FROZEN = r"wav2vec2\.feature_extractor\..*"
SOME_FROZEN = with_optim(frozen=(FROZEN, "project_q.bias"), warmup_steps=0, clip_norm=1.0)


def test_frozen_parameters_stay_and_have_no_optimiser_state() -> None:
    config = SOME_FROZEN
    training = training_of(config)
    state = training.initial_state()
    before = {path: np.asarray(value) for path, value in state["params"].items()}
    frozen = {p for p in before if p.startswith("wav2vec2.feature_extractor.")}
    frozen.add("project_q.bias")
    assert 1 < len(frozen) < len(before)
    assert set(state["opt_state"][1].mu) == before.keys() - frozen
    batch = sharding.place_batch(next(Clips().batches(0, 1)), training.mesh)
    state, _ = training.step(state, batch)
    for path, value in state["params"].items():
        assert np.array_equal(value, before[path]) == (path in frozen), path

    free = training_of(
        dataclasses.replace(config, optim=dataclasses.replace(config.optim, frozen=()))
    )
    _, metrics = free.step(free.initial_state(), batch)
    _, fewer = training.step(training.initial_state(), batch)
    assert float(fewer["gradient_norm"].total) < float(metrics["gradient_norm"].total)
    assert float(fewer["loss"].total) == pytest.approx(float(metrics["loss"].total), rel=1e-6)


def test_a_run_does_not_go_on_with_other_parameters_frozen(tmp_path: Path) -> None:
    short = dataclasses.replace(CONFIG.train, num_steps=3)
    frozen = dataclasses.replace(SOME_FROZEN, train=short)
    first = run(tmp_path, Clips(), frozen)
    assert run(tmp_path, Clips(), frozen) == first, "the same configuration does"
    with pytest.raises(CheckpointMismatchError, match=r"optim\.frozen: \['wav2vec2.*\] then, \[\]"):
        run(tmp_path, Clips(), dataclasses.replace(CONFIG, train=short))


def test_rules_that_miss_the_model_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = with_optim(weight_decay_by_path=(("wav2vec2.*", 1.0),))
    with pytest.raises(ConfigError, match=r"weight_decay_by_path: no rule for 7 parameters"):
        fit(config, Wav2Vec2Task(config), Clips(), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.thorough
def test_the_loss_is_divided_once_by_the_frames_of_the_whole_batch() -> None:
    """Σ CE + S · (α · diversity + β · penalty), over S, in NumPy's double precision.

    For the gradient too: the optimiser is handed that of the sum, over S.
    """
    config = with_optim(warmup_steps=0)
    training = training_of(config)
    task, model = Wav2Vec2Task(config), config.model
    waveform, lengths = clips([9_000, 6_000, 3_000, 900])
    batch = {"waveform": jnp.asarray(waveform), "lengths": jnp.asarray(lengths)}
    state = training.initial_state()
    key = jax.random.fold_in(jax.random.key(config.train.seed), 0)
    draws = task.draw(batch["lengths"], waveform.shape[1], key)
    outputs = {}

    def total(params: dict[str, jax.Array]) -> jax.Array:
        def call(*arguments: object, **given: object) -> object:
            out = training_model(params)(*arguments, **given)
            outputs["out"] = jax.tree.map(jax.lax.stop_gradient, out)
            return out

        return task.loss(call, batch, draws, jnp.asarray(0))[0]

    def training_model(params: dict[str, jax.Array]) -> object:
        return merge(describe(Wav2Vec2ForPreTraining, model)[0], params)

    def grad_and_outputs(params: dict[str, jax.Array]) -> tuple[object, object]:
        gradient = jax.grad(total)(params)
        total(params)
        return gradient, outputs["out"]

    gradient, out = jax.device_get(jax.jit(grad_and_outputs)(state["params"]))
    hidden, negatives = np.asarray(draws.span_mask), np.asarray(draws.negatives)
    counted = hidden & (hidden.sum(1, keepdims=True) >= 2)
    frames = counted.sum()
    assert 0 < frames < hidden.shape[0] * hidden.shape[1]

    cross_entropy = 0.0
    for clip, frame in zip(*np.nonzero(counted), strict=True):
        c = out.predictions[clip, frame].astype(np.float64)
        y = out.targets[clip].astype(np.float64)
        cosine = y @ c / np.linalg.norm(c) / np.linalg.norm(y, axis=-1)
        logits = cosine / model.contrastive_logits_temperature
        others = negatives[clip, frame]
        codes = out.quantized.codes[clip]
        others = others[(codes[others] != codes[frame]).any(-1)]
        cross_entropy += np.log(np.exp(logits[[frame, *others]]).sum()) - logits[frame]
    mean = out.quantized.probabilities[counted].astype(np.float64).mean(0)  # [G, V]
    perplexity = np.exp(-(mean * np.log(mean + 1e-7)).sum(-1)).sum()
    diversity = (mean.size - perplexity) / mean.size
    penalty = (out.encoder.conv_features[out.encoder.frame_mask].astype(np.float64) ** 2).mean()
    regularisers = 0.1 * diversity + config.objective.feature_penalty_weight * penalty
    loss = (cross_entropy + frames * regularisers) / frames

    state, metrics = training.step(state, sharding.place_batch(batch, training.mesh))
    assert float(metrics["loss"].count) == frames
    assert float(metrics["loss"].total / metrics["loss"].count) == pytest.approx(loss, rel=1e-5)
    for name, value in (
        ("contrastive_loss", cross_entropy / frames),
        ("diversity_loss", diversity),
        ("feature_penalty", penalty),
    ):
        ratio = metrics[name]
        assert float(ratio.total / ratio.count) == pytest.approx(value, rel=1e-5), name
    scale = max(np.abs(g).max() for g in gradient.values()) / frames
    for path, moment in state["opt_state"][1].mu.items():
        expected = (1 - config.optim.beta1) * gradient[path] / frames
        np.testing.assert_allclose(moment, expected, rtol=1e-3, atol=1e-5 * scale, err_msg=path)
