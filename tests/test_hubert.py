"""HuBERT's objective: against PyTorch, against plain formulas, and what it logs."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.conftest import ARCHITECTURES, FEW, NO_DROPOUT, TINY
from tests.reference import HubertPretraining, clips, old_spelling, sample_mask, tensors_of
from tests.test_gradients import assert_same_gradients
from voc2vec_jax.audio.frame_grid import frames_from_samples
from voc2vec_jax.checkpoints import convert
from voc2vec_jax.config import Config, DataConfig, ModelConfig, ObjectiveConfig
from voc2vec_jax.models import HubertForPreTraining
from voc2vec_jax.models.parameters import Params, describe, merge, split
from voc2vec_jax.objectives import HubertDraws, HubertTask, Metrics, losses

LAYOUTS = {
    name: ModelConfig(
        **TINY, **NO_DROPOUT, **layout, model_type="hubert", final_dim=10, num_clusters=11
    )
    for name, layout in ARCHITECTURES.items()
}
SHORT = {name: dataclasses.replace(config, **FEW) for name, config in LAYOUTS.items()}
SMALL: dict[str, Any] = {**TINY, **FEW}
LABELS = DataConfig(labels="labels")
SHORTEST = [
    pytest.param([400, 719], marks=pytest.mark.thorough),
    [400, 720, 1_500, 3_280],
]
LENGTHS = {"cropped": [9_000, 9_000, 9_000], "padded": [9_000, 5_000, 3_333]}


def config_of(model: ModelConfig, **objective: Any) -> Config:
    return Config(task="hubert", model=model, data=LABELS, objective=ObjectiveConfig(**objective))


def targets_of(model: ModelConfig, lengths: np.ndarray, samples: int, seed: int = 0) -> np.ndarray:
    """Random labels [B, T] int32, -1 beyond a clip's frames."""
    frames = frames_from_samples(lengths, model.conv_kernel, model.conv_stride)
    total = frames_from_samples(samples, model.conv_kernel, model.conv_stride)
    labels = np.random.default_rng(seed).integers(0, model.num_clusters, (len(lengths), total))
    return np.where(np.arange(total) < frames[:, None], labels, -1).astype(np.int32)


def batch_of(model: ModelConfig, lengths: list[int]) -> dict[str, np.ndarray]:
    waveform, sizes = clips(lengths)
    targets = targets_of(model, sizes, waveform.shape[1])
    return {"waveform": waveform, "lengths": sizes, "targets": targets}


def draws_for(task: HubertTask, batch: dict[str, np.ndarray], seed: int = 1) -> HubertDraws:
    samples = batch["waveform"].shape[1]
    drawn = task.draw(jnp.asarray(batch["lengths"]), samples, jax.random.key(seed))
    return dataclasses.replace(drawn, model_key=None)


class AsTransformers:
    """A model whose calls have the padding mode of transformers, whatever the task asks for."""

    def __init__(self, model: HubertForPreTraining):
        self.model, self.label_embs_concat = model, model.label_embs_concat

    def __call__(self, *arguments: object, **given: object) -> object:
        return self.model(*arguments, **{**given, "padding": "hf", "attention_mask": True})


def check_parity(config: Config, lengths: list[int]) -> None:
    """Loss within 1e-5 and gradients of all parameters within 1e-4, relative."""
    model = config.model
    reference = HubertPretraining(model, config.objective)
    graphdef, expected = describe(HubertForPreTraining, model)
    params, _ = convert.from_hf(tensors_of(reference), expected)
    task, batch = HubertTask(config), batch_of(model, lengths)
    draws = draws_for(task, batch)
    padded = len(set(lengths)) > 1

    def our_loss(params: Params) -> tuple[jax.Array, jax.Array]:
        ours: Any = merge(graphdef, params)
        called = AsTransformers(ours) if padded else ours
        loss, count, _ = task.loss(called, batch, draws, jnp.asarray(0))
        return loss, count

    (loss, count), gradients = jax.jit(jax.value_and_grad(our_loss, has_aux=True))(params)
    mask = sample_mask(batch["lengths"], batch["waveform"].shape[1]) if padded else None
    expected_loss, frames = reference(
        torch.tensor(batch["waveform"]),
        mask,
        torch.tensor(np.asarray(draws.span_mask)),
        torch.tensor(batch["targets"], dtype=torch.long),
    )
    expected_loss.backward()
    assert float(count) == frames
    assert float(loss) == pytest.approx(float(expected_loss.detach()), rel=1e-5)
    theirs = {
        old_spelling(name): parameter.grad.numpy()
        for name, parameter in reference.named_parameters()
        if parameter.grad is not None
    }
    assert_same_gradients(convert.to_hf(gradients), theirs)


