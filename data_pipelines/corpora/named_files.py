"""Tables of labelled corpora that say label and group in their file names.

    python -m data_pipelines.corpora emogator EMOGATOR clips.csv
    python -m data_pipelines.corpora donateacry DONATEACRY clips.csv
    python -m data_pipelines.corpora emobox EmoBox/data/DATASET clips.csv

writes a table with the columns path, label and group for `--data.table` and `tools.probe`. A file
whose name does not follow its corpus's rule is an error: a wrong group would leak between folds.
EmoBox's lists name no group; its folds are the column `fold` (`emobox.py`).
"""

import argparse
import csv
import re
import sys
from collections.abc import Callable
from pathlib import Path

from data_pipelines.corpora.emobox import write_emobox_table
from voc2vec_jax.audio.signal import find_audio
from voc2vec_jax.errors import DataError
from voc2vec_jax.files import writing

# fmt: off
EMOGATOR_CATEGORIES = (
    "adoration", "amusement", "anger", "awe", "confusion", "contempt", "contentment", "desire",
    "disappointment", "disgust", "distress", "ecstasy", "elation", "embarrassment", "fear", "guilt",
    "interest", "neutral", "pain", "pride", "realization", "relief", "romantic_love", "sadness",
    "serenity", "shame", "surprise_negative", "surprise_positive", "sympathy", "triumph",
)
# fmt: on
DONATEACRY_REASONS = ("belly_pain", "burping", "discomfort", "hungry", "tired")

_EMOGATOR_NAME = re.compile(r"(\d{6})-(0[1-9]|[12]\d|30)-[123]")
# <uuid>-<unix time>-<app version>-<m|f>-<age>-<reason>, where the uuid has dashes of its own.
DONATEACRY_NAME = re.compile(
    r"(?P<app>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
    r"-\d{10,13}-[\d.]+-[mf]-(?:04|48|26|72|22)-[a-z]{2}",
    re.IGNORECASE,
)
"""Stem of a recording's file name; `app` is the installation that it came from."""


def emogator_clip(path: Path) -> tuple[str, str]:
    """Category and contributor of an EmoGator file, `<contributor>-<category>-<take>.mp3`.

    Raises:
        DataError: The name does not follow that rule.
    """
    match = _EMOGATOR_NAME.fullmatch(path.stem)
    if match is None:
        raise DataError(
            f"{path}: not named <6-digit contributor>-<category 01 to 30>-<take 1 to 3>, as"
            " EmoGator names its files; move it out of the folder"
        )
    return EMOGATOR_CATEGORIES[int(match[2]) - 1], match[1]


def donateacry_clip(path: Path) -> tuple[str, str]:
    """Reason and uploader of a Donate-a-Cry file, `<reason>/<DONATEACRY_NAME>.wav`.

    The reason is the folder of the cleaned corpus. The uuid is that of an installation of the app,
    the nearest there is to a baby; the two platforms write it in different cases.

    Raises:
        DataError: The folder or the name does not follow that rule.
    """
    match = DONATEACRY_NAME.fullmatch(path.stem)
    reason = path.parent.name
    if match is None or reason not in DONATEACRY_REASONS:
        raise DataError(
            f"{path}: not <reason>/<uuid>-<time>-….wav with a reason of"
            f" {', '.join(DONATEACRY_REASONS)}, as in the cleaned Donate-a-Cry corpus; move it out"
            " of the folder"
        )
    return reason, match["app"].lower()


CORPORA: dict[str, Callable[[Path], tuple[str, str]]] = {
    "emogator": emogator_clip,
    "donateacry": donateacry_clip,
}

EMOBOX = "emobox"


def write_table(corpus: str, folder: str | Path, table: str | Path) -> int:
    """Writes path (absolute), label and group of every audio file of a corpus.

    Args:
        corpus: A key of `CORPORA`.
        folder: Searched recursively.
        table: The CSV to write.

    Returns:
        Rows written.

    Raises:
        DataError: A file does not follow the naming of the corpus, or there is none.
        FileNotFoundError, NotADirectoryError: No such folder.
    """
    paths, _ = find_audio(Path(folder).expanduser().resolve())
    rows = [(path.as_posix(), *CORPORA[corpus](path)) for path in paths]
    if not rows:
        raise DataError(f"{folder}: holds no audio")
    table = Path(table)
    table.parent.mkdir(parents=True, exist_ok=True)
    with (
        writing(table) as unfinished,
        # Names that are no UTF-8 stay the bytes that they are, and are found by them.
        unfinished.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "group"])
        writer.writerows(rows)
    return len(rows)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description="Write the table (path, label, group) of a corpus whose file names say both, or"
        " that of a dataset of EmoBox (path, id, label, fold)."
    )
    parser.add_argument("corpus", choices=[*sorted(CORPORA), EMOBOX])
    parser.add_argument(
        "folder",
        type=Path,
        help="where its recordings are, searched recursively; for emobox EmoBox/data/DATASET",
    )
    parser.add_argument("table", type=Path, help="the CSV to write")
    args = parser.parse_args()
    try:
        if args.corpus == EMOBOX:
            count = write_emobox_table(args.folder, args.table)
        else:
            count = write_table(args.corpus, args.folder, args.table)
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"clips={count} table={args.table}")
