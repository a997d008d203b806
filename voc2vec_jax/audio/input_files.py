"""Audio that is named on a command line: tables, files and folders."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voc2vec_jax.audio.segments import WHOLE, Segment
from voc2vec_jax.audio.signal import find_audio, load_audio
from voc2vec_jax.audio.spelling import escaped
from voc2vec_jax.audio.tables import check_segments, is_table, read_table
from voc2vec_jax.errors import InputsError


@dataclass(frozen=True)
class Input:
    """A recording to read, or a segment of one."""

    id: str
    """Of a file in a folder its path below that, with `/`; of one that was named, the name as
    given; of a row of a table, see `read_table`. Names that are no UTF-8 are escaped."""
    path: Path
    segment: Segment = WHOLE
    named: str | None = None
    """The path as given, or the table's cell; None of a file in a folder."""
    own_id: bool = False
    """Whether a table gives the id, and not only the path and times that it is made of."""

    @property
    def file(self) -> str:
        """What the user calls the file, as text that can be written."""
        return escaped(str(self.path)) if self.named is None else self.named

    def load(self) -> npt.NDArray[np.float32]:
        """float32 [S] at 16 kHz; see `load_audio`, also for what it raises."""
        return load_audio(self.path, start=self.segment.start, end=self.segment.end)


def find_inputs(places: Sequence[str | os.PathLike[str]]) -> list[Input]:
    """The rows of tables, every audio file of folders, and every file that is named itself.

    In the order in which they are given. A place that ends in `.csv` or `.tsv` is a table.

    Raises:
        FileNotFoundError: A place does not exist.
        DataError: A table cannot be used; see `read_table`.
        InputsError: A folder holds no audio, or two recordings would have the same id.
    """
    found: list[Input] = []
    for given in places:
        name, place = os.fspath(given), Path(given)
        if place.is_dir():
            found += _in_folder(place)
        elif not place.exists():
            raise FileNotFoundError(f"{place}: no such file or folder; check the path")
        elif is_table(place):
            rows = read_table(place)
            check_segments(place, rows)
            found += [Input(row.id, row.file, row.segment, row.path, row.own_id) for row in rows]
        else:
            found.append(Input(escaped(name), place, named=escaped(name)))
    first: dict[str, Input] = {}
    for item in found:
        other = first.setdefault(item.id, item)
        if other is not item:
            raise InputsError(
                f"{item.file} and {other.file} would both be called {item.id!r}; name the"
                " folder above both, or give a table with a column `id`"
            )
    return found


def _in_folder(folder: Path) -> list[Input]:
    paths, others = find_audio(folder)
    if not paths:
        raise InputsError(f"{folder}: holds no audio, only {others} other files")
    return [Input(escaped(path.relative_to(folder).as_posix()), path) for path in paths]
