"""A run of several processes: how they find each other, agree, and go down together.

With one process every function here does the obvious thing at no cost. JAX is imported inside
functions, so that `--help` answers at once.
"""

import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from voc2vec_jax.errors import ConfigError, OtherProcessError

T = TypeVar("T")
PATIENCE_MS = 7 * 24 * 3600 * 1000
"""How long one process waits for the word of another that is alive; heartbeats tell if it is not.
Decoding a corpus can take hours."""
FAREWELL_SECONDS = 2.0
"""What process 0 waits before it leaves with an error. The others are aborted when it is gone, and
may be about to give the same error themselves."""

LOST_ANOTHER = 134
"""The exit code of a process that has lost another one: that of JAX's own abort (SIGABRT)."""
SIGNS_OF_LOSS = ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat")
"""In the message of a failed exchange."""

_words = count()


@dataclass(frozen=True)
class Processes:
    """How several processes share one run: give coordinator, count and index, or auto."""

    coordinator: str | None = None
    """HOST:PORT where process 0 can be reached by all; it opens the port."""
    count: int | None = None
    """How many processes there are."""
    index: int | None = None
    """Which of them this is, from 0."""
    auto: bool = False
    """Ask the environment (TPU pod, SLURM, Open MPI) for all three."""
    start_timeout_seconds: int = 300
    """How long to wait for all to appear."""
    heartbeat_timeout_seconds: int = 60
    """After so long without a sign of life from one process, the others stop too."""
    shutdown_timeout_seconds: int = 60
    """How long a process that is done waits for the others."""

    def __post_init__(self) -> None:
        given = {
            name: getattr(self, name)
            for name in ("coordinator", "count", "index")
            if getattr(self, name) is not None
        }
        said = " ".join(f"--processes.{name} {value}" for name, value in given.items())
        if self.auto and given:
            raise ConfigError(
                f"--processes.auto {said}: the environment decides all of it; leave one out"
            )
        if 0 < len(given) < 3:
            raise ConfigError(
                f"{said}: coordinator, count and index belong together; give all three, or "
                "--processes.auto"
            )
        if self.coordinator is not None and not re.fullmatch(r".+:[0-9]+", self.coordinator):
            raise ConfigError(f"--processes.coordinator {self.coordinator}: must be HOST:PORT")
        if self.count is not None and self.index is not None:
            if self.count < 1:
                raise ConfigError(f"--processes.count {self.count}: must be at least 1")
            if not 0 <= self.index < self.count:
                raise ConfigError(
                    f"--processes.index {self.index}: must be from 0 to {self.count - 1}, for "
                    f"--processes.count {self.count}"
                )
        for name in ("start", "heartbeat", "shutdown"):
            value = getattr(self, f"{name}_timeout_seconds")
            if value < 1:
                raise ConfigError(f"--processes.{name}-timeout-seconds {value}: must be at least 1")

    def start(self) -> None:
        """Joins the others, if there are any; before JAX has touched a device.

        Raises:
            ConfigError: The environment knows nothing of several processes.
            OSError: They could not come together, or not in time.
        """
        if not self.auto and self.coordinator is None:
            return
        import jax

        try:
            jax.distributed.initialize(
                coordinator_address=self.coordinator,
                num_processes=self.count,
                process_id=self.index,
                # Where all is given, nothing is left to ask the environment for.
                cluster_detection_method=None if self.auto else "deactivate",
                initialization_timeout=self.start_timeout_seconds,
                heartbeat_timeout_seconds=self.heartbeat_timeout_seconds,
                shutdown_timeout_seconds=self.shutdown_timeout_seconds,
            )
        except ValueError as error:
            raise ConfigError(
                f"--processes.auto: nothing here says how many processes there are ({error}); give "
                "--processes.coordinator, .count and .index"
            ) from None
        except RuntimeError as error:
            reason, late = str(error).splitlines()[0], ""
            if "DEADLINE_EXCEEDED" in reason:
                late = f"; not all came together within {self.start_timeout_seconds} s"
            who = "--processes.auto"
            if not self.auto:
                who = f"process {self.index} of {self.count}, coordinator {self.coordinator}"
            raise OSError(f"{who}: {reason}{late}") from None


