"""Tables as text: cells between commas, semicolons or tabs, of files in UTF-8 or nearly so."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from voc2vec_jax.audio.spelling import written
from voc2vec_jax.errors import DataError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}

Lines = list[tuple[int, list[str]]]
"""Rows that hold something, and the lines on which they begin."""


def read_cells(table: Path, needed: Sequence[str], advice: str) -> tuple[list[str], Lines]:
    """The header of a table, in lower case, and the rows below it.

    Cells are as they stand; bytes that are no UTF-8 are lone surrogates in them.

    Args:
        table: A local file.
        needed: Columns of which one has to be there; the separator that makes it appear is chosen.
        advice: What to do where there is none.

    Raises:
        DataError: There is no such table or column, or it cannot be read.
    """
    text = _text_of(table)
    try:
        separator, header = _read_header(table, text, needed, advice)
        lines = _lines(text, separator)[1:]
    except csv.Error as error:
        raise DataError(f"{table}: cannot be read as CSV ({error}); check its quotes") from None
    for line, row in lines:
        if any(cell.strip() for cell in row[len(header) :]):
            raise DataError(
                f"{table}: line {line}: {len(row)} cells for {len(header)} columns; put quotes"
                " around cells that hold the separator"
            )
    return header, lines


def _text_of(table: Path) -> str:
    try:
        content = table.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{table}: no such table") from None
    except IsADirectoryError:
        raise DataError(f"{table}: is a folder, not a table") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        raise DataError(f"{table}: is UTF-16, or no text; save it as CSV in UTF-8")
    # Names of files may be of no encoding at all.
    return content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _lines(text: str, separator: str) -> list[tuple[int, list[str]]]:
    """Rows that hold something, and the lines on which they begin.

    `csv` ends a row at a line feed or a carriage return; `str.splitlines` would do so at U+2028
    too, which may stand in any cell.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows, line = [], 1
    for row in reader:
        if row:
            rows.append((line, row))
        line = reader.line_num + 1
    return rows


def _read_header(
    table: Path, text: str, needed: Sequence[str], advice: str
) -> tuple[str, list[str]]:
    """The separator that makes a needed column appear, and most columns; and those."""
    head = io.StringIO(text, newline="").readline()
    by: dict[str, list[str]] = {}
    for separator in (*SEPARATORS, "|"):
        names = next(csv.reader([head], delimiter=separator), [])
        by[separator] = [written(name.strip().lower()) for name in names]
    fitting = [separator for separator in by if set(needed) & set(by[separator])]
    if not fitting:
        raise DataError(
            f"{table}: line 1: no column {' or '.join(f'`{name}`' for name in needed)} among"
            f" {by[',']}; {advice}, with {' or '.join(SEPARATORS.values())} between the columns"
        )
    if fitting == ["|"]:
        raise DataError(
            f"{table}: line 1: columns {by['|']} are separated by '|'; put"
            f" {' or '.join(SEPARATORS.values())} between them"
        )
    separator = max(set(fitting) & set(SEPARATORS), key=lambda s: (len(by[s]), s == ","))
    return separator, by[separator]
