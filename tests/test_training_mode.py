"""What only training does: dropout, layer drop, SpecAugment; each where `transformers` has it."""

import dataclasses
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.conftest import FEW, NO_DROPOUT
from tests.reference import clips, hf_model, tensors_of
from voc2vec_jax.checkpoints import convert
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.models import Wav2Vec2ForPreTraining, Wav2Vec2Model
from voc2vec_jax.models.architectures import Architecture
from voc2vec_jax.models.layers import dropout
from voc2vec_jax.models.parameters import Params, describe, merge
from voc2vec_jax.objectives.masking import spec_augment

LENGTHS = [9_000, 9_000]
RATES = {
    "hidden_dropout": 0.11,
    "activation_dropout": 0.23,
    "attention_dropout": 0.31,
    "feat_proj_dropout": 0.43,
    "feat_quantizer_dropout": 0.53,
    "layerdrop": 0.0,
}


def both(
    architecture: Architecture, config: ModelConfig, **options: object
) -> tuple[object, torch.nn.Module]:
    """Our output in training mode, and the PyTorch model that it should equal."""
    reference = hf_model(architecture.__name__, config)
    graphdef, expected = describe(architecture, config)
    params, _ = convert.from_hf(tensors_of(reference), expected)

    @jax.jit
    def forward(params: Params) -> object:
        model = merge(graphdef, params)
        return model(*clips(LENGTHS), output_hidden_states=True, **options)

    out = forward({path: jnp.asarray(value) for path, value in params.items()})
    return out, reference.train()


@pytest.fixture
def tiny_config(tiny_config: ModelConfig) -> ModelConfig:
    """That of all tests, of fewer convolutions, none of which knows of training."""
    return dataclasses.replace(tiny_config, **FEW)