@pytest.mark.parametrize(
    ("layout", "lengths"),
    [
        ("base", "padded"),
        ("large", "cropped"),
        pytest.param("base", "cropped", marks=pytest.mark.thorough),
        pytest.param("large", "padded", marks=pytest.mark.thorough),
    ],
)
def test_loss_and_gradients_equal_pytorch(layout: str, lengths: str) -> None:
    """Clips cropped to one length as the task is, and padded ones in transformers' mode."""
    check_parity(config_of(LAYOUTS[layout]), LENGTHS[lengths])


@pytest.mark.thorough
@pytest.mark.parametrize(
    "objective",
    [
        {"masked_weight": 0.7, "unmasked_weight": 0.3, "feature_grad_mult": 1.0},
        {"masked_weight": 0.0, "unmasked_weight": 2.0, "logit_temperature": 0.3},
    ],
    ids=["both", "unmasked"],
)
def test_weights_and_temperature_equal_pytorch(objective: dict[str, float]) -> None:
    check_parity(config_of(LAYOUTS["base"], **objective), LENGTHS["padded"])


@pytest.mark.thorough
def test_the_special_classes_of_fairseq_equal_pytorch() -> None:
    model = dataclasses.replace(LAYOUTS["base"], num_special_classes=4)
    check_parity(config_of(model), LENGTHS["cropped"])


BASE = ModelConfig(model_type="hubert", **NO_DROPOUT, num_clusters=500)
LARGE = ModelConfig(
    **NO_DROPOUT,
    **ARCHITECTURES["large"],
    model_type="hubert",
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    final_dim=768,
    num_clusters=500,
)


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [[24_000, 24_000], [24_000, 16_000]], ids=["cropped", "padded"])
@pytest.mark.parametrize("model", [BASE, LARGE], ids=["base", "large"])
def test_loss_and_gradients_of_full_size_models(model: ModelConfig, lengths: list[int]) -> None:
    check_parity(config_of(model), lengths)


def plain_cross_entropy(logits: np.ndarray, label: int) -> float:
    shifted = logits.astype(np.float64) - logits.max()
    return float(np.log(np.exp(shifted).sum()) - shifted[label])


def test_masked_prediction_equals_the_formula() -> None:
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal((3, 20, 7))).astype(np.float32)
    targets = rng.integers(-1, 7, (3, 20)).astype(np.int32)
    counted = (rng.random((3, 20)) < 0.6) & (targets >= 0)
    found = losses.masked_prediction(jnp.asarray(logits), targets, jnp.asarray(counted))
    places = list(zip(*np.nonzero(counted), strict=True))
    expected = sum(plain_cross_entropy(logits[place], targets[place]) for place in places)
    assert float(found.loss) == pytest.approx(expected, rel=1e-5)
    assert float(found.frames) == counted.sum()
    chosen = logits.argmax(-1)
    assert float(found.correct) == (chosen == targets)[counted].sum()
    assert found.targets.tolist() == np.bincount(targets[counted], minlength=7).tolist()
    assert found.predictions.tolist() == np.bincount(chosen[counted], minlength=7).tolist()


def test_frames_that_are_all_alike_are_never_right() -> None:
    """Equal logits would otherwise be a hit wherever the label is 0."""
    found = losses.masked_prediction(
        jnp.zeros((1, 4, 3)), jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    )
    assert float(found.correct) == 0
    assert float(found.loss) == pytest.approx(4 * math.log(3), rel=1e-6)


