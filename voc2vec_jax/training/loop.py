"""The one loop: start somewhere, update, log, evaluate, save. Tasks differ only in their loss."""

import math
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import FrameType

import jax
import numpy as np

from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.checkpoints.orbax import Checkpoints
from voc2vec_jax.config import Config
from voc2vec_jax.distributed import processes, sharding
from voc2vec_jax.errors import PreemptedError, TrainingDivergedError
from voc2vec_jax.files import write_json
from voc2vec_jax.models.parameters import Params
from voc2vec_jax.objectives import Metrics, Task
from voc2vec_jax.training.first_step import first_update
from voc2vec_jax.training.log.alarm import symptoms
from voc2vec_jax.training.log.profiler import Profiler
from voc2vec_jax.training.log.run_log import RunLog, real_samples
from voc2vec_jax.training.log.trackers import check_installed
from voc2vec_jax.training.starting_point import (
    Start,
    TrainingData,
    build_training,
    find_start,
    set_corrupt_aside,
)
from voc2vec_jax.training.update import SKIPPED, Training
from voc2vec_jax.training.validation import BestInMemory, held_out_figures, pairs


def fit(
    config: Config,
    task: Task,
    data: TrainingData,
    workdir: Path,
    initial_params: Callable[[], Mapping[str, np.ndarray]] | None = None,
    resume: Path | None = None,
    *,
    compiled: Training | None = None,
    inner: bool = False,
    profile: range = range(0),
    accept_changes: bool = False,
    began_with: str | None = None,
) -> Params:
    """Trains until `train.num_steps` updates are done, from wherever the run stands.

    Where it starts, in this order: the newest whole checkpoint in `workdir`; the newest whole one
    under `resume`, with optimiser and step; fresh state with `initial_params`; fresh state.

    All of several processes call this alike, each with its rows of the batches. The first one
    writes what is not a checkpoint.

    Args:
        config: The run.
        task: Its objective.
        data: Its batches.
        workdir: Gets `config.json`, `first_step.json`, `metrics.jsonl`, `checkpoints/` and, if
            asked for, `profile/`.
        initial_params: Called for parameters by path, only if the run starts afresh.
        resume: Another run's working directory.
        compiled: Of an earlier run, whose programs this one then uses; see `Training.for_run`.
        inner: A short run inside something larger: it shows nothing, keeps the best parameters in
            memory instead of checkpoints, and cannot be resumed.
        profile: Updates that process 0 traces, see `log.profiler`.
        accept_changes: Go on from a checkpoint though what is learnt changes, see `resuming`.
        began_with: What `initial_params` are from; a run that began with others does not go on.

    Returns:
        The parameters after the last update, or those of the best held-out figure if
        `train.export_checkpoint` is `best`.

    Raises:
        CheckpointMismatchError: The checkpoint is of another run, see `resuming.refuse`.
        CheckpointWriteError: A checkpoint could not be written; the one before it is whole.
        CorruptCheckpointError: None of the checkpoints is whole.
        ConfigError: The checkpoint is beyond `train.num_steps`, a tracker is not installed, or
            mesh and micro-batches do not divide the batches.
        TrainingDivergedError: A loss or gradient that is not finite; nothing of it was saved.
        PreemptedError: SIGTERM or SIGINT came, be it to one of several processes, and the state
            was saved.
    """
    check_installed(config)
    training = build_training(config, task) if compiled is None else compiled.for_run(config)
    for rows in data.batch_sizes:
        sharding.check_batch(rows, training.mesh, config.train.accumulate_steps)
    if inner:
        state = training.initial_state(initial_params() if initial_params else None)
        with closing(_Run(training, data, BestInMemory(), workdir, Start(state))) as run:
            return run.to_the_end()
    corrupt = set_corrupt_aside(workdir / "checkpoints")
    with Checkpoints(workdir / "checkpoints", config.train.keep_checkpoints) as checkpoints:
        start = find_start(
            training, data, checkpoints, initial_params, resume, accept_changes, began_with
        )
        start.corrupt = corrupt + start.corrupt
        with closing(_Run(training, data, checkpoints, workdir, start, profile=profile)) as run:
            return run.to_the_end()


