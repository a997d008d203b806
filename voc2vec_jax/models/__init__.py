"""Flax NNX models whose attribute paths are the tensor names of Hugging Face checkpoints.

Axis legend of every file in this folder:
B batch · S samples · T frames · C convolutional channels · D model width · H heads ·
K head size · G code groups · V codes per group · P projected width (contrastive space,
label embeddings, classifier) · N classes (of a classifier, or labels of frames).

A module only names and shapes parameters. No random state lives in it: whatever is random at call
time (dropout, layer drop, Gumbel noise) is driven by a key or a draw given to the call, and
`key=None` means evaluation.
"""

from voc2vec_jax.models.classifier import (
    ClassifierOutput,
    HubertForSequenceClassification,
    Wav2Vec2ForSequenceClassification,
)
from voc2vec_jax.models.hubert import (
    HubertForPreTraining,
    HubertModel,
    HubertPretrainingOutput,
)
from voc2vec_jax.models.wav2vec2 import (
    ModelOutput,
    PretrainingOutput,
    Wav2Vec2ForPreTraining,
    Wav2Vec2Model,
)

__all__ = [
    "ClassifierOutput",
    "HubertForPreTraining",
    "HubertForSequenceClassification",
    "HubertModel",
    "HubertPretrainingOutput",
    "ModelOutput",
    "PretrainingOutput",
    "Wav2Vec2ForPreTraining",
    "Wav2Vec2ForSequenceClassification",
    "Wav2Vec2Model",
]
