"""What a model says of held-out clips, and the figures that follow from it."""

from collections.abc import Collection, Iterable
from typing import Any

import jax
import numpy as np

from voc2vec_jax.checkpoints.orbax import State
from voc2vec_jax.distributed import processes, sharding
from voc2vec_jax.models.parameters import Params
from voc2vec_jax.objectives import AddsUp, HostBatch, Metrics, Predicts
from voc2vec_jax.training.log.metrics_file import Pairs, Window
from voc2vec_jax.training.update import Training


def held_out_figures(
    training: Training, params: Params, batches: Iterable[HostBatch]
) -> dict[str, float | None]:
    """Figures over all held-out clips, each once: what a task makes of its predictions or sums.

    Args:
        training: The run.
        params: The parameters to judge.
        batches: Always the same ones, so that figures can be compared.
    """
    task = training.task
    if isinstance(task, Predicts):
        return {**task.figures(predict(training, params, batches))}
    assert isinstance(task, AddsUp)
    sums = [
        training.evaluate(params, sharding.place_batch(batch, training.mesh)) for batch in batches
    ]
    if not sums:
        return {}
    total = jax.tree.map(lambda *parts: np.sum(parts, axis=0, dtype=float), *jax.device_get(sums))
    window = Window()
    window.add(pairs(task.figures(total)))
    return window.take()


def predict(
    training: Training, params: Params, batches: Iterable[HostBatch]
) -> list[tuple[HostBatch, np.ndarray]]:
    """What the model says of the rows of each batch; samples and features are not kept."""
    given, said = [], []
    for batch in batches:  # the device works while the host makes the next batch
        placed = sharding.place_batch(batch, training.mesh)
        said.append(training.predict(params, placed))
        # Where other processes hold rows of the batch, what is known of those is needed too.
        known = placed if processes.several() else batch
        kept = {k: v for k, v in known.items() if k not in ("waveform", "features")}
        given.append(processes.whole(kept))
    return list(zip(given, map(np.asarray, jax.device_get(said)), strict=True))


def pairs(metrics: Metrics) -> Pairs:
    """Sums and counts on the host."""
    return {
        name: (float(ratio.total), float(ratio.count))
        for name, ratio in jax.device_get(metrics).items()
    }


class BestInMemory:
    """Stands in for `Checkpoints` in a run that is too short to be resumed.

    It holds the best parameters and nothing else.
    """

    def __init__(self) -> None:
        self._params: dict[str, np.ndarray] = {}

    def save(self, step: int, state: State, meta: dict[str, Any], best: int | None = None) -> None:
        """See `Checkpoints.save`."""
        if step == best:
            # Copies: an update reuses the memory of the parameters that it is given.
            self._params = {path: np.array(value) for path, value in state["params"].items()}

    def wait(self) -> None:
        """Nothing is in progress."""

    def restore(self, step: int, abstract_state: State, may_lack: Collection[str] = ()) -> State:
        """The best parameters, where `abstract_state` says; without optimiser and step."""
        return {
            "params": {
                path: jax.device_put(value, abstract_state["params"][path].sharding)
                for path, value in self._params.items()
            }
        }
