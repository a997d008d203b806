"""wav2vec 2.0: the encoder, and the encoder with its pre-training head."""

from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from voc2vec_jax.audio.frame_grid import frames_from_samples
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.models.encoder import Encoder, FeatureProjection
from voc2vec_jax.models.feature_encoder import FeatureEncoder
from voc2vec_jax.models.layers import Key, dropout, split_key, torch_linear
from voc2vec_jax.models.quantizer import GumbelVectorQuantizer, Quantized

Padding = Literal["hf", "masked"]
ModelType = Literal["wav2vec2", "hubert"]


@struct.dataclass
class ModelOutput:
    """Frames of a batch; what lies beyond a clip's own frames has no meaning."""

    last_hidden_state: jax.Array  # [B, T, D]
    frame_mask: jax.Array  # [B, T] bool, True for real frames
    conv_features: jax.Array  # [B, T, C], before any norm
    extract_features: jax.Array  # [B, T, C], normalised: the quantizer's input
    hidden_states: tuple[jax.Array, ...] | None = None  # layers + 1 of [B, T, D]

    def first_frames(self, frames: int) -> "ModelOutput":
        """Without the frames from index `frames` on."""
        cut: ModelOutput = cut_frames(self, frames)
        return cut


class WithEncoder:
    """What all outputs share that were made from an encoder's."""

    encoder: ModelOutput

    @property
    def last_hidden_state(self) -> jax.Array:
        """[B, T, D]."""
        return self.encoder.last_hidden_state

    @property
    def hidden_states(self) -> tuple[jax.Array, ...] | None:
        """Layers + 1 of [B, T, D], where they were asked for."""
        return self.encoder.hidden_states

    @property
    def frame_mask(self) -> jax.Array:
        """[B, T] bool, True for real frames."""
        return self.encoder.frame_mask

    def first_frames(self, frames: int) -> Self:
        """Without the frames from index `frames` on."""
        cut: Self = cut_frames(self, frames)
        return cut


@struct.dataclass
class PretrainingOutput(WithEncoder):
    """Both sides of the contrastive task at every frame, and what its regularisers read."""

    predictions: jax.Array  # [B, T, P] from the context
    targets: jax.Array  # [B, T, P] from the quantizer
    quantized: Quantized
    encoder: ModelOutput


def cut_frames(tree: Any, frames: int) -> Any:
    """`tree` with every array [B, T, …] cut to [B, frames, …].

    In NumPy: as JAX arrays, each new number of frames would compile its own slices.
    """
    return jax.tree.map(lambda x: jax.device_put(np.asarray(x)[:, :frames]), tree)


class Wav2Vec2Model(nnx.Module):
    """The encoder that all tasks share (`transformers.Wav2Vec2Model`)."""

    model_type: ClassVar[ModelType] = "wav2vec2"

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.feature_extractor = FeatureEncoder(config, rngs=rngs)
        self.feature_projection = FeatureProjection(config, rngs=rngs)
        if config.has_mask_embedding:
            self.masked_spec_embed = nnx.Param(
                jax.random.uniform(rngs.params(), (config.hidden_size,))
            )
        self.encoder = Encoder(config, rngs=rngs)

    def __call__(
        self,
        waveform: jax.Array,
        lengths: jax.Array | None = None,
        *,
        padding: Padding = "hf",
        attention_mask: bool = False,
        span_mask: jax.Array | None = None,
        channel_mask: jax.Array | None = None,
        feature_grad_mult: float = 1.0,
        output_hidden_states: bool = False,
        key: Key | None = None,
    ) -> ModelOutput:
        """Encodes a batch of right-padded signals, taken as given (normalise them before).

        Args:
            waveform: [B, S] float32, 16 kHz.
            lengths: [B] true samples, each at least the receptive field; None means unpadded.
            padding: `hf` has the semantics of transformers: the norm over time sees the padding,
                and only `attention_mask` keeps it out of the transformer. `masked` excludes it
                everywhere, so that a clip's frames do not depend on its batch.
            attention_mask: Under `hf`, whether padded frames are zeroed and not attended to.
            span_mask: [B, T], True where a frame is replaced by the mask embedding.
            channel_mask: [B, D], True where a projected channel is set to 0, after `span_mask`.
            feature_grad_mult: Factor on the gradient that enters the convolutions; 0 freezes them
                and saves their backward pass.
            output_hidden_states: Return the hidden states of all blocks too.
            key: Drives dropout and layer drop; None in evaluation.
        """
        assert waveform.ndim == 2, f"waveform must be [B, S], not {waveform.shape}"
        if lengths is None:
            lengths = jnp.full(waveform.shape[:1], waveform.shape[1], jnp.int32)
        masked = padding == "masked"
        projection_key, encoder_key = split_key(key, 2)

        features = self.feature_extractor(  # [B, T, C]
            waveform,
            lengths if masked else None,
            self.feature_projection.projection.kernel.dtype,
        )
        features = scale_gradient(features, feature_grad_mult)
        frames = frames_from_samples(lengths, self.config.conv_kernel, self.config.conv_stride)
        frame_mask = jnp.arange(features.shape[1])[None, :] < frames[:, None]

        hidden, normalised = self.feature_projection(features, projection_key)
        if span_mask is not None:
            embedding = self.masked_spec_embed[...].reshape(1, 1, -1)
            hidden = jnp.where(span_mask[:, :, None], embedding, hidden)
        if channel_mask is not None:
            hidden = jnp.where(channel_mask[:, None, :], jnp.zeros_like(hidden), hidden)
        hidden, hidden_states = self.encoder(
            hidden, frame_mask if masked or attention_mask else None, encoder_key
        )
        if self.config.final_norm_in_hidden_states:
            hidden_states = (*hidden_states[:-1], hidden)
        return ModelOutput(
            last_hidden_state=hidden,
            frame_mask=frame_mask,
            conv_features=features,
            extract_features=normalised,
            hidden_states=hidden_states if output_hidden_states else None,
        )


