"""Where a corpus comes from: a folder, a table, or the synthesiser; decoded once into a store."""

import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from data_pipelines.corpora import voc125
from data_pipelines.corpora.class_names import (
    classes_of,
    refuse_no_classes,
    say_empty_classes,
)
from data_pipelines.corpora.folder_layout import read_layout
from data_pipelines.corpora.prepared import PREPARE, dataset_names, find_prepared, open_prepared
from data_pipelines.stores.building import Decoded, build_store
from data_pipelines.stores.decode import decode_clips
from data_pipelines.stores.flat_store import Clip, FlatStore
from data_pipelines.stores.index import FORMAT_VERSION
from data_pipelines.stores.sound import to_int16
from data_pipelines.synthetic import corpus
from voc2vec_jax.audio.signal import find_audio
from voc2vec_jax.audio.spelling import escaped
from voc2vec_jax.audio.tables import Row, check_segments, read_table
from voc2vec_jax.config import DataConfig
from voc2vec_jax.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


def store_name(kind: str, name: str, *content: object) -> str:
    """Readable prefix, and a hash of everything the store depends on."""
    key = hashlib.sha256(json.dumps([FORMAT_VERSION, kind, *content]).encode()).hexdigest()[:16]
    return f"{kind}-{re.sub(r'[^A-Za-z0-9._-]+', '_', name)[:40]}-{key}"


def file_states(names: Sequence[str], paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Per file: name, bytes, time of last change in nanoseconds; -1 each of a link to nowhere."""
    stats = [path.stat() if path.exists() else None for path in paths]
    return [
        (name, state.st_size, state.st_mtime_ns) if state else (name, -1, -1)
        for name, state in zip(names, stats, strict=True)
    ]


def store_from_folder(
    folder: str | Path, cache_dir: str | Path, *, classes: bool = False
) -> FlatStore:
    """Every audio file under a folder; a clip's id is its relative path with `/` and suffix.

    Where the folders directly below are `train`, `valid`, `test` and the like, they are the folds
    of the clips in them; see `read_layout`. Names that are no UTF-8 are escaped in ids.

    Args:
        folder: Searched recursively.
        cache_dir: Gets the store.
        classes: The first folder below `folder`, or below those of the folds, is the class of the
            clips in it; those that lie in no such folder have none.

    Raises:
        DataError: there is no such folder, or none of its files can be read.
    """
    folder = Path(folder).expanduser().resolve()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    paths, ignored_files = find_audio(folder)
    if not paths:
        raise DataError(f"{folder}: no audio among its {ignored_files} files")
    own = [path.relative_to(folder).as_posix() for path in paths]
    layout = read_layout(folder, own, classes=classes)
    class_names, labels = classes_of([escaped(label) for label in layout.labels])
    names = [escaped(name) for name in own]
    clips = [
        Clip(id=name, source=name, label=label, fold=fold)
        for name, label, fold in zip(names, labels, layout.folds, strict=True)
    ]
    states = file_states(names, paths)
    title = escaped(folder.name)
    key = (states, class_names, labels, layout.folds)
    store = build_store(
        Path(cache_dir) / store_name("folder", title, str(folder), *key),
        decode_clips(clips, paths, title),
        dataset=title,
        class_names=class_names,
        ignored_files=ignored_files,
    )
    say_empty_classes(title, class_names, set(store.labels.tolist()))
    return store


def store_from_table(table: str | Path, cache_dir: str | Path) -> FlatStore:
    """The recordings of a table, or segments of them; see `read_table` for its columns.

    Labels are class names; an empty one, or -1, means unknown. `fold` is kept as it stands.
    Segments of one recording that have no group are one group, which is said.

    Raises:
        DataError: the table cannot be used, it names a missing file, or its labels are no classes;
            or none of its files can be read.
    """
    table = Path(table).expanduser().resolve()
    rows = read_table(table)
    refuse_no_classes(str(table), [(row.line, row.label) for row in rows])
    class_names, labels = classes_of([row.label for row in rows])
    groups = _groups_of(table, rows)
    clips = [
        Clip(row.id, row.path, label, group, row.fold)
        for row, label, group in zip(rows, labels, groups, strict=True)
    ]
    paths, segments = [row.file for row in rows], [row.segment for row in rows]
    title = escaped(table.stem)
    decode = decode_clips(clips, paths, title, segments)

    def decode_from(start: int) -> Iterator[Decoded]:
        check_segments(table, rows)
        for row, (clip, samples) in zip(rows[start:], decode(start), strict=True):
            named = isinstance(samples, str) and not row.segment.is_whole
            yield clip, f"line {row.line}: {samples}" if named else samples

    states = file_states([clip.source for clip in clips], paths)
    about = [
        (asdict(clip), segment.start, segment.end)
        for clip, segment in zip(clips, segments, strict=True)
    ]
    store = build_store(
        Path(cache_dir) / store_name("table", title, str(table), about, class_names, states),
        decode_from,
        dataset=title,
        class_names=class_names,
    )
    say_empty_classes(title, class_names, set(store.labels.tolist()))
    return store


def _groups_of(table: Path, rows: Sequence[Row]) -> list[str]:
    """Group of each row; segments of one recording that have none are a group of their own."""
    uses = Counter(row.file for row in rows)
    alone = [not row.group and not row.segment.is_whole and uses[row.file] > 1 for row in rows]
    if any(alone):
        logger.warning(
            "%s: %d segments have no group; those of one recording are taken as one, so that no "
            "split has a recording on two sides",
            table,
            sum(alone),
        )
    return [row.path if own else row.group for row, own in zip(rows, alone, strict=True)]


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
