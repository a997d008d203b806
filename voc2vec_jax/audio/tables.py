"""Tables of recordings, read once for every command; `docs/data.md` says what they may hold.

Columns: `path` (or `file`, as openSMILE and audb have it), and if known `id`, `start`, `end`,
`label`, `group` and `fold` (or `split`).
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile as sf

from voc2vec_jax.audio.segments import Segment
from voc2vec_jax.audio.separated_cells import read_cells
from voc2vec_jax.audio.spelling import Files, composed, written
from voc2vec_jax.errors import DataError

SUFFIXES = (".csv", ".tsv")
COLUMNS = ("path", "id", "start", "end", "label", "group", "fold")
SYNONYMS = {"file": "path", "split": "fold"}
PATHS = ("path", "file")
MISSING_TIMES = frozenset({"", "nan", "nat", "none", "null", "na"})

_TIMEDELTA = re.compile(r"(?:(\d+) days?,? )?(\d+):([0-5]\d):([0-5]\d(?:\.\d*)?)")
# An mp3 may only estimate its length, and a file that was not finished says 0.
_UNSURE_LENGTHS = {"MP3"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """A recording, or a segment of one. All text can be written, see `spelling.written`."""

    line: int
    """Of the table, the header being 1."""
    path: str
    """The cell as it stands."""
    file: Path
    """Where that is on disk."""
    id: str
    segment: Segment
    label: str
    group: str
    fold: str
    own_id: bool = False
    """Whether the table has a cell `id` for it."""


def is_table(name: str | os.PathLike[str]) -> bool:
    """Whether a file is a table, by its suffix."""
    return os.fspath(name).lower().endswith(SUFFIXES)


def read_table(table: Path) -> list[Row]:
    """The rows of a table; columns that are not used are said.

    A relative path starts at the table's folder. The id of a row is its cell `id`, else its path;
    where there are segments and several rows of a path, `PATH#START-END`, of the cells as they
    stand. An empty `start` is 0, an empty `end` the end of the recording.

    Raises:
        DataError: The table cannot be read, or a row cannot be what it says; it names the line.
    """
    header, lines = read_cells(table, PATHS, "start the table with a line such as path,id,label")
    places = _places(table, header)
    cells = [
        (line, {name: row[place] if place < len(row) else "" for name, place in places.items()})
        for line, row in lines
    ]
    if not cells:
        raise DataError(f"{table}: no rows below the header; add one for each audio file")
    files = _find_files(table, [(line, row["path"]) for line, row in cells])
    uses = Counter(row["path"] for _, row in cells)
    rows = []
    for (line, row), file in zip(cells, files, strict=True):
        start, end = (row.get(name, "").strip() for name in ("start", "end"))
        times = f"#{start}-{end}" if (start or end) and uses[row["path"]] > 1 else ""
        own_id = row.get("id", "")
        rows.append(
            Row(
                line=line,
                path=written(row["path"]),
                file=file,
                id=written(own_id if own_id.strip() else row["path"] + times),
                own_id=bool(own_id.strip()),
                segment=_segment(f"{table}: line {line}", start, end),
                **{name: written(row.get(name, "").strip()) for name in ("label", "group", "fold")},
            )
        )
    _refuse_repeated(table, rows)
    return rows


def check_segments(table: Path, rows: Sequence[Row]) -> None:
    """Refuses segments that end beyond their recordings, as far as the headers of those tell.

    Raises:
        DataError: It names the line and the times.
    """
    lengths: dict[Path, tuple[int, int] | None] = {}
    for row in rows:
        if row.segment.is_whole:
            continue
        if row.file not in lengths:
            lengths[row.file] = _length_of(row.file)
        length = lengths[row.file]
        if length is not None:
            try:
                row.segment.within(*length)
            except ValueError as error:
                raise DataError(f"{table}: line {row.line}: {row.path!r} {error}") from None


def _length_of(file: Path) -> tuple[int, int] | None:
    """Frames and their rate by the header; None where it is not sure."""
    try:
        with (
            file.open("rb", buffering=0) as opened,
            sf.SoundFile(opened.fileno(), closefd=False) as sound,
        ):
            frames, rate, form = sound.frames, sound.samplerate, sound.format
    except (sf.SoundFileError, OSError):
        return None  # decoding says what is wrong
    return (frames, rate) if frames > 0 and form not in _UNSURE_LENGTHS else None


def _places(table: Path, header: Sequence[str]) -> dict[str, int]:
    """Index of each column of `COLUMNS` that there is; says what is left."""
    places: dict[str, int] = {}
    unused = []
    for place, name in enumerate(header):
        meant = SYNONYMS.get(name, name)
        if meant not in COLUMNS or (name == "file" and "path" in header):
            unused.append(name or "(without a name)")
        elif meant in places:
            raise DataError(
                f"{table}: line 1: columns {header[places[meant]]!r} and {name!r} both say"
                f" {meant}; leave out one"
            )
        else:
            places[meant] = place
    if unused:
        logger.warning("%s: columns not used: %s", table, ", ".join(unused))
    return places


def _find_files(table: Path, cells: list[tuple[int, str]]) -> list[Path]:
    files = Files(table.parent)
    found: dict[str, Path | None] = {}
    missing = []
    for line, cell in cells:
        if not cell.strip():
            raise DataError(f"{table}: line {line}: `path` is empty; name an audio file")
        if cell not in found:
            try:
                found[cell] = files.find(cell)
            except DataError as error:
                raise DataError(f"{table}: line {line}: {error}") from None
        if found[cell] is None:
            missing.append((line, cell))
    if missing:
        line, cell = missing[0]
        hint = "; it looks like a path of Windows: write it with /" if "\\" in cell else ""
        raise DataError(
            f"{table}: line {line}: no such file: {table.parent / written(cell)} ({len(missing)} of"
            f" {len(cells)} rows name missing files); relative paths start at the table's folder"
            f"{hint}"
        )
    if files.respelt:
        name, file = next(iter(files.respelt.items()))
        logger.warning(
            "%s: %d paths are spelt otherwise on disk (accents or encoding), such as %r: %r",
            *(table, len(files.respelt), written(name), str(file)),
        )
    return [path for _, cell in cells if (path := found[cell]) is not None]


def _segment(where: str, start: str, end: str) -> Segment:
    times = {}
    for name, cell in (("start", start), ("end", end)):
        try:
            times[name] = _seconds(cell)
        except ValueError:
            raise DataError(
                f"{where}: {name} {written(cell)!r} is no time; give seconds such as 1.5"
            ) from None
    try:
        return Segment(times["start"] or 0.0, times["end"])
    except ValueError:
        raise DataError(
            f"{where}: start {start!r} and end {end!r} are no segment; give seconds with"
            " 0 <= start < end"
        ) from None


def _seconds(cell: str) -> float | None:
    """Of a number of seconds, or of a timedelta as pandas and audb write it."""
    if cell.lower() in MISSING_TIMES:
        return None
    delta = _TIMEDELTA.fullmatch(cell)
    if delta is None:
        return float(cell)
    days, hours, minutes = (int(delta[part] or 0) for part in (1, 2, 3))
    return ((days * 24 + hours) * 60 + minutes) * 60 + float(delta[4])


def _refuse_repeated(table: Path, rows: list[Row]) -> None:
    first: dict[str, Row] = {}
    alike: dict[tuple[str, Path, Segment], Row] = {}
    for row in rows:
        other = first.setdefault(row.id, row)
        if other is not row:
            raise DataError(
                f"{table}: line {row.line}: id {row.id!r} is that of line {other.line}; give"
                " each clip its own in a column `id` (without one, the path is the id)"
            )
        other = alike.setdefault((composed(row.id), row.file, row.segment), row)
        if other is not row:
            raise DataError(
                f"{table}: line {row.line}: id {row.id!r} differs from {other.id!r} of line"
                f" {other.line} in spelling only, and means the same file; leave out one"
            )
