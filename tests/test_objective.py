"""The loss terms against `transformers` and against plain formulas, for given draws."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional

from tests.conftest import ARCHITECTURES, FEW, NO_DROPOUT, TINY
from tests.reference import clips, hf_model, sample_mask, tensors_of
from voc2vec_jax.checkpoints import convert
from voc2vec_jax.config import Config, ModelConfig, ObjectiveConfig
from voc2vec_jax.models import Wav2Vec2ForPreTraining, Wav2Vec2Model
from voc2vec_jax.models.parameters import Params, describe, merge, split
from voc2vec_jax.models.quantizer import GumbelVectorQuantizer, Quantized
from voc2vec_jax.objectives import Draws, Metrics, Wav2Vec2Task, losses
from voc2vec_jax.objectives.losses import (
    code_counts,
    code_use,
    contrastive_loss,
    diversity_loss,
    feature_penalty,
)


def draws_for(task: Wav2Vec2Task, lengths: np.ndarray, samples: int, seed: int) -> Draws:
    drawn = task.draw(jnp.asarray(lengths), samples, jax.random.key(seed))
    return dataclasses.replace(drawn, model_key=None)


class AtTemperature(Wav2Vec2Task):
    """Is told its temperature in place of the number of updates."""

    def temperature(self, step: jax.Array) -> jax.Array:
        return step


@functools.cache
def compiled_terms(config: Config, options: tuple[tuple[str, object], ...], epsilon: float) -> Any:
    """The loss terms as a program that tests share; `epsilon` is the one that it is traced with."""
    assert epsilon == losses.ENTROPY_EPSILON
    task = AtTemperature(config)
    graphdef, _ = describe(Wav2Vec2ForPreTraining, config.model)

    @jax.jit
    def run(
        params: Params, batch: dict[str, jax.Array], draws: Draws, temperature: float
    ) -> dict[str, jax.Array]:
        model = merge(graphdef, params)

        def call(*arguments: object, **given: object) -> object:
            return model(*arguments, **{**given, **dict(options)})

        loss, count, metrics = task.loss(call, batch, draws, temperature)
        terms = {name: metrics[name].total for name in ("contrastive_loss", "diversity_loss")}
        return {"loss": loss, "count": count, **terms}

    return run


def our_loss(
    task: Wav2Vec2Task,
    tensors: convert.Tensors,
    batch: dict[str, np.ndarray],
    draws: Draws,
    temperature: float,
    options: Mapping[str, object] = MappingProxyType({}),
) -> dict[str, float]:
    """Loss terms, summed as transformers sums them; `options` overrule how the model is called."""
    _, expected = describe(Wav2Vec2ForPreTraining, task.config.model)
    params, _ = convert.from_hf(tensors, expected)
    run = compiled_terms(task.config, tuple(options.items()), losses.ENTROPY_EPSILON)
    return {name: float(value) for name, value in run(params, batch, draws, temperature).items()}


LENGTHS = {"equal": [9_000, 9_000, 9_000], "unequal": [9_000, 6_100, 3_700]}


@pytest.mark.parametrize(
    ("lengths", "attention_mask"),
    [
        ("unequal", True),
        pytest.param("unequal", False, marks=pytest.mark.thorough),
        pytest.param("equal", True, marks=pytest.mark.thorough),
        pytest.param("equal", False, marks=pytest.mark.thorough),
    ],
)
def test_loss_terms_equal_transformers(
    tiny_config: ModelConfig, lengths: str, attention_mask: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the padding mode of transformers; the task itself never lets padding in."""
    config = dataclasses.replace(tiny_config, **NO_DROPOUT)
    run = Config(model=config, objective=ObjectiveConfig(feature_penalty_weight=0.0))
    task = Wav2Vec2Task(run)
    reference = hf_model("Wav2Vec2ForPreTraining", config).train()
    waveform, sizes = clips(LENGTHS[lengths])
    draws = draws_for(task, sizes, 9_000, 1)
    monkeypatch.setattr(losses, "ENTROPY_EPSILON", 0.0)
    ours = our_loss(
        task,
        tensors_of(reference),
        {"waveform": waveform, "lengths": sizes},
        draws,
        temperature=1.7,
        options={"padding": "hf", "attention_mask": attention_mask},
    )

    def gumbel_softmax(logits: torch.Tensor, tau: float, hard: bool) -> torch.Tensor:
        noise = torch.tensor(np.asarray(draws.gumbel)).reshape(logits.shape)
        soft = torch.softmax((logits + noise) / tau, dim=-1)
        chosen = functional.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
        return chosen - soft.detach() + soft

    monkeypatch.setattr(functional, "gumbel_softmax", gumbel_softmax)
    reference.quantizer.temperature = 1.7
    batch, frames, _ = draws.negatives.shape
    offsets = frames * np.arange(batch)[:, None, None]
    with torch.no_grad():
        theirs = reference(
            torch.tensor(waveform),
            attention_mask=sample_mask(sizes, 9_000) if attention_mask else None,
            mask_time_indices=torch.tensor(np.asarray(draws.span_mask)),
            sampled_negative_indices=torch.tensor(np.asarray(draws.negatives) + offsets),
        )
    assert ours["count"] == np.asarray(draws.span_mask).sum()
    assert ours["contrastive_loss"] == pytest.approx(float(theirs.contrastive_loss), rel=1e-5)
    assert ours["diversity_loss"] == pytest.approx(float(theirs.diversity_loss), rel=1e-5)
    assert ours["loss"] == pytest.approx(float(theirs.loss), rel=1e-5)


