"""`--profile 10:15`: a trace of a few updates, to be looked at in TensorBoard or Perfetto."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from voc2vec_jax.errors import ConfigError


def profiled_steps(text: str, num_steps: int) -> range:
    """The steps that `FIRST:LAST` names, both included.

    Args:
        text: As on the command line. The update that brings `step` to 10 is the tenth.
        num_steps: Updates of the run.

    Raises:
        ConfigError: No such pair, or the run does not get as far.
    """
    found = re.fullmatch(r"(\d+):(\d+)", text)
    first, last = map(int, found.groups()) if found else (0, 0)
    if not 1 <= first <= last:
        raise ConfigError(
            f"--profile {text}: give FIRST:LAST, the first and the last update to trace, counted "
            "from 1, such as 10:15"
        )
    if last > num_steps:
        raise ConfigError(
            f"--profile {text}: ends behind the last update, train.num_steps={num_steps}"
        )
    return range(first, last + 1)


class Profiler:
    """Traces some updates of a run, and what the host does between them.

    The trace begins when the device has finished the update before, and ends when it has finished
    the last one. Nothing that is computed depends on it.

    Args:
        steps: Which updates; none if empty.
        folder: Where traces go, each into a folder of its own below `plugins/profile/`.
        say: Is told where a trace lies, or why there is none.
    """

    def __init__(self, steps: range, folder: Path, say: Callable[[str], None]):
        self._steps, self._folder, self._say = steps, folder, say
        self._since: int | None = None
        """The first update of the trace that is being taken."""
        self._taken = False

    def between(self, done: int, state: Any) -> None:
        """Starts or stops the trace; to be called before the first update and after each.

        Args:
            done: Updates behind the run.
            state: What the last of them made; waited for.
        """
        if self._since is not None and done + 1 not in self._steps:
            jax.block_until_ready(state)
            self._stop(done)
        elif self._since is None and done + 1 in self._steps:
            jax.block_until_ready(state)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every Python call: thousands in an update
            # Perfetto reads no other file of it.
            jax.profiler.start_trace(
                self._folder, create_perfetto_trace=True, profiler_options=options
            )
            self._since = done + 1

    def close(self, done: int) -> None:
        """Ends with the run, after `done` updates: keeps what was traced, or says: nothing was."""
        if self._since is not None:
            self._stop(done)
        elif self._steps and not self._taken:
            self._say(
                f"profile: nothing was traced, for none of updates {self._steps[0]} to "
                f"{self._steps[-1]} was done by this process, which ends at step {done}"
            )

    def _stop(self, done: int) -> None:
        jax.profiler.stop_trace()
        self._say(
            f"profile: updates {self._since} to {done} traced; look at them with tensorboard "
            f"--logdir {self._folder} (pip install tensorboard xprof), or open the "
            f"perfetto_trace.json.gz below {self._folder} at https://ui.perfetto.dev"
        )
        self._since, self._taken = None, True
