"""What `train.precision=bf16` means: which parameters the products of the encoder read as bfloat16.

Parameters, gradients and optimiser state are float32 whatever the precision; an update reads some
of the parameters through a cast. Arrays have the dtype of the weights that made them, so that
nothing else needs to be told. What is not listed here stays float32: the sound and the first
convolution up to its norm, norms, weight norm, quantizer and the heads of the objective. Softmax,
cosine and losses are float32 too, and norms give back the dtype that they were given. Products of
float32 are computed in float32 on every platform (`ops.exact`), under `fp32` all of them.
"""

import re

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from voc2vec_jax.config.train import Precision, TrainConfig
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.models.parameters import Params

IN_BF16 = re.compile(
    r"(^|\.)(feature_extractor\.conv_layers\.(?!0\.)\d+\.conv\.(kernel|bias)"
    r"|feature_projection\.projection\.(kernel|bias)"
    r"|masked_spec_embed"
    r"|encoder\.layers\.\d+\.(attention|feed_forward)\.\w+\.(kernel|bias))$"
)
DTYPES: dict[Precision, jax.typing.DTypeLike] = {"fp32": jnp.float32, "bf16": jnp.bfloat16}


def check_sum_of_gradients(train: TrainConfig, mesh: Mesh) -> None:
    """Refuses to add up bfloat16 over several CPU devices, on which XLA ends the process."""
    on_cpu = mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"
    if train.gradients_added_in == "bf16" and on_cpu:
        raise ConfigError(
            "train.gradients_added_in='bf16': CPUs add up gradients in float32 only; leave it out"
        )


def to_compute(params: Params, precision: Precision) -> Params:
    """Parameters as the model reads them; the very same ones for `fp32`."""
    if precision == "fp32":
        return params
    return {k: v.astype(jnp.bfloat16) if IN_BF16.search(k) else v for k, v in params.items()}
