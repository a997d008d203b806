"""A run's first update and nothing more: does it fit, and what does it look like?"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from voc2vec_jax.config import Config
from voc2vec_jax.distributed import sharding
from voc2vec_jax.objectives import Task
from voc2vec_jax.training.first_step import first_update
from voc2vec_jax.training.starting_point import TrainingData, build_training


def dry_run(
    config: Config,
    task: Task,
    data: TrainingData,
    initial_params: Callable[[], Mapping[str, np.ndarray]] | None = None,
) -> dict[str, Any]:
    """Builds everything and does the first update, writing nothing.

    Returns:
        The report that a run leaves as `first_step.json`; see `first_update`.
    """
    training = build_training(config, task)
    state = training.initial_state(initial_params() if initial_params else None)
    batch = next(data.batches(0, 1))
    for rows in data.batch_sizes:
        sharding.check_batch(rows, training.mesh, config.train.accumulate_steps)
    return first_update(training, state, sharding.place_batch(batch, training.mesh))[2]
