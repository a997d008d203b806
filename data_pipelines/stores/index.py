"""The index of a flat store: one row for each clip, in Arrow's file format.

Columns are id, length (samples), label, group, fold, source, mean, variance, sha256 and scale; what
is said of the whole store, such as its class names and its fingerprint, stands in the metadata as
JSON. Versions of this project before it wrote `index.json`, which is read and rewritten.
"""

import hashlib
import itertools
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_pipelines.stores.columns import Digests, Strings
from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.errors import DataError
from voc2vec_jax.files import writing

FORMAT_VERSION = 2
"""Raised whenever the samples or the way of decoding change, so that old stores are not reused. It
is a part of fingerprints."""
MIX = 2
"""Rule of `audio.signal` by which channels are mixed: 1 noticed that they cancel by an empty mix, 2
notices it by their correlation. Stores of an older rule are named when they are opened."""
INDEX, OLD_INDEX = "index.arrow", "index.json"

_FACTS = b"voc2vec_jax"
_AT_ONCE = 65_536
"""Entries that are held as Python objects at a time."""
# Words that many clips share are stored once.
_WORDS = pa.dictionary(pa.int32(), pa.large_string())
_SCHEMA = pa.schema(
    [
        *(("id", pa.large_string()), ("length", pa.int64()), ("label", pa.int32())),
        *(("group", _WORDS), ("fold", _WORDS), ("source", pa.large_string())),
        *(("mean", pa.float32()), ("variance", pa.float32())),
        *(("sha256", pa.binary(32)), ("scale", pa.float32())),
    ]
)
_FULL_SCALE = pa.field("full_scale_samples", pa.int64())
"""What the report wants to know besides."""
_OLD_COLUMNS = {
    **{"id": "ids", "length": "lengths", "label": "labels", "group": "groups", "fold": "folds"},
    **{"source": "sources", "mean": "means", "variance": "variances", "sha256": "clip_sha256"},
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoreFacts:
    """What is said of a whole store."""

    format_version: int
    sample_rate: int
    sha256: str
    """Of the digests of all clips."""
    class_names: list[str]
    fingerprint: str
    """sha256 that two stores share if, and only if, they hold the same clips in the same order."""
    perhaps_cut_off: int = 0
    """Clips that reach full scale in a store of a version that cut off what lay beyond."""
    mixed_by: int = 1
    """By which rule channels were mixed, see `MIX`; stores that do not say so are of the first."""


@dataclass(frozen=True, eq=False)
class Index:
    """A row for each clip, and what is said of all."""

    table: pa.Table
    facts: StoreFacts

    def column(self, name: str) -> pa.Array:
        """One column of the table as one array."""
        column = self.table.column(name)
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def table_of(entries: Iterable[dict[str, Any]]) -> pa.Table:
    """Entries of clips that are kept, see `journal.describe`, as a table; a few at a time.

    It has a column `full_scale_samples` besides those of an index.
    """
    plain = pa.schema(
        [
            field.with_type(pa.large_string()) if field.type == _WORDS else field
            for field in [*_SCHEMA, _FULL_SCALE]
        ]
    )
    rows = (entry | {"sha256": bytes.fromhex(entry["sha256"])} for entry in entries)
    batches = []
    while some := list(itertools.islice(rows, _AT_ONCE)):
        batches.append(pa.RecordBatch.from_pylist(some, schema=plain))
    table = pa.Table.from_batches(batches, schema=plain).combine_chunks()
    return table.cast(pa.schema([*_SCHEMA, _FULL_SCALE]))


def index_of(
    table: pa.Table, class_names: Sequence[str], perhaps_cut_off: int = 0, mixed_by: int = MIX
) -> Index:
    """The index of the clips in a table of `table_of`."""
    digests = Digests(table.column("sha256").combine_chunks())
    content = hashlib.sha256()
    for digest in digests:
        content.update(digest.encode())
    facts = StoreFacts(
        format_version=FORMAT_VERSION,
        sample_rate=SAMPLE_RATE,
        sha256=content.hexdigest(),
        class_names=list(class_names),
        fingerprint=_fingerprint(table, content.hexdigest()),
        perhaps_cut_off=perhaps_cut_off,
        mixed_by=mixed_by,
    )
    return Index(table.select(_SCHEMA.names), facts)


def _fingerprint(table: pa.Table, content: str) -> str:
    """sha256 of the JSON [version, rate, ids, lengths, content], made a few clips at a time."""
    found = hashlib.sha256(f"[{FORMAT_VERSION}, {SAMPLE_RATE}".encode())
    for name in ("id", "length"):
        separator = ", ["
        for batch in table.select([name]).to_batches(max_chunksize=_AT_ONCE):
            found.update(f"{separator}{json.dumps(batch.column(0).to_pylist())[1:-1]}".encode())
            separator = ", "
        found.update(b"]")
    found.update(f", {json.dumps(content)}]".encode())
    return found.hexdigest()


def write_index(directory: Path, index: Index, *, by_many: bool = False) -> None:
    """Writes `index.arrow`, whole or not at all; see `files.writing`."""
    schema = _SCHEMA.with_metadata({_FACTS: json.dumps(asdict(index.facts)).encode()})
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    table = index.table.combine_chunks().cast(schema)
    with (
        writing(directory / INDEX, by_many=by_many) as unfinished,
        pa.OSFile(str(unfinished), "wb") as file,
        pa.ipc.new_file(file, schema, options=options) as writer,
    ):
        writer.write_table(table)


def read_index(directory: Path) -> Index:
    """The index of a store or of a prepared dataset.

    One of an older version is rewritten, where the directory can be written to.

    Raises:
        DataError: It is missing or damaged, or of another version.
    """
    if not (directory / INDEX).exists() and (directory / OLD_INDEX).exists():
        index = _read_old(directory)
        try:
            write_index(directory, index, by_many=True)
        except OSError as error:
            logger.info("index=%s rewritten=False reason=%s", directory / OLD_INDEX, error)
        return index
    path = directory / INDEX
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            table = reader.read_all()
        facts = json.loads((table.schema.metadata or {})[_FACTS])
        _require_version(path, facts["format_version"])
        if not table.schema.equals(_SCHEMA):
            raise TypeError(f"has the columns {table.schema.names}")
        table.validate(full=True)
        return Index(table, StoreFacts(**facts))
    except DataError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:  # Arrow's are among them
        raise DataError(f"{path}: cannot be read ({error}); {to_delete(directory)}") from error


def _read_old(directory: Path) -> Index:
    """`index.json`, as it was written before sound beyond full scale had a scale."""
    path = directory / OLD_INDEX
    try:
        old = json.loads(path.read_text())
        _require_version(path, old["format_version"])
        columns = {name: old[then] for name, then in _OLD_COLUMNS.items()}
        clips = len(columns["id"])
        columns["sha256"] = [bytes.fromhex(digest) for digest in columns["sha256"]]
        columns |= {"scale": [1.0] * clips, _FULL_SCALE.name: [0] * clips}
        fields = [*_SCHEMA, _FULL_SCALE]
        arrays = [pa.array(columns[field.name], field.type) for field in fields]
        report = json.loads((directory / "report.json").read_text())
        table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
        return index_of(table, old["class_names"], len(report.get("clipped", ())), 1)
    except DataError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {to_delete(directory)}") from error


def _require_version(path: Path, version: object) -> None:
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path}: format version {version}, this code reads {FORMAT_VERSION};"
            f" {to_delete(path.parent)}"
        )


def to_delete(directory: Path) -> str:
    """What to do about a damaged store."""
    return f"delete {directory} and run again, then it is made anew"


def require_unique_ids(ids: Strings, where: object) -> None:
    """Refuses ids that several clips share.

    Raises:
        DataError: Naming some.
    """
    counts = pc.value_counts(ids.values)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist()
    if repeated:
        shown = ", ".join(repeated[:10]) + (", …" if len(repeated) > 10 else "")
        raise DataError(f"{where}: {len(repeated)} ids are given to several clips: {shown}")