def gathered_loss(
    predictions: np.ndarray,
    targets: np.ndarray,
    codes: np.ndarray,
    counted: np.ndarray,
    negatives: np.ndarray,
    temperature: float,
) -> tuple[float, int]:
    """Equation 3 by gathering every negative, in double precision; and how many are right."""
    total, correct = 0.0, 0
    for clip, frame in zip(*np.nonzero(counted), strict=True):
        candidates = [frame, *negatives[clip, frame]]
        c, y = predictions[clip, frame], targets[clip, candidates]
        cosine = y @ c / np.linalg.norm(c) / np.linalg.norm(y, axis=-1)
        logits = cosine / temperature
        same = (codes[clip, candidates] == codes[clip, frame]).all(-1)
        same[0] = False
        logits[same] = -np.inf
        total += np.log(np.exp(logits).sum()) - logits[0]
        rest = logits[1:][~same[1:]]
        correct += int(rest.size > 0 and logits[0] >= rest.max() and logits[0] > rest.min())
    return total, correct


@pytest.mark.parametrize("entries", [2, 50])
def test_contrastive_loss_equals_the_gathered_formula(entries: int) -> None:
    rng = np.random.default_rng(entries)
    batch, frames, width, count = 3, 40, 6, 11
    codes = rng.integers(0, entries, (batch, frames, 2))
    books = rng.standard_normal((2, entries, width))
    targets = books[0, codes[..., 0]] + books[1, codes[..., 1]]
    predictions = rng.standard_normal((batch, frames, width)) + 0.5 * targets
    counted = rng.random((batch, frames)) < 0.5
    negatives = rng.integers(0, frames, (batch, frames, count))
    ours = contrastive_loss(
        jnp.asarray(predictions, jnp.float32),
        jnp.asarray(targets, jnp.float32),
        jnp.asarray(codes),
        jnp.asarray(counted),
        jnp.asarray(negatives),
        0.1,
    )
    loss, correct = gathered_loss(predictions, targets, codes, counted, negatives, 0.1)
    assert float(ours.loss) == pytest.approx(loss, rel=1e-5)
    assert float(ours.frames) == counted.sum()
    assert float(ours.correct) == correct
    assert 0 < correct < counted.sum()


