"""The transformer: feature projection, positions, attention blocks in either norm order."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from voc2vec_jax import ops
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.config.train import Remat
from voc2vec_jax.models.layers import (
    Key,
    batch_key,
    dropout,
    encoder_linear,
    layer_norm,
    split_key,
    torch_linear,
)
from voc2vec_jax.models.positional_conv import PositionalConvEmbedding


class FeatureProjection(nnx.Module):
    """Normalises convolutional features and lifts them to the model width."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.dropout_rate = config.feat_proj_dropout
        self.layer_norm = (
            layer_norm(config.conv_dim[-1], config.layer_norm_eps, rngs)
            if config.feat_proj_layer_norm
            else None
        )
        self.projection = torch_linear(config.conv_dim[-1], config.hidden_size, rngs)

    @jax.named_scope("feature_projection")
    def __call__(self, features: jax.Array, key: Key | None) -> tuple[jax.Array, jax.Array]:
        """`features` [B, T, C] to (hidden [B, T, D], normalised features [B, T, C])."""
        normalised = features if self.layer_norm is None else self.layer_norm(features)
        return dropout(self.projection(normalised), self.dropout_rate, key), normalised


class SelfAttention(nnx.Module):
    """Multi-head self-attention over all valid frames."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.dropout_rate = config.attention_dropout
        self.k_proj = encoder_linear(width, width, rngs)
        self.v_proj = encoder_linear(width, width, rngs)
        self.q_proj = encoder_linear(width, width, rngs)
        self.out_proj = encoder_linear(width, width, rngs)

    @jax.named_scope("attention")
    def __call__(self, x: jax.Array, key_mask: jax.Array | None, key: Key | None) -> jax.Array:
        """Args: `x` [B, T, D]; `key_mask` [B, T], True where a frame may be attended to."""
        batch, frames, width = x.shape

        def heads(projected: jax.Array) -> jax.Array:  # [B, T, D] -> [B, T, H, K]
            return projected.reshape(batch, frames, self.heads, width // self.heads)

        mixed = ops.attention(
            heads(self.q_proj(x)),
            heads(self.k_proj(x)),
            heads(self.v_proj(x)),
            key_mask,
            functools.partial(dropout, rate=self.dropout_rate, key=key),
        )
        return self.out_proj(mixed.reshape(batch, frames, width))


class FeedForward(nnx.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.activation_dropout = config.activation_dropout
        self.hidden_dropout = config.hidden_dropout
        self.intermediate_dense = encoder_linear(config.hidden_size, config.intermediate_size, rngs)
        self.output_dense = encoder_linear(config.intermediate_size, config.hidden_size, rngs)

    @jax.named_scope("feed_forward")
    def __call__(self, x: jax.Array, key: Key | None) -> jax.Array:  # [B, T, D]
        activation_key, hidden_key = split_key(key, 2)
        x = dropout(ops.gelu(self.intermediate_dense(x)), self.activation_dropout, activation_key)
        return dropout(self.output_dense(x), self.hidden_dropout, hidden_key)


class EncoderLayer(nnx.Module):
    """One transformer block; the norm order is the only difference between base and large."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.pre_norm = config.do_stable_layer_norm
        self.hidden_dropout = config.hidden_dropout
        self.attention = SelfAttention(config, rngs=rngs)
        self.layer_norm = layer_norm(config.hidden_size, config.layer_norm_eps, rngs)
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.final_layer_norm = layer_norm(config.hidden_size, config.layer_norm_eps, rngs)

    def __call__(
        self, x: jax.Array, key_mask: jax.Array | None, key: Key | None
    ) -> jax.Array:  # [B, T, D]
        attention_key, hidden_key, feed_forward_key = split_key(key, 3)

        def attend(x: jax.Array) -> jax.Array:
            mixed = self.attention(x, key_mask, attention_key)
            return dropout(mixed, self.hidden_dropout, hidden_key)

        if self.pre_norm:
            x = x + attend(self.layer_norm(x))
            return x + self.feed_forward(self.final_layer_norm(x), feed_forward_key)
        x = self.layer_norm(x + attend(x))
        return self.final_layer_norm(x + self.feed_forward(x, feed_forward_key))


class Encoder(nnx.Module):
    """Positional convolution and the stack of blocks."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.pre_norm = config.do_stable_layer_norm
        self.hidden_dropout = config.hidden_dropout
        self.layer_drop = config.layerdrop
        self.remat: Remat = "none"  # training sets it: no part of what a model is
        self.pos_conv_embed = PositionalConvEmbedding(
            config.hidden_size,
            config.num_conv_pos_embeddings,
            config.num_conv_pos_embedding_groups,
            rngs=rngs,
        )
        self.layer_norm = layer_norm(config.hidden_size, config.layer_norm_eps, rngs)
        self.layers = nnx.List(
            [EncoderLayer(config, rngs=rngs) for _ in range(config.num_hidden_layers)]
        )

    def __call__(
        self, x: jax.Array, frame_mask: jax.Array | None, key: Key | None
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Contextual frames.

        Args:
            x: [B, T, D] projected features.
            frame_mask: [B, T], True for the frames that take part; None for all of them.
            key: Drives dropout and layer drop; None in evaluation.

        Returns:
            The last hidden state [B, T, D], and the layers + 1 hidden states in the convention
            of transformers 5.23: index 0 is what the first block reads, index i what block i
            returns. Under pre-norm the last of them lacks the final norm.
        """
        if frame_mask is not None:
            # The positional convolution reads 64 frames to each side: padding must look like the
            # zeros that it sees beyond the edge of an unpadded clip.
            x = jnp.where(frame_mask[:, :, None], x, jnp.zeros_like(x))
        x = x + self.pos_conv_embed(x)
        if not self.pre_norm:
            x = self.layer_norm(x)
        input_key, *layer_keys = split_key(key, 1 + len(self.layers))
        x = dropout(x, self.hidden_dropout, input_key)
        hidden_states = [x]
        for layer, layer_key in zip(self.layers, layer_keys, strict=True):
            block: Callable[..., jax.Array] = functools.partial(self._maybe_skip, layer)
            if self.remat != "none":
                block = jax.checkpoint(block)
            x = block(x, frame_mask, layer_key)
            hidden_states.append(x)
        return (self.layer_norm(x) if self.pre_norm else x), tuple(hidden_states)

    def _maybe_skip(
        self,
        layer: EncoderLayer,
        x: jax.Array,
        frame_mask: jax.Array | None,
        key: Key | None,
    ) -> jax.Array:
        """Layer drop: with probability `layerdrop` the whole batch skips the block."""
        if key is None or self.layer_drop == 0:
            return layer(x, frame_mask, key)
        drop_key, inner_key = split_key(key, 2)
        keep = jax.random.uniform(batch_key(drop_key)) > self.layer_drop

        def block(x: jax.Array) -> jax.Array:
            return layer(x, frame_mask, inner_key)

        kept: jax.Array = jax.lax.cond(keep, block, lambda x: x, x)
        return kept
