"""The schema of a run: frozen dataclasses that check themselves; no JAX, no TensorFlow.

Values live in `families`, a base for each family of models, and in `configs/*.py`, which say what
they change in one; the other modules only say which fields exist, what they mean and which values
cannot work. Units are part of the names (`seconds`, `steps`); probabilities end in `_prob`, `prob`
or are named after the dropout they drive.
"""

from voc2vec_jax.config.data import DataConfig
from voc2vec_jax.config.model import ModelConfig
from voc2vec_jax.config.recipe import ClassifyConfig, MaskConfig, ObjectiveConfig, OptimConfig
from voc2vec_jax.config.run import Config
from voc2vec_jax.config.train import MeshConfig, TrainConfig

__all__ = [
    "ClassifyConfig",
    "Config",
    "DataConfig",
    "MaskConfig",
    "MeshConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "TrainConfig",
]