def test_a_collapsed_codebook_costs_nothing_and_earns_nothing() -> None:
    ones = jnp.ones((1, 4, 3))
    out = contrastive_loss(
        ones,
        ones,
        jnp.zeros((1, 4, 2), jnp.int32),
        jnp.ones((1, 4), bool),
        jnp.zeros((1, 4, 5), jnp.int32),
        0.1,
    )
    assert float(out.loss) == 0.0
    assert float(out.correct) == 0.0


def quantized(probabilities: np.ndarray) -> Quantized:
    codes = jnp.asarray(probabilities.argmax(-1), jnp.int32)
    return Quantized(jnp.zeros((*codes.shape[:2], 1)), codes, jnp.asarray(probabilities))


def test_perplexity_runs_from_one_entry_per_group_to_all() -> None:
    groups, entries = 2, 5
    counted = jnp.array([[True, True, True, True, True, False]])
    one = np.zeros((1, 6, groups, entries), np.float32)
    one[..., 2] = 1
    use = code_use(code_counts(quantized(one), counted))
    assert float(use.probability_perplexity) == pytest.approx(groups, rel=1e-5)
    assert float(diversity_loss(use, groups * entries)) == pytest.approx(0.8, rel=1e-5)
    each = np.tile(np.eye(entries, dtype=np.float32)[None, :, None], (1, 1, groups, 1))
    each = np.concatenate([each, one[:, :1]], axis=1)  # the last frame does not count
    use = code_use(code_counts(quantized(each), counted))
    assert float(use.probability_perplexity) == pytest.approx(groups * entries, rel=1e-5)
    assert float(use.code_perplexity) == pytest.approx(groups * entries, rel=1e-5)
    assert float(diversity_loss(use, groups * entries)) == pytest.approx(0.0, abs=1e-5)


def test_feature_penalty_ignores_padding() -> None:
    features = np.random.default_rng(0).standard_normal((2, 6, 3)).astype(np.float32)
    mask = np.arange(6) < np.array([6, 2])[:, None]
    penalty = feature_penalty(jnp.asarray(features), jnp.asarray(mask))
    expected = np.concatenate([features[0], features[1, :2]])
    assert float(penalty) == pytest.approx((expected**2).mean(axis=1).sum(), rel=1e-5)


def gradients(task: Wav2Vec2Task, batch: dict[str, np.ndarray], draws: Draws) -> Params:
    graphdef, _ = describe(Wav2Vec2ForPreTraining, task.config.model)
    tensors = tensors_of(hf_model("Wav2Vec2ForPreTraining", task.config.model))
    params, _ = convert.from_hf(tensors, describe(Wav2Vec2ForPreTraining, task.config.model)[1])

    @jax.jit
    @jax.grad
    def gradient(params: Params, batch: dict[str, jax.Array], draws: Draws) -> jax.Array:
        return task.loss(merge(graphdef, params), batch, draws, jnp.asarray(0))[0]

    found: Params = gradient(params, batch, draws)
    return found


@pytest.mark.unoptimised
def test_gradient_multiplier_scales_the_convolutions_only() -> None:
    """All of their gradient, that of the penalty included, as in fairseq."""
    config = ModelConfig(
        **{**TINY, **FEW, **ARCHITECTURES["base"], **NO_DROPOUT, "num_hidden_layers": 1}
    )
    waveform, lengths = clips([9_000, 6_000])
    batch = {"waveform": waveform, "lengths": lengths}
    by_factor = {}
    for factor in (0.1, 1.0):
        objective = ObjectiveConfig(feature_grad_mult=factor, feature_penalty_weight=10.0)
        task = Wav2Vec2Task(Config(model=config, objective=objective))
        by_factor[factor] = gradients(task, batch, draws_for(task, lengths, 9_000, 0))
    for path, whole in by_factor[1.0].items():
        share = 0.1 if path.startswith("wav2vec2.feature_extractor") else 1.0
        scale = float(jnp.abs(whole).max())
        np.testing.assert_allclose(
            by_factor[0.1][path], share * whole, atol=1e-5 * scale * share, rtol=1e-4
        )