def test_logits_are_cosines_in_float32() -> None:
    rng = np.random.default_rng(0)
    frames, embeddings = rng.standard_normal((2, 5, 6)), rng.random((4, 6))
    found = losses.label_logits(
        jnp.asarray(frames, jnp.bfloat16), jnp.asarray(embeddings, jnp.float32), 0.2
    )
    assert found.dtype == jnp.float32
    rounded = np.asarray(jnp.asarray(frames, jnp.bfloat16), np.float64)
    norms = np.linalg.norm(rounded, axis=-1)[..., None] * np.linalg.norm(embeddings, axis=-1)
    np.testing.assert_allclose(found, rounded @ embeddings.T / norms / 0.2, atol=1e-5)
    assert np.isfinite(losses.label_logits(jnp.zeros((1, 1, 6)), jnp.zeros((2, 6)), 0.1)).all()


def test_entropy_runs_from_one_label_to_all() -> None:
    assert float(losses.entropy_of_counts(jnp.array([0.0, 5.0, 0.0]))) == 0
    assert float(losses.entropy_of_counts(jnp.zeros(3))) == 0
    even = losses.entropy_of_counts(jnp.full(8, 3.0))
    assert float(even) == pytest.approx(math.log(8), rel=1e-6)


@functools.cache
def fresh_parameters(model: ModelConfig) -> Params:
    task = HubertTask(config_of(model))
    params: Params = jax.jit(lambda: split(task.init(jax.random.key(0)))[1])()
    return params


