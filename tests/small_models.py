"""Weights that NumPy draws, for models that are quick to make."""

import jax.numpy as jnp
import numpy as np

from voc2vec_jax.config import ModelConfig
from voc2vec_jax.models.architectures import Architecture
from voc2vec_jax.models.parameters import Params, describe


def random_params(architecture: Architecture, config: ModelConfig, seed: int = 0) -> Params:
    """Biases and norms too; JAX would compile a program for every shape that it draws."""
    rng = np.random.default_rng(seed)
    _, shapes = describe(architecture, config)
    return {
        path: jnp.asarray(rng.normal(float(path.endswith("scale")), 0.1, shape.shape), jnp.float32)
        for path, shape in shapes.items()
    }