@pytest.mark.unoptimised
def test_gradient_of_the_penalty_is_multiplied_too() -> None:
    """In fairseq the penalty is taken after the multiplier, so a tenth of it arrives."""
    config = ModelConfig(**{**TINY, **FEW, **ARCHITECTURES["base"], "num_hidden_layers": 1})
    graphdef, params = split(Wav2Vec2Model(config, rngs=nnx.Rngs(0)))
    waveform, lengths = clips([3_000, 2_000])

    @functools.partial(jax.jit, static_argnums=1)
    def gradient(params: Params, factor: float) -> Params:
        def penalty(params: Params) -> jax.Array:
            model = merge(graphdef, params)
            out = model(waveform, lengths, padding="masked", feature_grad_mult=factor)
            return feature_penalty(out.conv_features, out.frame_mask)

        return jax.grad(penalty)(params)

    whole, tenth = gradient(params, 1.0), gradient(params, 0.1)
    reached = {path for path, value in whole.items() if np.any(value)}
    assert reached == {path for path in whole if path.startswith("feature_extractor.")}
    for path in reached:
        ratio = float(jnp.linalg.norm(tenth[path]) / jnp.linalg.norm(whole[path]))
        assert ratio == pytest.approx(0.1, rel=1e-4), path


@pytest.mark.unoptimised
def test_no_gradient_is_missing(tiny_config: ModelConfig) -> None:
    """Every parameter takes part, but for key biases, which softmax cancels."""
    config = dataclasses.replace(tiny_config, **FEW, **NO_DROPOUT, num_hidden_layers=1)
    task = Wav2Vec2Task(Config(model=config))
    waveform, lengths = clips([9_000, 6_000])
    batch = {"waveform": waveform, "lengths": lengths}
    found = gradients(task, batch, draws_for(task, lengths, 9_000, 0))
    total = math.sqrt(sum(float(jnp.sum(g**2)) for g in found.values()))
    for path, gradient in found.items():
        norm = float(jnp.linalg.norm(gradient))
        if path.endswith("k_proj.bias"):
            assert norm <= 1e-6 * total, path
        else:
            assert norm > 1e-7 * total, path


@functools.cache
def fresh_parameters(model: ModelConfig) -> Params:
    task = Wav2Vec2Task(Config(model=model))
    params: Params = jax.jit(lambda: split(task.init(jax.random.key(0)))[1])()
    return params


