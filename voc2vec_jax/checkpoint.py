"""Checkpoints by Orbax: parameters, optimiser state, step, and what is needed to go on exactly."""

import logging
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp

State = dict[str, Any]
"""`{"params": {path: array}, "opt_state": ..., "step": int32 []}`"""


class CheckpointMismatchError(ValueError):
    """A checkpoint that belongs to another model or other data."""


class Checkpoints:
    """The checkpoints of one run, newest last.

    Saving is asynchronous and atomic: a killed process leaves the previous checkpoint as the
    newest, and its half-written successor is removed at the next start.

    Args:
        directory: Made if missing.
        keep: How many of the newest to keep; None only reads, and touches nothing.
    """

    def __init__(self, directory: Path, keep: int | None):
        logging.getLogger("absl").setLevel(logging.WARNING)
        reads_only = keep is None
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                cleanup_tmp_directories=not reads_only,
                create=not reads_only,
                read_only=reads_only,
            ),
            item_names=("state", "meta"),
        )

    def latest_step(self) -> int | None:
        """Updates done in the newest checkpoint, or None if there is none."""
        step: int | None = self._manager.latest_step()
        return step

    def save(self, step: int, state: State, meta: dict[str, Any]) -> None:
        """Starts to save; returns when the state may be changed again."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
            ),
        )

    def read_meta(self, step: int) -> dict[str, Any]:
        """What was saved beside the arrays."""
        restored = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        meta: dict[str, Any] = restored["meta"]
        return meta

    def restore(self, step: int, abstract_state: State) -> State:
        """The state on the devices present now.

        Args:
            step: Which checkpoint.
            abstract_state: Shapes, dtypes and shardings.
        """
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        )
        state: State = restored["state"]
        return state

    def close(self) -> None:
        """Waits for a save in progress."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def with_shardings(abstract_state: State, shardings: State) -> State:
    """The abstract state that `restore` needs."""
    described: State = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract_state,
        shardings,
    )
    return described
