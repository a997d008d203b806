"""Where a corpus comes from: a folder, a table, or the synthesiser; decoded once into a store."""

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_pipelines.corpora import voc125
from data_pipelines.corpora.prepared import PREPARE, dataset_names, find_prepared, open_prepared
from data_pipelines.stores.building import build_store
from data_pipelines.stores.decode import decode_clips
from data_pipelines.stores.flat_store import Clip, FlatStore
from data_pipelines.stores.index import FORMAT_VERSION
from data_pipelines.stores.sound import to_int16
from data_pipelines.synthetic import corpus
from voc2vec_jax.audio.signal import find_audio
from voc2vec_jax.config import DataConfig
from voc2vec_jax.errors import ConfigError, DataError
from voc2vec_jax.files import sha256_of


def store_name(kind: str, name: str, *content: object) -> str:
    """Readable prefix, and a hash of everything the store depends on."""
    key = hashlib.sha256(json.dumps([FORMAT_VERSION, kind, *content]).encode()).hexdigest()[:16]
    return f"{kind}-{re.sub(r'[^A-Za-z0-9._-]+', '_', name)[:40]}-{key}"


def file_states(names: Sequence[str], paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Per file: name, bytes, time of last change in nanoseconds."""
    stats = [path.stat() for path in paths]
    return [(n, s.st_size, s.st_mtime_ns) for n, s in zip(names, stats, strict=True)]


def store_from_folder(
    folder: str | Path, cache_dir: str | Path, *, classes: bool = False
) -> FlatStore:
    """Every audio file under a folder; a clip's id is its relative path with `/` and suffix.

    Args:
        folder: Searched recursively.
        cache_dir: Gets the store.
        classes: The first folder below `folder` is the class of the clips in it; those that lie in
            `folder` itself have none.

    Raises:
        DataError: there is no such folder, or none of its files can be read.
    """
    folder = Path(folder).expanduser().resolve()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    paths, ignored_files = find_audio(folder)
    if not paths:
        raise DataError(f"{folder}: no audio among its {ignored_files} files")
    names = [path.relative_to(folder).as_posix() for path in paths]
    tops = [name.partition("/")[0] if classes and "/" in name else "" for name in names]
    class_names = _class_names(tops)
    clips = [
        Clip(id=name, source=name, label=class_names.index(top) if top else -1)
        for name, top in zip(names, tops, strict=True)
    ]
    states = file_states(names, paths)
    return build_store(
        Path(cache_dir) / store_name("folder", folder.name, str(folder), states, class_names),
        decode_clips(clips, paths, folder.name),
        dataset=folder.name,
        class_names=class_names,
        ignored_files=ignored_files,
    )


def store_from_table(table: str | Path, cache_dir: str | Path) -> FlatStore:
    """The files of a CSV with a column `path` and, if known, `id`, `label`, `group` and `fold`.

    Relative paths start at the table's folder, and an id defaults to the path as written. Labels
    are class names; an empty one, or -1, means unknown. Other columns are ignored.

    Raises:
        DataError: the table has no column `path` or no row, repeats an id or names a missing file;
            or none of its files can be read.
    """
    table = Path(table).expanduser().resolve()
    rows = _read_table(table)
    paths = [table.parent / row["path"] for _, row in rows]
    missing = [
        (line, path) for (line, _), path in zip(rows, paths, strict=True) if not path.is_file()
    ]
    if missing:
        line, path = missing[0]
        raise DataError(
            f"{table}: line {line}: no such file: {path} ({len(missing)} of {len(rows)} rows name"
            " missing files); relative paths start at the table's folder"
        )
    names = _class_names(row["label"] for _, row in rows)
    labels = {name: label for label, name in enumerate(names)}
    clips = [
        Clip(row["id"], row["path"], labels.get(row["label"], -1), row["group"], row["fold"])
        for _, row in rows
    ]
    content = sha256_of(table)
    states = file_states([clip.source for clip in clips], paths)
    return build_store(
        Path(cache_dir) / store_name("table", table.stem, str(table), content, states),
        decode_clips(clips, paths, table.name),
        dataset=table.stem,
        class_names=names,
    )


def _read_table(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and the columns path, id, label, group and fold of each row."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{table}: no such table") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: not UTF-8 ({error}); save it as CSV in UTF-8") from error
    reader = csv.DictReader(text.splitlines(keepends=True))
    columns = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    if "path" not in columns:
        raise DataError(
            f"{table}: line 1: no column `path` among {columns}; start the table with a line such"
            " as path,id,label,group, with commas"
        )
    rows = []
    first_line: dict[str, int] = {}
    for row in reader:
        line = reader.line_num
        cells = {
            name: (row.get(name) or "").strip() for name in ("path", "id", "label", "group", "fold")
        }
        path = cells["path"]
        clip_id = cells["id"] = cells["id"] or path
        if not path:
            raise DataError(f"{table}: line {line}: `path` is empty; name an audio file")
        if clip_id in first_line:
            raise DataError(
                f"{table}: line {line}: id {clip_id!r} is that of line {first_line[clip_id]}; give"
                " each clip its own in a column `id` (without one, the path is the id)"
            )
        first_line[clip_id] = line
        rows.append((line, cells))
    if not rows:
        raise DataError(f"{table}: no rows below the header; add one for each audio file")
    return rows


def _class_names(labels: Iterable[str]) -> list[str]:
    """Sorted; by value where all of them are numbers."""
    names = set(labels) - {"", "-1"}
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def store_from_synthetic(cache_dir: str | Path) -> FlatStore:
    """The corpus that comes with this project, at its default size."""
    # Whoever changes the synthesiser wants to hear the change, not an old store.
    sample = hashlib.sha256()
    for clip in corpus.synthetic_corpus(speakers=1, takes=1):
        sample.update(clip.waveform.tobytes())
    clips = (
        (Clip(clip.id, "synthetic", clip.label, clip.group), to_int16(clip.waveform))
        for clip in corpus.synthetic_corpus()
    )
    return build_store(
        Path(cache_dir) / store_name("synthetic", "corpus", sample.hexdigest()),
        clips,
        dataset="synthetic",
        class_names=corpus.CLASSES,
    )


def default_data_dir() -> Path:
    """`$VOC2VEC_DATA_DIR`, else `~/.cache/voc2vec_jax`."""
    return Path(os.environ.get("VOC2VEC_DATA_DIR") or "~/.cache/voc2vec_jax").expanduser()


def open_corpus(data: DataConfig, *, classes: bool = False) -> FlatStore:
    """The corpus that a configuration names: its table, its folder or a dataset by name.

    It is decoded on first use and kept under `data.data_dir`, else `$VOC2VEC_DATA_DIR`, else
    `~/.cache/voc2vec_jax`.

    Args:
        data: Names it.
        classes: The first folder below `data.folder` is the class of the clips in it.

    Raises:
        ConfigError: `data.name` is unknown.
        DataError: the corpus cannot be read.
    """
    cache_dir = Path(data.data_dir).expanduser() if data.data_dir else default_data_dir()
    if data.table is not None:
        return store_from_table(data.table, cache_dir)
    if data.folder is not None:
        return store_from_folder(data.folder, cache_dir, classes=classes)
    if data.name == "synthetic":
        return store_from_synthetic(cache_dir)
    if data.name == voc125.NAME or "+" in data.name:
        return voc125.open_mixture(data.name, cache_dir)
    if find_prepared(data.name, cache_dir) or data.name.partition("/")[0] in dataset_names():
        return open_prepared(data.name, cache_dir)
    raise ConfigError(
        f"data.name={data.name!r}: no such dataset is prepared in {cache_dir}; choose 'synthetic',"
        f" prepare one ({', '.join([*dataset_names(), voc125.NAME])}, or your own) with {PREPARE},"
        " or give data.folder or data.table"
    )
