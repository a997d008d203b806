"""Programs that the runs of one test process share: compiling takes most of the time."""

import copy
import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from voc2vec_jax.config import Config, TrainConfig
from voc2vec_jax.models.parameters import Params, merge
from voc2vec_jax.objectives import Batch, Task, build_task
from voc2vec_jax.training import dry_run, loop, starting_point
from voc2vec_jax.training.update import Training


@functools.cache
def _built(config: Config) -> Training:
    return starting_point.build_training(config, build_task(config))


def training_of(config: Config, task: Task | None = None) -> Training:
    """What `starting_point.build_training` gives; runs that differ in length and rhythm share it.

    Seed and number of updates are inputs of the programs, so that one compilation serves all.
    """
    train = TrainConfig(
        accumulate_steps=config.train.accumulate_steps,
        gradients_added_in=config.train.gradients_added_in,
        precision=config.train.precision,
        remat=config.train.remat,
    )
    training = copy.copy(_built(dataclasses.replace(config, train=train)))
    training.config = config
    return training


def loss_of(
    training: Training, params: Params, batch: Batch, draws: Any
) -> tuple[jax.Array, jax.Array]:
    """Loss and count of a batch that is not divided, after no update, in the run's precision."""
    model = merge(training._graphdef, training._to_compute(params))
    loss, count, _ = training.task.loss(model, batch, draws, jnp.zeros((), jnp.int32))
    return loss, count


def forget() -> None:
    """The next run compiles its programs itself."""
    _built.cache_clear()


@contextmanager
def shared() -> Iterator[None]:
    """Runs of `loop.fit`, commands in this process among them, share their programs."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (loop, dry_run):
            patch.setattr(module, "build_training", training_of)
        yield
