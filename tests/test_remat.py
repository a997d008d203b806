"""Computing activations again saves memory, and changes nothing else."""

import dataclasses
from typing import Any, get_args

import jax
import numpy as np
import pytest

from tests.conftest import ARCHITECTURES
from tests.meshes import CONFIG, batch_of
from tests.test_update import changed
from tools.ahead.program import abstract_batch
from tools.ahead.sweep import with_clips
from voc2vec_jax import sharding
from voc2vec_jax.config import Config, ConfigError, MeshConfig
from voc2vec_jax.models.parameters import Params
from voc2vec_jax.run_config import Remat
from voc2vec_jax.tasks import Wav2Vec2Task
from voc2vec_jax.update import Training


def training_of(config: Config, remat: Remat) -> Training:
    config = changed(config, train={"remat": remat})
    return Training(
        config, Wav2Vec2Task(config), sharding.build_mesh(MeshConfig(1), jax.devices()[:1])
    )


def loss_and_gradients(config: Config, remat: Remat) -> tuple[float, Params]:
    """Of one batch, dropout and layer drop included."""
    training = training_of(config, remat)
    batch, key = batch_of(0), jax.random.key(1)
    params = training.initial_state()["params"]

    def loss_of(params: Params) -> jax.Array:
        loss, count, _ = training._loss(
            params, batch, training._draw(batch, key, True), np.int32(0)
        )
        return loss / count

    loss, gradients = jax.jit(jax.value_and_grad(loss_of))(params)
    return float(loss), gradients


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradients_are_the_same(architecture: str) -> None:
    model: dict[str, Any] = {
        "num_hidden_layers": 3,
        "layerdrop": 0.3,
        **ARCHITECTURES[architecture],
    }
    config = changed(CONFIG, model=model)
    assert config.model.hidden_dropout > 0
    assert config.model.attention_dropout > 0
    loss, gradients = loss_and_gradients(config, "none")
    for remat in ("layers", "all"):
        again, other = loss_and_gradients(config, remat)
        assert again == pytest.approx(loss, rel=1e-6)
        for path, gradient in gradients.items():
            scale = float(np.linalg.norm(gradient))
            assert np.linalg.norm(other[path] - gradient) <= 1e-6 * scale, (remat, path)


def test_fewer_values_wait_for_the_backward_pass() -> None:
    config = changed(CONFIG, model={"num_hidden_layers": 8, "layerdrop": 0.0})
    temporaries = []
    for remat in get_args(Remat):
        training = training_of(with_clips(config, 8, 2.0), remat)
        batch = abstract_batch(training.config, training.mesh, 2.0)
        memory: Any = training.lower_step(batch).compile().memory_analysis()
        temporaries.append(memory.temp_size_in_bytes)
    none, layers, everything = temporaries
    assert layers < 0.7 * none
    assert everything < layers


def test_what_is_compiled_depends_on_it() -> None:
    training = training_of(CONFIG, "layers")
    assert training.for_run(training.config).config is training.config
    other = dataclasses.replace(training.config.train, remat="none")
    with pytest.raises(ConfigError, match="data, seed, length and rhythm"):
        training.for_run(dataclasses.replace(training.config, train=other))
