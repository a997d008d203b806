"""The one loop: start somewhere, update, log, save, export. Tasks differ only in their loss."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import jax
import numpy as np

from voc2vec_jax import sharding
from voc2vec_jax.audio import SAMPLE_RATE
from voc2vec_jax.checkpoint import CheckpointMismatchError, Checkpoints, State, with_shardings
from voc2vec_jax.config import Config, ConfigError
from voc2vec_jax.metrics import Display, MetricsFile, Window
from voc2vec_jax.models.parameters import Params
from voc2vec_jax.tasks import Metrics, Task
from voc2vec_jax.update import Training


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

    def batches(self, start_step: int, stop_step: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches of the updates from `start_step` up to `stop_step`."""
        ...


class TrainingDivergedError(FloatingPointError):
    """The loss or a gradient is no longer a number."""


class PreemptedError(Exception):
    """The process was told to stop, and has saved its state."""


def fit(
    config: Config,
    task: Task,
    data: TrainingData,
    workdir: Path,
    initial_params: Callable[[], Mapping[str, np.ndarray]] | None = None,
    resume: Path | None = None,
) -> Params:
    """Trains until `train.num_steps` updates are done, from wherever the run stands.

    Where it starts, in this order: the newest checkpoint in `workdir`; the newest one under
    `resume`, with optimiser and step; fresh state with `initial_params`; fresh state.

    Args:
        config: The run.
        task: Its objective.
        data: Its batches.
        workdir: Gets `config.json`, `metrics.jsonl` and `checkpoints/`.
        initial_params: Called for parameters by path, only if the run starts afresh.
        resume: Another run's working directory.

    Returns:
        The parameters after the last update.

    Raises:
        CheckpointMismatchError: The checkpoint is of another architecture or of other data.
        CheckpointWriteError: A checkpoint could not be written; the one before it is whole.
        ConfigError: The checkpoint is beyond `train.num_steps`, or the mesh divides nothing.
        TrainingDivergedError: A loss or gradient that is not finite; nothing of it was saved.
        PreemptedError: SIGTERM or SIGINT came, and the state was saved.
    """
    training = Training(config, task, sharding.build_mesh(config.mesh))
    with Checkpoints(workdir / "checkpoints", config.train.keep_checkpoints) as checkpoints:
        state, window, resumed_at = _start(training, data, checkpoints, initial_params, resume)
        # Only now is it certain that this configuration belongs to this working directory.
        text = json.dumps(config.to_dict(), indent=2) + "\n"
        (workdir / "config.json").write_text(text, encoding="utf-8")
        run = _Run(training, data, checkpoints, workdir, state, window, resumed_at)
        try:
            return run.to_the_end()
        finally:
            run.close()


def _start(
    training: Training,
    data: TrainingData,
    checkpoints: Checkpoints,
    initial_params: Callable[[], Mapping[str, np.ndarray]] | None,
    resume: Path | None,
) -> tuple[State, Window, int | None]:
    step = checkpoints.latest_step()
    if step is not None:
        return *_restore(training, data, checkpoints, step), step
    if resume is not None:
        return _resume_other(training, data, resume)
    return training.initial_state(initial_params() if initial_params else None), Window(), None


def _resume_other(
    training: Training, data: TrainingData, workdir: Path
) -> tuple[State, Window, int]:
    directory = workdir / "checkpoints"
    if directory.is_dir():
        with Checkpoints(directory, keep=None) as checkpoints:
            step = checkpoints.latest_step()
            if step is not None:
                return *_restore(training, data, checkpoints, step), step
    raise CheckpointMismatchError(f"{workdir}: holds no checkpoint to resume from")


def _restore(
    training: Training, data: TrainingData, checkpoints: Checkpoints, step: int
) -> tuple[State, Window]:
    meta = checkpoints.read_meta(step)
    _refuse_other_run(training.config, data, meta)
    if step > training.config.train.num_steps:
        raise ConfigError(
            f"train.num_steps={training.config.train.num_steps}: the checkpoint has {step} updates "
            "behind it; give at least as many"
        )
    state = checkpoints.restore(step, with_shardings(training.abstract_state, training.shardings))
    return state, Window(meta["window"])


def _refuse_other_run(config: Config, data: TrainingData, meta: Mapping[str, Any]) -> None:
    then, now = meta["config"]["model"], config.to_dict()["model"]
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


