"""What a run says of itself: `metrics.jsonl`, and a progress bar or plain lines."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from voc2vec_jax.files import write_text

TIME_PREFIX = "time_"
"""Fields that begin so depend on the clock, or on when this process was started; all others are
the same in every repetition."""
Pairs = dict[str, tuple[float, float]]
"""Sums and counts by name."""
PARTS = ("waiting_for_data", "host_to_device", "step", "evaluation", "checkpoint")
"""What the host does in a loop."""
SHOWN = (
    *("loss", "contrastive_loss", "eval_loss", "accuracy", "masked_accuracy", "majority_rate"),
    *("code_perplexity", "prediction_perplexity", "eval_uar"),
    "learning_rate",
)


class Window:
    """Sums and counts since the last log line.

    Kept in double precision and saved with checkpoints, so that a resumed run logs the very same
    means as an undisturbed one.
    """

    def __init__(self, sums: Mapping[str, list[float]] | None = None):
        self.sums: dict[str, list[float]] = {k: list(v) for k, v in (sums or {}).items()}

    def add(self, values: Pairs) -> None:
        """Adds a (sum, count) pair per name."""
        for name, (total, count) in values.items():
            held = self.sums.setdefault(name, [0.0, 0.0])
            held[0] += total
            held[1] += count

    def take(self) -> dict[str, float | None]:
        """Means by name (None where nothing was counted), and starts anew."""
        means = {
            name: total / count if count else None for name, (total, count) in self.sums.items()
        }
        self.sums = {}
        return means


class Clock:
    """Where the host's time goes between two log lines.

    The device works while the host goes on; what the host then waits for counts as `step`.

    Args:
        annotate: Names a part to whoever takes a trace of the process.
    """

    def __init__(self, annotate: Callable[[str], AbstractContextManager[Any]] = nullcontext):
        self._annotate = annotate
        self._seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def runs(self, part: str) -> Iterator[None]:
        """Puts what happens inside on a part's account."""
        started = time.monotonic()
        try:
            with self._annotate(part):
                yield
        finally:
            self._seconds[part] += time.monotonic() - started

    def take(self) -> dict[str, float]:
        """`time_PART_seconds` of every part, and starts anew."""
        taken = {f"{TIME_PREFIX}{k}_seconds": round(v, 3) for k, v in self._seconds.items()}
        self._seconds = dict.fromkeys(PARTS, 0.0)
        return taken


class MetricsFile:
    """`metrics.jsonl`: one JSON object per logged step, each step once.

    Args:
        path: The file.
        resumed_at: The restored step, or None for a fresh start. Lines beyond it are cut, so is a
            half-written last line.
        changed: What the event of resuming says of the configuration: an entry for each field that
            has another value than before.
    """

    def __init__(
        self, path: Path, resumed_at: int | None, changed: Sequence[Mapping[str, Any]] = ()
    ):
        self.path = path
        lines = []
        if path.exists() and resumed_at is not None:
            for line in path.read_text(encoding="utf-8").splitlines():
                entry = _parse(line)
                if entry is not None and entry.get("step", math.inf) <= resumed_at:
                    lines.append(line)
        write_text(path, "".join(line + "\n" for line in lines))
        self._file = path.open("a", encoding="utf-8")
        if resumed_at is not None:
            event = {"event": "resume", "step": resumed_at}
            self.write({**event, "changed": changed} if changed else event)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Appends one line and hands it to the operating system at once."""
        try:
            self._file.write(json.dumps(entry, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _parse(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The logged steps of a `metrics.jsonl`, without events and half-written lines."""
    entries = [_parse(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [entry for entry in entries if entry is not None and "event" not in entry]


def read_events(path: Path, event: str) -> list[dict[str, Any]]:
    """The events of a name (`resume`, `collapse_alarm`) in a `metrics.jsonl`."""
    entries = [_parse(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [entry for entry in entries if entry is not None and entry.get("event") == event]


class Display:
    """Shows progress on standard error: a live bar in a terminal, a plain line per log otherwise.

    Args:
        total_steps: Updates of the whole run.
        done_steps: Updates already done.
        quiet: Show nothing.
    """

    def __init__(self, total_steps: int, done_steps: int, *, quiet: bool = False):
        self.total_steps, self.quiet = total_steps, quiet
        self._bar: Progress | None = None
        if sys.stderr.isatty() and not quiet:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=total_steps, completed=done_steps, figures="")

    def step(self, step: int) -> None:
        """Moves the bar to a number of updates done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def log(self, step: int, entry: Mapping[str, Any]) -> None:
        """Shows the figures of a log line."""
        figures = [f"{name}={_figure(entry[name])}" for name in SHOWN if name in entry]
        rate = entry.get("time_audio_seconds_per_second")
        if rate is not None:
            figures.append(f"audio_s/s={_figure(rate)}")
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=" ".join(figures))
        else:
            self.say(f"step={step}/{self.total_steps} " + " ".join(figures))

    def say(self, text: str) -> None:
        """A line of text that does not tear the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
