"""A run's first update and nothing more: does it fit, and what does it look like?"""

import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from voc2vec_jax import sharding
from voc2vec_jax.config import Config
from voc2vec_jax.start import TrainingData
from voc2vec_jax.tasks import Task
from voc2vec_jax.update import Training


def dry_run(
    config: Config,
    task: Task,
    data: TrainingData,
    initial_params: Callable[[], Mapping[str, np.ndarray]] | None = None,
) -> dict[str, Any]:
    """Builds everything and does the first update, writing nothing.

    Returns:
        Number of parameters, devices, shapes and first loss, compile seconds and peak memory (MiB).
    """
    training = Training(config, task, sharding.build_mesh(config.mesh))
    state = training.initial_state(initial_params() if initial_params else None)
    parameters = sum(value.size for value in state["params"].values())
    batch = next(data.batches(0, 1))
    for rows in data.batch_sizes:
        sharding.check_batch(rows, training.mesh, config.train.accumulate_steps)
    started = time.monotonic()
    _, metrics = training.step(state, sharding.place_batch(batch, training.mesh))
    loss = jax.device_get(metrics["loss"])
    return {
        "parameters": parameters,
        "mesh": dict(training.mesh.shape),
        "batch": {name: list(value.shape) for name, value in batch.items()},
        "first_loss": float(loss.total / max(loss.count, 1)),
        "compile_and_step_seconds": round(time.monotonic() - started, 1),
        "peak_memory_mib": peak_memory_mib(),
    }


def peak_memory_mib() -> int:
    """Largest resident size of this process so far."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes // (1024 * 1024 if sys.platform == "darwin" else 1024)
