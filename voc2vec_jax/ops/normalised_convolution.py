"""Convolution of a signal, then a norm of every output channel over time.

The norm is a group norm with one group per channel (Wu and He 2018,
https://arxiv.org/abs/1803.08494), as after the first convolution of base models.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jax import lax

from voc2vec_jax.ops.strided_convolution import plain_strided_conv
from voc2vec_jax.ops.switch import is_plain


def plain_normalised_conv(
    x: jax.Array,
    w: jax.Array,
    mask: jax.Array | None,
    scale: jax.Array,
    bias: jax.Array,
    *,
    stride: int,
    epsilon: float,
    dtype: jax.typing.DTypeLike,
) -> jax.Array:
    """(y - mean) / √(variance + epsilon) · scale + bias of the convolution y, over time.

    Args:
        x: [B, N, 1].
        w: [taps, 1, O], in the dtype of `x`; a bias would cancel.
        mask: [B, T], True for the frames that the statistics count; None for all of them.
        scale: [O].
        bias: [O].
        stride: In samples.
        epsilon: Added to the variance.
        dtype: Of the convolution's output, which is much the largest array of the model, and of
            the norm's.

    Returns:
        [B, T, O] in `dtype`; the norm is computed in float32.
    """
    y = plain_strided_conv(x, w, stride).astype(dtype).astype(jnp.float32)
    centred = y - _mean_over_time(y, mask)
    variance = _mean_over_time(jnp.square(centred), mask)
    factor = jax.lax.rsqrt(variance + epsilon) * scale.reshape(1, 1, -1)  # [B, 1, O]
    return (centred * factor + bias.reshape(1, 1, -1)).astype(dtype)


def normalised_conv(
    x: jax.Array,
    w: jax.Array,
    mask: jax.Array | None,
    scale: jax.Array,
    bias: jax.Array,
    *,
    stride: int,
    epsilon: float,
    dtype: jax.typing.DTypeLike,
) -> jax.Array:
    """`plain_normalised_conv`, with the norm folded into the kernel on a CPU.

    There, output and statistics are not computed one after the other over [B, T, O], much the
    largest array of the model. The outputs are linear in the `taps` samples that each frame sees,
    so their mean is that of the samples, and their variance follows from the samples' covariance
    [taps, taps]: less than half the CPU time. Other platforms, whose matrix products may round to
    fewer bits than a variance can bear, keep the plain form.
    """
    by_norm = functools.partial(plain_normalised_conv, stride=stride, epsilon=epsilon, dtype=dtype)
    if is_plain():
        return by_norm(x, w, mask, scale, bias)
    normalised: jax.Array = lax.platform_dependent(
        x,
        w,
        mask,
        scale,
        bias,
        cpu=functools.partial(_folded, stride=stride, epsilon=epsilon, dtype=dtype),
        default=by_norm,
    )
    return normalised


def _folded(
    x: jax.Array,
    w: jax.Array,
    mask: jax.Array | None,
    scale: jax.Array,
    bias: jax.Array,
    *,
    stride: int,
    epsilon: float,
    dtype: jax.typing.DTypeLike,
) -> jax.Array:
    # A CPU multiplies float32 as such, whatever the precision.
    x, w = x.astype(jnp.float32), w.astype(jnp.float32)
    taps, kernel = w.shape[0], w[:, 0]  # [taps, O]
    last = x.shape[1] - taps
    seen = jnp.stack([x[:, i : last + i + 1 : stride, 0] for i in range(taps)], -1)
    centred = seen - _mean_over_time(seen, mask)  # [B, T, taps]
    # Neighbouring samples are much alike, so that a high-pass filter would take the difference of
    # large covariances. In a basis of cosines, what the filter stops has no weight instead.
    basis = jnp.asarray(_cosine_basis(taps))
    by_frequency, response = centred @ basis, basis.T @ kernel  # [B, T, taps], [taps, O]
    counted = by_frequency if mask is None else by_frequency * mask[:, :, None]
    frames = seen.shape[1] if mask is None else _count(mask)
    covariance = jnp.einsum("bti,btj->bij", counted, by_frequency) / frames
    variance = jnp.einsum("io,bij,jo->bo", response, covariance, response)
    factor = jax.lax.rsqrt(variance + epsilon) * scale.reshape(1, -1)  # [B, O]
    weights = kernel[None] * factor[:, None]  # [B, taps, O]
    out = jnp.einsum("bti,bio->bto", centred, weights) + bias.reshape(1, 1, -1)
    return out.astype(dtype)


def _cosine_basis(size: int) -> np.ndarray:
    """The orthonormal DCT-II as columns, lowest frequency first: [size, size] float32."""
    basis: np.ndarray = scipy.fft.dct(np.eye(size), norm="ortho", axis=1).astype(np.float32)
    return basis


def _mean_over_time(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Mean [B, 1, C] of x [B, T, C] over the frames of mask [B, T], or over all."""
    if mask is None:
        return jnp.mean(x, axis=1, keepdims=True)
    total = jnp.sum(x * mask.astype(x.dtype)[:, :, None], axis=1, keepdims=True)
    return total / _count(mask)


def _count(mask: jax.Array) -> jax.Array:  # [B, 1, 1]
    return jnp.maximum(jnp.sum(mask, axis=1), 1)[:, None, None]
