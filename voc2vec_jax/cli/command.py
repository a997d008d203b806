"""What all commands share: how they say something, and how they end."""

import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from voc2vec_jax import compiling
from voc2vec_jax.cli import program_cache
from voc2vec_jax.distributed import processes
from voc2vec_jax.errors import DONE, STOPPED, exit_code

T = TypeVar("T")
SAYING = ("voc2vec_jax.audio", "data_pipelines")
"""Logs of what was left out of a user's data, or taken for something else."""
RESUMES = "run the same command again to resume"
"""What is said of a command that was told to stop and keeps what it has."""


def say(text: str) -> None:
    """A line to standard error, where everything goes that is not a result."""
    print(text, file=sys.stderr, flush=True)


def _say_once(text: str) -> None:
    """The same, of several processes by the first one."""
    if processes.is_first():
        say(text)


class _Said(logging.Handler):
    """Shows a log as plain lines."""

    def emit(self, record: logging.LogRecord) -> None:
        _say_once(record.getMessage())


def parsed(arguments: type[T], argv: Sequence[str] | None, description: str | None, name: str) -> T:
    """The command line as what `arguments` describes.

    Args:
        arguments: A dataclass.
        argv: Without the name of the program; None for that of this process.
        description: For `--help`.
        name: Of the module that is run, such as `voc2vec_jax.embed`.

    Raises:
        ConfigError: Values that do not go together.
        SystemExit: Wrong flags, or `--help`.
    """
    args = sys.argv[1:] if argv is None else list(argv)
    return tyro.cli(arguments, args=args, description=description, prog=f"python -m {name}")


def run(work: Callable[[], int | None], *, stopped: str | None = None) -> int:
    """Does the work of a command, and turns an expected error into one line and an exit code.

    Args:
        work: Returns an exit code, or None for `DONE`. It raises what `errors` lists; anything
            else is a bug, and keeps its traceback.
        stopped: What to say where the command was told to stop and can be resumed; None if it
            cannot, so that Ctrl-C ends it as any program.
    """
    # A path that is no UTF-8 may be printed, and must not end a command that has worked.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = work()
    except KeyboardInterrupt:
        if stopped is None:
            raise
        say(f"stopped: {stopped}")
        return STOPPED
    except Exception as error:
        known = exit_code(error)
        if known is None:
            raise
        say(f"stopped: {stopped or error}" if known == STOPPED else f"error: {error}")
        return known
    return DONE if code is None else code


def prepare_process(*, sigterm_is_ctrl_c: bool = False) -> None:
    """What a command needs of its own process, before anything large is imported.

    Args:
        sigterm_is_ctrl_c: For commands that keep what they have when they are interrupted.
    """
    # TensorFlow only reads records and feeds batches; its chatter would bury the messages.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    program_cache.switch_on(_say_once)
    compiling.log.setLevel(logging.INFO)
    for log in (compiling.log, *map(logging.getLogger, SAYING)):
        log.addHandler(_Said())
        log.propagate = False  # others may have put handlers at the root
    if sigterm_is_ctrl_c:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
