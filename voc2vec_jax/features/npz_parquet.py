"""Embeddings on disk: parts while a run is under way, then one NPZ or Parquet file.

    NPZ       ids [N], seconds [N], embeddings [N, D] float32; of frames, embeddings [ΣT, D] and
              offsets [N + 1], clip i owning the rows offsets[i] to offsets[i + 1]; about, JSON
    Parquet   columns id, seconds and embedding, a list of numbers; of frames, a list of lists

Parts make the run resumable and keep memory small: a part is written whole or not at all.
"""

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voc2vec_jax.errors import ResumeError
from voc2vec_jax.files import write_text, writing


@dataclass(frozen=True)
class Part:
    """Some clips of the result, in order; clip i owns `counts[i]` rows of `values`."""

    ids: list[str]
    seconds: np.ndarray  # [n] float32
    counts: np.ndarray  # [n] int64, 1 each where frames were pooled
    values: np.ndarray  # [Σ counts, D] float32
    bad: dict[str, str]
    """Ids of files that could not be read, and why."""


class Parts:
    """The unfinished result beside its final place.

    Args:
        out: The file that there will be, `.npz` or `.parquet`.
        about: What the result depends on; JSON values.

    Raises:
        ResumeError: Parts of a run with other settings, model or files lie there.
        OSError: They cannot be written.
    """

    def __init__(self, out: Path, about: dict[str, Any]):
        self.out, self.about = out, about
        self.folder = out.with_name(out.name + ".parts")
        self.folder.mkdir(parents=True, exist_ok=True)
        note = self.folder / "about.json"
        text = json.dumps(about, indent=2, sort_keys=True)
        if not note.exists():
            write_text(note, text)
        elif note.read_text(encoding="utf-8") != text:
            before = json.loads(note.read_text(encoding="utf-8"))
            differing = [k for k in about if about[k] != before.get(k)]
            raise ResumeError(
                f"{self.folder}: is left over from a run with another {', '.join(differing)};"
                " remove it, or give another --out"
            )

    def path(self, number: int) -> Path:
        """Of a part."""
        return self.folder / f"{number:06d}.npz"

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

    def finish(self, count: int, *, pooled: bool) -> dict[str, str]:
        """Joins `count` parts into the result and removes them; returns what is bad."""
        bad = {key: why for number in range(count) for key, why in self.read(number).bad.items()}
        parts = (self.read(number) for number in range(count))
        write = _write_npz if self.out.suffix == ".npz" else _write_parquet
        with writing(self.out) as unfinished:
            write(unfinished, parts, self.about, pooled)
        shutil.rmtree(self.folder)
        return bad


def _write_npz(path: Path, parts: Iterator[Part], about: dict[str, Any], pooled: bool) -> None:
    """Streams the values, which may be larger than memory, through a file beside the result."""
    ids: list[str] = []
    seconds, counts = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
    width = rows = 0
    raw = path.with_suffix(".values")
    try:
        with raw.open("wb") as file:
            for part in parts:
                ids += part.ids
                seconds.append(part.seconds)
                counts.append(part.counts)
                if len(part.values):
                    width = part.values.shape[1]
                    rows += len(part.values)
                    file.write(np.ascontiguousarray(part.values, np.float32).tobytes())
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:

            def add(name: str, array: np.ndarray) -> None:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

            add("ids", np.array(ids, str))
            add("seconds", np.concatenate(seconds))
            add("about", np.array(json.dumps(about, sort_keys=True)))
            if not pooled:
                add("offsets", np.concatenate([[0], np.cumsum(np.concatenate(counts))]))
            with archive.open("embeddings.npy", "w", force_zip64=True) as member:
                header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
                np.lib.format.write_array_header_1_0(member, header)
                with raw.open("rb") as held:
                    shutil.copyfileobj(held, member, 1 << 20)
    finally:
        with contextlib.suppress(FileNotFoundError):
            raw.unlink()


def _write_parquet(path: Path, parts: Iterator[Part], about: dict[str, Any], pooled: bool) -> None:
    import pyarrow
    from pyarrow import parquet

    vector = pyarrow.list_(pyarrow.float32())
    schema = pyarrow.schema(
        [
            ("id", pyarrow.string()),
            ("seconds", pyarrow.float32()),
            ("embedding", vector if pooled else pyarrow.list_(vector)),
        ],
        metadata={"voc2vec_jax": json.dumps(about, sort_keys=True)},
    )
    # By an open file, for Arrow takes no name that is no UTF-8.
    with path.open("wb") as file, parquet.ParquetWriter(file, schema) as writer:
        for part in parts:
            ends = np.cumsum(part.counts)
            rows = (
                list(part.values)
                if pooled
                else [list(clip) for clip in np.split(part.values, ends[:-1])]
            )
            columns = [part.ids, part.seconds, rows if part.ids else []]
            writer.write_table(pyarrow.table(dict(zip(schema.names, columns, strict=True)), schema))
