"""Convolutions of the feature encoder in the forms that XLA:CPU runs fast.

Each computes the same as the plain form, which other platforms keep.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jax import lax

DIMENSIONS = ("NWC", "WIO", "NWC")


def plain_conv(x: jax.Array, w: jax.Array, stride: int) -> jax.Array:
    """Convolution without padding: x [B, N, C], w [taps, C, O] -> [B, T, O]."""
    return lax.conv_general_dilated(x, w, (stride,), "VALID", dimension_numbers=DIMENSIONS)


def normalised_conv(
    x: jax.Array,
    w: jax.Array,
    stride: int,
    mask: jax.Array | None,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
) -> jax.Array:
    """Convolution of one channel, then a norm of every output channel over time.

    On a CPU, output and statistics are not computed one after the other over [B, T, O], much the
    largest array of the model. The outputs are linear in the `taps` samples that each frame sees,
    so their mean is that of the samples, and their variance follows from the samples' covariance
    [taps, taps]: less than half the CPU time. Other platforms, whose matrix products may round to
    fewer bits than a variance can bear, keep the plain form.

    Args:
        x: [B, N, 1].
        w: [taps, 1, O]; a bias would cancel.
        stride: In samples.
        mask: [B, T], True for the frames that the statistics count; None for all of them.
        scale: [O].
        bias: [O].
        epsilon: Added to the variance.

    Returns:
        [B, T, O] in the dtype of `x`; the norm is computed in float32.
    """
    dtype = x.dtype

    def plain(
        x: jax.Array, w: jax.Array, mask: jax.Array | None, scale: jax.Array, bias: jax.Array
    ) -> jax.Array:
        out = plain_conv(x, w, stride).astype(jnp.float32)
        return norm_over_time(out, mask, scale, bias, epsilon).astype(dtype)

    def folded(
        x: jax.Array, w: jax.Array, mask: jax.Array | None, scale: jax.Array, bias: jax.Array
    ) -> jax.Array:
        x, w = x.astype(jnp.float32), w.astype(jnp.float32)
        taps, kernel = w.shape[0], w[:, 0]  # [taps, O]
        last = x.shape[1] - taps
        seen = jnp.stack([x[:, i : last + i + 1 : stride, 0] for i in range(taps)], -1)
        centred = seen - mean_over_time(seen, mask)  # [B, T, taps]
        # Neighbouring samples are much alike, and a high-pass filter takes the difference of large
        # covariances. By frequency, what it does not pass has no weight instead.
        basis = jnp.asarray(cosine_basis(taps))
        by_frequency, response = centred @ basis, basis.T @ kernel  # [B, T, taps], [taps, O]
        counted = by_frequency if mask is None else by_frequency * mask[:, :, None]
        frames = seen.shape[1] if mask is None else _count(mask)
        covariance = jnp.einsum("bti,btj->bij", counted, by_frequency) / frames
        variance = jnp.einsum("io,bij,jo->bo", response, covariance, response)
        factor = jax.lax.rsqrt(variance + epsilon) * scale.reshape(1, -1)  # [B, O]
        weights = kernel[None] * factor[:, None]  # [B, taps, O]
        out = jnp.einsum("bti,bio->bto", centred, weights) + bias.reshape(1, 1, -1)
        return out.astype(dtype)

    normalised: jax.Array = lax.platform_dependent(
        x, w, mask, scale, bias, cpu=folded, default=plain
    )
    return normalised


def cosine_basis(size: int) -> np.ndarray:
    """The orthonormal DCT-II as columns, lowest frequency first: [size, size] float32."""
    basis: np.ndarray = scipy.fft.dct(np.eye(size), norm="ortho", axis=1).astype(np.float32)
    return basis


def norm_over_time(
    x: jax.Array, mask: jax.Array | None, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    """Group norm with one group per channel: x [B, T, C]; mask [B, T]; scale and bias [C]."""
    centred = x - mean_over_time(x, mask)
    variance = mean_over_time(jnp.square(centred), mask)
    return centred * (jax.lax.rsqrt(variance + epsilon) * scale.reshape(1, 1, -1)) + bias.reshape(
        1, 1, -1
    )


def mean_over_time(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Mean [B, 1, C] of x [B, T, C] over the frames of mask [B, T], or over all."""
    if mask is None:
        return jnp.mean(x, axis=1, keepdims=True)
    total = jnp.sum(x * mask.astype(x.dtype)[:, :, None], axis=1, keepdims=True)
    return total / _count(mask)


def _count(mask: jax.Array) -> jax.Array:  # [B, 1, 1]
    return jnp.maximum(jnp.sum(mask, axis=1), 1)[:, None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def strided_conv(x: jax.Array, w: jax.Array, stride: int) -> jax.Array:
    """`plain_conv` whose weight gradient is matrix products on a CPU.

    XLA:CPU computes that gradient as a convolution whose window is the whole clip, in 1.2 to 1.4
    times the CPU time of the products below (512 channels, strides of 2). Its output and its
    input gradient are as fast as any other form.
    """
    return plain_conv(x, w, stride)


def _forward(
    x: jax.Array, w: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return strided_conv(x, w, stride), (x, w)


def _backward(
    stride: int, residuals: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, w = residuals
    (dx,) = jax.vjp(lambda x: plain_conv(x, w, stride), x)[1](grad)

    def by_xla(x: jax.Array, grad: jax.Array) -> jax.Array:
        return jax.vjp(lambda w: plain_conv(x, w, stride), w)[1](grad)[0]

    def by_products(x: jax.Array, grad: jax.Array) -> jax.Array:
        return _weight_gradient(x, grad, w.shape[0], stride)

    dw: jax.Array = lax.platform_dependent(x, grad, cpu=by_products, default=by_xla)
    return dx, dw


def _weight_gradient(x: jax.Array, grad: jax.Array, taps: int, stride: int) -> jax.Array:
    """d/dw[tap] = Σ_t x[t · stride + tap] ⊗ grad[t], a product for every `stride` taps.

    That many neighbouring frames, side by side, are a row of a matrix, without moving anything.
    """
    batch, frames, channels = grad.shape
    width = x.shape[2]
    flat_grad = grad.reshape(batch * frames, channels)
    x = jnp.pad(
        x, ((0, 0), (0, max(-taps % stride + taps + (frames - 1) * stride - x.shape[1], 0)), (0, 0))
    )
    products = []
    for first in range(0, taps, stride):
        rows = x[:, first : first + frames * stride].reshape(batch, frames, stride * width)
        used = min(stride, taps - first) * width
        rows = rows[:, :, :used].reshape(batch * frames, used)
        products.append((rows.T @ flat_grad).reshape(-1, width, channels))
    return jnp.concatenate(products)


strided_conv.defvjp(_forward, _backward)
