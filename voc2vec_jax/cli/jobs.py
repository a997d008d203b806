"""Folds side by side: processes that are handed one fold after another.

A process that fails takes the fold it was at with it, and another one goes on with the others. Each
has its share of the cores and of the GPUs. If this process dies, they end after the fold they are
at.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from voc2vec_jax.cli.command import prepare_process, run, say
from voc2vec_jax.errors import DONE, FAILED

Key = tuple[int, int]
"""Seed and number of a fold."""
Work = Callable[[Iterator[Key]], None]
"""Runs the folds that it is handed; can be pickled."""
PLATFORM = "JAX_PLATFORMS"
MEMORY = "XLA_PYTHON_CLIENT_MEM_FRACTION"
OWN_MEMORY = (MEMORY, "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_ALLOCATOR")
"""With one of these set, the user has decided how processes share a GPU."""
GPU_MEMORY = 0.9
"""Share of a GPU's memory that all its processes together may take."""


@dataclass(frozen=True)
class Share:
    """What a process may use of the machine."""

    cores: frozenset[int]
    """Empty: all."""
    environment: dict[str, str | None]
    """None: not set."""


@dataclass
class _Worker:
    process: SpawnProcess
    share: Share
    key: Key | None = None


def shares(jobs: int) -> list[Share]:
    """The machine, divided among so many processes."""
    # Where there are fewer cores than processes, these share all of them.
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    each = len(cores) // jobs
    gpus = _gpus()
    found = []
    for job in range(jobs):
        environment = {PLATFORM: os.environ.get(PLATFORM)}
        if gpus:
            own = gpus[job::jobs] or [gpus[job % len(gpus)]]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
            if jobs > len(gpus) and not any(name in os.environ for name in OWN_MEMORY):
                environment[MEMORY] = f"{GPU_MEMORY / math.ceil(jobs / len(gpus)):.3f}"
        found.append(Share(frozenset(cores[job * each : (job + 1) * each]), environment))
    return found


def _gpus() -> list[str]:
    """Those of NVIDIA that this process may use, as CUDA names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def compute_nothing_here() -> None:
    """Keeps JAX in this process off the accelerators, which are for its workers.

    Call it after `shares`, and before JAX is imported.
    """
    os.environ[PLATFORM] = "cpu"


def side_by_side(
    machine: Sequence[Share], keys: Sequence[Key], work: Work, finished: Callable[[], object]
) -> int:
    """Runs folds in processes, one fold each at a time.

    Args:
        machine: A share for each process.
        keys: The folds; each is handed out once.
        work: What a process does.
        finished: Is called after every fold.

    Returns:
        `DONE`, or the exit code of the first process that failed.

    Raises:
        KeyboardInterrupt: By Ctrl-C or SIGTERM; the processes were told, and have ended.
    """
    queue, failures = deque(keys), []
    workers: dict[Connection, _Worker] = {}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for share in machine[: len(queue)]:
            _start(share, work, workers)
        while workers:
            for connection in wait(list(workers)):
                assert isinstance(connection, Connection)
                worker = workers[connection]
                try:
                    connection.recv()  # it is free
                except EOFError:
                    del workers[connection]
                    connection.close()
                    code = _ended(worker)
                    if code != DONE:
                        failures.append(code)
                        # What dies before it has a fold would do so again.
                        if queue and worker.key is not None:
                            _start(worker.share, work, workers)
                    continue
                if worker.key is not None:
                    finished()
                worker.key = queue.popleft() if queue else None
                # One that has died by now is seen to in the next round.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.send(worker.key)
    finally:
        for worker in workers.values():
            worker.process.terminate()
        for worker in workers.values():
            worker.process.join()
        signal.signal(signal.SIGTERM, before)
    return failures[0] if failures else DONE


def _start(share: Share, work: Work, workers: dict[Connection, _Worker]) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, share, work))
    process.start()
    there.close()  # so that its death closes the pipe
    workers[here] = _Worker(process, share)


def _ended(worker: _Worker) -> int:
    """Says how a process ended, unless all is well, and returns its exit code."""
    worker.process.join()
    code = worker.process.exitcode
    assert code is not None
    if code == DONE:
        return DONE
    how = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
    fold = "before its first fold"
    if worker.key is not None:
        fold = "at fold {1} of seed {0}, which the same command runs again".format(*worker.key)
    say(f"process {worker.process.pid} failed ({how}) {fold}")
    return code if code > 0 else FAILED


def _work(connection: Connection, share: Share, work: Work) -> None:
    """What runs in a process; JAX has to be imported by `work` only."""
    for name, value in share.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if share.cores:
        os.sched_setaffinity(0, share.cores)
    prepare_process(sigterm_is_ctrl_c=True)
    stopped = "the fold under way is run anew next time"
    sys.exit(run(partial(work, _handed_out(connection)), stopped=stopped))


def _handed_out(connection: Connection) -> Iterator[Key]:
    """The folds that the other end hands out; none any more once it is gone."""
    try:
        while True:
            connection.send(None)
            key = connection.recv()
            if key is None:
                return
            yield key
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
