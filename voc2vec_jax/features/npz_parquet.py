"""Embeddings on disk, as one NPZ or Parquet file that says what it was made from.

    NPZ       ids [N], seconds [N], embeddings [N, D] float32; of frames, embeddings [ΣT, D] and
              offsets [N + 1], clip i owning the rows offsets[i] to offsets[i + 1]; about, JSON
    Parquet   columns id, seconds and embedding, a list of numbers; of frames, a list of lists;
              wide: columns id, seconds, e0, e1, …; about, JSON, as `voc2vec_jax` in its metadata

They are joined from parts (`parts`), one in memory at a time.
"""

import contextlib
import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from voc2vec_jax.errors import ConfigError, ResumeError
from voc2vec_jax.features.parts import Part
from voc2vec_jax.files import writing

ABOUT = b"voc2vec_jax"
"""The name of what a Parquet file was made from, in its metadata."""
MOST_IN_A_LIST = 2**31 - 1
ROWS_PER_GROUP = 8_192
"""Of a Parquet file, at least: few row groups, for each names all columns again."""


def write_result(
    out: Path, parts: Iterable[Part], about: Mapping[str, Any], *, pooled: bool, wide: bool = False
) -> None:
    """Writes the result, whole or not at all.

    Args:
        out: `.npz` or `.parquet`.
        parts: Of the result, in order.
        about: What it was made from; JSON values.
        pooled: One row for each clip, instead of its frames.
        wide: Parquet of pooled clips gets a column for each number.
    """
    with writing(out) as unfinished:
        if out.suffix == ".npz":
            _write_npz(unfinished, parts, about, pooled)
        else:
            _write_parquet(unfinished, parts, about, pooled, wide)


def read_about(out: Path) -> dict[str, Any]:
    """What a result says that it was made from.

    Raises:
        ResumeError: It was not written by `write_result`.
    """
    from pyarrow import parquet

    try:
        if out.suffix == ".npz":
            with np.load(out, allow_pickle=False) as held:
                text = str(held["about"])
        else:
            with out.open("rb") as file:  # Arrow takes no name that is no UTF-8
                text = parquet.read_schema(file).metadata[ABOUT].decode()
        about: dict[str, Any] = dict(json.loads(text))
    except (ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise ResumeError(
            f"{out}: is there already and was not written by embed ({error!r:.80}); give another"
            " --out, or delete it"
        ) from None
    return about


def _write_npz(path: Path, parts: Iterable[Part], about: Mapping[str, Any], pooled: bool) -> None:
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
                    np.ascontiguousarray(part.values, np.float32).tofile(file)
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


def _write_parquet(
    path: Path, parts: Iterable[Part], about: Mapping[str, Any], pooled: bool, wide: bool
) -> None:
    import pyarrow
    from pyarrow import parquet

    vector = pyarrow.list_(pyarrow.float32())
    writer: parquet.ParquetWriter | None = None
    with contextlib.ExitStack() as opened:
        for part in _joined(parts):
            if part.values.size > MOST_IN_A_LIST:
                raise ConfigError(
                    f"{path.stem}: {part.ids[0]!r} has {part.values.size} numbers, and a list of"
                    f" Parquet holds {MOST_IN_A_LIST}; write .npz (what was embedded is kept)"
                )
            columns: dict[str, Any] = {
                "id": pyarrow.array(part.ids, pyarrow.string()),
                "seconds": pyarrow.array(part.seconds, pyarrow.float32()),
            }
            if wide:
                columns |= {f"e{i}": column.copy() for i, column in enumerate(part.values.T)}
            else:
                rows, width = part.values.shape
                ends = np.arange(rows + 1, dtype=np.int64) * width
                vectors = pyarrow.ListArray.from_arrays(
                    pyarrow.array(ends, pyarrow.int32()), part.values.ravel(), type=vector
                )
                clips = pyarrow.array(np.cumsum([0, *part.counts]), pyarrow.int32())
                columns["embedding"] = (
                    vectors if pooled else pyarrow.ListArray.from_arrays(clips, vectors)
                )
            table = pyarrow.table(columns).replace_schema_metadata(
                {ABOUT: json.dumps(about, sort_keys=True)}
            )
            if writer is None:
                # By an open file, for Arrow takes no name that is no UTF-8.
                file = opened.enter_context(path.open("wb"))
                writer = opened.enter_context(parquet.ParquetWriter(file, table.schema))
            writer.write_table(table)


def _joined(parts: Iterable[Part]) -> Iterator[Part]:
    """Parts put together until they are `ROWS_PER_GROUP`; at least one."""
    held: list[Part] = []
    for part in parts:
        held.append(part)
        if sum(len(one.values) for one in held) >= ROWS_PER_GROUP:
            yield _as_one(held)
            held = []
    if held:
        yield _as_one(held)


def _as_one(parts: list[Part]) -> Part:
    return Part(
        ids=[clip_id for part in parts for clip_id in part.ids],
        seconds=np.concatenate([part.seconds for part in parts]),
        counts=np.concatenate([part.counts for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        bad={key: why for part in parts for key, why in part.bad.items()},
    )
