"""Layer norm over the last axis (Ba et al. 2016, https://arxiv.org/abs/1607.06450)."""

import jax
import jax.numpy as jnp

from voc2vec_jax.ops.switch import is_plain


def plain_layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """(x - mean) / √(variance + epsilon) · scale + bias, computed in float32.

    Args:
        x: [..., D].
        scale: [D].
        bias: [D].
        epsilon: Added to the variance.

    Returns:
        [..., D] in the dtype of `x`.
    """
    wide = x.astype(jnp.float32)
    mean = wide.mean(axis=-1, keepdims=True)
    deviation = jnp.sqrt(wide.var(axis=-1, keepdims=True) + epsilon)
    per_feature = (1,) * (x.ndim - 1) + (-1,)
    normalised = (wide - mean) / deviation
    return (normalised * scale.reshape(per_feature) + bias.reshape(per_feature)).astype(x.dtype)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """`plain_layer_norm` by one reciprocal root a row, multiplied before the scale is.

    Flax multiplies scale and deviation first, which makes an array of the size of `x` that XLA:CPU
    keeps for the backward pass.
    """
    if is_plain():
        return plain_layer_norm(x, scale, bias, epsilon)
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    normalised = centred * jax.lax.rsqrt(variance + epsilon)
    per_feature = (1,) * (x.ndim - 1) + (-1,)
    return (normalised * scale.reshape(per_feature) + bias.reshape(per_feature)).astype(x.dtype)
