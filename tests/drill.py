"""The fault drill: a run that is killed again and again must end as if nothing had been.

    python -m tests.drill --alone 18 --of-two 12 --seed 0 --json drill.json

Faults strike by progress: each waits until the run has logged a step, then for a random moment, or
for a save to be under way. `make drill` runs it; so does the slow test of `test_faults.py`.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tyro

from tests.small_run import (
    TIMEOUT_SECONDS,
    digest,
    events,
    figures,
    finish,
    launch_command,
    make_place,
    start,
    train_command,
)
from voc2vec_jax.training.log.metrics_file import read_metrics

STEPS, SAVE_EVERY, LAST_FAULT = 600, 10, 480
RUN = (
    *("--train.num-steps", str(STEPS), "--train.log-every-steps", "5"),
    *("--train.eval-every-steps", "100", "--train.checkpoint-every-steps", str(SAVE_EVERY)),
)
HEARTBEAT = ("--processes.heartbeat-timeout-seconds", "10")
LONE = ("kill", "kill in a save", "kill at the start", "term")
OF_TWO = (
    "kill one of two",
    "kill one of two in a save",
    "kill one of two at the start",
    "term one of two",
    "kill both",
)


@dataclass(frozen=True)
class Arguments:
    """What to do."""

    alone: int = 18
    """Faults of a run of one process; 0 leaves it out."""
    of_two: int = 12
    """Faults of a run of two processes."""
    seed: int = 0
    """Decides kinds and moments."""
    json: Path | None = None
    """Gets the report."""


class Disturbed:
    """A run of one or two processes that is struck by faults.

    Args:
        place: See `small_run.make_place`.
        workdir: Of the run.
        processes: 1 or 2.
        seed: Decides moments.
    """

    def __init__(self, place: Path, workdir: Path, processes: int, seed: int):
        self._workdir, self._random = workdir, np.random.default_rng(seed)
        self._processes, self.hangs = processes, 0
        self.stopped_after: dict[str, float] = {}
        """Seconds from a fault to the end of all processes, the longest by kind."""
        self.command = train_command(place, workdir, *RUN)
        if processes > 1:
            self.command = launch_command(processes, 2, [*self.command, *HEARTBEAT])

    def strike(self, kind: str, goal: int) -> int:
        """Starts the run, lets it log step `goal`, strikes; returns the last step it logged."""
        before = self._metrics_file()
        process, deadline = start(self.command, 2), time.monotonic() + TIMEOUT_SECONDS
        if "start" in kind:
            time.sleep(self._random.uniform(0.1, 6))
        else:
            while self._metrics_file() == before or self.reached() < goal:
                self._still(process, deadline)
            if "save" in kind:
                while not any(self._workdir.glob("checkpoints/*.orbax-checkpoint-tmp*")):
                    self._still(process, deadline, 0.0005)
                time.sleep(self._random.uniform(0, 0.03))
            else:
                time.sleep(self._random.uniform(0, 0.1))
        struck = time.monotonic()
        number = signal.SIGTERM if "term" in kind else signal.SIGKILL
        for one in self._victims(process, kind, deadline):
            one.send_signal(number)
        self._end(process, kind, 75 if number == signal.SIGTERM else None)
        seconds = round(time.monotonic() - struck, 1)
        self.stopped_after[kind] = max(seconds, self.stopped_after.get(kind, 0.0))
        return self.reached()

    def reached(self) -> int:
        """The last step that was logged."""
        path = self._workdir / "metrics.jsonl"
        entries = read_metrics(path) if path.exists() else []
        return int(entries[-1]["step"]) if entries else 0

    def _metrics_file(self) -> int | None:
        """Every start puts a new file in the place of the old one."""
        path = self._workdir / "metrics.jsonl"
        return path.stat().st_ino if path.exists() else None

    def _still(self, process: subprocess.Popen[str], deadline: float, pause: float = 0.02) -> None:
        time.sleep(pause)
        if process.poll() is not None:
            raise AssertionError(f"ended before the fault: {process.communicate()[0]}")
        if time.monotonic() > deadline:
            process.kill()
            raise AssertionError("hangs before the fault")

    def _victims(
        self, process: subprocess.Popen[str], kind: str, deadline: float
    ) -> list[psutil.Process]:
        if self._processes == 1:
            return [psutil.Process(process.pid)]
        children: list[psutil.Process] = []
        while len(children) < 2:  # at the start they may not be there yet
            self._still(process, deadline, 0.01)
            children = psutil.Process(process.pid).children()
        return children if "both" in kind else [children[int(self._random.integers(2))]]

    def _end(self, process: subprocess.Popen[str], kind: str, expected: int | None) -> None:
        try:
            output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.hangs += 1
            for child in psutil.Process(process.pid).children():
                child.kill()
            process.kill()
            return
        # A survivor that JAX aborts (134) may be seen before the one that was killed (137).
        killed = {-signal.SIGKILL} if self._processes == 1 else {137, 134}
        wanted = killed if expected is None else {expected}
        assert process.returncode in wanted, f"{kind}: {process.returncode}\n{output}"


def drill(place: Path, processes: int, faults: int, seed: int) -> dict[str, Any]:
    """Strikes a run of one or two processes, and compares it with an undisturbed one."""
    quiet, workdir = place / f"quiet{processes}", place / f"struck{processes}"
    undisturbed = Disturbed(place, quiet, processes, seed)
    began = time.monotonic()
    finish(undisturbed.command, 2)
    undisturbed_seconds = round(time.monotonic() - began, 1)
    run = Disturbed(place, workdir, processes, seed)
    kinds = list(islice(cycle(LONE if processes == 1 else OF_TWO), faults))
    random = np.random.default_rng([seed, processes])
    random.shuffle(kinds)
    reached = []
    for number, kind in enumerate(kinds):
        span = LAST_FAULT // faults
        goal = span * number + int(random.integers(1, span))
        reached.append(run.strike(kind, goal))
        what = f"{kind} at step {reached[-1]}"
        print(f"{processes} processes, fault {number + 1}: {what}", flush=True)
    finish(run.command, 2)
    resumed = [event for event in events(workdir) if event["event"] == "resume"]
    return {
        "processes": processes,
        "seed": seed,
        "faults": dict(sorted(Counter(kinds).items())),
        "hangs": run.hangs,
        "struck_after_logged_steps": reached,
        "resumed_at_steps": [event["step"] for event in resumed],
        "same_state": digest(workdir, STEPS) == digest(quiet, STEPS),
        "same_metrics": figures(workdir) == figures(quiet),
        "same_export": all(
            (workdir / "export" / path.name).read_bytes() == path.read_bytes()
            for path in (quiet / "export").iterdir()
        ),
        "longest_seconds_to_stop": dict(sorted(run.stopped_after.items())),
        "undisturbed_seconds": undisturbed_seconds,
        "seconds": round(time.monotonic() - began, 1),
    }


def passed(report: dict[str, Any]) -> bool:
    """No hang, and nothing that tells the struck run from the undisturbed one."""
    same = ("same_state", "same_metrics", "same_export")
    return report["hangs"] == 0 and all(report[name] for name in same)


def main() -> int:
    """Runs both drills; 0 if both passed."""
    arguments = tyro.cli(Arguments, description=__doc__, prog="python -m tests.drill")
    print(f"seed={arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(folder) / "jax"))
        place = make_place(Path(folder))
        planned = ((1, arguments.alone), (2, arguments.of_two))
        reports = [drill(place, n, faults, arguments.seed) for n, faults in planned if faults]
    text = json.dumps({"machine": platform.machine(), "steps": STEPS, "runs": reports}, indent=2)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    return 0 if all(map(passed, reports)) else 1


if __name__ == "__main__":
    sys.exit(main())
