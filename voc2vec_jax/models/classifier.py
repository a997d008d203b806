"""Classification of whole clips: per-frame projection, mean over frames, linear classifier."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx, struct

from voc2vec_jax import ops
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.models.hubert import HubertModel
from voc2vec_jax.models.layers import encoder_linear
from voc2vec_jax.models.pooling import mean_over_frames
from voc2vec_jax.models.wav2vec2 import ModelOutput, ModelType, Padding, Wav2Vec2Model, WithEncoder


@struct.dataclass
class ClassifierOutput(WithEncoder):
    """Scores of clips, and the frames that they come from."""

    logits: jax.Array  # [B, N], N classes in the order of `config.labels`
    pooled: jax.Array  # [B, P], mean of the projected frames
    encoder: ModelOutput

    def first_frames(self, frames: int) -> "ClassifierOutput":
        """Without the encoder's frames from index `frames` on."""
        return ClassifierOutput(self.logits, self.pooled, self.encoder.first_frames(frames))


class _Head(nnx.Module):
    """The parameters behind the encoder, and what is common to reading frames or their mean."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        if config.use_weighted_layer_sum:
            states = config.num_hidden_layers + 1
            self.layer_weights = nnx.Param(jnp.full((states,), 1 / states))
        self.projector = encoder_linear(config.hidden_size, config.classifier_proj_size, rngs)
        self.classifier = encoder_linear(config.classifier_proj_size, len(config.labels), rngs)

    def _logits(self, pooled: jax.Array) -> jax.Array:  # [B, P] -> [B, N]
        if self.config.classifier_activation == "gelu":
            pooled = ops.gelu(pooled)
        logits: jax.Array = self.classifier(pooled)
        return logits


class PooledClassifier(_Head):
    """The head alone, for hidden states that were averaged over a clip's frames beforehand.

    Averaging and projecting may change places, so that the parameters are those of a classifier.
    """

    def __call__(self, pooled: jax.Array) -> jax.Array:
        """[B, K, D] to logits [B, N]; K is layers + 1 with a weighted layer sum, otherwise 1."""
        if self.config.use_weighted_layer_sum:
            weights = jax.nn.softmax(self.layer_weights[...])
            mixed = jnp.einsum("l,bld->bd", weights, pooled, precision=ops.exact(weights))
            return self._logits(self.projector(mixed))
        return self._logits(self.projector(pooled[:, 0]))


class _SequenceClassifier(_Head):
    """A classifier; subclasses say which encoder it reads, and under which name."""

    @property
    def encoder(self) -> Wav2Vec2Model:
        raise NotImplementedError

    def __call__(
        self,
        waveform: jax.Array,
        lengths: jax.Array | None = None,
        *,
        padding: Padding = "hf",
        attention_mask: bool = False,
        output_hidden_states: bool = False,
        **options: Any,
    ) -> ClassifierOutput:
        """Classifies a batch of signals; all arguments are those of `Wav2Vec2Model`.

        The mean is over the true frames, or, under `padding="hf"` without `attention_mask`, over
        all frames, padded ones included, as in transformers.
        """
        encoder = self.encoder(
            waveform,
            lengths,
            padding=padding,
            attention_mask=attention_mask,
            output_hidden_states=output_hidden_states or self.config.use_weighted_layer_sum,
            **options,
        )
        hidden = encoder.last_hidden_state
        if self.config.use_weighted_layer_sum:
            assert encoder.hidden_states is not None
            weights = jax.nn.softmax(self.layer_weights[...])
            states = jnp.stack(encoder.hidden_states)
            hidden = jnp.einsum("l,lbtd->btd", weights, states, precision=ops.exact(weights))
        projected = self.projector(hidden)  # [B, T, P]
        masked = padding == "masked" or attention_mask
        pooled = mean_over_frames(projected, encoder.frame_mask if masked else None)
        if not output_hidden_states:
            encoder = dataclasses.replace(encoder, hidden_states=None)
        return ClassifierOutput(self._logits(pooled), pooled, encoder)


class Wav2Vec2ForSequenceClassification(_SequenceClassifier):
    """wav2vec 2.0 with a classifier (`transformers.Wav2Vec2ForSequenceClassification`)."""

    model_type: ClassVar[ModelType] = "wav2vec2"

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.wav2vec2 = Wav2Vec2Model(config, rngs=rngs)
        super().__init__(config, rngs=rngs)

    @property
    def encoder(self) -> Wav2Vec2Model:
        """The model without its head."""
        return self.wav2vec2


class HubertForSequenceClassification(_SequenceClassifier):
    """HuBERT with a classifier (`transformers.HubertForSequenceClassification`)."""

    model_type: ClassVar[ModelType] = "hubert"

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.hubert = HubertModel(config, rngs=rngs)
        super().__init__(config, rngs=rngs)

    @property
    def encoder(self) -> HubertModel:
        """The model without its head."""
        return self.hubert
