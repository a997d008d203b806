"""Small pieces that every block shares: dropout, its keys, norms and PyTorch's default linear."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax.nn import initializers

from voc2vec_jax import ops


@struct.dataclass
class RowKeys:
    """A key for some rows of a batch: what is drawn for a row does not depend on who else is here.

    So a device, or a micro-batch, draws for its rows what would be drawn for the whole batch.
    """

    key: jax.Array  # []
    rows: jax.Array  # [B] int32, their places in the whole batch


Key = jax.Array | RowKeys
"""What dropout and layer drop follow from; a bare key is that of a whole batch."""


def dropout(x: jax.Array, rate: float, key: Key | None) -> jax.Array:
    """Inverted dropout of x [B, ...]; the identity without a key (evaluation) or at rate 0."""
    if key is None or rate == 0:
        return x
    rows = key.rows if isinstance(key, RowKeys) else jnp.arange(x.shape[0])
    shared = batch_key(key)

    def of_row(row: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(shared, row), 1 - rate, x.shape[1:])

    return jnp.where(jax.vmap(of_row)(rows), x / (1 - rate), jnp.zeros_like(x))


def split_key(key: Key | None, count: int) -> list[Any]:
    """`count` independent keys, or as many Nones in evaluation."""
    if key is None:
        return [None] * count
    keys = list(jax.random.split(batch_key(key), count))
    return [dataclasses.replace(key, key=one) for one in keys] if isinstance(key, RowKeys) else keys


def batch_key(key: Key) -> jax.Array:
    """For what is drawn once for all rows."""
    return key.key if isinstance(key, RowKeys) else key


class LayerNorm(nnx.LayerNorm):
    """Computes in float32 whatever it is given, and gives back the dtype that it was given."""

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalises the last axis of `x`; a mask, which Flax has, is not supported."""
        assert mask is None
        assert self.scale is not None
        assert self.bias is not None
        return ops.layer_norm(x, self.scale[...], self.bias[...], self.epsilon)


def layer_norm(features: int, epsilon: float, rngs: nnx.Rngs) -> LayerNorm:
    """Layer norm over the last axis with the two-pass variance that PyTorch uses."""
    return LayerNorm(features, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


def encoder_linear(in_features: int, out_features: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Linear layer as fairseq initialises the transformer: N(0, 0.02), bias 0."""
    return nnx.Linear(
        in_features,
        out_features,
        kernel_init=initializers.normal(stddev=0.02),
        dot_general=ops.linear_product,
        rngs=rngs,
    )


def torch_linear(in_features: int, out_features: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Linear layer as PyTorch initialises it: weight and bias uniform in ±1/√in_features."""
    return nnx.Linear(
        in_features,
        out_features,
        kernel_init=initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
        bias_init=symmetric_uniform(1 / math.sqrt(in_features)),
        dot_general=ops.linear_product,
        rngs=rngs,
    )


def symmetric_uniform(bound: float) -> Callable[..., jax.Array]:
    """Initialiser uniform in [-bound, bound)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
