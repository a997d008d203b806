"""Audio that is named on a command line: files and folders."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voc2vec_jax.audio.signal import find_audio
from voc2vec_jax.errors import InputsError


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
