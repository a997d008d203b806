"""What a run says of itself, line by line: to `metrics.jsonl`, the terminal and listeners."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from voc2vec_jax import compiling
from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.config import Config
from voc2vec_jax.distributed import processes
from voc2vec_jax.files import write_json
from voc2vec_jax.training.first_step import table
from voc2vec_jax.training.log.alarm import CollapseAlarm
from voc2vec_jax.training.log.metrics_file import Clock, Display, MetricsFile, Pairs, Window
from voc2vec_jax.training.log.trackers import open_listeners
from voc2vec_jax.training.resuming import Change
from voc2vec_jax.training.starting_point import Progress, TrainingData
from voc2vec_jax.training.update import FINITE, SKIPPED


class RunLog:
    """The log of one stretch of training.

    Args:
        config: The run.
        data: Its batches.
        workdir: Gets `metrics.jsonl`, `first_step.json`, and what listeners keep.
        progress: Of the run; what it has heard is added to it.
        resumed_at: The restored step, or None for a fresh start.
        changed: In which fields the configuration is not that of the run that is resumed.
        quiet: Show nothing.

    Of several processes the first one writes and shows; the others keep the same account.
    """

    def __init__(
        self,
        config: Config,
        data: TrainingData,
        workdir: Path,
        progress: Progress,
        resumed_at: int | None,
        changed: Sequence[Change] = (),
        *,
        quiet: bool = False,
    ):
        self.step = progress.step
        """Updates behind the last line of this process."""
        self.clock = Clock(jax.profiler.TraceAnnotation)
        self.window = Window(progress.window)
        self.shapes = compiling.Shapes()
        self.shapes.expect((samples,) for samples in data.padded_samples)
        self.held_out_shapes = compiling.Shapes("held-out shape")
        self.held_out_shapes.expect((samples,) for samples in data.eval_padded_samples)
        self._workdir, self._progress = workdir, progress
        self._alarm = CollapseAlarm(config, progress.alarm)
        speaks = processes.is_first()
        entries = [change.entry() for change in changed]
        path = workdir / "metrics.jsonl"
        self._metrics = MetricsFile(path, resumed_at, entries) if speaks else None
        self._display = Display(config.train.num_steps, progress.step, quiet=quiet or not speaks)
        self._listeners = open_listeners(config, workdir, resumed_at) if speaks else []
        self._started = self._logged_at = time.monotonic()
        self._audio_seconds = 0.0
        self._skipped = 0
        for change in changed:
            self.say(f"resumed with another value of {change}")

    def say(self, text: str) -> None:
        """A line for whoever watches."""
        self._display.say(text)

    def first_step(self, report: Mapping[str, Any]) -> None:
        """Shows and keeps the report of the first update of this process."""
        if jax.process_index() == 0:
            write_json(self._workdir / "first_step.json", report, indent=2)
            self.say(table(report))

    def updated(self, step: int) -> None:
        """Shows how many updates are done."""
        self._display.step(step)

    def event(self, name: str, **facts: Any) -> None:
        """Something that happened at the last logged step."""
        self._write({"event": name, "step": self.step, **facts})

    def heard(self, seconds: float, padded: float) -> Pairs:
        """Takes account of a batch; what a log line says of batches, as sums and counts.

        Args:
            seconds: Of real samples in the batch, of all processes.
            padded: Seconds with the padding.
        """
        self._audio_seconds += seconds
        self._progress.heard_seconds += seconds
        return {"padding_share": (padded - seconds, padded), "batch_seconds": (seconds, 1.0)}

    def add(self, step: int, values: Pairs, heard: Pairs) -> tuple[int, str]:
        """Takes account of an update; one that was skipped enters no mean but those of `heard`.

        Args:
            step: Updates done with it.
            values: Its figures, as sums and counts.
            heard: What `heard` said of its batch.

        Returns:
            Skipped updates in a row up to this one, and what was wrong with it.
        """
        values = dict(values)
        self._skipped, in_a_row = (int(values.pop(name)[0]) for name in SKIPPED)
        if not in_a_row:
            self.window.add({**values, **heard})
            return 0, ""
        self.window.add({**heard, **dict.fromkeys(values, (0.0, 0.0))})
        bad = (name for name in FINITE if not math.isfinite(values[name][0]))
        what = ", ".join(f"{name} is {values[name][0]}" for name in bad)
        self._write({"event": "skipped_update", "step": step, "what": what, "in_a_row": in_a_row})
        if in_a_row == 1:
            self.say(f"WARNING: update {step} was skipped: {what}")
        return in_a_row, f"update {step}: {what}"

    def write(self, step: int, means: Mapping[str, Any], compiled_programs: int) -> None:
        """One log line.

        Args:
            step: Updates done.
            means: Its figures; what the clock says is added.
            compiled_programs: So far.
        """
        entry = {"step": step, **means, "hours_heard": self._progress.heard_seconds / 3600}
        entry["skipped_updates"] = self._skipped
        now = time.monotonic()
        entry["time_elapsed_seconds"] = round(now - self._started, 3)
        entry["time_audio_seconds_per_second"] = round(
            self._audio_seconds / max(now - self._logged_at, 1e-9), 3
        )
        entry |= self.clock.take()
        entry["time_compiled_programs"] = compiled_programs
        self._write(entry)
        self._display.log(step, entry)
        figures = {k: float(v) for k, v in entry.items() if k != "step" and v is not None}
        for listener in self._listeners:
            listener.log(step, figures)
        self.step, self._logged_at, self._audio_seconds = step, now, 0.0

        event = self._alarm.see(entry)
        if event is not None:
            self._write(event)
            self.say(
                f"COLLAPSE ALARM at step {step} ({', '.join(event['symptoms'])}): "
                f"{event['saw']}. {event['try']}"
            )

    def _write(self, entry: Mapping[str, Any]) -> None:
        if self._metrics is not None:
            self._metrics.write(entry)

    def note(self) -> None:
        """Puts what a resumed log needs into the progress of the run."""
        self._progress.window = self.window.sums
        self._progress.alarm = self._alarm.state

    def close(self) -> None:
        """Leaves the terminal as it was, and closes all files."""
        self._display.close()
        if self._metrics is not None:
            self._metrics.close()
        for listener in self._listeners:
            listener.close()


@jax.jit
def real_samples(lengths: jax.Array, weight: jax.Array) -> jax.Array:
    """Samples in the rows of a batch that count, those of other processes too.

    Args:
        lengths: [B] in samples.
        weight: [B], 0 for rows that only fill the batch up.

    Returns:
        [2] int32: whole seconds of the rows, and what they have beyond them in samples. A sum of
        samples would overflow at 37 h.
    """
    counted = jnp.where(weight > 0, lengths, 0)
    return jnp.stack([jnp.sum(counted // SAMPLE_RATE), jnp.sum(counted % SAMPLE_RATE)])
