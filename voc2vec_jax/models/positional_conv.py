"""The positional convolution: a weight-normed, grouped convolution with a very long kernel."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from voc2vec_jax import ops


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
        return ops.grouped_conv(x, weight.astype(x.dtype), self.groups) + bias.astype(x.dtype)


class PositionalConvEmbedding(nnx.Module):
    """Relative positions as `gelu(conv(x))`, to be added to `x`."""

    def __init__(self, channels: int, kernel_size: int, groups: int, *, rngs: nnx.Rngs):
        self.conv = WeightNormConv(channels, kernel_size, groups, rngs=rngs)

    @jax.named_scope("pos_conv_embed")
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, T, D] -> [B, T, D]
        return ops.gelu(self.conv(x))


def _tap_norm(weight: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(weight), axis=(1, 2), keepdims=True))
