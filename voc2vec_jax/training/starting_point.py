"""Where a run starts, and all that it carries along besides its arrays."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from voc2vec_jax.checkpoints.checksums import newest_whole, set_aside
from voc2vec_jax.checkpoints.orbax import Checkpoints, State
from voc2vec_jax.config import Config, TrainConfig
from voc2vec_jax.distributed import processes, sharding
from voc2vec_jax.errors import CheckpointMismatchError, ConfigError
from voc2vec_jax.objectives import Task
from voc2vec_jax.training.update import Training


class TrainingData(Protocol):
    """Where batches come from: a pure function of the step."""

    @property
    def fingerprint(self) -> str:
        """Equal if, and only if, every step reads the same samples."""
        ...

    @property
    def batches_per_epoch(self) -> int:
        """Updates in which the whole corpus is heard."""
        ...

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Clips in a batch, each number that occurs."""
        ...

    @property
    def padded_samples(self) -> tuple[int, ...]:
        """Samples in a row of a batch, each number that occurs in training."""
        ...

    @property
    def eval_padded_samples(self) -> tuple[int, ...]:
        """The same of held-out batches."""
        ...

    @property
    def corpus_hours(self) -> float:
        """Duration of what is trained on."""
        ...

    def batches(self, start_step: int, stop_step: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches of the updates from `start_step` up to `stop_step`."""
        ...

    def eval_batches(self) -> Iterator[dict[str, np.ndarray]]:
        """The held-out clips, always in the same batches; none if nothing is held out."""
        ...


@dataclass
class Progress:
    """What a run knows of itself; saved with the arrays, so that a resumed one logs the same."""

    step: int = 0
    """Updates done."""
    window: dict[str, list[float]] = field(default_factory=dict)
    """Sums and counts since the last log line."""
    heard_seconds: float = 0.0
    best_step: int | None = None
    best_value: float | None = None
    """Of the held-out figure that `train.best_by` names."""
    since_best: int = 0
    """Evaluations since then."""
    alarm: dict[str, int] = field(default_factory=dict)

    def judge(self, train: TrainConfig, step: int, value: float) -> None:
        """Takes note of the figure that decides which parameters are best."""
        best, higher = self.best_value, train.best_by != "loss"
        if best is None or (value > best if higher else value < best):
            self.best_step, self.best_value, self.since_best = step, value, 0
        else:
            self.since_best += 1

    def meta(self, config: Config, data: TrainingData) -> dict[str, Any]:
        """What stands beside the arrays in a checkpoint."""
        return {
            "progress": asdict(self),
            "config": config.to_dict(),
            "data_fingerprint": data.fingerprint,
            "versions": {"jax": jax.__version__, "python": sys.version.split()[0]},
        }


def build_training(config: Config, task: Task) -> Training:
    """What a run compiles, over all devices of all processes, which have met.

    Raises:
        ConfigError: The mesh does not fit the devices, or does not divide the model.
    """
    training = Training(config, task, sharding.build_mesh(config.mesh))
    if processes.several():
        sharding.connect(training.mesh)
    return training


def set_corrupt_aside(directory: Path) -> list[str]:
    """Moves checkpoints that are newer than the newest whole one out of the way.

    Before Orbax opens the directory, which stumbles over some of them.

    Returns:
        For each of them, in words, what is wrong and where it is now.

    Raises:
        CorruptCheckpointError: There are checkpoints, and none of them is whole.
    """

    def work() -> list[str]:
        whole, damaged = newest_whole(directory)
        return [
            f"checkpoint {step} is corrupt ({what}): moved to {set_aside(directory, step)}, going "
            f"on from step {whole}"
            for step, what in damaged.items()
        ]

    return processes.first_does(work, "looking at checkpoints")


def newest_step(checkpoints: Checkpoints) -> int | None:
    """Updates done in the newest checkpoint, None if there is none; the same on all processes.

    Raises:
        ConfigError: This process, which lists the directory itself, sees another than process 0.
    """
    step = checkpoints.latest_step()
    processes.require_same(str(step), f"{checkpoints.directory}: the newest checkpoint")
    return step


def find_start(
    training: Training,
    data: TrainingData,
    checkpoints: Checkpoints,
    initial_params: Callable[[], Mapping[str, np.ndarray]] | None,
    resume: Path | None,
) -> tuple[State, Progress, bool, list[str]]:
    """Where to begin.

    In this order: the newest checkpoint in the workdir; the newest whole one under `resume`; fresh
    state with `initial_params`; fresh state.

    Returns:
        State; progress; whether they are those of an earlier run; for each corrupt checkpoint that
        was passed over under `resume`, in words, what is wrong.
    """
    step = newest_step(checkpoints)
    if step is not None:
        return *_restore(training, data, checkpoints, step), True, []
    if resume is not None:
        state, progress, corrupt = _resume_other(training, data, resume)
        return state, progress, True, corrupt
    state = training.initial_state(initial_params() if initial_params else None)
    return state, Progress(), False, []


def _resume_other(
    training: Training, data: TrainingData, workdir: Path
) -> tuple[State, Progress, list[str]]:
    directory = workdir / "checkpoints"

    def look() -> tuple[int | None, list[str]]:
        whole, damaged = newest_whole(directory)
        return whole, [
            f"{directory / str(step)} is corrupt ({what}): passed over, going on from step {whole}"
            for step, what in damaged.items()
        ]

    if directory.is_dir():
        step, corrupt = processes.first_does(look, "looking at checkpoints")
        if step is not None:
            with Checkpoints(directory, keep=None) as checkpoints:
                state, progress = _restore(training, data, checkpoints, step)
                # The best checkpoint stays behind in the other workdir.
                progress.best_step = progress.best_value = None
                progress.since_best = 0
                return state, progress, corrupt
    raise CheckpointMismatchError(f"{workdir}: holds no checkpoint to resume from")


def _restore(
    training: Training, data: TrainingData, checkpoints: Checkpoints, step: int
) -> tuple[State, Progress]:
    meta = checkpoints.read_meta(step)
    _refuse_other_run(training.config, data, meta)
    if step > training.config.train.num_steps:
        raise ConfigError(
            f"train.num_steps={training.config.train.num_steps}: the checkpoint has {step} updates "
            "behind it; give at least as many"
        )
    unknown = meta["progress"].keys() - {known.name for known in fields(Progress)}
    if unknown:
        raise CheckpointMismatchError(
            f"{checkpoints.directory / str(step)}: holds {', '.join(sorted(unknown))} in its "
            "progress, which this version does not know; go on with the version that wrote it"
        )
    state = checkpoints.restore(step, training.described_state)
    return state, Progress(**meta["progress"])


def _refuse_other_run(config: Config, data: TrainingData, meta: Mapping[str, Any]) -> None:
    now = config.to_dict()["model"]
    # A field that the checkpoint is too old to know had its default.
    then = {**Config().to_dict()["model"], **meta["config"]["model"]}
    changed = [
        f"model.{name}: {then.get(name)} then, {now.get(name)} now"
        for name in sorted(now.keys() | then.keys())
        if then.get(name) != now.get(name)
    ]
    if changed:
        raise CheckpointMismatchError(
            "the checkpoint is of another architecture (" + "; ".join(changed) + "); use its "
            "configuration, or another --workdir"
        )
    frozen_then = meta["config"]["optim"].get("frozen", [])
    if frozen_then != list(config.optim.frozen):
        raise CheckpointMismatchError(
            f"optim.frozen: {frozen_then} then, {list(config.optim.frozen)} now; the optimiser has "
            "no state for what was frozen, so go on with the same, or start in another --workdir "
            "with --init-from"
        )
    if meta["data_fingerprint"] != data.fingerprint:
        raise CheckpointMismatchError(
            "the checkpoint was made with other data (the corpus, or how it is batched, has "
            "changed), so it cannot go on exactly; restore the data, or start in another --workdir "
            "with --init-from"
        )
