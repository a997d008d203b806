"""Gradients of every parameter, and steps along them, against PyTorch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch.nn import functional

from tests.conftest import ARCHITECTURES, FEW, NO_DROPOUT, TINY
from tests.reference import clips, hf_model, inject_gumbel, old_spelling, sample_mask, tensors_of
from voc2vec_jax.checkpoints import convert
from voc2vec_jax.checkpoints.convert import Tensors
from voc2vec_jax.config import Config, ModelConfig, ObjectiveConfig
from voc2vec_jax.models import (
    HubertForSequenceClassification,
    HubertModel,
    Wav2Vec2ForPreTraining,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Model,
)
from voc2vec_jax.models.architectures import Architecture
from voc2vec_jax.models.parameters import Params, describe, merge
from voc2vec_jax.objectives import Draws, Wav2Vec2Task, losses

BOUND = 1e-4
"""On ‖Δg‖ / ‖g‖, for gradients that are not lost in the rounding of the others."""
CANCELLING = {"layer_weights": 1e-3}
"""Its softmax subtracts the mean of terms that are a thousand times larger than what is left, in
these models; PyTorch in float32 is off by 3e-5 from PyTorch in float64."""
FLOOR = 1e-6
"""Of the global norm: what a gradient counts for at least."""
LENGTHS = [9_000, 5_000, 3_333]
LABELS = [1, 0, 2]
LAYOUTS = {
    name: ModelConfig(**TINY, **NO_DROPOUT, **layout, labels=("a", "b", "c"))
    for name, layout in ARCHITECTURES.items()
}
SHORT = {name: dataclasses.replace(config, **FEW) for name, config in LAYOUTS.items()}


class Pair:
    """The same weights and the same loss, here and in PyTorch."""

    def __init__(self, architecture: Architecture, config: ModelConfig, lengths: list[int]):
        self.reference = hf_model(architecture.__name__, config)
        self.graphdef, self.expected = describe(architecture, config)
        params, _ = convert.from_hf(tensors_of(self.reference), self.expected)
        self.params: Params = {path: jnp.asarray(value) for path, value in params.items()}
        self.waveform, self.lengths = clips(lengths)
        self.attention_mask = sample_mask(self.lengths, self.waveform.shape[1])
        self.labels = np.array(LABELS[: len(lengths)])

    def our_loss(self, params: Params) -> jax.Array:
        out = merge(self.graphdef, params)(self.waveform, self.lengths, attention_mask=True)
        if hasattr(out, "logits"):
            return optax.softmax_cross_entropy_with_integer_labels(out.logits, self.labels).mean()
        weights = jnp.asarray(self._weights(out.last_hidden_state.shape))
        return jnp.sum(weights * out.last_hidden_state * out.frame_mask[:, :, None])

    def their_loss(self) -> torch.Tensor:
        out = self.reference(torch.tensor(self.waveform), attention_mask=self.attention_mask)
        if hasattr(out, "logits"):
            return functional.cross_entropy(out.logits, torch.tensor(self.labels))
        hidden = out.last_hidden_state
        mask = self.reference._get_feature_vector_attention_mask(
            hidden.shape[1], self.attention_mask
        )
        return (torch.tensor(self._weights(hidden.shape)) * hidden * mask[:, :, None]).sum()

    @staticmethod
    def _weights(shape: tuple[int, ...]) -> np.ndarray:
        """A random direction, so that no part of the gradient cancels."""
        random = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
        return random / np.float32(np.prod(shape[:2]))

    def their_gradients(self) -> Tensors:
        return {
            old_spelling(name): parameter.grad.numpy()
            for name, parameter in self.reference.named_parameters()
            if parameter.grad is not None
        }


def assert_same_gradients(ours: Tensors, theirs: Tensors) -> None:
    unused = {name for name in ours.keys() - theirs.keys() if not ours[name].any()}
    assert ours.keys() - unused == theirs.keys()
    whole = np.sqrt(sum(float(np.square(g.astype(np.float64)).sum()) for g in theirs.values()))
    offenders = {}
    for name, gradient in theirs.items():
        error = float(np.linalg.norm(ours[name].astype(np.float64) - gradient))
        size = max(float(np.linalg.norm(gradient)), FLOOR * whole)
        if name.endswith("k_proj.bias"):  # a shift of all keys moves no softmax
            assert np.linalg.norm(ours[name]) <= FLOOR * whole, name
            assert np.linalg.norm(gradient) <= FLOOR * whole, name
        elif error > CANCELLING.get(name, BOUND) * size:
            offenders[name] = error / size
    assert not offenders, offenders


CLASSES = {
    Wav2Vec2Model: "large",
    HubertModel: "base",
    Wav2Vec2ForSequenceClassification: "base",
    HubertForSequenceClassification: "large",
}
"""And the layout in which each is quick to test."""
BASE_FIRST = ["base", pytest.param("large", marks=pytest.mark.thorough)]


def check_gradients(architecture: Architecture, config: ModelConfig, lengths: list[int]) -> None:
    config = dataclasses.replace(config, model_type=architecture.model_type)
    pair = Pair(architecture, config, lengths)
    loss, gradients = jax.jit(jax.value_and_grad(pair.our_loss))(pair.params)
    expected = pair.their_loss()
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-6)
    assert_same_gradients(convert.to_hf(gradients), pair.their_gradients())


@pytest.mark.parametrize(
    ("architecture", "layout"),
    [
        pytest.param(architecture, layout, marks=[pytest.mark.thorough] * (layout != quick))
        for architecture, quick in CLASSES.items()
        for layout in LAYOUTS
    ],
)
def test_gradients_of_tiny_models(architecture: Architecture, layout: str) -> None:
    check_gradients(architecture, SHORT[layout], LENGTHS)


@pytest.mark.thorough
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_through_a_weighted_sum_of_layers(layout: str) -> None:
    config = dataclasses.replace(LAYOUTS[layout], use_weighted_layer_sum=True)
    check_gradients(Wav2Vec2ForSequenceClassification, config, LENGTHS)


def full_size(layout: str) -> ModelConfig:
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    large = {**sizes, "intermediate_size": 4096} if layout == "large" else {}
    return ModelConfig(**NO_DROPOUT, **ARCHITECTURES[layout], **large, labels=("a", "b", "c"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "layout"),
    [
        (Wav2Vec2ForSequenceClassification, "base"),
        (HubertForSequenceClassification, "base"),
        (Wav2Vec2ForSequenceClassification, "large"),
    ],
)
def test_gradients_of_full_size_models(architecture: Architecture, layout: str) -> None:
    check_gradients(architecture, full_size(layout), [24_000, 16_000])


def check_pretraining_gradients(
    config: ModelConfig, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the contrastive and the diversity loss; transformers has no feature penalty."""
    objective = ObjectiveConfig(1.0, 0.0, gumbel_temperature_start=1.7)
    run = Config(model=config, objective=objective)
    task = Wav2Vec2Task(run)
    pair = Pair(Wav2Vec2ForPreTraining, config, lengths)
    samples = pair.waveform.shape[1]
    draws: Draws = dataclasses.replace(
        task.draw(jnp.asarray(pair.lengths), samples, jax.random.key(3)), model_key=None
    )
    monkeypatch.setattr(losses, "ENTROPY_EPSILON", 1e-30)
    inject_gumbel(monkeypatch, draws.gumbel)

    def our_loss(params: Params) -> jax.Array:
        model = merge(pair.graphdef, params)

        def call(*arguments: object, **given: object) -> object:
            return model(*arguments, **{**given, "padding": "hf", "attention_mask": True})

        batch = {"waveform": pair.waveform, "lengths": pair.lengths}
        return task.loss(call, batch, draws, jnp.asarray(0))[0]

    loss, gradients = jax.jit(jax.value_and_grad(our_loss))(pair.params)
    pair.reference.train()
    pair.reference.quantizer.temperature = 1.7
    batch, frames, _ = draws.negatives.shape
    negatives = np.asarray(draws.negatives) + frames * np.arange(batch)[:, None, None]
    expected = pair.reference(
        torch.tensor(pair.waveform),
        attention_mask=pair.attention_mask,
        mask_time_indices=torch.tensor(np.asarray(draws.span_mask)),
        sampled_negative_indices=torch.tensor(negatives),
    ).loss
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert_same_gradients(convert.to_hf(gradients), pair.their_gradients())


