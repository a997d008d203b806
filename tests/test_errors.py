"""One table of exceptions and exit codes, and how commands end by it."""

import ast
import errno
from pathlib import Path

import pytest

from tests.test_imports import INSTALLED, sources
from voc2vec_jax import errors
from voc2vec_jax.cli.command import run
from voc2vec_jax.errors import (
    BAD_DATA,
    DONE,
    FAILED,
    STOPPED,
    WRONG_USAGE,
    AudioError,
    ConfigError,
    DataError,
    OtherProcessError,
    PickleError,
    PreemptedError,
    WorkdirLockedError,
    exit_code,
)

CLASSES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == errors.__name__
]


def test_no_exception_class_stands_elsewhere() -> None:
    found = {
        (path.name, node.name)
        for path in sources(*INSTALLED)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
    }
    assert found == {("errors.py", kind.__name__) for kind in CLASSES}
    assert len(CLASSES) > 15


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_exception_has_an_exit_code(kind: type[Exception]) -> None:
    error = kind.__new__(kind)
    if kind is PickleError:  # its reader catches it
        assert exit_code(error) is None
    elif kind is not OtherProcessError:
        assert exit_code(error) in (FAILED, WRONG_USAGE, BAD_DATA, STOPPED)


def test_subclasses_share_the_code_and_bugs_have_none() -> None:
    assert exit_code(OSError(errno.ENOSPC, "full")) == exit_code(FileNotFoundError()) == FAILED
    assert exit_code(WorkdirLockedError("held")) == FAILED
    assert exit_code(ValueError("a bug")) is None


def test_a_process_ends_as_the_one_that_it_heard_of() -> None:
    assert exit_code(OtherProcessError("", ["DataError", "ValueError"])) == BAD_DATA
    assert exit_code(OtherProcessError("", ["FileNotFoundError", "OSError"])) == FAILED
    assert exit_code(OtherProcessError("", ["KeyError"])) == FAILED


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("no such flag"), WRONG_USAGE, "error: no such flag\n"),
        (DataError("no clips"), BAD_DATA, "error: no clips\n"),
        (AudioError("a.wav", "is empty"), BAD_DATA, "error: 'a.wav': is empty\n"),
        (PreemptedError("SIGTERM at step 3"), STOPPED, "stopped: SIGTERM at step 3\n"),
    ],
)
def test_a_command_says_one_line_and_ends_with_the_code(
    error: Exception, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error

    assert run(work) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", said)


def test_a_command_that_can_be_gone_on_with_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert run(interrupted, stopped="run it again") == STOPPED
    assert capsys.readouterr().err == "stopped: run it again\n"
    with pytest.raises(KeyboardInterrupt):
        run(interrupted)


def test_a_bug_keeps_its_traceback_and_a_result_its_code() -> None:
    def bug() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run(bug)
    assert run(lambda: None) == DONE
    assert run(lambda: FAILED) == FAILED


def test_audio_errors_survive_a_trip_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(AudioError(Path("a.wav"), "is empty")))
    assert (error.path, error.reason) == ("a.wav", "is empty")
