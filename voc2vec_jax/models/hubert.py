"""HuBERT: the encoder of wav2vec 2.0 under another name; what differs is how it is trained."""

from typing import ClassVar

from voc2vec_jax.models.wav2vec2 import ModelType, Wav2Vec2Model


class HubertModel(Wav2Vec2Model):
    """The encoder of HuBERT (`transformers.HubertModel`).

    The same function with the same tensor names as `Wav2Vec2Model`, except that
    `feat_proj_layer_norm=False` leaves out the norm before the projection.
    """

    model_type: ClassVar[ModelType] = "hubert"
