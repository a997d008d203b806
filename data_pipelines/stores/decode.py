"""Audio files to int16 at 16 kHz, several at a time and in order."""

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
from voc2vec_jax.audio.signal import load_audio
from voc2vec_jax.errors import AudioError

MAX_DECODERS = 8
"""Threads that decode; about a fifth of the work holds the interpreter, so more gain little."""

logger = logging.getLogger(__name__)


def decode_file(path: Path) -> Sound | str:
    """The sound of a file at 16 kHz, or why there is none."""
    try:
        return to_int16(load_audio(path))
    except AudioError as error:
        return error.reason


def decode_clips(
    clips: Sequence[Clip], paths: Sequence[Path], name: str
) -> Callable[[int], Iterator[Decoded]]:
    """What `build_store` asks for: a function that decodes all clips but the first so many."""

    def decode_from(start: int) -> Iterator[Decoded]:
        console = Console(stderr=True)
        logger.info("corpus=%s decoding=%d", name, len(paths) - start)
        decoded = track(
            _decode_in_order(paths[start:]),
            f"Decoding {name}",
            total=len(paths),
            completed=start,
            console=console,
            disable=not console.is_terminal,
        )
        yield from zip(clips[start:], decoded, strict=True)

    return decode_from


def _decode_in_order(paths: Sequence[Path]) -> Iterator[Sound | str]:
    """The sound of each file, or why there is none; a few files are held at a time."""
    # Threads, because decoding and resampling run outside the interpreter; processes would have
    # to be spawned, import everything anew and need a guarded main module.
    decoders = min(os.cpu_count() or 1, MAX_DECODERS)
    ahead = 2 * decoders
    with ThreadPoolExecutor(decoders) as pool:
        pending = deque(pool.submit(decode_file, path) for path in paths[:ahead])
        for path in paths[ahead:]:
            yield pending.popleft().result()
            pending.append(pool.submit(decode_file, path))
        while pending:
            yield pending.popleft().result()
