"""Files that belong to a dataset: paired with the rows of a table, and freed of copies."""

import filecmp
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from data_pipelines.builders.common.manual_files import File
from data_pipelines.stores.flat_store import Clip
from data_pipelines.stores.report import COPY_OF

Row = TypeVar("Row")


@dataclass(frozen=True)
class Found:
    """A file that belongs to the dataset."""

    file: File
    clip: Clip | None
    reason: str = ""
    """Why there is no clip."""
    kind: Literal["dropped", "copies", "excluded"] = "dropped"
    """The list of `report.json` that a file without a clip stands in: what cannot be used, and so
    stops an evaluation; copies of other files; what is left out on purpose."""


def join(
    audio: Iterable[File], rows: Mapping[str, Row], table: str
) -> Iterator[tuple[File, Row] | Found]:
    """Pairs of files and rows of a table by file name, in any letter case.

    Args:
        audio: Files, each of which should be in the table.
        rows: By file name, in lower case.
        table: Its name, for the reasons.

    Yields:
        A pair, or a rejection of a file without a row, or of a row without a file.
    """
    seen = set()
    for file in audio:
        name = file.name.lower()
        seen.add(name)
        if name in rows:
            yield file, rows[name]
        else:
            yield Found(file, None, f"is not in {table}")
    for name in sorted(rows.keys() - seen):
        yield Found(File(Path(name), name), None, f"is in {table} but not among the files")


def without_copies(found: list[Found]) -> list[Found]:
    """Take away all but the first clip of an id, as from an archive beside its tree."""
    first: dict[str, File] = {}
    unique = []
    for item in found:
        if item.clip is not None:
            original = first.setdefault(item.clip.id, item.file)
            if original is not item.file:
                if filecmp.cmp(original.path, item.file.path, shallow=False):
                    item = Found(item.file, None, f"{COPY_OF}{original.place}", "copies")
                else:
                    reason = f"would have the id of {original.place}, whose content differs"
                    item = Found(item.file, None, reason)
        unique.append(item)
    return unique
