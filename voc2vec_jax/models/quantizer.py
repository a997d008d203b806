"""Product quantisation by Gumbel softmax (wav2vec 2.0, section 2)."""

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax.nn import initializers

from voc2vec_jax import ops
from voc2vec_jax.config import ModelConfig


@struct.dataclass
class Quantized:
    """What the quantizer says of every frame."""

    vectors: jax.Array  # [B, T, G · width of a group]
    codes: jax.Array  # [B, T, G] int32
    probabilities: jax.Array  # [B, T, G, V], without noise and temperature, for the perplexity


class GumbelVectorQuantizer(nnx.Module):
    """G codebooks of V entries, one entry of each chosen per frame.

    The choice is hard in both directions of use: the straight-through estimator passes the
    gradient of the soft one. (The former Flax model of transformers trained with the soft choice.)
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.groups = config.num_codevector_groups
        self.entries = config.num_codevectors_per_group
        shape = (1, self.groups * self.entries, config.codevector_dim // self.groups)
        self.codevectors = nnx.Param(jax.random.uniform(rngs.params(), shape))
        self.weight_proj = nnx.Linear(
            config.conv_dim[-1],
            self.groups * self.entries,
            kernel_init=initializers.normal(stddev=1.0),
            dot_general=ops.linear_product,
            rngs=rngs,
        )

    @jax.named_scope("quantizer")
    def __call__(
        self,
        features: jax.Array,
        temperature: jax.Array | float | None = None,
        gumbel: jax.Array | None = None,
    ) -> Quantized:
        """Quantises every frame.

        Args:
            features: [B, T, C] normalised convolutional features.
            temperature: Of the Gumbel softmax; None chooses the likeliest entry (evaluation).
            gumbel: [B, T, G, V] standard Gumbel noise, needed with a temperature.
        """
        batch, frames, _ = features.shape
        logits = self.weight_proj(features.astype(jnp.float32))
        logits = logits.reshape(batch, frames, self.groups, self.entries)
        probabilities = jax.nn.softmax(logits, axis=-1)
        if temperature is None:
            codes = jnp.argmax(logits, axis=-1)
            choice = jax.nn.one_hot(codes, self.entries)
        else:
            if gumbel is None:
                raise ValueError("a Gumbel temperature needs Gumbel noise of shape [B, T, G, V]")
            soft = jax.nn.softmax((logits + gumbel) / temperature, axis=-1)
            codes = jnp.argmax(soft, axis=-1)
            choice = jax.nn.one_hot(codes, self.entries) - jax.lax.stop_gradient(soft) + soft
        books = self.codevectors[...].reshape(self.groups, self.entries, -1)
        vectors = jnp.einsum("btgv,gvd->btgd", choice, books, precision=ops.exact(books))
        return Quantized(vectors.reshape(batch, frames, -1), codes.astype(jnp.int32), probabilities)
