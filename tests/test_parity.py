"""Activations against `transformers` in PyTorch, and the padding mode that it does not have."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.conftest import ARCHITECTURES, FEW, TINY
from tests.reference import clips, hf_model, sample_mask, tensors_of
from voc2vec_jax.audio.frame_grid import frames_from_samples
from voc2vec_jax.checkpoints import convert
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.models import ModelOutput, Wav2Vec2Model
from voc2vec_jax.models.parameters import Params, describe, merge

LENGTHS = [9_000, 5_000, 400, 3_333]
BASE = ModelConfig(**ARCHITECTURES["base"])
LARGE = ModelConfig(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    **ARCHITECTURES["large"],
)


class Encoder:
    """Our encoder with the weights of a PyTorch one."""

    def __init__(self, config: ModelConfig, reference: torch.nn.Module):
        self.graphdef, expected = describe(Wav2Vec2Model, config)
        params, _ = convert.from_hf(tensors_of(reference), expected)
        self.params: Params = {path: jnp.asarray(value) for path, value in params.items()}

    def __call__(self, waveform: np.ndarray, lengths: np.ndarray, **options: object) -> ModelOutput:
        @jax.jit
        def forward(params: Params, waveform: jax.Array, lengths: jax.Array) -> ModelOutput:
            model = merge(self.graphdef, params)
            return model(waveform, lengths, output_hidden_states=True, **options)

        return forward(self.params, waveform, lengths)


def largest_differences(
    config: ModelConfig, lengths: list[int], attention_mask: bool
) -> dict[str, float]:
    """Largest absolute difference of every stage, over all frames, padded ones included."""
    reference = hf_model("Wav2Vec2Model", config)
    waveform, sizes = clips(lengths)
    with torch.no_grad():
        expected = reference(
            torch.tensor(waveform),
            attention_mask=sample_mask(sizes, waveform.shape[1]) if attention_mask else None,
            output_hidden_states=True,
        )
    out = Encoder(config, reference)(waveform, sizes, attention_mask=attention_mask)
    assert out.hidden_states is not None
    assert len(out.hidden_states) == len(expected.hidden_states) == config.num_hidden_layers + 1
    pairs = {
        "extract_features": (out.extract_features, expected.extract_features),
        "last_hidden_state": (out.last_hidden_state, expected.last_hidden_state),
        **{
            f"hidden_states[{i}]": pair
            for i, pair in enumerate(zip(out.hidden_states, expected.hidden_states, strict=True))
        },
    }
    return {
        name: float(np.abs(np.asarray(ours) - theirs.numpy()).max())
        for name, (ours, theirs) in pairs.items()
    }


@pytest.mark.parametrize(
    ("layout", "attention_mask"),
    [
        ("base", False),  # each as its published checkpoints are used
        ("large", True),
        pytest.param("base", True, marks=pytest.mark.thorough),
        pytest.param("large", False, marks=pytest.mark.thorough),
    ],
)
def test_every_hidden_state_of_tiny_models(layout: str, attention_mask: bool) -> None:
    config = ModelConfig(**TINY, **ARCHITECTURES[layout])
    differences = largest_differences(config, LENGTHS, attention_mask)
    assert max(differences.values()) <= 1e-5, differences


@pytest.mark.slow
@pytest.mark.parametrize("attention_mask", [False, True])
@pytest.mark.parametrize("config", [BASE, LARGE], ids=["base", "large"])
def test_every_hidden_state_of_full_size_models(config: ModelConfig, attention_mask: bool) -> None:
    differences = largest_differences(config, [48_000, 21_000, 400], attention_mask)
    print({name: f"{value:.1e}" for name, value in differences.items()})
    assert max(differences.values()) <= 1e-4, differences


def quick(config: ModelConfig) -> ModelConfig:
    """Of fewer convolutions and blocks, where their number does not matter."""
    return dataclasses.replace(config, **FEW, num_hidden_layers=1)


def test_span_mask_replaces_the_same_frames(tiny_config: ModelConfig) -> None:
    config = quick(tiny_config)
    reference = hf_model("Wav2Vec2Model", config)
    waveform, sizes = clips([9_000, 9_000])
    encoder = Encoder(config, reference)
    hidden = np.random.default_rng(0).random((2, frames_from_samples(9_000))) < 0.4
    with torch.no_grad():
        expected = reference(torch.tensor(waveform), mask_time_indices=torch.tensor(hidden))
    out = encoder(waveform, sizes, span_mask=jnp.asarray(hidden))
    np.testing.assert_allclose(out.last_hidden_state, expected.last_hidden_state.numpy(), atol=1e-5)


def test_frame_mask_counts_the_frames_of_each_clip(tiny_config: ModelConfig) -> None:
    reference = hf_model("Wav2Vec2Model", tiny_config)
    waveform, sizes = clips(LENGTHS)
    as_above = tiny_config.feat_extract_norm == "layer"  # so that its program serves
    mask = Encoder(tiny_config, reference)(waveform, sizes, attention_mask=as_above).frame_mask
    theirs = reference._get_feat_extract_output_lengths(torch.tensor(sizes)).numpy()
    np.testing.assert_array_equal(np.asarray(mask).sum(axis=1), theirs)


@pytest.mark.parametrize(
    "length",
    [1_999, *(pytest.param(length, marks=pytest.mark.thorough) for length in (400, 8_000))],
)
def test_masked_padding_leaves_every_frame_of_a_clip_alone(
    length: int, tiny_config: ModelConfig
) -> None:
    config = quick(tiny_config)
    encoder = Encoder(config, hf_model("Wav2Vec2Model", config))
    waveform, sizes = clips([length])
    alone = encoder(waveform, sizes, padding="masked")
    long = np.pad(waveform, ((0, 0), (0, 40_000 - length)))  # one program for every length
    padded = encoder(long, sizes, padding="masked")
    frames = alone.frame_mask.shape[1]
    assert np.asarray(padded.frame_mask).sum() == frames
    assert alone.hidden_states is not None
    assert padded.hidden_states is not None
    for one, other in zip(alone.hidden_states, padded.hidden_states, strict=True):
        np.testing.assert_allclose(one, other[:, :frames], atol=1e-5)


def test_masked_equals_hf_without_padding(tiny_config: ModelConfig) -> None:
    config = quick(tiny_config)
    encoder = Encoder(config, hf_model("Wav2Vec2Model", config))
    waveform, sizes = clips([6_000, 6_000])
    masked = encoder(waveform, sizes, padding="masked").last_hidden_state
    np.testing.assert_allclose(masked, encoder(waveform, sizes).last_hidden_state, atol=1e-5)


@pytest.mark.slow
def test_how_far_padding_moves_a_base_model_in_transformers() -> None:
    """A 2 s clip padded to 7 s: pooled features move by .12 with a mask and .87 without, here."""
    reference = hf_model("Wav2Vec2Model", BASE)
    waveform, sizes = clips([32_000])
    long = np.pad(waveform, ((0, 0), (0, 80_000)))
    with torch.no_grad():
        alone = reference(torch.tensor(waveform)).last_hidden_state[0].mean(0)
        bare = reference(torch.tensor(long)).last_hidden_state[0, :99].mean(0)
        with_mask = reference(torch.tensor(long), attention_mask=sample_mask(sizes, 112_000))
    masked = with_mask.last_hidden_state[0, :99].mean(0)

    def moved(pooled: torch.Tensor) -> float:
        return float((pooled - alone).norm() / alone.norm())

    encoder = Encoder(BASE, reference)
    ours = np.asarray(encoder(long, sizes, padding="masked").last_hidden_state)[0, :99].mean(0)
    print(
        f"moved by: no mask {moved(bare):.3f}, mask {moved(masked):.3f}, "
        f"here {moved(torch.tensor(ours)):.1e}"
    )
    assert moved(bare) > 0.3
    assert moved(masked) > 0.05
    assert moved(torch.tensor(ours)) < 1e-5


def test_padding_moves_a_base_model_in_transformers(tiny_config: ModelConfig) -> None:
    """What `padding="masked"` is for; layer-norm models with a mask do not need it."""
    reference = hf_model("Wav2Vec2Model", tiny_config)
    waveform, sizes = clips([8_000])
    long = np.pad(waveform, ((0, 0), (0, 32_000)))
    with torch.no_grad():
        alone = reference(torch.tensor(waveform)).last_hidden_state
        padded = reference(torch.tensor(long), attention_mask=sample_mask(sizes, 40_000))
    moved = padded.last_hidden_state[:, : alone.shape[1]] - alone
    relative = float(moved.norm() / alone.norm())
    if tiny_config.feat_extract_norm == "group":
        assert relative > 0.05
    else:
        assert relative < 1e-5
