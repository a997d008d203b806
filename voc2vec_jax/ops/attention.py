"""Scaled dot-product attention of several heads (Vaswani et al. 2017, section 3.2).

https://arxiv.org/abs/1706.03762
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from voc2vec_jax.ops.exact import exact
from voc2vec_jax.ops.switch import is_plain

Dropout = Callable[[jax.Array], jax.Array]
"""What becomes of the weights [B, H, T, T] of all pairs of frames; linear in them."""


def keep_all(weights: jax.Array) -> jax.Array:
    """No dropout."""
    return weights


def plain_attention(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    key_mask: jax.Array | None = None,
    dropout: Dropout = keep_all,
) -> jax.Array:
    """dropout(softmax(Q Kᵀ / √K)) V in every head, with scores and softmax in float32.

    Args:
        query: [B, T, H, K].
        keys: [B, T, H, K].
        values: [B, T, H, K].
        key_mask: [B, T], True where a frame may be attended to; None for all frames. A clip
            without any such frame attends to all of them alike.
        dropout: Applied to the weights.

    Returns:
        [B, T, H, K] in the dtype of `values`.
    """
    scores = jnp.einsum(
        "bqhk,bthk->bhqt",
        query,
        keys,
        precision=exact(keys),
        preferred_element_type=jnp.float32,
    )
    scores = _masked(scores / math.sqrt(query.shape[-1]), key_mask)
    weights = dropout(jax.nn.softmax(scores, axis=-1).astype(values.dtype))
    return jnp.einsum("bhqt,bthk->bqhk", weights, values, precision=exact(values))


def attention(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    key_mask: jax.Array | None = None,
    dropout: Dropout = keep_all,
) -> jax.Array:
    """`plain_attention`, with the softmax normalised after the product with V, not before it.

    So K numbers of a frame are divided instead of T. Heads are moved before the products and not
    inside them, where XLA:CPU would take over twice the time for both.
    """
    if is_plain():
        return plain_attention(query, keys, values, key_mask, dropout)
    query, keys, values = (x.transpose(0, 2, 1, 3) for x in (query, keys, values))  # [B, H, T, K]
    scores = jnp.einsum(
        "bhqk,bhtk->bhqt",
        query * query.shape[-1] ** -0.5,
        keys,
        precision=exact(keys),
        preferred_element_type=jnp.float32,
    )
    scores = _masked(scores, key_mask)
    highest = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - highest)
    total = weights.sum(axis=-1, keepdims=True)
    weights = dropout(weights.astype(values.dtype))
    mixed = jnp.einsum(
        "bhqt,bhtk->bhqk",
        weights,
        values,
        precision=exact(values),
        preferred_element_type=jnp.float32,
    )
    return (mixed / total).astype(values.dtype).transpose(0, 2, 1, 3)


def _masked(scores: jax.Array, key_mask: jax.Array | None) -> jax.Array:  # [B, H, T, T]
    if key_mask is None:
        return scores
    return jnp.where(key_mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
