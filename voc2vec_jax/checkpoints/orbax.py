"""Checkpoints by Orbax: parameters, optimiser state, step, and what is needed to go on exactly."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from voc2vec_jax.checkpoints.checksums import write_sums
from voc2vec_jax.distributed import processes
from voc2vec_jax.errors import CheckpointWriteError

State = dict[str, Any]
"""`{"params": {path: array}, "opt_state": ..., "step": int32 []}`"""


class _NewestAndBest(preservation_policy.PreservationPolicy):
    """Keeps the newest few, and the one that is best so far."""

    def __init__(self, newest: int | None):
        self.newest = newest
        self.best: int | None = None

    def should_preserve(
        self,
        checkpoints: Sequence[preservation_policy.PolicyCheckpointInfo],
        *,
        context: preservation_policy.PreservationContext,
    ) -> list[bool]:
        first = 0 if self.newest is None else len(checkpoints) - self.newest
        return [i >= first or c.step == self.best for i, c in enumerate(checkpoints)]


class Checkpoints:
    """The checkpoints of one run, newest last.

    Saving is asynchronous and atomic: a killed process leaves the previous checkpoint as the
    newest, and its half-written successor is removed at the next start. Each holds checksums of
    its files. Of several processes all take part in saving and in restoring.

    Args:
        directory: Made if missing.
        keep: How many of the newest to keep, besides the best; None only reads, and touches
            nothing.
    """

    def __init__(self, directory: Path, keep: int | None):
        # Orbax also logs, at length, whatever it raises.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._directory = directory.absolute()
        reads_only = keep is None
        self._kept = _NewestAndBest(keep)
        self._saving = -1
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._kept,
                cleanup_tmp_directories=not reads_only,
                create=not reads_only,
                read_only=reads_only,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_sums),
            ),
            item_names=("state", "meta"),
        )

    @property
    def directory(self) -> Path:
        """Where they lie."""
        return self._directory

    def latest_step(self) -> int | None:
        """Updates done in the newest checkpoint, or None if there is none."""
        step: int | None = self._manager.latest_step()
        return step

    def save(self, step: int, state: State, meta: dict[str, Any], best: int | None = None) -> None:
        """Starts to save; returns when the state may be changed again.

        Args:
            step: Updates done.
            state: Arrays.
            meta: Plain values.
            best: The step whose checkpoint stays, however many come after it.

        Raises:
            CheckpointWriteError: No room for it, or the save before it has failed.
        """
        self.wait()  # as Orbax does; what it is about to finish is still called `_saving`
        self._kept.best, self._saving = best, step
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            raise self._write_error(
                f"it needs {needed / 2**20:.0f} MiB, {free / 2**20:.0f} are free"
            )
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
                ),
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise self._write_error(str(error)) from None

    def _write_sums(self) -> None:
        # Called when all files are there and the directory has not yet got its final name.
        for unfinished in self._directory.glob(f"{self._saving}.orbax-checkpoint-tmp*"):
            write_sums(unfinished)

    def _write_error(self, reason: str) -> CheckpointWriteError:
        return CheckpointWriteError(
            f"{self._directory}: a checkpoint could not be written ({reason[:300]}); make room, "
            "then start again to go on from the one before"
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

    def restore_params(self, step: int) -> dict[str, jax.Array]:
        """The parameters alone, on the first device of this process.

        Args:
            step: Which checkpoint.
        """
        saved = ocp.PyTreeCheckpointHandler().metadata(self._directory / str(step) / "state")
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        wanted = {
            path: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
            for path, array in saved["params"].items()
        }
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    {"params": wanted},
                    restore_args=ocp.checkpoint_utils.construct_restore_args({"params": wanted}),
                    partial_restore=True,
                )
            ),
        )
        params: dict[str, jax.Array] = restored["state"]["params"]
        return params

    def wait(self) -> None:
        """Until a save in progress is done.

        Raises:
            CheckpointWriteError: It failed.
        """
        try:
            self._manager.wait_until_finished()
        except (OSError, RuntimeError, ValueError) as error:
            raise self._write_error(str(error)) from None

    def close(self) -> None:
        """Waits for a save in progress, as `wait`."""
        self.wait()
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A process that fails alone must not wait for others, which wait for it.
        if error is None or not processes.several():
            self.close()


class BestInMemory:
    """Stands in for `Checkpoints` in a run that is too short to be gone on with.

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

    def restore(self, step: int, abstract_state: State) -> State:
        """The best parameters, where `abstract_state` says; without optimiser and step."""
        return {
            "params": {
                path: jax.device_put(value, abstract_state["params"][path].sharding)
                for path, value in self._params.items()
            }
        }


def with_shardings(abstract_state: State, shardings: State) -> State:
    """The abstract state that `restore` needs."""
    described: State = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract_state,
        shardings,
    )
    return described