@pytest.mark.parametrize("layout", BASE_FIRST)
def test_gradients_of_tiny_pretraining(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_pretraining_gradients(SHORT[layout], LENGTHS, monkeypatch)


@pytest.mark.slow
def test_gradients_of_full_size_pretraining(monkeypatch: pytest.MonkeyPatch) -> None:
    check_pretraining_gradients(full_size("base"), [24_000, 16_000], monkeypatch)


def check_ten_steps(architecture: Architecture, config: ModelConfig, lengths: list[int]) -> None:
    """Ten AdamW steps on two alternating batches."""
    config = dataclasses.replace(config, model_type=architecture.model_type)
    pair = Pair(architecture, config, lengths)
    rate, decay = 1e-4, 0.01
    ours = optax.adamw(rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=decay)
    theirs = torch.optim.AdamW(
        pair.reference.parameters(), lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay
    )
    batches = [clips(lengths, seed)[0] for seed in (0, 1)]

    def loss_of(params: Params, waveform: jax.Array) -> jax.Array:
        out = merge(pair.graphdef, params)(waveform, pair.lengths, attention_mask=True)
        return optax.softmax_cross_entropy_with_integer_labels(out.logits, pair.labels).mean()

    @jax.jit
    def step(
        params: Params, state: optax.OptState, waveform: jax.Array
    ) -> tuple[Params, optax.OptState, jax.Array]:
        loss, gradients = jax.value_and_grad(loss_of)(params, waveform)
        updates, state = ours.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    params, state = pair.params, ours.init(pair.params)
    curve = []
    for index in range(10):
        pair.waveform = batches[index % 2]
        params, state, loss = step(params, state, pair.waveform)
        theirs.zero_grad()
        expected = pair.their_loss()
        expected.backward()
        theirs.step()
        curve.append((float(loss), float(expected.detach())))
    print(curve)
    for loss, expected in curve:
        assert loss == pytest.approx(expected, rel=1e-4)
    # Of the same batch, so that steps in place of none would show.
    assert curve[8][0] < 0.99 * curve[0][0]


@pytest.mark.thorough  # test_fine_tuning_parity.py takes fifty
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "architecture", [Wav2Vec2ForSequenceClassification, HubertForSequenceClassification]
)
def test_ten_steps_of_tiny_models(architecture: Architecture, layout: str) -> None:
    check_ten_steps(architecture, LAYOUTS[layout], LENGTHS)


@pytest.mark.slow
def test_ten_steps_of_the_base_model() -> None:
    check_ten_steps(Wav2Vec2ForSequenceClassification, full_size("base"), [24_000, 16_000])
