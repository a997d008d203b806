"""What `train.precision=bf16` means: which parameters the products of the encoder read as bfloat16.

Parameters, gradients and optimiser state are float32 whatever the precision; an update reads some
of the parameters through a cast. Arrays have the dtype of the weights that made them, so that
nothing else needs to be told. What is not listed here stays float32: norms, weight norm, quantizer
and the heads of the objective. Softmax, cosine and losses are float32 too, and norms give back the
dtype that they were given.
"""

import re

import jax
import jax.numpy as jnp

from voc2vec_jax.config.train import Precision
from voc2vec_jax.models.parameters import Params
from voc2vec_jax.objectives import Batch

IN_BF16 = re.compile(
    r"(^|\.)(feature_extractor\.conv_layers\.\d+\.conv\.(kernel|bias)"
    r"|feature_projection\.projection\.(kernel|bias)"
    r"|masked_spec_embed"
    r"|encoder\.layers\.\d+\.(attention|feed_forward)\.\w+\.(kernel|bias))$"
)


def compute_dtype(precision: Precision) -> jax.typing.DTypeLike:
    """The dtype of products and of what flows between blocks."""
    return jnp.bfloat16 if precision == "bf16" else jnp.float32


def to_compute(params: Params, batch: Batch, precision: Precision) -> tuple[Params, Batch]:
    """Parameters and batch as the model reads them; the very same ones for `fp32`."""
    if precision == "fp32":
        return params, batch
    dtype = compute_dtype(precision)
    cast = {k: v.astype(dtype) if IN_BF16.search(k) else v for k, v in params.items()}
    if "waveform" in batch:
        batch = {**batch, "waveform": batch["waveform"].astype(dtype)}
    return cast, batch
