"""EmoBox's divisions (github.com/emo-box/EmoBox) as a table whose column `fold` has them.

    EmoBox/data/cafe/label_map.json
    EmoBox/data/cafe/fold_1/cafe_train_fold_1.jsonl     one object a line: key, wav, emo, …
    EmoBox/data/cafe/fold_1/cafe_test_fold_1.jsonl      some have a list of `valid` too
    EmoBox/downloads/cafe/…                             the recordings, as `wav` names them

A dataset with one fold gets its parts (train, validation, test), one with k folds the number of the
fold that tests a clip, so that `evaluate --protocol given` scores what EmoBox scores.
"""

import csv
import json
from pathlib import Path
from typing import Any

from voc2vec_jax.errors import DataError

PARTS = {"train": "train", "valid": "validation", "test": "test"}
"""EmoBox's names of lists, and ours of parts."""

Entries = dict[str, dict[str, Any]]
"""What EmoBox says of each clip, by its key."""


def write_emobox_table(folder: str | Path, table: str | Path) -> int:
    """Writes path (absolute), id, label and fold of every clip of a dataset of EmoBox.

    Labels are those of `label_map.json`. Entries that are parts of a recording have `start` and
    `end`, in seconds. EmoBox does not say who speaks.

    Args:
        folder: `EmoBox/data/DATASET`.
        table: The CSV to write.

    Returns:
        Rows written.

    Raises:
        DataError: A list is missing or damaged, or the folds are no division: a clip is in two
            parts of one, is tested twice, or is never tested.
    """
    folder = Path(folder).expanduser().resolve()
    folds = sorted(folder.glob("fold_*"), key=lambda path: int(path.name.removeprefix("fold_")))
    if not folds:
        raise DataError(f"{folder}: has no fold_1; name EmoBox/data/DATASET")
    lists = [_read_fold(fold, folder.name) for fold in folds]
    clips: Entries = {}
    part_of: dict[str, str] = {}
    for fold, parts in zip(folds, lists, strict=True):
        for part, entries in parts.items():
            clips |= entries
            if len(folds) == 1 or part == "test":
                name = part if len(folds) == 1 else fold.name.removeprefix("fold_")
                _mark(part_of, entries, name, fold)
    never = clips.keys() - part_of.keys()
    if never:
        raise DataError(
            f"{folder}: {len(never)} of {len(clips)} clips are in no test list, such as"
            f" {min(never)!r}; the folds do not test every clip once, as protocol given does"
        )
    for fold, parts in zip(folds, lists, strict=True):
        if sum(map(len, parts.values())) != len(clips):
            raise DataError(f"{fold}: its lists do not have each of the {len(clips)} clips once")
    return _write(Path(table), folder, clips, part_of)


def _read_fold(fold: Path, dataset: str) -> dict[str, Entries]:
    """By part, the lists of a fold; `valid` may be missing."""
    number = fold.name.removeprefix("fold_")
    found = {}
    for name, part in PARTS.items():
        path = fold / f"{dataset}_{name}_fold_{number}.jsonl"
        if name == "valid" and not path.exists():
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            entries = [json.loads(line) for line in lines if line.strip()]
            found[part] = {entry["key"]: entry for entry in entries}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: cannot be read ({error}); fetch EmoBox again") from error
        if len(found[part]) < len(entries):
            raise DataError(f"{path}: names a clip twice")
    return found


def _mark(part_of: dict[str, str], entries: Entries, name: str, fold: Path) -> None:
    for key in entries:
        if key in part_of:
            raise DataError(
                f"{fold}: clip {key!r} is in {name!r} and in {part_of[key]!r}; the folds are no"
                " division"
            )
        part_of[key] = name


def _write(table: Path, folder: Path, clips: Entries, part_of: dict[str, str]) -> int:
    path = folder / "label_map.json"
    if not path.exists() and (folder / "label_dict.json").exists():
        path = folder / "label_dict.json"  # what EMOVO's is called
    recordings = folder.parents[1]
    segments = any("start_time" in entry for entry in clips.values())
    table.parent.mkdir(parents=True, exist_ok=True)
    try:
        classes = json.loads(path.read_text(encoding="utf-8"))
        folded = {name.lower(): label for name, label in classes.items()}
        rows = [
            {
                "path": (recordings / entry["wav"]).as_posix(),
                "id": key,
                # EmoBox's map of EmoDB has 'Neutral' for the 'neutral' of its lists.
                "label": classes.get(entry["emo"]) or folded[entry["emo"].lower()],
                "fold": part_of[key],
                **(
                    {"start": entry.get("start_time", ""), "end": entry.get("end_time", "")}
                    if segments
                    else {}
                ),
            }
            for key, entry in clips.items()
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: does not fit the lists ({error!r}); fetch EmoBox again"
        ) from error
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)
