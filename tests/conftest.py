"""Four virtual CPU devices, float32 everywhere, and tiny models of both kinds."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
if "PYTEST_XDIST_WORKER" in os.environ:  # a core each: more threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Most of the time goes into compiling the same few programs; processes of one suite share them,
# those included that take less than the second from which JAX keeps them.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
).strip()

import jax
import pytest

from tests import programs
from voc2vec_jax.config import ModelConfig

jax.config.update("jax_default_matmul_precision", "float32")
jax.config.update("jax_numpy_rank_promotion", "raise")

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (24, 20, 20, 20, 20, 20, 28),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_codevectors_per_group": 8,
    "codevector_dim": 12,
    "proj_codevector_dim": 10,
    "num_negatives": 7,
}
FEW = {"conv_dim": (24, 20, 28), "conv_kernel": (10, 15, 9), "conv_stride": (5, 8, 8)}
"""Three convolutions that see as many samples, and step as far, as the usual seven: they
compile in half the time."""
NO_DROPOUT = dict.fromkeys(
    (
        "hidden_dropout",
        "activation_dropout",
        "attention_dropout",
        "feat_proj_dropout",
        "feat_quantizer_dropout",
        "layerdrop",
    ),
    0.0,
)
ARCHITECTURES = {
    "base": {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False},
    "large": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
}


@pytest.fixture(params=ARCHITECTURES)
def tiny_config(request: pytest.FixtureRequest) -> ModelConfig:
    """A small model with prime-ish sizes, in the base and the large layout."""
    return ModelConfig(**TINY, **ARCHITECTURES[request.param])


@pytest.fixture(scope="module")
def shared_programs() -> Iterator[None]:
    """Runs of one model in this process compile once; those of a command's `main` too."""
    with programs.shared():
        yield
