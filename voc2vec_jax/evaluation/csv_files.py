"""The tables of an evaluation that others can read: its folds, its answers, its classes.

Their rows:

    OUT/folds.csv         seed,fold,part,id,group,label: one for every clip of a part of a fold
    OUT/predictions.csv   id,group,seed,fold,label,prediction,score_CLASS,…: one for every answer
    OUT/per_class.csv     class,precision,recall,f1,tested

`part` is `train`, `validation` or `test`; labels are names of classes. `folds.csv` can be read
back, whoever made it.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from itertools import repeat
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from voc2vec_jax.audio.spelling import written
from voc2vec_jax.errors import ConfigError, DataError
from voc2vec_jax.evaluation.folds import Fold
from voc2vec_jax.evaluation.results import FoldResult
from voc2vec_jax.files import writing
from voc2vec_jax.scores import ClassScores, Ints

FOLDS, PREDICTIONS, PER_CLASS = "folds.csv", "predictions.csv", "per_class.csv"
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class GivenFolds:
    """The folds of a file, in place of a division."""

    path: Path
    by_seed: Mapping[int | None, tuple[Fold, ...]]
    """Under None, the folds of every seed."""
    sha256: str
    """Changes with the clips of a part, and with their order, which may decide that of labels."""

    @property
    def folds(self) -> int:
        """Of each seed."""
        return len(next(iter(self.by_seed.values())))

    @property
    def seeds(self) -> list[int]:
        """That have folds of their own."""
        return sorted(seed for seed in self.by_seed if seed is not None)

    def of_seed(self, seed: int) -> tuple[Fold, ...]:
        """The folds of a seed.

        Raises:
            ConfigError: The file has none.
        """
        found = self.by_seed.get(None, self.by_seed.get(seed))
        if found is None:
            known = " ".join(map(str, self.seeds))
            raise ConfigError(f"{self.path}: has no folds of seed {seed}; give --seeds {known}")
        return found


def write_folds(
    path: Path,
    folds: Mapping[int, Sequence[Fold]],
    ids: Sequence[str],
    labels: Ints,
    groups: Sequence[str],
    class_names: Sequence[str],
) -> None:
    """Writes `folds.csv`.

    Args:
        path: In a folder that exists.
        folds: By seed.
        ids: [clips] of the corpus.
        labels: [clips] index into the class names.
        groups: [clips] speaker, session or upload; '' where unknown.
        class_names: What the labels mean.
    """
    with _rows_to(path, ["seed", "fold", "part", "id", "group", "label"]) as write:
        for seed, of_seed in folds.items():
            for number, fold in enumerate(of_seed):
                for part in PARTS:
                    clips = getattr(fold, part)
                    write(
                        (seed, number, part, ids[clip], groups[clip], class_names[labels[clip]])
                        for clip in ([] if clips is None else clips.tolist())
                    )


def read_folds(
    path: Path,
    ids: Sequence[str],
    labels: Ints,
    groups: Sequence[str],
    class_names: Sequence[str],
) -> GivenFolds:
    """Reads folds that were written by `write_folds`, or by anybody.

    Columns: `fold` (from 0), `part` and `id`; with `seed`, each seed has folds of its own; `group`
    and `label` have to be those of the corpus. The clips of a part keep the order of their rows.

    Args:
        path: The file.
        ids: [clips] of the corpus.
        labels: [clips] index into the class names.
        groups: [clips] speaker, session or upload; '' where unknown.
        class_names: What the labels mean.

    Raises:
        DataError: It cannot be read, contradicts itself, or is not of this corpus.
    """
    places = {clip: place for place, clip in enumerate(ids)}
    parts: dict[int | None, dict[int, dict[str, list[int]]]] = {}
    seen: set[tuple[int | None, int, int]] = set()
    tested: set[tuple[int | None, int]] = set()
    for line, row in _rows_of(path):

        def refuse(what: str, line: int = line) -> NoReturn:
            raise DataError(f"{path}: line {line}: {what}")

        part, clip = row["part"], written(row["id"])
        number = _number("fold", row["fold"], refuse)
        seed = _number("seed", row["seed"], refuse) if "seed" in row else None
        if part not in PARTS:
            refuse(f"part {part!r}: must be one of {', '.join(PARTS)}")
        place = places.get(clip)
        if place is None:
            refuse(f"id {clip!r} is not in the corpus; give the corpus that the folds are of")
        label = class_names[labels[place]] if labels[place] >= 0 else ""
        for column, known in (("label", label), ("group", groups[place])):
            if row.get(column, known) != known:
                refuse(f"{column} of {clip!r} is {row[column]!r}, in the corpus it is {known!r}")
        if (seed, number, place) in seen:
            refuse(f"id {clip!r} is there twice in fold {number}; a clip is in one part of a fold")
        seen.add((seed, number, place))
        if part == "test":
            if (seed, place) in tested:
                refuse(f"id {clip!r} is tested in two folds; each clip is tested once a seed")
            tested.add((seed, place))
        fold = parts.setdefault(seed, {}).setdefault(number, {name: [] for name in PARTS})
        fold[part].append(place)
    if not parts:
        raise DataError(f"{path}: has no folds")
    by_seed = {seed: _folds(path, seed, found) for seed, found in parts.items()}
    if len({len(of_seed) for of_seed in by_seed.values()}) > 1:
        counts = ", ".join(f"seed {seed}: {len(found)}" for seed, found in by_seed.items())
        raise DataError(f"{path}: every seed needs as many folds ({counts})")
    return GivenFolds(path, by_seed, _sha256(by_seed, ids))


def _folds(
    path: Path, seed: int | None, found: Mapping[int, dict[str, list[int]]]
) -> tuple[Fold, ...]:
    where = f"{path}: " if seed is None else f"{path}: seed {seed}: "
    if sorted(found) != list(range(len(found))):
        raise DataError(f"{where}folds are numbered {sorted(found)}, not from 0 without gaps")
    for number, parts in found.items():
        for part in ("train", "test"):
            if not parts[part]:
                raise DataError(f"{where}fold {number} has no {part} part")
    arrays = (
        {part: np.array(clips, np.int64) for part, clips in found[number].items()}
        for number in range(len(found))
    )
    return tuple(
        Fold(a["train"], a["validation"] if len(a["validation"]) else None, a["test"])
        for a in arrays
    )


def _sha256(by_seed: Mapping[int | None, tuple[Fold, ...]], ids: Sequence[str]) -> str:
    content = [
        [seed, number, part, [ids[clip] for clip in clips]]
        for seed, of_seed in sorted(by_seed.items(), key=lambda item: item[0] or 0)
        for number, fold in enumerate(of_seed)
        for part in PARTS
        if (clips := getattr(fold, part)) is not None
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def write_predictions(path: Path, results: Sequence[FoldResult]) -> None:
    """Writes `predictions.csv` of the folds that are there, all of the same classes."""
    classes = results[0].classes
    header = ["id", "group", "seed", "fold", "label", "prediction"]
    with _rows_to(path, [*header, *(f"score_{name}" for name in classes)]) as write:
        for result in results:
            write(
                (*facts, classes[label], classes[prediction], *scores)
                for *facts, label, prediction, scores in zip(
                    result.clip_ids,
                    result.groups,
                    repeat(result.seed),
                    repeat(result.fold),
                    result.labels.tolist(),
                    result.predictions.tolist(),
                    result.scores.tolist(),
                    strict=False,
                )
            )


def write_per_class(path: Path, classes: Sequence[str], per_class: Sequence[ClassScores]) -> None:
    """Writes `per_class.csv`; a cell is empty where there is nothing to take the share of."""
    with _rows_to(path, ["class", *(field.name for field in fields(ClassScores))]) as write:
        write((name, *astuple(one)) for name, one in zip(classes, per_class, strict=True))


@contextmanager
def _rows_to(
    path: Path, header: Sequence[str]
) -> Iterator[Callable[[Iterable[Iterable[Any]]], None]]:
    with (
        writing(path, by_many=True) as unfinished,
        unfinished.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        yield writer.writerows


def _rows_of(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row by column, with the number of its line."""
    try:
        # A spreadsheet may have put a mark of its encoding first.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            lacking = {"fold", "part", "id"} - set(header)
            if lacking or len(set(header)) < len(header):
                raise DataError(
                    f"{path}: columns are {','.join(header)}: fold, part and id are needed, seed, "
                    "group and label are read too; each once"
                )
            for row in reader:
                if not row:  # an empty line
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{path}: line {reader.line_num}: {len(row)} cells for {len(header)} "
                        "columns"
                    )
                yield reader.line_num, dict(zip(header, row, strict=True))
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _number(name: str, text: str, refuse: Callable[[str], NoReturn]) -> int:
    if not text.isdecimal():
        refuse(f"{name} {text!r}: must be a whole number from 0")
    return int(text)
