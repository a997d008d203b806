"""The product of a linear layer, x W."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from voc2vec_jax.ops.exact import exact
from voc2vec_jax.ops.switch import is_plain


def plain_linear_product(x: jax.Array, kernel: jax.Array, **options: Any) -> jax.Array:
    """x [..., in] times kernel [in, out] -> [..., out]; options are those of `jnp.matmul`."""
    return jnp.matmul(x, kernel, **(options | {"precision": exact(x)}))


def linear_product(
    x: jax.Array, kernel: jax.Array, dimension_numbers: Any, **options: Any
) -> jax.Array:
    """`plain_linear_product` with all leading axes of `x` made one.

    XLA:CPU contracts the single axis of the weight gradient that is left (clips × frames) in down
    to three fifths of the time that it needs for two.

    Args:
        x: [..., in].
        kernel: [in, out], in the dtype of `x`.
        dimension_numbers: What `nnx.Linear(dot_general=linear_product)` gives: the last axis of
            `x` with the first of `kernel`.
        **options: Those of `jax.lax.dot_general`, but for the precision; see `exact`.

    Returns:
        [..., out].
    """
    if is_plain():
        return plain_linear_product(x, kernel, **options)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    options |= {"precision": exact(x)}
    product = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **options)
    return product.reshape(*x.shape[:-1], kernel.shape[-1])