class _Run:
    """One stretch of training, from a start to an end, a failure or a signal."""

    def __init__(
        self,
        training: Training,
        data: TrainingData,
        checkpoints: Checkpoints | BestInMemory,
        workdir: Path,
        start: Start,
        *,
        profile: range = range(0),
    ):
        config = training.config
        # Only now is it certain that this configuration belongs to this working directory.
        if processes.is_first():
            write_json(workdir / "config.json", config.to_dict(), indent=2)
        self.training, self.data, self.checkpoints = training, data, checkpoints
        self.state, self.progress, self.done = start.state, start.progress, start.progress.step
        resumed_at = self.done if start.resumed else None
        self.saved = resumed_at
        quiet = isinstance(checkpoints, BestInMemory)
        self.log = RunLog(
            config, data, workdir, self.progress, resumed_at, start.changed, quiet=quiet
        )
        for what in start.corrupt:
            self.log.say(f"WARNING: {what}")
            self.log.event("corrupt_checkpoint", what=what)
        mine = profile if jax.process_index() == 0 else range(0)
        self.profiler = Profiler(mine, workdir / "profile", self.log.say)
        self.reports = not quiet
        self.signal: int | None = None
        # Metrics stay on the device until they are needed, so that the host can run ahead.
        self.pending: list[tuple[int, Metrics, jax.Array, int]] = []
        # Of several processes JAX watches for SIGTERM; see `processes.told_to_stop`.
        watched = {signal.SIGINT} if processes.several() else {signal.SIGINT, signal.SIGTERM}
        self.before = {int(n): signal.signal(n, self._on_signal) for n in watched}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, self.before[number])  # a second one acts at once
        if processes.several():
            signal.raise_signal(signal.SIGTERM)  # which reaches all of them
        else:
            self.signal = number

    def close(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.profiler.close(self.done)
        self.log.close()

    def to_the_end(self) -> Params:
        config, train = self.training.config, self.training.config.train
        if self.done:
            self.log.say(f"resumed at step {self.done} of {train.num_steps}")
        if self.out_of_patience:
            return self._export()
        self.profiler.between(self.done, self.state)
        for batch in self._timed(self.data.batches(self.done, train.num_steps)):
            self._update(batch)
            if processes.told_to_stop(self.done):
                self.signal = signal.SIGTERM
            last = self.done == train.num_steps
            every = config.eval_every_steps
            evaluate = every is not None and (self.done % every == 0 or last)
            if self.done % train.log_every_steps == 0 or last or evaluate:
                self._log(evaluate)
            last = last or self.out_of_patience
            due = self.done % train.checkpoint_every_steps == 0 or last
            if due or self.progress.best_step == self.done or self.signal is not None:
                self._save()
            if self.signal is not None:
                self.checkpoints.wait()
                name = signal.Signals(self.signal).name
                raise PreemptedError(
                    f"{name} at step {self.done}: state saved, run again to resume"
                )
            if self.out_of_patience:
                break
        return self._export()

    @property
    def out_of_patience(self) -> bool:
        patience = self.training.config.train.patience
        return patience is not None and self.progress.since_best >= patience

    def _timed(self, batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        """The same batches, with the wait for each on the clock."""
        while True:
            with self.log.clock.runs("waiting_for_data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _update(self, batch: dict[str, np.ndarray]) -> None:
        with self.log.clock.runs("host_to_device"):
            placed = sharding.place_batch(batch, self.training.mesh)
        seen = self.log.shapes
        annotation = jax.profiler.StepTraceAnnotation("update", step_num=self.done + 1)
        with self.log.clock.runs("step"), annotation:
            if self.reports:
                self.state, metrics, report = first_update(self.training, self.state, placed, seen)
                self.log.first_step(report)
                self.reports = False
            else:
                with seen.first(placed):
                    self.state, metrics = self.training.step(self.state, placed)
        real = real_samples(placed["lengths"], placed.get("weight", placed["lengths"]))
        padded = placed["waveform"].size if "waveform" in placed else 0
        self.pending.append((self.done, metrics, real, padded))
        self.done += 1
        self.log.updated(self.done)
        self.profiler.between(self.done, self.state)

    def _flush(self) -> None:
        """Brings the figures of finished updates to the host, and stops where too many are bad."""
        train = self.training.config.train
        limit = min(train.max_skipped_updates, train.num_steps)
        pending, self.pending = self.pending, []
        for step, metrics, real, padded in pending:
            with self.log.clock.runs("step"):  # the device is still at it
                values = pairs(metrics)
                seconds, rest = map(int, real)
                samples = seconds * SAMPLE_RATE + rest
            heard = self.log.heard(samples / SAMPLE_RATE, (padded or samples) / SAMPLE_RATE)
            in_a_row, what = self.log.add(step + 1, values, heard)
            if in_a_row >= limit:
                raise self._diverged(f"{what}; it is the last of {in_a_row} skipped in a row")

    def _diverged(self, what: str) -> TrainingDivergedError:
        self.checkpoints.wait()
        kept = "none yet" if self.saved is None else f"step {self.saved}"
        return TrainingDivergedError(
            f"{what} (last checkpoint: {kept}). Try a lower optim.learning_rate, a longer "
            "optim.warmup_steps or optim.clip_norm; if it is the first update, look at the data"
        )

    def _evaluate(self) -> dict[str, float | None]:
        """Figures of the held-out clips, which always meet the same masks and negatives."""
        with self.log.clock.runs("evaluation"):
            batches = self.log.held_out_shapes.each(self.data.eval_batches())
            means = held_out_figures(self.training, self.state["params"], batches)
        train, loss = self.training.config.train, means.get("loss")
        if loss is not None:
            if not math.isfinite(loss):
                raise self._diverged(f"eval_loss is {loss} at step {self.done}")
            # Where all targets are equal the loss is 0, and the model good for nothing.
            trivial = "trivial" in symptoms(self.training.config, {"step": self.done, **means})
            value = means[train.best_by]
            if not trivial and value is not None:
                self.progress.judge(train, self.done, value)
        return {f"eval_{name}": value for name, value in means.items()}

    def _log(self, evaluate: bool) -> None:
        self._flush()
        means = self.log.window.take()
        if evaluate:
            means |= self._evaluate()
        means["epoch"] = self.done / self.data.batches_per_epoch
        means["corpus_hours"] = self.data.corpus_hours
        self.log.write(self.done, means, self.training.compiled_programs)

    def _save(self) -> None:
        if self.saved == self.done:
            return
        self._flush()
        self.progress.step = self.done
        self.log.note()
        with self.log.clock.runs("checkpoint"):
            meta = self.progress.meta(self.training.config, self.data)
            self.checkpoints.save(self.done, self.state, meta, best=self.progress.best_step)
        self.saved = self.done

    def _export(self) -> Params:
        """The parameters that the run leaves to the world."""
        step, value, train = (
            self.progress.best_step,
            self.progress.best_value,
            self.training.config.train,
        )
        if step is not None:
            how = "lowest" if train.best_by == "loss" else "highest"
            self.log.say(
                f"{how} eval_{train.best_by}={value:.6g} at step {step}, kept in checkpoints/"
            )
        state = self.state
        if train.export_checkpoint == "best" and step not in (None, self.done):
            state = self.checkpoints.restore(step, self.training.described_state, SKIPPED)
        else:
            step = self.done
        self.log.say(f"exporting the parameters after step {step}")
        params: Params = state["params"]
        return params
