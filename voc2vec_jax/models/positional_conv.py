"""The positional convolution: a weight-normed, grouped convolution with a very long kernel."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from voc2vec_jax.models.layers import gelu

DIMENSIONS = ("NWC", "WIO", "NWC")
BLOCK_TAPS = 16
"""Taps per block of the weight gradient; 8 blocks of 16 were fastest for a kernel of 128."""


class WeightNormConv(nnx.Module):
    """Grouped same-length convolution whose weight is `g · v / ‖v‖`, one norm per kernel tap.

    Matches `torch.nn.utils.parametrizations.weight_norm(conv, dim=2)`.

    Args:
        channels: Width D of input and output.
        kernel_size: Taps, in frames.
        groups: Channel groups.
    """

    def __init__(self, channels: int, kernel_size: int, groups: int, *, rngs: nnx.Rngs):
        self.groups = groups
        shape = (kernel_size, channels // groups, channels)
        # fairseq's N(0, 2/√(kD)). A fresh transformers model differs: its initialiser writes to
        # a computed tensor, which leaves PyTorch's default in place.
        stddev = math.sqrt(4 / (kernel_size * channels))
        weight_v = stddev * jax.random.normal(rngs.params(), shape)
        self.weight_v = nnx.Param(weight_v)  # [taps, D / groups, D]
        self.weight_g = nnx.Param(_tap_norm(weight_v))  # [taps, 1, 1]
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(self, x: jax.Array) -> jax.Array:  # [B, T, D] -> [B, T, D]
        weight_v = self.weight_v[...]
        weight = weight_v * (self.weight_g[...] / _tap_norm(weight_v))
        bias = self.bias[...].reshape(1, 1, -1)
        return grouped_conv(x, weight.astype(x.dtype), self.groups) + bias.astype(x.dtype)


class PositionalConvEmbedding(nnx.Module):
    """Relative positions as `gelu(conv(x))`, to be added to `x`."""

    def __init__(self, channels: int, kernel_size: int, groups: int, *, rngs: nnx.Rngs):
        self.conv = WeightNormConv(channels, kernel_size, groups, rngs=rngs)

    @jax.named_scope("pos_conv_embed")
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, T, D] -> [B, T, D]
        return gelu(self.conv(x))


def _tap_norm(weight: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(weight), axis=(1, 2), keepdims=True))


def _padding(kernel_size: int) -> tuple[int, int]:
    # PyTorch pads k//2 on both sides and transformers drops the last frame of an even kernel.
    return kernel_size // 2, kernel_size - 1 - kernel_size // 2


def _convolve(x: jax.Array, w: jax.Array, groups: int, padding: tuple[int, int]) -> jax.Array:
    return lax.conv_general_dilated(
        x, w, (1,), [padding], dimension_numbers=DIMENSIONS, feature_group_count=groups
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def grouped_conv(x: jax.Array, w: jax.Array, groups: int) -> jax.Array:
    """Same-length grouped convolution with a backward pass that XLA:CPU runs fast.

    XLA:CPU differentiates a grouped convolution into one that costs about 14 times PyTorch's; the
    hand-written pass below is on par with it. Other platforms keep XLA's own.

    Args:
        x: [B, T, D].
        w: [taps, D / groups, D].
        groups: Channel groups.

    Returns:
        [B, T, D].
    """
    return _convolve(x, w, groups, _padding(w.shape[0]))


def _forward(
    x: jax.Array, w: jax.Array, groups: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return grouped_conv(x, w, groups), (x, w)


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
    _, vjp = jax.vjp(lambda x, w: _convolve(x, w, groups, _padding(w.shape[0])), x, w)
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
    product = jnp.einsum("gmk,gmn->gkn", left_side, right_side)
    dw = product.reshape(groups, block, width, blocks, width).transpose(3, 1, 2, 0, 4)
    return dx, dw.reshape(taps, width, channels)


grouped_conv.defvjp(_forward, _backward)
