"""Says that something is being compiled, where a command would otherwise be silent for long.

Lines go to the logger of this module at level INFO, so that nobody sees them who does not ask;
the commands do (`cli/command.py`). What comes out of a cache is quick as a rule, and passes unsaid.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from voc2vec_jax.audio.signal import SAMPLE_RATE

log = logging.getLogger(__name__)

Batch = TypeVar("Batch", bound=Mapping[str, Any])
Shape = tuple[int, ...]
"""Of a batch; the last number is that of its samples."""
QUIET_SECONDS = 3.0
"""What takes no longer is not worth a line."""
AGAIN_SECONDS = 60.0
"""How often it is said that it still goes on."""


@contextmanager
def said(line: str) -> Iterator[None]:
    """Says a line if what happens inside takes long, and how long so far once a minute.

    A thread waits beside it, so use this where something happens once, not in every update.
    """
    done = threading.Event()
    started = time.monotonic()

    def tell() -> None:
        if done.wait(QUIET_SECONDS):
            return
        log.info("%s", line)
        while not done.wait(AGAIN_SECONDS):
            log.info("%s: %s so far", line, in_words(time.monotonic() - started))

    thread = threading.Thread(target=tell, name="compiling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()  # so that no line comes late


class Shapes:
    """The shapes that a program meets: it is compiled for each, at its first batch.

    Not for several threads at a time.

    Args:
        what: How a shape is called.
    """

    def __init__(self, what: str = "shape"):
        self._what = what
        self._expected: set[Shape] = set()
        self._met: set[Shape] = set()
        self._seconds: list[float] = []

    def expect(self, shapes: Iterable[Shape]) -> None:
        """Takes note of shapes that will come, so that it can be said how many are left."""
        self._expected.update(shapes)

    def first(self, batch: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Around the call of a program; says that it is compiled if that takes long.

        Args:
            batch: With `waveform` [B, S]; nothing is said of one without. Batches of S samples
                have as many rows.
        """
        return self.first_of(batch["waveform"].shape[1:]) if "waveform" in batch else nullcontext()

    def first_of(self, shape: Shape) -> AbstractContextManager[None]:
        """The same, for a program whose batches are told apart by more than their samples."""
        return nullcontext() if shape in self._met else self._compiled(shape)

    def each(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, for a loop that gives each to the program and does not wait for it."""
        for batch in batches:
            with self.first(batch):
                yield batch

    @contextmanager
    def _compiled(self, shape: Shape) -> Iterator[None]:
        line = self._line(shape)
        self._met.add(shape)
        started = time.monotonic()
        with said(line):
            yield
        seconds = time.monotonic() - started
        if seconds > QUIET_SECONDS:  # others are of a cache, and say little of those to come
            self._seconds.append(seconds)

    def _line(self, shape: Shape) -> str:
        number = f"{len(self._met) + 1}"
        left = len(self._expected - self._met - {shape}) + 1
        if self._expected:
            number += f" of {len(self._expected | self._met | {shape})}"
        line = f"compiling {self._what} {number} ({shape[-1] / SAMPLE_RATE:.3g} s)"
        if self._seconds and self._expected:
            each = sum(self._seconds) / len(self._seconds)
            line += f", about {in_words(each * left)} left for compiling"
        return line


def in_words(seconds: float) -> str:
    """A duration as one would say it: `40 s`, `12 min`, `1 h 5 min`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