class _Run:
    """One stretch of training, from a start to an end, a failure or a signal."""

    def __init__(
        self,
        training: Training,
        data: TrainingData,
        checkpoints: Checkpoints,
        workdir: Path,
        state: State,
        window: Window,
        resumed_at: int | None,
    ):
        self.training, self.data, self.checkpoints = training, data, checkpoints
        self.state, self.window = state, window
        self.done = resumed_at or 0
        self.saved: int | None = resumed_at
        self.metrics = MetricsFile(workdir / "metrics.jsonl", resumed_at)
        self.display = Display(training.config.train.num_steps, self.done)
        self.signal: int | None = None
        self.started = self.logged = time.monotonic()
        self.audio_seconds = 0.0
        # Metrics stay on the device until they are needed, so that the host can run ahead.
        self.pending: list[tuple[int, Metrics, dict[str, tuple[float, float]]]] = []
        self.before = {
            int(number): signal.signal(number, self._on_signal)
            for number in (signal.SIGTERM, signal.SIGINT)
        }

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, self.before[number])  # a second one acts at once

    def close(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.display.close()
        self.metrics.close()

    def to_the_end(self) -> Params:
        train = self.training.config.train
        if self.done:
            self.display.say(f"resumed at step {self.done} of {train.num_steps}")
        for batch in self.data.batches(self.done, train.num_steps):
            self._update(batch)
            if self.done % train.log_every_steps == 0 or self.done == train.num_steps:
                self._log()
            due = self.done % train.checkpoint_every_steps == 0 or self.done == train.num_steps
            if due or self.signal is not None:
                self._save()
            if self.signal is not None:
                name = signal.Signals(self.signal).name
                raise PreemptedError(f"{name} at step {self.done}: state saved, run again to go on")
        params: Params = self.state["params"]
        return params

    def _update(self, batch: dict[str, np.ndarray]) -> None:
        sharding.check_batch(len(batch["waveform"]), self.training.mesh)
        self.state, metrics = self.training.step(
            self.state, sharding.place_batch(batch, self.training.mesh)
        )
        seconds = float(batch["lengths"].sum()) / SAMPLE_RATE
        padded = batch["waveform"].size / SAMPLE_RATE
        self.audio_seconds += seconds
        host = {"padding_share": (padded - seconds, padded), "batch_seconds": (seconds, 1.0)}
        self.pending.append((self.done, metrics, host))
        self.done += 1
        self.display.step(self.done)

    def _flush(self) -> None:
        """Brings the figures of finished updates to the host, and stops at the first bad one."""
        pending, self.pending = self.pending, []
        for step, metrics, host in pending:
            values = {
                name: (float(ratio.total), float(ratio.count))
                for name, ratio in jax.device_get(metrics).items()
            }
            for name in ("loss", "gradient_norm"):
                if not np.isfinite(values[name][0]):
                    kept = "none yet" if self.saved is None else f"step {self.saved}"
                    raise TrainingDivergedError(
                        f"{name} is {values[name][0]} at update {step} (last checkpoint: {kept}). "
                        "Try a lower optim.learning_rate, a longer optim.warmup_steps or "
                        "optim.clip_norm; if it is the first update, look at the data"
                    )
            self.window.add({**values, **host})

    def _log(self) -> None:
        self._flush()
        now = time.monotonic()
        entry: dict[str, Any] = {"step": self.done, **self.window.take()}
        entry["epoch"] = self.done / self.data.batches_per_epoch
        entry["time_elapsed_seconds"] = round(now - self.started, 3)
        entry["time_audio_seconds_per_second"] = round(
            self.audio_seconds / max(now - self.logged, 1e-9), 3
        )
        self.metrics.write(entry)
        self.display.log(self.done, entry)
        self.logged, self.audio_seconds = now, 0.0

    def _save(self) -> None:
        if self.saved == self.done:
            return
        self._flush()
        meta = {
            "step": self.done,
            "config": self.training.config.to_dict(),
            "data_fingerprint": self.data.fingerprint,
            "window": self.window.sums,
            "versions": {"jax": jax.__version__, "python": sys.version.split()[0]},
        }
        self.checkpoints.save(self.done, self.state, meta)
        self.saved = self.done
