"""What a reader of scores has to know of the folds behind them, a sentence each."""

from collections.abc import Sequence

import numpy as np

from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.evaluation.folds import SELECTION_ON_TEST, Fold
from voc2vec_jax.evaluation.independent_units import Units
from voc2vec_jax.evaluation.intervals import FEW_GROUPS
from voc2vec_jax.scores import Ints

UNEQUAL = 1.5
"""By what factor the largest test part may exceed the smallest before it is said."""


def share_also_in(parts: Sequence[Fold], marks: Ints, side: str) -> float:
    """Of the test clips of all folds, those whose mark some clip of another part has too.

    Args:
        parts: The folds.
        marks: [clips] such as the number of the group; negative: none.
        side: `train` or `validation`.
    """
    found = tested = 0
    for fold in parts:
        other: Ints | None = getattr(fold, side)
        seen = np.zeros(int(marks.max(initial=-1)) + 2, bool)  # the last is that of no mark
        if other is not None:
            seen[marks[other]] = True
        seen[-1] = False
        found += int(seen[marks[fold.test]].sum())
        tested += len(fold.test)
    return found / tested


def groups_matter(groups: Sequence[str]) -> bool:
    """Whether some group has two clips."""
    known = [group for group in groups if group]
    return len(set(known)) < len(known)


def about_groups(protocol: Protocol, groups: Sequence[str], units: Units) -> list[str]:
    found, unknown = [], sum(group == "" for group in groups)
    if protocol == "paper":
        found.append(f"{SELECTION_ON_TEST}: scores are optimistic, as in the paper")
    if unknown == len(groups):
        kind = "stratified only" if protocol == "grouped" else "taken as they are"
        found.append(f"groups are unknown: folds are {kind}; a speaker may be on both sides")
    elif protocol == "grouped" and not groups_matter(units.names):
        found.append("no group has two clips: folds are stratified only")
    if 0 < unknown < len(groups):
        found.append(f"{unknown} of {len(groups)} clips have no group and count as one each")
    return found


def about_use(parts: Sequence[Fold], clips: int) -> list[str]:
    """Clips that a fold does not use, as folds from a file may."""
    used = np.zeros((len(parts), clips), bool)
    for row, fold in zip(used, parts, strict=True):
        row[np.concatenate([fold.train, fold.selection, fold.test])] = True
    fewest = int(used.sum(axis=1).min())
    if fewest == clips:
        return []
    nowhere = clips - int(np.sum(used.any(axis=0)))
    tested = sum(len(fold.test) for fold in parts)
    return [
        f"folds do not use every clip: one uses {fewest} of {clips}; {nowhere} clips are in no "
        f"part of any fold, and {tested} are tested"
    ]


def about_units(parts: Sequence[Fold], units: Units) -> list[str]:
    tested = len(np.unique(np.concatenate([units.of_clip[fold.test] for fold in parts])))
    if tested >= FEW_GROUPS:
        return []
    return [
        f"only {tested} groups are tested: intervals of so few are rough, and cover less often than"
        " they say where groups differ much"
    ]


def about_leaking(what: str, parts: Sequence[Fold], marks: Ints) -> list[str]:
    """Sentences on the test clips that share a mark with clips of other parts."""
    shares = [(side, share_also_in(parts, marks, side)) for side in ("train", "validation")]
    return [
        f"{share:.0%} of the test clips have {what} in the"
        f" {'training' if side == 'train' else side} part"
        for side, share in shares
        if share
    ]


def about_sizes(parts: Sequence[Fold]) -> list[str]:
    sizes = [len(fold.test) for fold in parts]
    if max(sizes) <= UNEQUAL * min(sizes):
        return []
    return [
        f"folds are unequal: {min(sizes)} to {max(sizes)} test clips, as their groups are; a mean "
        "over folds counts the clips of small ones more"
    ]


def about_classes(parts: Sequence[Fold], labels: Ints, class_names: Sequence[str]) -> list[str]:
    """Classes that are nowhere, or that a part of some fold lacks."""
    classes = len(class_names)
    clips = np.bincount(labels, minlength=classes)
    sides = (
        ("train", "cannot be recognised there"),
        ("validation", "has no say in what is chosen there"),
        ("test", "has no recall there"),
    )
    # [folds, classes] by side; under `paper` there is no validation part to lack a class.
    there = {
        side: np.array(
            [
                np.ones(classes) if indices is None else np.bincount(labels[indices], None, classes)
                for indices in (getattr(fold, side) for fold in parts)
            ]
        )
        for side, _ in sides
    }
    found = []
    for label, name in enumerate(class_names):
        if not clips[label]:
            found.append(f"class {name!r} has no clip")
            continue
        for side, consequence in sides:
            lacking = np.flatnonzero(there[side][:, label] == 0)
            if len(lacking):
                numbers = ", ".join(map(str, lacking))
                found.append(
                    f"class {name!r} ({clips[label]} clips) is not in the {side} part of fold"
                    f" {numbers}: it {consequence}"
                )
    return found
