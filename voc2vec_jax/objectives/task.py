"""What the loop knows of a task: it builds its model and turns a batch into a loss."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from voc2vec_jax.objectives.losses import Ratio

Batch = dict[str, jax.Array]
Metrics = dict[str, Ratio]
HostBatch = dict[str, np.ndarray]
Judged = Sequence[tuple[HostBatch, np.ndarray]]
"""Batches without their samples, each with what the model says of its rows."""


class Task(Protocol):
    """An objective. Stateless: everything random follows from the key it is given."""

    architecture: Any
    """The model class."""
    redrawn: tuple[str, ...]
    """Prefixes of the parameters that a run which starts from trained weights draws anew."""

    def init(self, key: jax.Array) -> nnx.Module:
        """A fresh model."""
        ...

    def draw(self, lengths: jax.Array, samples: int, key: jax.Array, *, train: bool = True) -> Any:
        """All that is random for clips of `lengths` [B], padded to `samples`; see `Draws`.

        It is drawn for a whole batch and then split: arrays by their first axis, while scalars go
        to all parts.
        """
        ...

    def sums(self, model: Any, batch: Batch, draws: Any, step: jax.Array) -> Any:
        """What the loss is made of: a tree of float32 that adds up over clips.

        Args:
            model: The model.
            batch: All clips of an update, or some of them.
            draws: What `draw` returned, or the part of it that belongs to these clips.
            step: Updates done.
        """
        ...

    def weigh(self, sums: Any, draws: Any, step: jax.Array) -> tuple[jax.Array, jax.Array, Metrics]:
        """Loss summed over what it counts, that count, and metrics as sums and counts.

        Args:
            sums: Of all clips of a (micro-)batch.
            draws: Of which only scalars may be read.
            step: Updates done.
        """
        ...

    def loss(
        self, model: Any, batch: Batch, draws: Any, step: jax.Array
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """`weigh` of the `sums` of a batch that is not divided."""
        return self.weigh(self.sums(model, batch, draws, step), draws, step)

    def restart_rules(self) -> str:
        """What a run that starts from trained weights takes over and what it begins anew."""
        ...


@runtime_checkable
class AddsUp(Protocol):
    """A task that is judged by sums over held-out clips, whatever batches they came in.

    Batches then have `window` [B] int32, from which follows what is drawn for a row, and `weight`
    [B] int32, 0 for rows that only fill up.
    """

    def figures(self, sums: Any) -> Metrics:
        """Held-out figures, `loss` among them, of `Task.sums` over all held-out batches."""
        ...


def heard_rows(batch: Batch) -> jax.Array:
    """[B, 1] bool, False for the rows that fill up an evaluation's batch."""
    weight = batch.get("weight")
    if weight is None:
        return jnp.ones((), bool)
    return (weight > 0)[:, None]


@runtime_checkable
class Predicts(Protocol):
    """A task that is judged by what its model says of single clips, not by its loss alone."""

    def predict(self, model: Any, batch: Batch) -> jax.Array:
        """What the model says of each row, [B, ...], without anything random."""
        ...

    def figures(self, judged: Judged) -> dict[str, float]:
        """Held-out figures, `loss` among them, of all held-out batches together."""
        ...