def fresh_loss(
    task: Wav2Vec2Task, waveform: np.ndarray, lengths: np.ndarray
) -> tuple[jax.Array, jax.Array, Metrics]:
    """The first loss of a fresh model."""
    batch = {"waveform": jnp.asarray(waveform), "lengths": jnp.asarray(lengths)}
    draws = task.draw(batch["lengths"], waveform.shape[1], jax.random.key(1))
    graphdef, _ = describe(Wav2Vec2ForPreTraining, task.config.model)

    @jax.jit
    def run(
        params: Params, batch: dict[str, jax.Array], draws: Draws
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        return task.loss(merge(graphdef, params), batch, draws, jnp.asarray(0))

    found: tuple[jax.Array, jax.Array, Metrics] = run(
        fresh_parameters(task.config.model), batch, draws
    )
    return found


@pytest.mark.unoptimised
@pytest.mark.parametrize(
    "lengths", [pytest.param([400, 719], marks=pytest.mark.thorough), [400, 720, 1_500, 3_280]]
)
def test_the_shortest_clips_never_crash(tiny_config: ModelConfig, lengths: list[int]) -> None:
    task = Wav2Vec2Task(Config(model=dataclasses.replace(tiny_config, **FEW)))
    waveform, sizes = clips(lengths)
    loss, count, _ = fresh_loss(task, waveform, sizes)
    assert math.isfinite(float(loss))
    hidden = task.draw(jnp.asarray(sizes), max(lengths), jax.random.key(1)).span_mask
    per_clip = np.asarray(hidden).sum(1)
    assert float(count) == per_clip[per_clip >= 2].sum()
    # Clips of one or two frames count nothing, so their loss is nothing.
    if max(lengths) < 1_040:
        assert float(loss) == float(count) == 0.0


@pytest.mark.unoptimised
def test_padding_does_not_change_the_loss(tiny_config: ModelConfig) -> None:
    config = dataclasses.replace(tiny_config, **FEW, **NO_DROPOUT)
    task = Wav2Vec2Task(Config(model=config))
    tensors = tensors_of(hf_model("Wav2Vec2ForPreTraining", config))
    waveform, lengths = clips([9_000, 6_000])
    long = np.pad(waveform, ((0, 0), (0, 9_000)))
    draws = draws_for(task, lengths, 18_000, 0)
    short = dataclasses.replace(
        draws,
        span_mask=draws.span_mask[:, :27],
        negatives=draws.negatives[:, :27],
        gumbel=draws.gumbel[:, :27],
    )
    tight = our_loss(task, tensors, {"waveform": waveform, "lengths": lengths}, short, 2.0)
    loose = our_loss(task, tensors, {"waveform": long, "lengths": lengths}, draws, 2.0)
    assert tight == pytest.approx(loose, rel=1e-5)


def test_temperature_follows_the_updates() -> None:
    task = Wav2Vec2Task(Config())
    assert float(task.temperature(jnp.asarray(0))) == 2.0
    assert float(task.temperature(jnp.asarray(100_000))) == pytest.approx(
        2 * 0.999995**100_000, rel=1e-5
    )
    # RECIPE: the floor is reached at about update 277,258.
    assert float(task.temperature(jnp.asarray(277_200))) > 0.5
    assert float(task.temperature(jnp.asarray(277_300))) == 0.5


def test_temperature_moves_the_gradient_and_not_the_choice() -> None:
    """So a restart at a high one costs a trained codebook nothing in its first update."""
    config = ModelConfig(**{**TINY, **ARCHITECTURES["base"]})
    graphdef, params = split(GumbelVectorQuantizer(config, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.standard_normal((2, 9, config.conv_dim[-1])), jnp.float32)
    noise = jnp.asarray(rng.gumbel(size=(2, 9, 2, 8)), jnp.float32)

    def total(params: Params, temperature: float) -> jax.Array:
        vectors = merge(graphdef, params)(features, temperature, noise).vectors
        return jnp.sum(vectors * jnp.arange(12.0).reshape(1, 1, 12))

    (hot, of_hot), (cold, of_cold) = (
        jax.jit(jax.value_and_grad(total))(params, temperature) for temperature in (2.0, 0.5)
    )
    assert float(hot) == pytest.approx(float(cold), rel=1e-5)
    path = "weight_proj.kernel"
    difference = jnp.linalg.norm(of_hot[path] - of_cold[path])
    assert float(difference) > 0.3 * float(jnp.linalg.norm(of_cold[path]))


def test_draws_follow_the_key_and_nothing_else(tiny_config: ModelConfig) -> None:
    task = Wav2Vec2Task(Config(model=tiny_config))
    lengths = jnp.array([9_000, 5_000])
    one, again, other = (task.draw(lengths, 9_000, jax.random.key(k)) for k in (1, 1, 2))
    for name in ("span_mask", "negatives", "gumbel"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
        assert (np.asarray(getattr(one, name)) != np.asarray(getattr(other, name))).any()


@pytest.mark.unoptimised
def test_initial_loss_is_chance_for_full_size_heads() -> None:
    """ln(K + 1) nats, the sanity check that the papers' code bases print first."""
    config = ModelConfig(
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        num_conv_pos_embedding_groups=4,
        **{**FEW, "conv_dim": (32, 32, 32)},
    )
    task = Wav2Vec2Task(Config(model=config))
    waveform, lengths = clips([64_000, 64_000])
    _, _, metrics = fresh_loss(task, waveform, lengths)
    contrastive = metrics["contrastive_loss"]
    assert float(contrastive.total / contrastive.count) == pytest.approx(math.log(101), rel=0.1)