@pytest.mark.parametrize(
    "architecture",
    [
        Wav2Vec2ForPreTraining,  # whose encoder is the other one
        pytest.param(Wav2Vec2Model, marks=pytest.mark.thorough),
    ],
)
def test_every_dropout_is_where_transformers_has_it(
    architecture: Architecture, tiny_config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout by a factor that tells its rate, instead of by chance, on both sides."""
    config = dataclasses.replace(tiny_config, **RATES, apply_spec_augment=False)

    def ours(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
        assert key is not None
        return x * (1 - rate)

    def theirs(
        x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        return x * (1 - p) if training else x

    for module in ("encoder", "wav2vec2"):
        monkeypatch.setattr(sys.modules[f"voc2vec_jax.models.{module}"], "dropout", ours)
    monkeypatch.setattr(functional, "dropout", theirs)
    out, reference = both(architecture, config, key=jax.random.key(0))
    reference.set_attn_implementation("eager")  # the fused one has a dropout of its own
    with torch.no_grad():
        waveform = torch.tensor(clips(LENGTHS)[0])
        expected = reference(waveform, output_hidden_states=True)
    hidden = getattr(out, "encoder", out).hidden_states
    for mine, other in zip(hidden, expected.hidden_states, strict=True):
        np.testing.assert_allclose(mine, other.numpy(), atol=1e-5)
    if architecture is Wav2Vec2ForPreTraining:
        np.testing.assert_allclose(
            out.predictions, expected.projected_states.numpy(), atol=1e-5, rtol=1e-5
        )
        with torch.no_grad():
            features = reference.dropout_features(reference.wav2vec2(waveform).extract_features)
        kernel = reference.quantizer.weight_proj(features)
        probabilities = torch.softmax(kernel.reshape(*kernel.shape[:2], 2, -1), -1)
        np.testing.assert_allclose(
            out.quantized.probabilities, probabilities.detach().numpy(), atol=1e-5
        )


def test_dropout_keeps_the_expected_share_and_scale() -> None:
    out = np.asarray(dropout(jnp.ones((400, 500)), 0.3, jax.random.key(1)))
    error = np.sqrt(0.3 * 0.7 / out.size)
    assert abs((out == 0).mean() - 0.3) < 4 * error
    np.testing.assert_allclose(out[out != 0], 1 / 0.7, rtol=1e-6)


@pytest.mark.parametrize(
    "rate",
    [
        0.3,
        pytest.param(0.0, marks=pytest.mark.thorough),
        pytest.param(0.9, marks=pytest.mark.thorough),
    ],
)
def test_layer_drop_skips_whole_blocks_at_its_rate(rate: float, tiny_config: ModelConfig) -> None:
    config = dataclasses.replace(
        tiny_config,
        **{**NO_DROPOUT, "layerdrop": rate},
        num_hidden_layers=4,
    )
    reference = hf_model("Wav2Vec2Model", config)
    graphdef, expected = describe(Wav2Vec2Model, config)
    params, _ = convert.from_hf(tensors_of(reference), expected)
    waveform, lengths = clips([2_000])

    @jax.jit
    def skipped(key: jax.Array) -> jax.Array:
        out = merge(graphdef, params)(waveform, lengths, output_hidden_states=True, key=key)
        states = out.hidden_states
        return jnp.stack([jnp.all(a == b) for a, b in itertools.pairwise(states)])

    trials = np.stack([skipped(key) for key in jax.random.split(jax.random.key(0), 100)])
    error = np.sqrt(max(rate * (1 - rate), 1e-9) / trials.size)
    assert abs(trials.mean() - rate) <= 4 * error
    if rate == 0.3:
        assert len({tuple(row) for row in trials.tolist()}) > 8  # blocks are drawn one by one


def test_spec_augment_hides_the_same_frames_and_channels(
    tiny_config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(tiny_config, **NO_DROPOUT, mask_feature_prob=0.2)
    rng = np.random.default_rng(0)
    frames = 27
    spans = rng.random((2, frames)) < 0.4
    channels = rng.random((2, config.hidden_size)) < 0.3
    module = sys.modules["transformers.models.wav2vec2.modeling_wav2vec2"]
    drawn = {frames: spans, config.hidden_size: channels}
    monkeypatch.setattr(module, "_compute_mask_indices", lambda shape, *_, **__: drawn[shape[1]])
    out, reference = both(
        Wav2Vec2Model, config, span_mask=jnp.asarray(spans), channel_mask=jnp.asarray(channels)
    )
    assert out.frame_mask.shape == (2, frames)
    with torch.no_grad():
        expected = reference(torch.tensor(clips(LENGTHS)[0]))
    np.testing.assert_allclose(out.last_hidden_state, expected.last_hidden_state.numpy(), atol=1e-5)


@pytest.mark.thorough
def test_spec_augment_hides_as_much_as_transformers() -> None:
    """Ten frames twice at least: a tenth of a clip of 4 s, and more of shorter ones."""
    config = ModelConfig(mask_feature_prob=0.1, mask_feature_length=8)
    counts = np.array([199, 60, 25])
    draw = jax.jit(lambda key: spec_augment(key, jnp.asarray(counts), 199, config))
    spans, channels = jax.vmap(draw)(jax.random.split(jax.random.key(0), 400))
    module = sys.modules["transformers.models.wav2vec2.modeling_wav2vec2"]
    np.random.seed(0)  # noqa: NPY002 - transformers draws from it
    valid = np.arange(199) < counts[:, None]
    theirs = np.stack(
        [
            module._compute_mask_indices(
                (3, 199), 0.05, 10, attention_mask=torch.tensor(valid), min_masks=2
            )
            for _ in range(400)
        ]
    )
    their_channels = np.stack(
        [module._compute_mask_indices((3, 768), 0.1, 8, min_masks=0) for _ in range(100)]
    )
    ours = np.asarray(spans)
    assert not ours[:, ~valid].any()
    for clip, count in enumerate(counts):
        shares = [mask[:, clip].sum(1) / count for mask in (ours, theirs)]
        error = np.hypot(*[share.std() / np.sqrt(len(share)) for share in shares])
        assert abs(shares[0].mean() - shares[1].mean()) < 4 * error + 1e-9, clip
    mine, other = np.asarray(channels).mean(-1), their_channels.mean(-1)
    error = np.hypot(mine.std() / np.sqrt(mine.size), other.std() / np.sqrt(other.size))
    assert abs(mine.mean() - other.mean()) < 4 * error


def test_spec_augment_hides_nothing_where_the_checkpoint_says_so() -> None:
    frames = jnp.array([99])
    off = ModelConfig(apply_spec_augment=False, mask_feature_prob=0.5)
    assert spec_augment(jax.random.key(0), frames, 99, off) == (None, None)
    draw = jax.jit(lambda key: spec_augment(key, frames, 99, ModelConfig()))
    spans, channels = draw(jax.random.key(0))
    assert spans is not None
    assert channels is None
