"""Every exception that a user can meet, and the exit code that a command ends with because of it.

A message names the file or field, its value, and what to do about it.
"""

import os
from collections.abc import Sequence

DONE, FAILED, WRONG_USAGE, BAD_DATA, STOPPED = 0, 1, 2, 3, 75
"""Exit codes. `STOPPED`: told to stop, state saved; the same command goes on."""


class ConfigError(ValueError):
    """A configuration or a flag that cannot work."""


class DataError(ValueError):
    """Input data that cannot be used."""


class AudioError(ValueError):
    """A file that cannot be used as audio.

    Attributes:
        path: The file.
        reason: What is wrong with it and what to do.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = os.fspath(path)
        self.reason = reason
        # Both arguments reach `args`, from which pickle rebuilds the error across processes.
        super().__init__(self.path, reason)

    def __str__(self) -> str:
        return f"{self.path!r}: {self.reason}"


class InputsError(ValueError):
    """Files or folders that were named and hold nothing to work on."""


class CheckpointError(ValueError):
    """A missing, damaged or unsupported file of weights."""


class PickleError(ValueError):
    """A pickle that is not plain data; its reader says `CheckpointError` and the file."""


class ConversionError(ValueError):
    """Tensors that do not fit a model, all of them listed."""


class FreshHeadError(ValueError):
    """Scores were asked of a classifier that nobody has trained."""


class CheckpointMismatchError(ValueError):
    """A checkpoint that belongs to another model or other data."""


class CorruptCheckpointError(ValueError):
    """No checkpoint of a run is whole."""


class CheckpointWriteError(OSError):
    """A checkpoint that could not be written; those before it are whole."""


class WorkdirLockedError(OSError):
    """Another run is at work in this working directory."""


class TrainingDivergedError(FloatingPointError):
    """The loss or a gradient is no longer a number."""


class PreemptedError(Exception):
    """The process was told to stop, and has saved its state."""


class ResumeError(ValueError):
    """What lies there belongs to another run."""


class UnlabelledError(ValueError):
    """Clips without a class cannot be evaluated."""


class ResultsError(ValueError):
    """A file of results that cannot be used."""


class FeaturesError(ValueError):
    """A file of vectors that cannot be used."""


class OtherProcessError(Exception):
    """What process 0 was to do for all has failed; it says why.

    Attributes:
        kinds: Names of the class of the error there, and of its parents.
    """

    def __init__(self, message: str, kinds: Sequence[str] = ()):
        super().__init__(message)
        self.kinds = frozenset(kinds)


EXIT_CODES: dict[type[Exception], int] = {
    PreemptedError: STOPPED,
    ConfigError: WRONG_USAGE,
    CheckpointMismatchError: WRONG_USAGE,
    ResumeError: WRONG_USAGE,
    DataError: BAD_DATA,
    AudioError: BAD_DATA,
    InputsError: BAD_DATA,
    CheckpointError: BAD_DATA,
    ConversionError: BAD_DATA,
    FreshHeadError: BAD_DATA,
    CorruptCheckpointError: BAD_DATA,
    UnlabelledError: BAD_DATA,
    ResultsError: BAD_DATA,
    FeaturesError: BAD_DATA,
    TrainingDivergedError: FAILED,
    OSError: FAILED,
}
"""By class; its subclasses share it. What is not here is a bug, and keeps its traceback."""


def exit_code(error: BaseException) -> int | None:
    """The documented exit code of an expected error; None for a bug.

    A process that only heard of an error in process 0 ends as that one does.
    """
    if isinstance(error, OtherProcessError):
        named = (code for kind, code in EXIT_CODES.items() if kind.__name__ in error.kinds)
        return next(named, FAILED)
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), None)