def several() -> bool:
    """Whether this process is one of several that were joined by `Processes.start`."""
    if "jax" not in sys.modules:
        return False
    import jax

    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that writes files and speaks."""
    if not several():
        return True
    import jax

    return jax.process_index() == 0


def told_to_stop(step: int) -> bool:
    """Whether one of several processes got SIGTERM and this is the step at which all stop.

    A look at a counter, no message; all must call it with the same ascending steps. JAX picks a
    step that no process has passed.
    """
    if not several():
        return False
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)


def first_does(work: Callable[[], T], what: str) -> T:
    """Process 0 does something, the others wait for it; all get what it returns.

    Args:
        work: What to do; returns plain JSON types.
        what: In words, for the error of the others.

    Raises:
        OtherProcessError: In the others, if it failed; process 0 raises its own error.
    """
    if not several():
        return work()
    if not is_first():
        heard = json.loads(_hear())
        if "failed" in heard:
            said = f"process 0 failed while {what}: {heard['failed']}"
            raise OtherProcessError(said, heard["kinds"])
        value: T = heard["value"]
        return value
    try:
        done = work()
    except BaseException as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        _tell(json.dumps({"failed": f"{kinds[0]}: {error}"[:2000], "kinds": kinds}))
        raise
    _tell(json.dumps({"value": done}))
    return done


def wait_for_all() -> None:
    """Until all processes are here, however long that takes them."""
    if several():
        _client().wait_at_barrier(f"voc2vec_jax/{next(_words)}", PATIENCE_MS)


def require_same(value: str, what: str) -> None:
    """Refuses to go on where this process has another value than process 0.

    Raises:
        ConfigError: In the one that differs.
    """
    if first_does(lambda: value, what) != value:
        raise ConfigError(
            f"{what} of this process differs from that of process 0; start all processes with the "
            "same command and the same data"
        )


def require_shared(workdir: Path, name: str) -> None:
    """Refuses a working directory where a file that process 0 has just written is not to be seen.

    Raises:
        ConfigError: This process has another directory under that path.
    """
    if not (workdir / name).exists():
        raise ConfigError(
            f"--workdir {workdir}: this process does not see the {name} that process 0 has written "
            "there; give a folder on a file system that all hosts share, under one path"
        )


def whole(arrays: Any) -> Any:
    """Global arrays as NumPy ones, on every process; the same arrays where there is only one."""
    if not several():
        return arrays
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(arrays, tiled=True)


def leave(code: int) -> None:
    """Ends this process at once if it is one of several, so that none waits for its goodbye."""
    if not several():
        return
    if is_first():
        time.sleep(FAREWELL_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def say_and_leave(error: BaseException, code: int) -> None:
    """Says what an unexpected error was, and leaves; does nothing in a lone process.

    With `LOST_ANOTHER` if the error is that another process does not answer any more.
    """
    if not several():
        return
    text = str(error)
    if type(error).__name__ == "JaxRuntimeError" and any(sign in text for sign in SIGNS_OF_LOSS):
        print(
            f"error: another process was lost ({text.splitlines()[0][:200]}); see there why, then "
            "start all again to go on from the newest checkpoint",
            file=sys.stderr,
        )
        leave(LOST_ANOTHER)
    traceback.print_exception(error)
    leave(code)


def _tell(word: str) -> None:
    _client().key_value_set(f"voc2vec_jax/{next(_words)}", word)


def _hear() -> str:
    word: str = _client().blocking_key_value_get(f"voc2vec_jax/{next(_words)}", PATIENCE_MS)
    return word


def _client() -> Any:
    """JAX's store of words between processes: the one private name of JAX that is used here.

    It has no public name, and Orbax uses the same; `tests/test_processes.py` says what a release
    of JAX that moves it breaks.

    Raises:
        RuntimeError: This process was joined to no other.
    """
    from jax._src import distributed

    client = distributed.global_state.client
    if client is None:
        raise RuntimeError("no other process: Processes.start() has not joined any")
    return client
