"""HuBERT: the encoder of wav2vec 2.0 under another name; what differs is how it is trained."""

from typing import ClassVar

import jax
from flax import nnx, struct

from voc2vec_jax.config import ModelConfig
from voc2vec_jax.models.layers import Key, torch_linear
from voc2vec_jax.models.wav2vec2 import (
    ModelOutput,
    ModelType,
    Padding,
    Wav2Vec2Model,
    WithEncoder,
)


class HubertModel(Wav2Vec2Model):
    """The encoder of HuBERT (`transformers.HubertModel`).

    The same function with the same tensor names as `Wav2Vec2Model`, except that
    `feat_proj_layer_norm=False` leaves out the norm before the projection.
    """

    model_type: ClassVar[ModelType] = "hubert"


@struct.dataclass
class HubertPretrainingOutput(WithEncoder):
    """What the labels of frames are predicted from, and the frames."""

    predictions: jax.Array  # [B, T, P] to be compared with the label embeddings
    encoder: ModelOutput


class HubertForPreTraining(nnx.Module):
    """Encoder, projection and an embedding per label.

    transformers has no such class. Names, shapes and initialisation of the head are those of
    fairseq's `HubertModel`: `final_proj` like any linear layer of PyTorch, `label_embs_concat`
    uniform in [0, 1).
    """

    model_type: ClassVar[ModelType] = "hubert"

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.hubert = HubertModel(config, rngs=rngs)
        self.final_proj = torch_linear(config.hidden_size, config.final_dim, rngs)
        self.label_embs_concat = nnx.Param(
            jax.random.uniform(rngs.params(), (config.num_label_classes, config.final_dim))
        )

    def __call__(
        self,
        waveform: jax.Array,
        lengths: jax.Array | None = None,
        *,
        padding: Padding = "hf",
        attention_mask: bool = False,
        span_mask: jax.Array | None = None,
        feature_grad_mult: float = 1.0,
        output_hidden_states: bool = False,
        key: Key | None = None,
    ) -> HubertPretrainingOutput:
        """Projected frames; all arguments are those of `Wav2Vec2Model`."""
        encoder = self.hubert(
            waveform,
            lengths,
            padding=padding,
            attention_mask=attention_mask,
            span_mask=span_mask,
            feature_grad_mult=feature_grad_mult,
            output_hidden_states=output_hidden_states,
            key=key,
        )
        return HubertPretrainingOutput(self.final_proj(encoder.last_hidden_state), encoder)
