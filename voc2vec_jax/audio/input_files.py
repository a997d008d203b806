"""Audio that is named on a command line: files and folders, decoded ahead of their use."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from voc2vec_jax.audio.signal import find_audio, load_audio
from voc2vec_jax.errors import AudioError, InputsError

Decoded = np.ndarray | AudioError
"""float32 [S] at 16 kHz, or why the file cannot be used."""


@dataclass(frozen=True)
class Input:
    """A file to read."""

    id: str
    """Its path below the folder that was named, with `/`; of a file that was named, as given."""
    path: Path


def find_inputs(places: Sequence[str | os.PathLike[str]]) -> list[Input]:
    """Every audio file of the folders, and every file that is named itself, in that order.

    Raises:
        FileNotFoundError: A place does not exist.
        InputsError: A folder holds no audio, or two files would have the same id.
    """
    found: list[Input] = []
    for place in map(Path, places):
        if not place.is_dir():
            if not place.exists():
                raise FileNotFoundError(f"{place}: no such file or folder; check the path")
            found.append(Input(place.as_posix(), place))
            continue
        paths, others = find_audio(place)
        if not paths:
            raise InputsError(f"{place}: holds no audio, only {others} other files")
        found += [Input(path.relative_to(place).as_posix(), path) for path in paths]
    first: dict[str, Path] = {}
    for item in found:
        if item.id in first:
            raise InputsError(
                f"{item.path} and {first[item.id]} would both be called {item.id!r}; name the"
                " folder above both"
            )
        first[item.id] = item.path
    return found


def decode_ahead(
    chunks: Sequence[Sequence[Input]],
) -> Iterator[tuple[Sequence[Input], list[Decoded]]]:
    """Each chunk with its decoded files; threads decode the next one while this one is in use."""

    def decode(item: Input) -> Decoded:
        try:
            return load_audio(item.path)
        except AudioError as error:
            return error

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        waiting: list[list[Future[Decoded]]] = []
        try:
            for number, chunk in enumerate(chunks):
                waiting += [
                    [pool.submit(decode, item) for item in ahead]
                    for ahead in chunks[number + len(waiting) : number + 2]
                ]
                yield chunk, [future.result() for future in waiting.pop(0)]
        finally:
            for future in (future for futures in waiting for future in futures):
                future.cancel()