@functools.cache
def compiled_loss(config: Config) -> Any:
    """The loss as a program that tests of one configuration share."""
    task = HubertTask(config)
    graphdef, _ = describe(HubertForPreTraining, config.model)

    @jax.jit
    def run(
        params: Params, batch: dict[str, jax.Array], draws: HubertDraws
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        return task.loss(merge(graphdef, params), batch, draws, jnp.asarray(0))

    return run


def fresh_loss(
    task: HubertTask, batch: dict[str, np.ndarray], draws: HubertDraws | None = None
) -> tuple[float, float, dict[str, float]]:
    """The first loss of a fresh model, its count, and the means of its metrics."""
    loss, count, metrics = compiled_loss(task.config)(
        fresh_parameters(task.config.model), batch, draws or draws_for(task, batch)
    )
    means = {k: float(v.total) / max(float(v.count), 1) for k, v in metrics.items()}
    return float(loss), float(count), means


@pytest.mark.unoptimised
@pytest.mark.parametrize("clusters", [100, pytest.param(500, marks=pytest.mark.thorough)])
def test_a_fresh_model_is_at_chance(clusters: int) -> None:
    """Cosines of vectors in [0, 1) are nearly equal, so the cross entropy is about ln(classes)."""
    model = ModelConfig(**SMALL, model_type="hubert", num_clusters=clusters)
    task = HubertTask(config_of(model))
    batch = batch_of(model, [16_000, 12_000])
    _, count, means = fresh_loss(task, batch)
    assert means["masked_loss"] == pytest.approx(math.log(clusters), abs=0.15)
    assert means["unmasked_loss"] == pytest.approx(math.log(clusters), abs=0.15)
    assert means["masked_accuracy"] < 0.2
    draws = draws_for(task, batch)
    assert count == np.asarray(draws.span_mask).sum()


@pytest.mark.unoptimised
def test_the_head_is_initialised_as_fairseq_does() -> None:
    model = ModelConfig(**SMALL, model_type="hubert", num_clusters=400, final_dim=64)
    params = fresh_parameters(model)
    labels = params["label_embs_concat"]
    assert labels.shape == (400, 64)
    assert float(labels.min()) >= 0
    assert float(labels.max()) < 1
    assert float(labels.mean()) == pytest.approx(0.5, abs=0.01)
    bound = 1 / math.sqrt(model.hidden_size)
    for name in ("final_proj.kernel", "final_proj.bias"):
        assert float(jnp.abs(params[name]).max()) <= bound
        assert float(jnp.std(params[name])) == pytest.approx(bound / math.sqrt(3), rel=0.15)


@pytest.mark.unoptimised
def test_padding_does_not_change_the_loss() -> None:
    task = HubertTask(config_of(SHORT["base"]))
    batch = batch_of(task.config.model, [9_000, 6_000])
    long = {
        "waveform": np.pad(batch["waveform"], ((0, 0), (0, 9_000))),
        "lengths": batch["lengths"],
        "targets": targets_of(task.config.model, batch["lengths"], 18_000),
    }
    frames = batch["targets"].shape[1]
    long["targets"][:, :frames] = batch["targets"]
    draws = draws_for(task, long)
    short = dataclasses.replace(draws, span_mask=draws.span_mask[:, :frames])
    loose, tight = fresh_loss(task, long, draws), fresh_loss(task, batch, short)
    assert tight[:2] == pytest.approx(loose[:2], rel=1e-5)
    assert tight[2] == pytest.approx(loose[2], rel=1e-5)


@pytest.mark.unoptimised
def test_frames_without_a_label_do_not_count() -> None:
    task = HubertTask(config_of(SHORT["base"], feature_penalty_weight=0.0))
    batch = batch_of(task.config.model, [9_000, 9_000])
    draws = draws_for(task, batch)
    hidden = np.asarray(draws.span_mask)
    clip, frame = next(zip(*np.nonzero(hidden), strict=True))
    fewer = {**batch, "targets": batch["targets"].copy()}
    fewer["targets"][clip, frame] = -1
    whole, part = fresh_loss(task, batch, draws), fresh_loss(task, fewer, draws)
    assert whole[1] - part[1] == 1
    lost = whole[0] - part[0]
    assert 0 < lost < 2 * whole[2]["masked_loss"]
    assert part[2]["unmasked_loss"] == pytest.approx(whole[2]["unmasked_loss"], rel=1e-6)
    nothing = {**batch, "targets": np.full_like(batch["targets"], -1)}
    assert fresh_loss(task, nothing, draws)[:2] == (0.0, 0.0)


@pytest.mark.unoptimised
@pytest.mark.parametrize("lengths", SHORTEST)
def test_the_shortest_clips_never_crash(lengths: list[int]) -> None:
    task = HubertTask(config_of(SHORT["large"]))
    loss, count, _ = fresh_loss(task, batch_of(task.config.model, lengths))
    assert math.isfinite(loss)
    assert count >= 0


@pytest.mark.unoptimised
def test_what_is_logged_of_labels_and_predictions() -> None:
    task = HubertTask(config_of(SHORT["base"]))
    batch = batch_of(task.config.model, [9_000, 5_000])
    batch["targets"] = np.where(batch["targets"] < 0, -1, 3).astype(np.int32)
    _, _, means = fresh_loss(task, batch)
    assert means["majority_rate"] == 1
    assert (means["target_entropy"], means["target_perplexity"]) == (0, 1)
    assert 1 <= means["prediction_perplexity"] <= 11
    hidden = np.asarray(draws_for(task, batch).span_mask)
    valid = (batch["targets"] >= 0).sum()
    assert means["masked_share"] == pytest.approx(hidden.sum() / valid, rel=1e-6)


@pytest.mark.unoptimised
def test_no_gradient_is_missing() -> None:
    """Every parameter takes part, but for key biases, which softmax cancels."""
    task = HubertTask(config_of(SHORT["large"]))
    batch = batch_of(task.config.model, [9_000, 6_000])
    loss = compiled_loss(task.config)
    found = jax.jit(jax.grad(lambda *given: loss(*given)[0]))(
        fresh_parameters(task.config.model), batch, draws_for(task, batch)
    )
    total = math.sqrt(sum(float(jnp.sum(g**2)) for g in found.values()))
    for path, gradient in found.items():
        norm = float(jnp.linalg.norm(gradient))
        if path.endswith("k_proj.bias"):
            assert norm <= 1e-6 * total, path
        else:
            assert norm > 1e-7 * total, path
