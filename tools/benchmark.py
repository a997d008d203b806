"""Time and memory of this package against PyTorch's transformers: `python -m tools.benchmark all`.

Each side runs in a process of its own that never loads the other framework, on the same cores, from
the same weights. Repetitions alternate (ours, theirs, theirs, ours, …), and each pair gives a
ratio, so that what else the machine does meets both. Compilation and a first run are left out and
reported apart. Loading takes a fresh pair of processes per repetition, of files that the system has
in memory, and ends when every weight has been read once, since PyTorch only maps the file. Needs
PyTorch and transformers: pip install '.[torch]' transformers

Examples:
  python -m tools.benchmark all --pairs 5 --json out.json
  python -m tools.benchmark finetune pretrain --threads 2
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from tools.benchmarking.work import SIDES, WORKS, Request, Side

ROOT = Path(__file__).parent.parent
RANDOM = ("finetune-dropout", "pretrain")
"""Works whose losses differ because each side draws its own random numbers."""
SAME = 1e-3
"""Relative difference of the first results of both sides above which they did not do the same."""
LOAD_PAIRS = 3
"""At most: every repetition starts two processes."""


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    works: Annotated[
        tuple[
            Literal[
                "all", "inference", "finetune", "finetune-dropout", "pretrain", "labels", "load"
            ],
            ...,
        ],
        tyro.conf.Positional,
    ]
    """`labels` gives frames of a middle layer their nearest of 500 centroids, clip by clip in
    PyTorch; `load` reads full base and large checkpoints, safetensors and `.bin`."""
    pairs: int = 5
    """Repetitions of each side."""
    threads: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    """Cores that either side may use."""
    size: Literal["base", "tiny"] = "base"
    """`tiny` only shows that the tool works."""
    json: Path | None = None
    """Also write all figures here."""


class WorkerError(RuntimeError):
    """A worker stopped, or did something else than the other side."""


class Worker:
    """One side of one work, in a process that waits to be told to run it once more."""

    def __init__(self, request: Request):
        self.side = request.side
        command = [sys.executable, "-m", "tools.benchmarking.worker", json.dumps(request.to_dict())]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self.ready = self._answer()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def run(self) -> dict[str, float]:
        """One repetition: its wall and CPU seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def finish(self) -> dict[str, Any]:
        """Peak memory and the first result."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.stdin = None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(f"the {self.side} worker ended with code {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def order(pairs: int) -> list[tuple[Side, ...]]:
    """Who goes first in each pair: A B, B A, A B, …"""
    return [SIDES if index % 2 == 0 else SIDES[::-1] for index in range(pairs)]


def measure(work: str, folder: Path, pairs: int, threads: int) -> dict[str, Any]:
    """Measures one work on the checkpoint in `folder`.

    Returns:
        For each side medians, peak memory and all runs; and the ratios ours / theirs.

    Raises:
        WorkerError: A worker failed, or the two computed different things.
    """
    runs: dict[Side, list[dict[str, float]]] = {side: [] for side in SIDES}
    ends: dict[Side, list[dict[str, Any]]] = {side: [] for side in SIDES}
    requests = {side: Request(side, work, str(folder), threads) for side in SIDES}

    def start(stack: ExitStack, side: Side) -> Worker:
        return stack.enter_context(Worker(requests[side]))

    def end(worker: Worker) -> None:
        ends[worker.side].append({**worker.ready, **worker.finish()})

    with ExitStack() as stack:
        lasting = {} if work == "load" else {side: start(stack, side) for side in SIDES}
        for sides in order(pairs):
            for side in sides:
                if work != "load":
                    runs[side].append(lasting[side].run())
                    continue
                with ExitStack() as short:
                    worker = start(short, side)
                    runs[side].append(worker.run())
                    end(worker)
        for worker in lasting.values():
            end(worker)
    results: dict[str, Any] = {side: _side(runs[side], ends[side]) for side in SIDES}
    ours, theirs = (results[side]["first_value"] for side in SIDES)
    if work not in RANDOM and abs(ours - theirs) > SAME * abs(theirs):
        raise WorkerError(f"{work}: gives {ours} here and {theirs} in PyTorch; not the same work")
    for unit in ("wall", "cpu"):
        ratios = [
            a[f"{unit}_seconds"] / b[f"{unit}_seconds"]
            for a, b in zip(*(runs[side] for side in SIDES), strict=True)
        ]
        results[f"{unit}_ratio"] = {
            "median": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        }
    return {"work": work, "pairs": pairs, **results}


def _side(runs: list[dict[str, float]], ends: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        **ends[-1],
        "peak_rss_mib": max(end["peak_rss_mib"] for end in ends),
        "foreign_modules": sorted({name for end in ends for name in end["foreign_modules"]}),
        **{
            f"{unit}_seconds": statistics.median(run[f"{unit}_seconds"] for run in runs)
            for unit in ("wall", "cpu")
        },
        "runs": runs,
    }


def write_checkpoint(work: str, size: str, folder: Path, suffix: str) -> None:
    """In a process of its own, so that PyTorch is not loaded here."""
    command = [sys.executable, "-m", "tools.benchmarking.theirs", work, size, str(folder), suffix]
    subprocess.run(command, check=True, cwd=ROOT)


def measure_all(arguments: Arguments, temporary: Path) -> list[dict[str, Any]]:
    """All works that were asked for, one after the other."""
    results = []
    for work in WORKS if "all" in arguments.works else dict.fromkeys(arguments.works):
        loads = work == "load"
        sizes = ("base", "large") if loads and arguments.size == "base" else (arguments.size,)
        for size in sizes:
            for suffix in (".safetensors", ".bin") if loads else (".safetensors",):
                with tempfile.TemporaryDirectory(dir=temporary) as folder:
                    write_checkpoint(work, size, Path(folder), suffix)
                    pairs = min(arguments.pairs, LOAD_PAIRS) if loads else arguments.pairs
                    result = measure(work, Path(folder), pairs, arguments.threads)
                results.append({"size": size, "format": suffix, **result})
                given = WORKS[work]
                amount = size + suffix if loads else f"{given.clips} × {given.seconds:g} s"
                results[-1]["title"] = f"{work} {amount}"
                print(f"{results[-1]['title']}: measured", file=sys.stderr)
    return results


def environment(threads: int) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0].partition(": ")[2] if models else platform.processor(),
        "threads": threads,
        "load_average": os.getloadavg(),
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),
        "python": platform.python_version(),
    }


def table(results: Sequence[dict[str, Any]]) -> Table:
    """The figures, a line per work."""
    columns = ("wall s", "CPU s", "peak MiB", "warm-up s")
    shown = Table("", *(f"{side} {name}" for name in columns for side in SIDES), "wall", "CPU")
    for result in results:
        sides = [result[side] for side in SIDES]
        cells = [f"{side['wall_seconds']:.2f}" for side in sides]
        cells += [f"{side['cpu_seconds']:.2f}" for side in sides]
        cells += [f"{side['peak_rss_mib']:,.0f}" for side in sides]
        cells += [f"{sum(side['warm_up_seconds']):.0f}" for side in sides]
        cells += [
            "{median:.2f} ({lowest:.2f}–{highest:.2f})".format(**result[f"{unit}_ratio"])
            for unit in ("wall", "cpu")
        ]
        shown.add_row(result["title"], *cells)
    return shown


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = tyro.cli(Arguments, args=argv, description=__doc__)
    if arguments.pairs < 1 or arguments.threads < 1:
        print("error: --pairs and --threads must be at least 1", file=sys.stderr)
        return 2
    around = environment(arguments.threads)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            results = measure_all(arguments, Path(temporary))
    except (WorkerError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    Console(width=200).print(table(results))
    print("wall and CPU: time here / in PyTorch, median of the pairs (lowest to highest)")
    if arguments.json:
        report = {"environment": around, "works": results}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
