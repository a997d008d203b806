"""Grouped convolution over time that keeps the length: the positional one of wav2vec 2.0.

Its kernel is very long (128 frames), see section 2 of https://arxiv.org/abs/2006.11477.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from voc2vec_jax.ops.exact import exact
from voc2vec_jax.ops.switch import is_plain

DIMENSIONS = ("NWC", "WIO", "NWC")
BLOCK_TAPS = 16
"""Taps per block of the weight gradient; 8 blocks of 16 were fastest for a kernel of 128."""


def plain_grouped_conv(x: jax.Array, w: jax.Array, groups: int) -> jax.Array:
    """Convolution of each group of channels with itself, as long as its input.

    Args:
        x: [B, T, D].
        w: [taps, D / groups, D], in the dtype of `x`.
        groups: Channel groups.

    Returns:
        [B, T, D].
    """
    return _convolve(x, w, groups, _padding(w.shape[0]))


def grouped_conv(x: jax.Array, w: jax.Array, groups: int) -> jax.Array:
    """`plain_grouped_conv` with a backward pass that XLA:CPU runs fast.

    XLA:CPU differentiates a grouped convolution into one that costs about 14 times PyTorch's; the
    hand-written pass below is on par with it. Other platforms keep XLA's own.
    """
    if is_plain():
        return plain_grouped_conv(x, w, groups)
    return _grouped_conv(x, w, groups)


def _padding(kernel_size: int) -> tuple[int, int]:
    # PyTorch pads k//2 on both sides and transformers drops the last frame of an even kernel.
    return kernel_size // 2, kernel_size - 1 - kernel_size // 2


def _convolve(x: jax.Array, w: jax.Array, groups: int, padding: tuple[int, int]) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        w,
        (1,),
        [padding],
        dimension_numbers=DIMENSIONS,
        feature_group_count=groups,
        precision=exact(x),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _grouped_conv(x: jax.Array, w: jax.Array, groups: int) -> jax.Array:
    return plain_grouped_conv(x, w, groups)


def _forward(
    x: jax.Array, w: jax.Array, groups: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _grouped_conv(x, w, groups), (x, w)


def _backward(
    groups: int, residuals: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, w = residuals
    gradients: tuple[jax.Array, jax.Array] = lax.platform_dependent(
        x,
        w,
        grad,
        cpu=functools.partial(_backward_by_products, groups=groups),
        default=functools.partial(_backward_by_xla, groups=groups),
    )
    return gradients


def _backward_by_xla(
    x: jax.Array, w: jax.Array, grad: jax.Array, *, groups: int
) -> tuple[jax.Array, jax.Array]:
    _, vjp = jax.vjp(lambda x, w: plain_grouped_conv(x, w, groups), x, w)
    dx, dw = vjp(grad)
    return dx, dw


def _backward_by_products(
    x: jax.Array, w: jax.Array, grad: jax.Array, *, groups: int
) -> tuple[jax.Array, jax.Array]:
    taps, width, channels = w.shape  # width = channels / groups
    batch, frames, _ = x.shape
    left, right = _padding(taps)

    # d/dx is the same convolution with the kernel reversed in time and transposed in each group.
    reversed_w = w[::-1].reshape(taps, width, groups, width).transpose(0, 3, 2, 1)
    dx = _convolve(grad, reversed_w.reshape(taps, width, channels), groups, (right, left))

    # d/dw[tap] = Σ_t x[t + tap - left] ⊗ grad[t]. Write tap = i + j · block: x shifted by i meets
    # grad shifted by j · block, so all taps of a group are one matrix product.
    block = math.gcd(taps, BLOCK_TAPS)
    blocks = taps // block
    span = frames + taps - block

    def by_group(a: jax.Array) -> jax.Array:  # [B, N, D] -> [groups, B, N, width]
        return a.reshape(batch, -1, groups, width).transpose(2, 0, 1, 3)

    padded_x = by_group(jnp.pad(x, ((0, 0), (left, right), (0, 0))))
    grouped_grad = by_group(grad)
    shifted_x = [padded_x[:, :, i : i + span] for i in range(block)]
    shifted_grad = [
        jnp.pad(grouped_grad, ((0, 0), (0, 0), (j * block, span - frames - j * block), (0, 0)))
        for j in range(blocks)
    ]
    left_side = jnp.concatenate(shifted_x, -1).reshape(groups, batch * span, block * width)
    right_side = jnp.concatenate(shifted_grad, -1).reshape(groups, batch * span, blocks * width)
    product = jnp.einsum("gmk,gmn->gkn", left_side, right_side, precision=exact(x))
    dw = product.reshape(groups, block, width, blocks, width).transpose(3, 1, 2, 0, 4)
    return dx, dw.reshape(taps, width, channels)


_grouped_conv.defvjp(_forward, _backward)
