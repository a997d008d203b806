"""What is said while programs are compiled: which shape of how many, and how much is left."""

import logging
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from voc2vec_jax import compiling
from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.compiling import Shapes, in_words, said


class Listener(logging.Handler):
    """Keeps lines, and tells when one has come."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.heard = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.heard.set()

    def wait(self) -> None:
        assert self.heard.wait(60), "nothing was said"
        self.heard.clear()


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """Of what is said; what takes any time at all is said."""
    monkeypatch.setattr(compiling, "QUIET_SECONDS", 0.0)
    handler, level = Listener(), compiling.log.level
    compiling.log.addHandler(handler)
    compiling.log.setLevel(logging.INFO)
    yield handler
    compiling.log.setLevel(level)
    compiling.log.removeHandler(handler)


def test_each_shape_is_said_once_with_what_is_left(listener: Listener) -> None:
    shapes = Shapes()
    shapes.expect((seconds * SAMPLE_RATE,) for seconds in (1, 2, 4))
    for number, seconds in enumerate((4, 1, 4, 1)):
        with shapes.first({"waveform": np.zeros((2, seconds * SAMPLE_RATE), np.float32)}):
            if number < 2:
                listener.wait()
    assert listener.lines[0] == "compiling shape 1 of 3 (4 s)"
    assert listener.lines[1].startswith("compiling shape 2 of 3 (1 s), about ")
    assert listener.lines[1].endswith("left for compiling")
    assert len(listener.lines) == 2


def test_the_estimate_is_the_mean_of_those_that_were_compiled(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = Shapes("held-out shape")
    shapes.expect((n * SAMPLE_RATE,) for n in (1, 2, 3, 4))
    # The clock is read when a shape begins, when its line does, and when it ends.
    now = iter((0.0, 0.0, 10.0, 10.0, 10.0, 40.0, 40.0, 40.0, 41.0))
    monkeypatch.setattr(compiling, "time", SimpleNamespace(monotonic=lambda: next(now)))
    for n in (1, 2, 3):
        with shapes.first_of((n * SAMPLE_RATE,)):
            listener.wait()
    assert listener.lines == [
        "compiling held-out shape 1 of 4 (1 s)",
        "compiling held-out shape 2 of 4 (2 s), about 30 s left for compiling",  # three at 10 s
        "compiling held-out shape 3 of 4 (3 s), about 40 s left for compiling",  # two at 20 s
    ]


def test_what_is_quick_and_what_is_known_is_not_said(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "QUIET_SECONDS", 3600.0)
    shapes = Shapes()
    with shapes.first_of((SAMPLE_RATE,)), said("compiling something"):
        pass
    threads = threading.active_count()
    monkeypatch.setattr(compiling, "QUIET_SECONDS", 0.0)
    with shapes.first_of((SAMPLE_RATE,)), shapes.first({"features": np.zeros((2, 1, 3))}):
        assert threading.active_count() == threads  # nobody waits, so an update costs nothing
    assert listener.lines == []


def test_shapes_that_nobody_expected(listener: Listener) -> None:
    """Without a number where none is known, and with a larger one where it was too low."""
    shapes = Shapes()
    batches = [{"waveform": np.zeros((1, n), np.float32)} for n in (8_000, 16_400, 8_000)]
    for number, _ in enumerate(shapes.each(batches)):
        if number < 2:
            listener.wait()
    shapes.expect([(8_000,), (32_000,)])
    for samples in (32_000, 48_000):
        with shapes.first_of((samples,)):
            listener.wait()
    assert [line.partition(",")[0] for line in listener.lines] == [
        "compiling shape 1 (0.5 s)",
        "compiling shape 2 (1.02 s)",
        "compiling shape 3 of 3 (2 s)",
        "compiling shape 4 of 4 (3 s)",
    ]


def test_a_long_wait_is_said_again(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "AGAIN_SECONDS", 0.01)
    with said("compiling the initial state"):
        for _ in range(3):
            listener.wait()
    first, *others = listener.lines
    assert first == "compiling the initial state"
    assert all(line.startswith(f"{first}: ") and line.endswith(" so far") for line in others)
    assert "compiling" not in {thread.name for thread in threading.enumerate()}


def test_durations_in_words() -> None:
    said = [in_words(seconds) for seconds in (0.4, 99.4, 99.6, 3569, 3571, 4000)]
    assert said == ["0 s", "99 s", "2 min", "59 min", "1 h 0 min", "1 h 7 min"]
