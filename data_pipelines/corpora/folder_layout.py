"""What the folders of a corpus say of its clips: their class, and the part of a split."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voc2vec_jax.audio.spelling import escaped
from voc2vec_jax.errors import DataError

# fmt: off
SPLITS = {
    "train": "train", "training": "train",
    "valid": "validation", "validation": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}
# fmt: on
"""Names of folders, in any letter case, and the fold of the clips in them."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """Of each clip; '' where there is none."""

    labels: list[str]
    folds: list[str]


def read_layout(folder: Path, names: Sequence[str], *, classes: bool) -> Layout:
    """Folds and classes of the files below a folder.

    The first folder is the class. Where all first folders have names of `SPLITS`, and are two or
    more, they are folds, and the folders in them classes.

    Args:
        folder: The corpus.
        names: The files, relative to it, with `/`.
        classes: Whether folders are classes at all.

    Raises:
        DataError: Some of the first folders are folds, and others are not; or there are no classes
            in folds.
    """
    parts = [name.split("/")[:-1] for name in names]
    tops = {own[0] for own in parts if own}
    splits = {top for top in tops if top.lower() in SPLITS}
    if len(splits) < 2 or (not classes and splits != tops):
        layout = Layout([own[0] if classes and own else "" for own in parts], [""] * len(names))
        depth = 0
    else:
        shown = ", ".join(sorted(splits))
        if splits != tops:
            others = ", ".join(sorted(escaped(top) for top in tops - splits))
            raise DataError(
                f"{folder}: {shown} are names of folds, and {others} beside them are not; move"
                " these elsewhere, or give a table with the columns path, label and fold"
            )
        if classes and not any(len(own) > 1 for own in parts):
            raise DataError(
                f"{folder}: {shown} are names of folds, but there are no class folders in them;"
                " make one folder for each class in each of them, or give a table with the columns"
                " path, label and fold"
            )
        logger.warning(
            "%s: the folders %s are folds%s", folder, shown, classes * ", those in them are classes"
        )
        layout = Layout(
            [own[1] if classes and len(own) > 1 else "" for own in parts],
            [SPLITS[own[0].lower()] if own else "" for own in parts],
        )
        depth = 1
    if classes:
        _say_silent_folders(folder, {tuple(own[: depth + 1]) for own in parts}, depth)
    return layout


def _say_silent_folders(folder: Path, heard: set[tuple[str, ...]], depth: int) -> None:
    """Names the folders that would be classes and hold no audio."""
    above = [folder] if depth == 0 else [p for p in folder.iterdir() if p.name.lower() in SPLITS]
    for place in above:
        for own in sorted(place.iterdir()) if place.is_dir() else ():
            way = own.relative_to(folder).parts
            if own.is_dir() and not own.name.startswith(".") and way not in heard:
                logger.warning("class folder %s: holds no audio", escaped(str(own)))
