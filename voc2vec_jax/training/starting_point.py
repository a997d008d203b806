"""Where a run starts, and all that it carries along besides its arrays."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from voc2vec_jax.checkpoints.checksums import damage, newest_whole, set_aside
from voc2vec_jax.checkpoints.metadata import read_metadata
from voc2vec_jax.checkpoints.orbax import Checkpoints, State
from voc2vec_jax.config import Config, TrainConfig
from voc2vec_jax.distributed import processes, sharding
from voc2vec_jax.errors import CheckpointMismatchError, ConfigError
from voc2vec_jax.objectives import Task
from voc2vec_jax.training import precision
from voc2vec_jax.training.resuming import Change, changes, forgets_best, refuse
from voc2vec_jax.training.update import SKIPPED, Training


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


RANDOM = "random weights"


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
    began_with: str | None = None
    """The source of the first weights, `RANDOM` if there was none; None if the run is too old to
    know."""

    def judge(self, train: TrainConfig, step: int, value: float) -> None:
        """Takes note of the figure that decides which parameters are best."""
        best, higher = self.best_value, train.best_by != "loss"
        if best is None or (value > best if higher else value < best):
            self.best_step, self.best_value, self.since_best = step, value, 0
        else:
            self.since_best += 1

    def forget_best(self) -> None:
        """The next evaluation is the best so far."""
        self.best_step = self.best_value = None
        self.since_best = 0

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
        ConfigError: The mesh does not fit the devices, does not divide the model, or cannot add up
            gradients as asked for.
    """
    mesh = sharding.build_mesh(config.mesh)
    precision.check_sum_of_gradients(config.train, mesh)
    training = Training(config, task, mesh)
    if processes.several():
        sharding.connect(training.mesh)
    return training


@dataclass
class Start:
    """Where a stretch of training begins."""

    state: State
    progress: Progress = field(default_factory=Progress)
    resumed: bool = False
    """Whether these are of an earlier run."""
    corrupt: list[str] = field(default_factory=list)
    """For each corrupt checkpoint that was found, in words, what is wrong and what was done."""
    changed: list[Change] = field(default_factory=list)
    """In which fields the configuration is not that of the earlier run."""


def set_corrupt_aside(directory: Path) -> list[str]:
    """Moves corrupt checkpoints out of the way: the newest, and the best so far.

    Before Orbax opens the directory, which stumbles over some of them, and before a run ends that
    then cannot export what it promised.

    Returns:
        For each of them, in words, what is wrong and where it is now.

    Raises:
        CorruptCheckpointError: There are checkpoints, and none of them is whole.
    """

    def work() -> list[str]:
        whole, damaged = newest_whole(directory)
        said = [
            f"checkpoint {step} is corrupt ({what}): moved to {set_aside(directory, step)}, going "
            f"on from step {whole}"
            for step, what in damaged.items()
        ]
        meta = None if whole is None else read_metadata(directory, whole)
        best = None if meta is None else meta.get("progress", {}).get("best_step")
        if best is None or best == whole:
            return said
        without = "the next evaluation makes another; a run that is done exports its last"
        if not (directory / str(best)).is_dir():
            return [*said, f"checkpoint {best}, the best so far, is gone: {without}"]
        what = damage(directory / str(best))
        if what is not None:
            aside = set_aside(directory, best)
            said.append(
                f"checkpoint {best}, the best so far, is corrupt ({what}): moved to {aside}; "
                f"{without}"
            )
        return said

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
    accept_changes: bool = False,
    began_with: str | None = None,
) -> Start:
    """Where to begin.

    In this order: the newest checkpoint in the workdir; the newest whole one under `resume`; fresh
    state with `initial_params`; fresh state. `accept_changes`: see `resuming.refuse`. `began_with`
    names `initial_params`; a run that began with others is refused.
    """
    step = newest_step(checkpoints)
    if step is not None:
        start = _restore(training, data, checkpoints, step, accept_changes)
    elif resume is not None:
        start = _resume_other(training, data, resume, accept_changes)
    else:
        state = training.initial_state(initial_params() if initial_params else None)
        return Start(state, Progress(began_with=_place(began_with) if began_with else RANDOM))
    then = start.progress.began_with
    # Where a folder that is gone would be; of a hub id this is a path that nobody has.
    names = () if began_with is None else (began_with, _place(began_with), _absolute(began_with))
    if names and then is not None and then not in names:
        raise CheckpointMismatchError(
            f"--init-from {began_with}: the run began with {then} and is at step "
            f"{start.progress.step}; leave --init-from out to go on with it, or start in another "
            "--workdir"
        )
    return start


def _place(source: str) -> str:
    """A source by a name that does not depend on the folder from which the command was given."""
    return _absolute(source) if Path(source).expanduser().exists() else source


def _absolute(source: str) -> str:
    return str(Path(source).expanduser().absolute())


def _resume_other(
    training: Training, data: TrainingData, workdir: Path, accept_changes: bool
) -> Start:
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
                start = _restore(training, data, checkpoints, step, accept_changes)
                start.progress.forget_best()  # its checkpoint stays behind in the other workdir
                start.corrupt = corrupt
                return start
    raise CheckpointMismatchError(f"{workdir}: holds no checkpoint to resume from")


def _restore(
    training: Training,
    data: TrainingData,
    checkpoints: Checkpoints,
    step: int,
    accept_changes: bool,
) -> Start:
    config, meta = training.config, checkpoints.read_meta(step)
    if "progress" not in meta:
        raise CheckpointMismatchError(
            f"{checkpoints.directory / str(step)}: holds weights without the state of a run; start "
            "from them with --init-from"
        )
    changed = changes(config, meta["config"], step)
    same_data = meta["data_fingerprint"] == data.fingerprint
    refuse(changed, same_data=same_data, accept_changes=accept_changes)
    if step > config.train.num_steps:
        raise ConfigError(
            f"train.num_steps={config.train.num_steps}: the checkpoint has {step} updates "
            "behind it; give at least as many"
        )
    unknown = meta["progress"].keys() - {known.name for known in fields(Progress)}
    if unknown:
        raise CheckpointMismatchError(
            f"{checkpoints.directory / str(step)}: holds {', '.join(sorted(unknown))} in its "
            "progress, which this version does not know; go on with the version that wrote it"
        )
    progress = Progress(**meta["progress"])
    best = checkpoints.directory / str(progress.best_step)
    is_there = processes.first_does(best.is_dir, "looking for the best checkpoint")
    if not is_there or forgets_best(changed):
        progress.forget_best()
    state = checkpoints.restore(step, training.described_state, may_lack=SKIPPED)
    return Start(state, progress, resumed=True, changed=changed)
