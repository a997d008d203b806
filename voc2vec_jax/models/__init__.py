"""Flax NNX models whose attribute paths are the tensor names of Hugging Face checkpoints.

Axis legend of every file in this folder:
B batch · S samples · T frames · C convolutional channels · D model width · H heads ·
K head size · G code groups · V codes per group · P projected width of the contrastive space.

A module only names and shapes parameters. No random state lives in it: whatever is random at call
time (dropout, layer drop, Gumbel noise) is driven by a key or a draw given to the call, and
`key=None` means evaluation.
"""

from voc2vec_jax.models.wav2vec2 import (
    ModelOutput,
    PretrainingOutput,
    Wav2Vec2ForPreTraining,
    Wav2Vec2Model,
)

__all__ = ["ModelOutput", "PretrainingOutput", "Wav2Vec2ForPreTraining", "Wav2Vec2Model"]
