"""Models that are quick to compile and to make: few convolutions, weights that NumPy draws."""

import jax.numpy as jnp
import numpy as np

from voc2vec_jax.config import ModelConfig
from voc2vec_jax.models.architectures import Architecture
from voc2vec_jax.models.parameters import Params, describe

FEW_CONVOLUTIONS = {
    "conv_dim": (24, 20, 28),
    "conv_kernel": (10, 15, 9),
    "conv_stride": (5, 8, 8),
}
"""Three that see as many samples, and step as far, as the seven of the published models."""


def random_params(architecture: Architecture, config: ModelConfig, seed: int = 0) -> Params:
    """Biases and norms too; JAX would compile a program for every shape that it draws."""
    rng = np.random.default_rng(seed)
    _, shapes = describe(architecture, config)
    return {
        path: jnp.asarray(rng.normal(float(path.endswith("scale")), 0.1, shape.shape), jnp.float32)
        for path, shape in shapes.items()
    }
