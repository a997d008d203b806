"""Computing activations again saves memory, and changes nothing else."""

import dataclasses
import functools
import math
from typing import Any, get_args

import jax
import numpy as np
import pytest

from tests import programs
from tests.conftest import ARCHITECTURES
from tests.meshes import CONFIG, batch_of
from tests.test_update import changed
from voc2vec_jax.config import Config, MeshConfig
from voc2vec_jax.config.train import Remat
from voc2vec_jax.distributed import sharding
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.models.parameters import Params
from voc2vec_jax.objectives import Wav2Vec2Task
from voc2vec_jax.training.update import Training

pytestmark = pytest.mark.unoptimised


def training_of(config: Config, remat: Remat) -> Training:
    config = changed(config, train={"remat": remat})
    return Training(
        config, Wav2Vec2Task(config), sharding.build_mesh(MeshConfig(1), jax.devices()[:1])
    )


def config_of(architecture: str) -> Config:
    """Two blocks, with dropout and layer drop."""
    model: dict[str, Any] = {
        "num_hidden_layers": 2,
        "layerdrop": 0.3,
        **ARCHITECTURES[architecture],
    }
    config = changed(CONFIG, model=model)
    assert config.model.hidden_dropout > 0
    assert config.model.attention_dropout > 0
    return config


def loss_and_gradients(config: Config, remat: Remat) -> tuple[float, Params]:
    """Of one batch, dropout and layer drop included.

    Operation by operation: compiled as a whole, programs that differ fuse differently, which blurs
    the gradients of norms by more than a millionth.
    """
    training = training_of(config, remat)
    batch, key = batch_of(0), jax.random.key(1)
    params = training.initial_state()["params"]

    def loss_of(params: Params) -> jax.Array:
        draws = training._draw(batch, key, train=True)
        loss, count = programs.loss_of(training, params, batch, draws)
        return loss / count

    loss, gradients = jax.value_and_grad(loss_of)(params)
    return float(loss), gradients


@functools.cache
def kept(architecture: str) -> tuple[float, Params]:
    """Loss and gradients where nothing is computed again."""
    return loss_and_gradients(config_of(architecture), "none")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("architecture", "remat"), [("base", "layers"), ("base", "all"), ("large", "all")]
)
def test_loss_and_gradients_are_the_same(architecture: str, remat: Remat) -> None:
    loss, gradients = kept(architecture)
    again, other = loss_and_gradients(config_of(architecture), remat)
    assert again == pytest.approx(loss, rel=1e-6)
    for path, gradient in gradients.items():
        bound = 1e-6 * np.linalg.norm(gradient)
        if path.endswith("k_proj.bias"):  # softmax does not feel it: rounding, around 0
            bound = 1e-9
        assert np.linalg.norm(other[path] - gradient) <= bound, path


def bytes_kept(remat: Remat) -> int:
    """What waits for the backward pass: the residuals of the differentiated loss."""
    training = training_of(changed(CONFIG, model={"num_hidden_layers": 8}), remat)
    batch, key = batch_of(0), jax.random.key(1)

    def backward(params: Params) -> Any:
        draws = training._draw(batch, key, train=True)
        return jax.vjp(lambda p: programs.loss_of(training, p, batch, draws)[0], params)[1]

    residuals = jax.tree.leaves(jax.eval_shape(backward, training.abstract_state["params"]))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in residuals)


def test_fewer_values_wait_for_the_backward_pass() -> None:
    """Programs of XLA:CPU need as much with it as without; for a TPU's see test_ahead.py."""
    none, layers, everything = map(bytes_kept, get_args(Remat))
    assert layers < 0.7 * none
    assert everything < 0.9 * layers


def test_what_is_compiled_depends_on_it() -> None:
    training = training_of(CONFIG, "layers")
    assert training.for_run(training.config).config is training.config
    other = dataclasses.replace(training.config.train, remat="none")
    with pytest.raises(ConfigError, match="data, seed, length and rhythm"):
        training.for_run(dataclasses.replace(training.config, train=other))
