"""Building a flat store: whole or not at all, and on from where a killed build stopped.

A folder, a table or a dataset is decoded once. The name of its directory holds a hash of what went
in, so that the next run finds it again, and a changed corpus is decoded anew. While it is being
written it has another name.
"""

import fcntl
import json
import logging
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data_pipelines.stores.columns import Strings
from data_pipelines.stores.flat_store import Clip, FlatStore
from data_pipelines.stores.index import index_of, require_unique_ids, table_of, write_index
from data_pipelines.stores.journal import LINES, Journal
from data_pipelines.stores.report import Expected, make_report
from data_pipelines.stores.sound import Int16Array, Sound
from voc2vec_jax.errors import DataError

Decoded = tuple[Clip, Sound | Int16Array | str]
"""A clip with its sound at 16 kHz (int16 samples alone have a scale of 1), or with the reason why
it is dropped."""
LeftOut = Sequence[Mapping[str, str]]
"""`file` and `reason` of each."""
LOGGED_DROPS = 20
"""Dropped files that are logged; `report.json` has them all."""
NOTHING_EXPECTED = Expected()
NONE_IGNORED: Mapping[str, int] = MappingProxyType({})

logger = logging.getLogger(__name__)


def build_store(
    directory: str | Path,
    clips: Iterable[Decoded] | Callable[[int], Iterable[Decoded]],
    *,
    dataset: str,
    class_names: Sequence[str] = (),
    ignored_files: int = 0,
    ignored_audio: Mapping[str, int] = NONE_IGNORED,
    rejected: LeftOut = (),
    excluded: LeftOut = (),
    copies: LeftOut = (),
    expected: Expected = NOTHING_EXPECTED,
) -> FlatStore:
    """Write a store, or open the one that is there already.

    Args:
        directory: becomes the store; its parents are made.
        clips: not touched if the store exists; held in memory one at a time. Given as a function
            that yields all clips but the first so many, a build that was killed is resumed.
        dataset: name for the report.
        class_names: what the labels 0, 1, … mean.
        ignored_files: files that are none of the clips, for the report.
        ignored_audio: per folder, how many of those are audio, for the report.
        rejected: what was dropped before decoding, for the report.
        excluded: what was left out on purpose, likewise.
        copies: what was left out as a copy of another file, likewise.
        expected: how much there should be, for the report.

    Raises:
        DataError: two clips share an id, or no clip is left.
    """
    directory = Path(directory)
    if directory.exists():
        logger.info("corpus=%s reused=%s", dataset, directory)
        return FlatStore.open(directory)
    about = {
        "dataset": dataset,
        "class_names": class_names,
        "ignored_files": ignored_files,
        "ignored_audio": dict(ignored_audio),
        "excluded": excluded,
        "copies": copies,
        "expected": expected,
    }
    directory.parent.mkdir(parents=True, exist_ok=True)
    with only_builder(directory) as alone:
        if not directory.exists():
            resumable = callable(clips) and alone
            token = "resumable" if resumable else f"{secrets.token_hex(4)}.tmp"
            unfinished = directory.with_name(f".{directory.name}.{token}")
            try:
                _write(unfinished, clips, rejected, about)
                unfinished.rename(directory)
            except BaseException as error:
                if not resumable or isinstance(error, DataError):
                    shutil.rmtree(unfinished, ignore_errors=True)
                # Where locks do not work, another process may have finished the same store.
                if not (isinstance(error, OSError) and directory.exists()):
                    raise
    return FlatStore.open(directory)


@contextmanager
def only_builder(directory: Path) -> Iterator[bool]:
    """Wait until nobody else builds this store; then clear away what a killed build left.

    Yields False where locks do not work, so that others may be building too.
    """
    with open(directory.with_name(f".{directory.name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            logger.warning("lock=%s supported=False", lock.name)
            yield False
        else:
            for leftover in directory.parent.glob(f".{directory.name}.*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield True


def _write(
    directory: Path,
    clips: Iterable[Decoded] | Callable[[int], Iterable[Decoded]],
    rejected: LeftOut,
    about: dict[str, Any],
) -> None:
    with Journal(directory) as journal:
        if journal.recovered:
            logger.info("resumed=%s clips=%d", directory, journal.recovered)
        for clip, samples in clips(journal.recovered) if callable(clips) else clips:
            journal.append(clip, samples)
    write_facts(directory, journal.entries(), rejected, about)
    (directory / LINES).unlink()


def write_facts(
    directory: Path, entries: Iterable[dict[str, Any]], rejected: LeftOut, about: dict[str, Any]
) -> None:
    """Writes index.arrow and report.json.

    Args:
        directory: Gets them.
        entries: Of all clips, in their order; see `journal.describe`. Few are held at a time.
        rejected: What was dropped before decoding.
        about: Further arguments of `make_report`.

    Raises:
        DataError: two clips share an id, or no clip is left.
    """
    dropped = list(rejected)

    def kept() -> Iterator[dict[str, Any]]:
        for entry in entries:
            if "reason" in entry:
                dropped.append(entry)
            else:
                yield entry

    table = table_of(kept())
    for drop in dropped[:LOGGED_DROPS]:
        logger.warning("dropped=%s reason=%s", drop["file"], drop["reason"])
    if len(dropped) > LOGGED_DROPS:
        logger.warning("dropped_more=%d see=report.json", len(dropped) - LOGGED_DROPS)
    if not len(table):
        example = f"; the first: {dropped[0]['file']}: {dropped[0]['reason']}" if dropped else ""
        raise DataError(f"{about['dataset']}: none of {len(dropped)} files could be read{example}")
    require_unique_ids(Strings(table.column("id").combine_chunks()), about["dataset"])
    report = make_report(table, dropped, **about)
    write_index(directory, index_of(table, about["class_names"]))
    (directory / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    logger.info(
        "corpus=%s clips=%d hours=%.3f dropped=%d excluded=%d copies=%d ignored_files=%d",
        *(report["dataset"], len(table), report["hours"]),
        *(len(report[kind]) for kind in ("dropped", "excluded", "copies")),
        report["ignored_files"],
    )
