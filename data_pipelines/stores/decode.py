"""Audio files to int16 at 16 kHz, several at a time and in order."""

import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import track

from data_pipelines.stores.building import Decoded
from data_pipelines.stores.flat_store import Clip
from data_pipelines.stores.sound import Sound, to_int16
from voc2vec_jax.audio.segments import WHOLE, Segment
from voc2vec_jax.audio.signal import load_audio
from voc2vec_jax.errors import AudioError

MAX_DECODERS = 8
"""Threads that decode; about a fifth of the work holds the interpreter, so more gain little."""

logger = logging.getLogger(__name__)


def decode_file(path: Path, segment: Segment = WHOLE) -> Sound | str:
    """The sound of a file or a segment of it at 16 kHz, or why there is none."""
    try:
        return to_int16(load_audio(path, start=segment.start, end=segment.end))
    except AudioError as error:
        return error.reason


def decode_clips(
    clips: Sequence[Clip],
    paths: Sequence[Path],
    name: str,
    segments: Sequence[Segment] | None = None,
) -> Callable[[int], Iterator[Decoded]]:
    """What `build_store` asks for: a function that decodes all clips but the first so many.

    Args:
        clips: What is known of each.
        paths: As many.
        name: Of the corpus, for the progress bar.
        segments: As many; None where the files are clips as they are.
    """
    parts = list(zip(paths, segments or itertools.repeat(WHOLE), strict=False))

    def decode_from(start: int) -> Iterator[Decoded]:
        console = Console(stderr=True)
        logger.info("corpus=%s decoding=%d", name, len(paths) - start)
        decoded = track(
            _decode_in_order(parts[start:]),
            f"Decoding {name}",
            total=len(paths),
            completed=start,
            console=console,
            disable=not console.is_terminal,
        )
        yield from zip(clips[start:], decoded, strict=True)

    return decode_from


def _decode_in_order(parts: Sequence[tuple[Path, Segment]]) -> Iterator[Sound | str]:
    """The sound of each segment, or why there is none; a few files are held at a time."""
    # Threads, because decoding and resampling run outside the interpreter; processes would have
    # to be spawned, import everything anew and need a guarded main module.
    decoders = min(os.cpu_count() or 1, MAX_DECODERS)
    ahead = 2 * decoders
    with ThreadPoolExecutor(decoders) as pool:
        pending = deque(pool.submit(decode_file, *part) for part in parts[:ahead])
        for part in parts[ahead:]:
            yield pending.popleft().result()
            pending.append(pool.submit(decode_file, *part))
        while pending:
            yield pending.popleft().result()