class Wav2Vec2ForPreTraining(nnx.Module):
    """Encoder, quantizer and the two projections into the contrastive space.

    Matches `transformers.Wav2Vec2ForPreTraining` tensor by tensor; fairseq calls `project_hid`
    `final_proj`.
    """

    model_type: ClassVar[ModelType] = "wav2vec2"

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.wav2vec2 = Wav2Vec2Model(config, rngs=rngs)
        self.quantizer = GumbelVectorQuantizer(config, rngs=rngs)
        self.project_hid = torch_linear(config.hidden_size, config.proj_codevector_dim, rngs)
        self.project_q = torch_linear(config.codevector_dim, config.proj_codevector_dim, rngs)

    def __call__(
        self,
        waveform: jax.Array,
        lengths: jax.Array | None = None,
        *,
        padding: Padding = "hf",
        attention_mask: bool = False,
        span_mask: jax.Array | None = None,
        temperature: jax.Array | float | None = None,
        gumbel: jax.Array | None = None,
        feature_grad_mult: float = 1.0,
        output_hidden_states: bool = False,
        key: Key | None = None,
    ) -> PretrainingOutput:
        """Both sides of the contrastive task.

        `temperature` is that of the Gumbel softmax and needs `gumbel`, standard Gumbel noise
        [B, T, G, V]; without it the likeliest code is chosen. All else is as in `Wav2Vec2Model`.
        """
        encoder_key, quantizer_key = split_key(key, 2)
        encoder = self.wav2vec2(
            waveform,
            lengths,
            padding=padding,
            attention_mask=attention_mask,
            span_mask=span_mask,
            feature_grad_mult=feature_grad_mult,
            output_hidden_states=output_hidden_states,
            key=encoder_key,
        )
        features = dropout(
            encoder.extract_features, self.config.feat_quantizer_dropout, quantizer_key
        )
        quantized = self.quantizer(features, temperature, gumbel)
        return PretrainingOutput(
            predictions=self.project_hid(encoder.last_hidden_state),
            targets=self.project_q(quantized.vectors),
            quantized=quantized,
            encoder=encoder,
        )


@jax.custom_vjp
def _scale_gradient(x: jax.Array, factor: jax.Array) -> jax.Array:
    return x


_scale_gradient.defvjp(
    lambda x, factor: (x, factor), lambda factor, grad: (grad * factor, jnp.zeros_like(factor))
)


def scale_gradient(x: jax.Array, factor: float) -> jax.Array:
    """The identity whose gradient is multiplied by `factor` (fairseq's `GradMultiply`)."""
    if factor == 0.0:
        return jax.lax.stop_gradient(x)
    return x if factor == 1.0 else _scale_gradient(x, jnp.asarray(factor, x.dtype))
