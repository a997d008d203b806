"""Convolution over time with a stride and without padding."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from voc2vec_jax.ops.exact import exact
from voc2vec_jax.ops.switch import is_plain

DIMENSIONS = ("NWC", "WIO", "NWC")


def plain_strided_conv(x: jax.Array, w: jax.Array, stride: int) -> jax.Array:
    """Σ_tap x[t · stride + tap] w[tap]: x [B, N, C], w [taps, C, O] -> [B, T, O].

    Both have one dtype, which is that of the output.
    """
    return lax.conv_general_dilated(
        x, w, (stride,), "VALID", dimension_numbers=DIMENSIONS, precision=exact(x)
    )


def strided_conv(x: jax.Array, w: jax.Array, stride: int) -> jax.Array:
    """`plain_strided_conv` whose weight gradient is matrix products on a CPU.

    XLA:CPU computes that gradient as a convolution whose window is the whole clip, in 1.2 to 1.4
    times the CPU time of the products below (512 channels, strides of 2). Its output and its
    input gradient are as fast as any other form.
    """
    if is_plain():
        return plain_strided_conv(x, w, stride)
    return _strided_conv(x, w, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _strided_conv(x: jax.Array, w: jax.Array, stride: int) -> jax.Array:
    return plain_strided_conv(x, w, stride)


def _forward(
    x: jax.Array, w: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _strided_conv(x, w, stride), (x, w)


def _backward(
    stride: int, residuals: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, w = residuals
    (dx,) = jax.vjp(lambda x: plain_strided_conv(x, w, stride), x)[1](grad)

    def by_xla(x: jax.Array, grad: jax.Array) -> jax.Array:
        return jax.vjp(lambda w: plain_strided_conv(x, w, stride), w)[1](grad)[0]

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
        product = jnp.matmul(rows.T, flat_grad, precision=exact(x))
        products.append(product.reshape(-1, width, channels))
    return jnp.concatenate(products)


_strided_conv.defvjp(_forward, _backward)
