"""The folds that a corpus comes with: a column `fold` or `split`, or folders of that name."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from voc2vec_jax.errors import ConfigError
from voc2vec_jax.evaluation.folds import Fold, carve_validation
from voc2vec_jax.scores import Ints

PARTS: dict[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""What names of parts mean, whatever their case; others are numbers or names of folds."""
CARVED = (
    "no validation part is given: about an eighth of the training part, of whole groups, is set"
    " aside to choose by"
)
_SEED = 0
"""Of the validation part: another seed of an evaluation does not change given folds."""


def given_folds(labels: Ints, units: Ints, given: Sequence[str]) -> tuple[tuple[Fold, ...], bool]:
    """The folds that clips are marked with, as they stand.

    Either parts of one division (`PARTS`), which are one fold; or two folds and more, of which
    each is tested once and the others are trained on. Where no validation part is given, one is
    carved out of the clips that are not tested, by the rule of grouped folds.

    Args:
        labels: [clips] class of each clip.
        units: [clips] what a carved validation part must not share with the training part.
        given: [clips] part or fold of each clip.

    Returns:
        Folds with ascending indices, and whether their validation part was carved.

    Raises:
        ConfigError: The corpus comes without folds, a clip has none, names are of both kinds, a
            part is missing, or too little is left to train and validate on.
    """
    if not any(given):
        raise ConfigError(
            "protocol given: the corpus comes without folds; give each clip one in a column `fold`"
            " (train, validation and test, or 1 to k), or take --protocol grouped"
        )
    missing = [clip for clip, name in enumerate(given) if not name]
    if missing:
        raise ConfigError(
            f"protocol given: {len(missing)} of {len(given)} clips have no fold, the first of them"
            f" clip {missing[0]}; give each clip one, or leave those out"
        )
    names = np.array(given, dtype=object)
    parts = {name for name in set(given) if name.lower() in PARTS}
    if parts and parts != set(given):
        odd = sorted(set(given) - parts)
        raise ConfigError(
            f"protocol given: folds are named {', '.join(sorted(parts))} and also"
            f" {', '.join(odd[:5])}; name them train, validation and test, or all by other names"
        )
    return _one_fold(labels, units, names) if parts else _k_folds(labels, units, names)


def _one_fold(labels: Ints, units: Ints, names: np.ndarray) -> tuple[tuple[Fold, ...], bool]:
    part = np.array([PARTS[name.lower()] for name in names])
    train, validation, test = (
        np.flatnonzero(part == name) for name in ("train", "validation", "test")
    )
    for name, clips in (("train", train), ("test", test)):
        if not len(clips):
            raise ConfigError(
                f"protocol given: no clip is of the part {name!r}, only of"
                f" {', '.join(sorted(set(part)))}; mark the clips to {name} with it"
            )
    if len(validation):
        return (Fold(train, validation, test),), False
    kept, carved = carve_validation(
        train, labels, units, _SEED, "protocol given: the training part"
    )
    return (Fold(kept, carved, test),), True


def _k_folds(labels: Ints, units: Ints, names: np.ndarray) -> tuple[tuple[Fold, ...], bool]:
    folds = sorted(sorted(set(names)), key=in_reading_order)
    if len(folds) < 2:
        raise ConfigError(
            f"protocol given: every clip is of fold {folds[0]!r}; two folds are needed at least"
        )
    parts = []
    for name in folds:
        train, validation = carve_validation(
            np.flatnonzero(names != name), labels, units, _SEED, f"protocol given: fold {name!r}"
        )
        parts.append(Fold(train, validation, np.flatnonzero(names == name)))
    return tuple(parts), True


def in_reading_order(name: str) -> list[tuple[int, int, str]]:
    """Key that puts `fold10` after `fold2`."""
    words = re.split(r"(\d+)", name)
    return [(0, int(word), "") if word.isdecimal() else (1, 0, word) for word in words]


def counted(given: Sequence[str]) -> str:
    """`test 20, train 80`: the folds that clips are marked with."""
    counts = Counter(name or "without" for name in given)
    return ", ".join(
        f"{name} {counts[name]}" for name in sorted(sorted(counts), key=in_reading_order)
    )
