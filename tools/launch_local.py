"""Start several processes of one run on this machine: for trying it out, and for tests.

`--processes.coordinator`, `.count` and `.index` are appended to the command. When one process
fails, the others get some seconds to notice, then they are killed. SIGTERM and Ctrl-C are passed
on to all as SIGTERM, upon which a run saves its state.

Exit code: 0 if all were done, 75 if all were preempted and have saved their state, else that of the
first that failed (128 + n if signal n killed it).

Example:
  python -m tools.launch_local --processes 2 --devices-per-process 2 -- \\
      python -m voc2vec_jax.train --config configs/tiny.py --workdir runs/two
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TextIO

import tyro

from voc2vec_jax.distributed.processes import LOST_ANOTHER
from voc2vec_jax.errors import DONE, STOPPED, WRONG_USAGE

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Arguments:
    """The command line up to `--`."""

    processes: int
    """How many."""
    devices_per_process: int | None = None
    """Virtual CPU devices of each; without it they get whatever JAX finds, which on a machine with
    one accelerator only one process can have."""
    grace_seconds: float = 15.0
    """How long the others may go on when one has failed, before they are killed."""


class Launch:
    """The processes of one command.

    Args:
        command: What to run.
        arguments: See there.
    """

    def __init__(self, command: Sequence[str], arguments: Arguments):
        self._grace_seconds = arguments.grace_seconds
        self._stop_at = float("inf")
        self._first_failure: int | None = None
        address, count = f"localhost:{_free_port()}", arguments.processes
        self._children = [
            subprocess.Popen(
                [
                    *command,
                    *("--processes.coordinator", address),
                    *("--processes.count", str(count), "--processes.index", str(index)),
                ],
                env=_environment(arguments.devices_per_process),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                process_group=0,  # Ctrl-C reaches them through us only
            )
            for index in range(count)
        ]
        self._readers = []
        for index, child in enumerate(self._children):
            assert child.stdout is not None
            reader = threading.Thread(target=_prefix, args=(index, child.stdout), daemon=True)
            reader.start()
            self._readers.append(reader)

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Passes a signal on to all that still run."""
        self._say(f"{signal.Signals(number).name}: telling all processes to save and stop")
        for child in self._children:
            if child.poll() is None:
                child.terminate()

    def wait(self) -> int:
        """Until all have ended; returns the exit code of the whole."""
        running = dict(enumerate(self._children))
        codes: dict[int, int] = {}
        while running:
            ended = {i: c.returncode for i, c in running.items() if c.poll() is not None}
            running = {i: child for i, child in running.items() if i not in ended}
            codes |= ended
            # Of those that ended together, one that was killed is the cause.
            for index in sorted(ended, key=lambda i: ended[i] != -signal.SIGKILL):
                self._ended(index, ended[index], bool(running))
            if time.monotonic() > self._stop_at:
                self._kill(running)
            time.sleep(POLL_SECONDS)
        for reader in self._readers:
            reader.join()
        if self._first_failure is not None:
            return self._first_failure
        return STOPPED if STOPPED in codes.values() else DONE

    def _ended(self, index: int, code: int, others: bool) -> None:
        if code == DONE:
            return
        if code not in (DONE, STOPPED) and self._first_failure is None:
            self._first_failure = 128 - code if code < 0 else code
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        if code in (LOST_ANOTHER, -signal.SIGABRT):
            how += ", as when another process is lost"
        rest = ""
        if others and self._stop_at == float("inf"):
            self._stop_at = time.monotonic() + self._grace_seconds
            rest = f"; the others have {self._grace_seconds:g} s to end"
        self._say(f"process {index} {how}{rest}")

    def _kill(self, running: dict[int, "subprocess.Popen[str]"]) -> None:
        self._stop_at = float("inf")
        for index, child in running.items():
            self._say(f"process {index} is killed: it did not end by itself")
            child.kill()

    def _say(self, text: str) -> None:
        print(f"[launch] {text}", file=sys.stderr, flush=True)


def _environment(devices: int | None) -> dict[str, str]:
    environment = dict(os.environ)
    if devices is not None:
        flag = f"--xla_force_host_platform_device_count={devices}"
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flag}".strip()
        environment["JAX_PLATFORMS"] = "cpu"
    return environment


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


def _prefix(index: int, output: TextIO) -> None:
    for line in output:
        print(f"[{index}] {line}", end="", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    ours, command = argv, []
    if "--" in argv:
        ours, command = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    arguments = tyro.cli(
        Arguments, args=ours, description=__doc__, prog="python -m tools.launch_local"
    )
    if arguments.processes < 1 or not command:
        wrong = "needs `-- COMMAND`" if not command else f"--processes {arguments.processes}"
        print(f"error: {wrong}: give at least one process and a command after --", file=sys.stderr)
        return WRONG_USAGE
    launch = Launch(command, arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, launch.stop)
    return launch.wait()


if __name__ == "__main__":
    sys.exit(main())
