"""Checkpoints by Orbax: the states of a run, to go on from exactly, and the weights in them."""

import logging
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from voc2vec_jax.checkpoints import convert
from voc2vec_jax.checkpoints.checksums import write_sums
from voc2vec_jax.checkpoints.pretrained import Preprocessor, PretrainedModel
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.distributed import processes
from voc2vec_jax.errors import CheckpointError, CheckpointWriteError, ConfigError
from voc2vec_jax.models.architectures import CLASSIFIERS

State = dict[str, Any]
"""`{"params": {path: array}, "opt_state": ..., "step": int32 [], "skipped": int32 [], …}`"""


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


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs, at length, whatever it raises; others who log by way of absl are let through."""
    return f"{os.sep}orbax{os.sep}" not in record.pathname


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
        logging.getLogger("absl").addFilter(_not_of_orbax)
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

    def restore(self, step: int, abstract_state: State, may_lack: Collection[str] = ()) -> State:
        """The state on the devices present now.

        Args:
            step: Which checkpoint.
            abstract_state: Shapes, dtypes and shardings.
            may_lack: Counts that the checkpoint may be too old to hold; they are 0 then.
        """
        saved = ocp.PyTreeCheckpointHandler().metadata(self._directory / str(step) / "state")
        new = {name: abstract_state[name] for name in may_lack if name not in saved}
        wanted = {name: leaf for name, leaf in abstract_state.items() if name not in new}
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
        )
        zeros = {k: jax.device_put(np.zeros((), v.dtype), v.sharding) for k, v in new.items()}
        return {**restored["state"], **zeros}

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


ARCHITECTURE_OF_TASK = {"wav2vec2": "Wav2Vec2ForPreTraining", "hubert": "HubertForPreTraining"}


@dataclass(frozen=True)
class OrbaxWeights:
    """Weights with what is needed to use them."""

    architecture: str
    config: ModelConfig
    preprocessor: Preprocessor
    tensors: dict[str, np.ndarray]
    """By Hugging Face name."""


def find_checkpoints(folder: Path) -> Path | None:
    """The folder of Orbax checkpoints that `folder` is or, as a working directory, holds."""
    if (folder / "checkpoints").is_dir():
        return folder / "checkpoints"
    is_one = any(child.name.isdecimal() and (child / "state").is_dir() for child in _list(folder))
    return folder if is_one else None


def _list(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def read_weights(directory: Path) -> OrbaxWeights:
    """The newest weights in a folder of checkpoints; optimiser state is not read.

    Raises:
        CheckpointError: None there, or a damaged one.
    """
    with Checkpoints(directory, keep=None) as checkpoints:
        step = checkpoints.latest_step()
        if step is None:
            raise CheckpointError(f"{directory}: holds no finished checkpoint")
        try:
            meta = checkpoints.read_meta(step)
            params = checkpoints.restore_params(step)
            return OrbaxWeights(
                architecture=_architecture(meta),
                config=ModelConfig(**meta["config"]["model"]),
                preprocessor=_preprocessor(meta),
                tensors=convert.to_hf(params),
            )
        except ConfigError as error:
            raise ConfigError(f"{directory / str(step)}: {error}") from None
        except (KeyError, TypeError, ValueError, OSError) as error:
            reason = f"{type(error).__name__}: {error}".split("\n")[0][:300]
            raise CheckpointError(
                f"{directory / str(step)}: not a whole checkpoint of voc2vec_jax ({reason})"
            ) from None


def _architecture(meta: Mapping[str, Any]) -> str:
    if "architecture" in meta:
        return str(meta["architecture"])
    config = meta["config"]
    if config["task"] == "classify":
        return CLASSIFIERS[config["model"]["model_type"]].__name__
    return ARCHITECTURE_OF_TASK[config["task"]]


def _preprocessor(meta: Mapping[str, Any]) -> Preprocessor:
    if "preprocessor" in meta:
        return Preprocessor(**meta["preprocessor"])
    return Preprocessor.of_training(meta["config"]["data"]["normalize"])


def write_weights(model: PretrainedModel, directory: Path) -> None:
    """Writes a model as the only checkpoint of a folder, for `from_pretrained` and `--init-from`.

    Raises:
        CheckpointError: The folder holds something already.
        CheckpointWriteError: It could not be written.
    """
    if _list(directory):
        raise CheckpointError(f"{directory}: is not empty; give a new folder")
    meta = {
        "architecture": model.architecture.__name__,
        "config": {"model": asdict(model.config)},
        "preprocessor": asdict(model.preprocessor),
        "versions": {"jax": jax.__version__, "orbax": ocp.__version__},
    }
    directory.mkdir(parents=True, exist_ok=True)
    with Checkpoints(directory, keep=1) as checkpoints:
        checkpoints.save(0, {"params": model.known_params}, meta)
