"""The unfinished embeddings of a run beside their final place: what a stop does not lose.

A part is written whole or not at all. One process at a time works on a result.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voc2vec_jax.distributed.lock import LOCK, WorkdirLock
from voc2vec_jax.errors import ResumeError
from voc2vec_jax.files import differences, write_text, writing

NOTE = "about.json"
TERMS = {"model_sha256": "model", "files_sha256": "files"}
"""What people call what decides a result."""


@dataclass(frozen=True)
class Part:
    """Some clips of the result, in order; clip i owns `counts[i]` rows of `values`."""

    ids: list[str]
    seconds: np.ndarray  # [n] float32
    counts: np.ndarray  # [n] int64, 1 each where frames were pooled
    values: np.ndarray  # [Σ counts, D] float32
    bad: dict[str, str]
    """Ids of files that could not be read, and why."""


@contextlib.contextmanager
def parts_folder(out: Path) -> Iterator[Path]:
    """The folder of the parts of a result, which is this process's alone inside the block.

    It stays behind if there is something in it.

    Raises:
        WorkdirLockedError: Another process is writing the same result.
        OSError: It cannot be written to.
    """
    folder = out.with_name(out.name + ".parts")
    with contextlib.ExitStack() as held:
        held.callback(_remove_if_empty, folder)
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(WorkdirLock(folder))
                break
            except FileNotFoundError:
                continue  # whoever was at work has ended, and removed it
        yield folder


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


class Parts:
    """The parts in such a folder.

    Args:
        folder: See `parts_folder`.
        about: What the result depends on; JSON values.

    Raises:
        ResumeError: Parts of a run with other settings, model or files lie there.
        OSError: They cannot be written.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]):
        self.folder = folder
        note = folder / NOTE
        if not note.exists():
            write_text(note, json.dumps(about, indent=2, sort_keys=True))
        elif differing := differences(json.loads(note.read_text(encoding="utf-8")), about, TERMS):
            raise ResumeError(
                f"{folder}: is left over from another run ({'; '.join(differing)}); remove it, or"
                " give another --out"
            )

    def path(self, number: int) -> Path:
        """Of a part."""
        return self.folder / f"{number:06d}.npz"

    def count(self) -> int:
        """How many there are; they are made in order."""
        number = 0
        while self.path(number).exists():
            number += 1
        return number

    def files(self, number: int) -> int:
        """Of how many files a part tells, bad ones included."""
        with np.load(self.path(number)) as held:
            return len(held["ids"]) + len(json.loads(str(held["bad"])))

    def write(self, number: int, part: Part) -> None:
        """Keeps a part; on disk when this returns."""
        with writing(self.path(number)) as unfinished, unfinished.open("wb") as file:
            np.savez(
                file,
                ids=np.array(part.ids, str),
                seconds=part.seconds,
                counts=part.counts,
                values=part.values,
                bad=json.dumps(part.bad),
            )
            file.flush()
            os.fsync(file.fileno())

    def read(self, number: int) -> Part:
        """A part that was kept."""
        with np.load(self.path(number)) as held:
            return Part(
                [str(i) for i in held["ids"]],
                held["seconds"],
                held["counts"],
                held["values"],
                json.loads(str(held["bad"])),
            )

    def bad(self) -> dict[str, str]:
        """Ids of all files that could not be read, and why."""
        found: dict[str, str] = {}
        for number in range(self.count()):
            with np.load(self.path(number)) as held:
                found |= json.loads(str(held["bad"]))
        return found

    def remove(self) -> None:
        """Deletes them, the result being there."""
        for path in self.folder.iterdir():
            if path.name != LOCK:
                path.unlink()
