"""A process that runs one kind of work in one framework, once for every line that it is sent.

Its answers are JSON lines: one when it is ready, one per repetition, one at the end of its input.
"""

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from tools.benchmarking.work import FOREIGN, Request


def peak_rss_mib() -> float:
    """Largest resident size of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` would begin with what the parent process held
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def foreign_modules(side: str) -> list[str]:
    """Packages of the other side that this process has loaded: none, or its memory means little."""
    return [name for name in FOREIGN[side] if name in sys.modules]


def limit_threads(threads: int) -> None:
    """Leaves `threads` cores to this process; to be called before a framework is imported."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)


def main() -> None:
    """Reads its request from the command line."""
    request = Request(**json.loads(sys.argv[1]))
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")

    limit_threads(request.threads)
    side = importlib.import_module(
        {"jax": "tools.benchmarking.ours", "torch": "tools.benchmarking.theirs"}[request.side]
    )
    baseline = peak_rss_mib()
    step = side.prepare(request)
    warm_up, values = [], []
    # Loading is measured cold; everything else compiles first, and then runs once for nothing.
    for _ in range(0 if request.work == "load" else 2):
        started = time.perf_counter()
        values.append(step())
        warm_up.append(time.perf_counter() - started)
    answer(versions=side.versions(), baseline_rss_mib=baseline, warm_up_seconds=warm_up)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        values.append(step())
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        answer(wall_seconds=wall, cpu_seconds=cpu)
    answer(
        first_value=values[0],
        peak_rss_mib=peak_rss_mib(),
        foreign_modules=foreign_modules(request.side),
    )


if __name__ == "__main__":
    main()
