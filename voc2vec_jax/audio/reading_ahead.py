"""Recordings decoded ahead of their use, never more of them than some minutes of sound."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import soundfile as sf

from voc2vec_jax.audio.decode import is_sought
from voc2vec_jax.audio.input_files import Input
from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.errors import AudioError

AHEAD_SECONDS = 1_200.0
"""Sound that may wait, as 16 kHz mono: 77 MB. A recording that is longer waits alone."""
AHEAD_FILES = 256
CODED_BYTES_PER_SECOND = 4_000.0
"""For a guess at the length of what soundfile cannot open: few, so that it is rather too long."""

Decoded = np.ndarray | AudioError
"""float32 [S] at 16 kHz, or why the file cannot be used."""


def decode_ahead(inputs: Iterable[Input]) -> Iterator[tuple[Input, Decoded]]:
    """Each file with its samples, in order; threads decode the next ones meanwhile.

    What waits is bounded by `AHEAD_SECONDS`, whatever the number of files: by their headers, and
    with all channels at their own rate, as they are while they are decoded.
    """
    coming = ((item, _seconds_in_memory(item)) for item in inputs)
    following = next(coming, None)
    waiting: deque[tuple[Input, float, Future[Decoded]]] = deque()
    held = 0.0

    def fill() -> None:
        nonlocal following, held
        while following and (
            not waiting or (held + following[1] <= AHEAD_SECONDS and len(waiting) < AHEAD_FILES)
        ):
            waiting.append((*following, pool.submit(_decode, following[0])))
            held += following[1]
            following = next(coming, None)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        try:
            fill()
            while waiting:
                item, seconds, future = waiting.popleft()
                decoded = future.result()
                held -= seconds
                del future  # it would keep the samples for as long as they are in use
                fill()
                yield item, decoded
                del decoded
        finally:
            for _, _, future in waiting:
                future.cancel()


def in_groups(
    decoded: Iterable[tuple[Input, Decoded]], files: int, seconds: float
) -> Iterator[list[tuple[Input, Decoded]]]:
    """Consecutive files together; a group ends when it has so many files or so much sound.

    Where it ends depends on the files alone. Who wants one group in memory at a time lets go of it
    before asking for the next.
    """
    group: list[tuple[Input, Decoded]] = []
    samples = 0
    for one in decoded:
        group.append(one)
        samples += 0 if isinstance(one[1], AudioError) else len(one[1])
        del one
        if len(group) == files or samples >= seconds * SAMPLE_RATE:
            yield group
            group, samples = [], 0
    if group:
        yield group


def _decode(item: Input) -> Decoded:
    try:
        return item.load()
    except AudioError as error:
        return error


def _seconds_in_memory(item: Input) -> float:
    """How many seconds of 16 kHz mono have as many samples as a recording that is decoded."""
    path, segment = item.path, item.segment
    try:
        if not path.is_file():  # to open a named pipe would wait for a writer
            return 0.0
        size = path.stat().st_size
        with path.open("rb", buffering=0) as file, sf.SoundFile(file.fileno(), closefd=False) as f:
            frames, channels, rate = f.frames, f.channels, f.samplerate
            if segment.end is not None and is_sought(f):  # else all is decoded, and then cut
                frames = min(frames, round((segment.end - segment.start) * rate))
                size = 0
    except sf.SoundFileError:
        return size / CODED_BYTES_PER_SECOND
    except OSError:
        return 0.0  # decoding says what is wrong
    values = max(frames * channels, frames * SAMPLE_RATE // max(rate, 1))
    return max(values, size // 4) / SAMPLE_RATE  # streaming writers give a length of 0
