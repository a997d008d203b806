"""The convolutional encoder: waveform to 50 feature frames a second."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from voc2vec_jax import ops
from voc2vec_jax.audio.frame_grid import frames_from_samples
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.config.train import Remat
from voc2vec_jax.models.layers import layer_norm, symmetric_uniform


class TimeNorm(nnx.Module):
    """Group norm with one group per channel, so mean and variance run over time.

    In base models this is the only place in the convolutions where padding reaches the valid frames
    of a clip; a mask keeps it out. It holds the parameters; the equation stands in
    `ops/normalised_convolution.py`, together with the convolution before it, whose bias, if there
    is one, the norm takes away again.
    """

    def __init__(self, channels: int, epsilon: float):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones((channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,)))


def _norm(config: ModelConfig, index: int, rngs: nnx.Rngs) -> nnx.LayerNorm | TimeNorm | None:
    channels = config.conv_dim[index]
    if config.feat_extract_norm == "layer":
        return layer_norm(channels, config.layer_norm_eps, rngs)
    return TimeNorm(channels, config.layer_norm_eps) if index == 0 else None


class ConvLayer(nnx.Module):
    """Convolution, norm (none, over time, or over channels), GELU."""

    def __init__(self, config: ModelConfig, index: int, *, rngs: nnx.Rngs):
        in_channels = config.conv_dim[index - 1] if index else 1
        channels, kernel = config.conv_dim[index], config.conv_kernel[index]
        self.stride = config.conv_stride[index]
        self.conv = nnx.Conv(
            in_channels,
            channels,
            kernel_size=(kernel,),
            strides=(self.stride,),
            padding="VALID",
            use_bias=config.conv_bias,
            kernel_init=initializers.variance_scaling(2.0, "fan_in", "normal"),
            bias_init=symmetric_uniform(1 / math.sqrt(in_channels * kernel)),
            rngs=rngs,
        )
        # Hugging Face calls either norm `layer_norm`.
        self.layer_norm = _norm(config, index, rngs)

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None,
        dtype: jax.typing.DTypeLike = jnp.float32,
    ) -> jax.Array:
        """Args: `x` [B, T, C]; `mask` [B, T'] of the output frames, only read by `TimeNorm`.

        The norm reads the convolution's output in `dtype`, in which it gives back its own.
        """
        norm, kernel = self.layer_norm, self.conv.kernel[...]
        if isinstance(norm, TimeNorm):
            scale, bias = norm.scale[...], norm.bias[...]
            x = ops.normalised_conv(
                x, kernel, mask, scale, bias, stride=self.stride, epsilon=norm.epsilon, dtype=dtype
            )
            return ops.gelu(x)
        x = ops.strided_conv(x, kernel, self.stride)
        if self.conv.bias is not None:
            x = x + self.conv.bias[...].reshape(1, 1, -1)
        x = x.astype(dtype)
        return ops.gelu(x if norm is None else norm(x))


class FeatureEncoder(nnx.Module):
    """The stack of convolutions; strides of 5·2⁶ samples and a receptive field of 400 in all."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.kernels, self.strides = config.conv_kernel, config.conv_stride
        self.remat: Remat = "none"  # training sets it: no part of what a model is
        self.conv_layers = nnx.List(
            [ConvLayer(config, index, rngs=rngs) for index in range(len(config.conv_dim))]
        )

    @jax.named_scope("feature_extractor")
    def __call__(
        self,
        waveform: jax.Array,
        lengths: jax.Array | None = None,
        dtype: jax.typing.DTypeLike = jnp.float32,
    ) -> jax.Array:
        """Features of a batch of signals.

        Args:
            waveform: [B, S] float32.
            lengths: [B] true samples, to keep padding out of the norm over time; None lets the
                norm see it, as the reference implementations do.
            dtype: In which what follows computes.

        Returns:
            [B, T, C] in `dtype`; frame t of a clip depends on padding only through that norm.
        """
        x = waveform[:, :, None]  # [B, S, 1]
        first_mask = None
        if lengths is not None:
            first_frames = frames_from_samples(lengths, self.kernels[:1], self.strides[:1])
            total = frames_from_samples(waveform.shape[1], self.kernels[:1], self.strides[:1])
            first_mask = jnp.arange(total)[None, :] < first_frames[:, None]
        # Where the others compute in bfloat16, the first one does not: rounding the sound itself
        # would drown what is quiet beside what is loud, before any norm.
        for index, layer in enumerate(self.conv_layers):
            mask = first_mask if index == 0 else None
            block = functools.partial(layer, mask=mask, dtype=dtype)
            x = jax.checkpoint(block)(x) if self.remat == "all" else block(x)
        return x
