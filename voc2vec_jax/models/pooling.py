"""The one rule by which frames become a vector: their mean, padding left out."""

from typing import TypeVar

import jax
import numpy as np

Array = TypeVar("Array", jax.Array, np.ndarray)


def mean_over_frames(states: Array, real: Array | None = None) -> Array:
    """Mean of hidden states over time, in JAX or NumPy, whichever `states` are of.

    Args:
        states: [..., T, D].
        real: [..., T] bool, True for the frames that count, at least one of each row; None for all.

    Returns:
        [..., D].
    """
    xp = states.__array_namespace__()
    if real is None:
        return xp.mean(states, axis=-2)
    counted = real[..., None]
    total = xp.sum(xp.where(counted, states, xp.zeros_like(states)), axis=-2)
    return total / xp.sum(counted, axis=-2)
