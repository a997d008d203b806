"""Classifiers against `transformers`: what they read, how they pool, what they freeze."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from tests.conftest import ARCHITECTURES, FEW, TINY
from tests.reference import clips, hf_model, sample_mask, tensors_of
from voc2vec_jax.checkpoints import convert
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.models import (
    ClassifierOutput,
    HubertForSequenceClassification,
    Wav2Vec2ForSequenceClassification,
)
from voc2vec_jax.models.architectures import CLASSIFIERS
from voc2vec_jax.models.parameters import Params, describe, merge, split

LENGTHS = [9_000, 5_000, 400, 3_333]
LABELS = ("laugh", "cry", "cough")
Classifier = type[Wav2Vec2ForSequenceClassification] | type[HubertForSequenceClassification]


def of_layout(layout: str, **fields: object) -> ModelConfig:
    few = {**FEW, "num_hidden_layers": 1}
    return ModelConfig(**{**TINY, **few, **ARCHITECTURES[layout], "labels": LABELS, **fields})


class OurClassifier:
    """Our model with the weights of a PyTorch one."""

    def __init__(self, architecture: Classifier, config: ModelConfig, reference: torch.nn.Module):
        self.graphdef, expected = describe(architecture, config)
        params, _ = convert.from_hf(tensors_of(reference), expected)
        self.params: Params = {path: jnp.asarray(value) for path, value in params.items()}

    def __call__(
        self, waveform: np.ndarray, lengths: np.ndarray, **options: object
    ) -> ClassifierOutput:
        def forward(params: Params, waveform: jax.Array, lengths: jax.Array) -> ClassifierOutput:
            return merge(self.graphdef, params)(waveform, lengths, **options)

        return jax.jit(forward)(self.params, waveform, lengths)


def largest_differences(
    architecture: Classifier, config: ModelConfig, lengths: list[int], attention_mask: bool
) -> dict[str, float]:
    reference = hf_model(architecture.__name__, config)
    waveform, sizes = clips(lengths)
    pooled: list[torch.Tensor] = []
    reference.classifier.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0]))
    with torch.no_grad():
        expected = reference(
            torch.tensor(waveform),
            attention_mask=sample_mask(sizes, waveform.shape[1]) if attention_mask else None,
            output_hidden_states=True,
        )
    out = OurClassifier(architecture, config, reference)(
        waveform, sizes, attention_mask=attention_mask, output_hidden_states=True
    )
    assert out.hidden_states is not None
    assert len(out.hidden_states) == len(expected.hidden_states)
    pairs = {
        "logits": (out.logits, expected.logits),
        "pooled": (out.pooled, pooled[0]),
        **{
            f"hidden_states[{i}]": pair
            for i, pair in enumerate(zip(out.hidden_states, expected.hidden_states, strict=True))
        },
    }
    assert out.logits.shape == (len(lengths), len(config.labels))
    return {
        name: float(np.abs(np.asarray(ours) - theirs.numpy()).max())
        for name, (ours, theirs) in pairs.items()
    }


QUICK = {("wav2vec2", "base", False, False), ("hubert", "large", True, True)}
"""Each family, layout, way of reading the layers and kind of attention once."""
KINDS = itertools.product(CLASSIFIERS, ARCHITECTURES, (False, True), (False, True))


@pytest.mark.parametrize(
    ("family", "layout", "weighted", "attention_mask"),
    [pytest.param(*kind, marks=() if kind in QUICK else pytest.mark.thorough) for kind in KINDS],
)
def test_logits_of_tiny_models(
    family: str, layout: str, weighted: bool, attention_mask: bool
) -> None:
    kind = {"model_type": family, "use_weighted_layer_sum": weighted}
    config = ModelConfig(**{**TINY, **ARCHITECTURES[layout], "labels": LABELS, **kind})
    differences = largest_differences(CLASSIFIERS[family], config, LENGTHS, attention_mask)
    assert max(differences.values()) <= 1e-5, differences


@pytest.mark.slow
@pytest.mark.parametrize("attention_mask", [False, True])
@pytest.mark.parametrize("layout", ARCHITECTURES)
@pytest.mark.parametrize("family", CLASSIFIERS)
def test_logits_of_full_size_models(family: str, layout: str, attention_mask: bool) -> None:
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    large = {**sizes, "intermediate_size": 4096} if layout == "large" else {}
    config = ModelConfig(
        **ARCHITECTURES[layout],
        **large,
        model_type=family,
        labels=LABELS,
        use_weighted_layer_sum=True,
    )
    lengths = [48_000, 21_000, 400]
    differences = largest_differences(CLASSIFIERS[family], config, lengths, attention_mask)
    print({name: f"{value:.1e}" for name, value in differences.items()})
    assert max(differences.values()) <= 1e-4, differences


def test_features_may_go_without_a_norm_in_hubert() -> None:
    config = of_layout("base", model_type="hubert", feat_proj_layer_norm=False)
    differences = largest_differences(HubertForSequenceClassification, config, LENGTHS, True)
    assert max(differences.values()) <= 1e-5, differences


def test_the_older_last_hidden_state_moves_the_weighted_sum() -> None:
    """Up to transformers 4.57 the last hidden state of a pre-norm model had passed the norm."""
    config = of_layout("large", use_weighted_layer_sum=True, final_norm_in_hidden_states=True)
    reference = hf_model("Wav2Vec2ForSequenceClassification", config)
    waveform, sizes = clips([6_000])
    out = OurClassifier(Wav2Vec2ForSequenceClassification, config, reference)(
        waveform, sizes, output_hidden_states=True
    )
    assert out.hidden_states is not None
    np.testing.assert_array_equal(out.hidden_states[-1], out.last_hidden_state)
    with torch.no_grad():
        encoded = reference.wav2vec2(torch.tensor(waveform), output_hidden_states=True)
        states = torch.stack([*encoded.hidden_states[:-1], encoded.last_hidden_state])
        weights = torch.softmax(reference.layer_weights, -1)
        hidden = (weights[:, None, None, None] * states).sum(0)
        older = reference.classifier(reference.projector(hidden).mean(1))
        newer = reference(torch.tensor(waveform)).logits
    np.testing.assert_allclose(out.logits, older.numpy(), atol=1e-5)
    assert float((older - newer).abs().max()) > 1e-3


def test_masked_pooling_leaves_padding_out() -> None:
    config = of_layout("base")
    reference = hf_model("Wav2Vec2ForSequenceClassification", config)
    ours = OurClassifier(Wav2Vec2ForSequenceClassification, config, reference)
    waveform, sizes = clips([5_000])
    alone = ours(waveform, sizes, padding="masked").logits
    padded = ours(np.pad(waveform, ((0, 0), (0, 20_000))), sizes, padding="masked").logits
    np.testing.assert_allclose(padded, alone, atol=1e-5)


@pytest.mark.unoptimised
@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_the_feature_encoder_can_be_frozen(factor: float) -> None:
    config = of_layout("base")
    reference = hf_model("Wav2Vec2ForSequenceClassification", config)
    ours = OurClassifier(Wav2Vec2ForSequenceClassification, config, reference)
    waveform, sizes = clips([5_000])

    def loss(params: Params) -> jax.Array:
        model = merge(ours.graphdef, params)
        return jnp.sum(model(waveform, sizes, feature_grad_mult=factor).logits[:, 0])

    gradients = jax.jit(jax.grad(loss))(ours.params)
    moved = {path for path, gradient in gradients.items() if np.abs(gradient).max() > 0}
    convolutions = {path for path in gradients if "feature_extractor" in path}
    assert len(convolutions) == 5
    assert moved & convolutions == (convolutions if factor else set())
    assert "wav2vec2.feature_projection.projection.kernel" in moved


def test_a_hidden_layer_sum_needs_no_hidden_states_in_the_output() -> None:
    config = of_layout("base", use_weighted_layer_sum=True)
    reference = hf_model("Wav2Vec2ForSequenceClassification", config)
    ours = OurClassifier(Wav2Vec2ForSequenceClassification, config, reference)
    assert ours(*clips([5_000])).hidden_states is None


@pytest.mark.unoptimised
def test_a_new_head_starts_as_in_transformers() -> None:
    """Weights N(0, 0.02), biases 0, layers weighed alike."""
    one = {"conv_dim": (8,), "conv_kernel": (10,), "conv_stride": (5,)}
    config = of_layout("base", **one, use_weighted_layer_sum=True, hidden_size=64)

    @jax.jit
    def make() -> Params:
        return split(Wav2Vec2ForSequenceClassification(config, rngs=nnx.Rngs(0)))[1]

    params = make()
    kernel = np.asarray(params["projector.kernel"])
    assert kernel.shape == (64, 256)
    assert kernel.std() == pytest.approx(0.02, rel=0.05)
    assert not np.asarray(params["projector.bias"]).any()
    assert not np.asarray(params["classifier.bias"]).any()
    np.testing.assert_allclose(params["layer_weights"], np.full(2, 1 / 2))
