"""The folds of a corpus as one, and what a reader of their scores has to know of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.evaluation.folds import (
    PAPER_SEED,
    SELECTION_ON_TEST,
    Fold,
    grouped_folds,
    paper_folds,
    require_labels,
)
from voc2vec_jax.scores import Ints

UNEQUAL = 1.5
"""By what factor the largest test part may exceed the smallest before it is said."""


@dataclass(frozen=True, eq=False)
class Division:
    """The folds of a corpus, and what a reader of their scores has to know."""

    protocol: Protocol
    seed: int
    folds: tuple[Fold, ...]
    grouped: bool
    """Whether no group is on two sides of a fold; False where groups are unknown."""
    leaking_share: float
    """Of the test clips, those whose group is in their fold's training part too."""
    warnings: tuple[str, ...]
    """Sentences for the report: unknown groups, classes that a part of some fold lacks, …"""


def divide(
    protocol: Protocol,
    labels: Ints,
    groups: Sequence[str],
    class_names: Sequence[str],
    *,
    folds: int = 10,
    seed: int = 0,
) -> Division:
    """The folds of a protocol, with what is wrong with them.

    Args:
        protocol: Whose rules.
        labels: [clips] class of each clip.
        groups: Speaker, session or upload of each clip; '' where unknown.
        class_names: What the labels mean.
        folds: How many; each clip is tested in one of them.
        seed: Decides the grouped folds; those of the paper do not depend on it.

    Raises:
        ConfigError: The corpus does not have so many folds in it.
        UnlabelledError: A clip has no label.
    """
    if protocol == "paper":
        require_labels(labels, groups)
        parts = paper_folds(len(labels), folds)
        seed = PAPER_SEED
    else:
        parts = grouped_folds(labels, groups, folds, seed)
    return described(protocol, seed, parts, labels, groups, class_names)


def described(
    protocol: Protocol,
    seed: int,
    parts: tuple[Fold, ...],
    labels: Ints,
    groups: Sequence[str],
    class_names: Sequence[str],
) -> Division:
    """Folds, wherever they are from, with what is wrong with them.

    Raises:
        ConfigError: The protocol selects on another part than the folds have.
    """
    for number, fold in enumerate(parts):
        if protocol == "grouped" and fold.validation is None:
            raise ConfigError(
                f"fold {number} has no validation part, on which `grouped` chooses; set clips of "
                "its training part aside, or choose on the test part with --protocol paper"
            )
        if protocol == "paper" and fold.validation is not None:
            raise ConfigError(
                f"fold {number} has a validation part, and `paper` chooses on the test part; give "
                "--protocol grouped"
            )
    leaking = _leaking_share(parts, groups)
    found = [
        *_about_groups(protocol, groups, leaking),
        *_about_use(parts, len(labels)),
        *_about_sizes(parts),
        *_about_classes(parts, labels, class_names),
    ]
    return Division(
        protocol=protocol,
        seed=seed,
        folds=parts,
        grouped=protocol == "grouped" and _groups_matter(groups) and not leaking,
        leaking_share=leaking,
        warnings=tuple(found),
    )


def _groups_matter(groups: Sequence[str]) -> bool:
    """Whether some group has two clips."""
    known = [group for group in groups if group]
    return len(set(known)) < len(known)


def _leaking_share(parts: Sequence[Fold], groups: Sequence[str]) -> float:
    leaking = tested = 0
    for fold in parts:
        trained = {groups[clip] for clip in fold.train} - {""}
        leaking += sum(groups[clip] in trained for clip in fold.test)
        tested += len(fold.test)
    return leaking / tested


def _about_groups(protocol: Protocol, groups: Sequence[str], leaking: float) -> list[str]:
    found, unknown = [], sum(group == "" for group in groups)
    if protocol == "paper":
        found.append(f"{SELECTION_ON_TEST}: scores are optimistic, as in the paper")
    elif unknown == len(groups):
        found.append(
            "groups are unknown: folds are stratified only; a speaker may be on both sides"
        )
    elif not _groups_matter(groups):
        found.append("no group has two clips: folds are stratified only")
    if leaking:
        found.append(
            f"{leaking:.0%} of the test clips have clips of their group in the training part"
        )
    if 0 < unknown < len(groups):
        found.append(f"{unknown} of {len(groups)} clips have no group and count as one each")
    return found


def _about_use(parts: Sequence[Fold], clips: int) -> list[str]:
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


def _about_sizes(parts: Sequence[Fold]) -> list[str]:
    sizes = [len(fold.test) for fold in parts]
    if max(sizes) <= UNEQUAL * min(sizes):
        return []
    return [
        f"folds are unequal: {min(sizes)} to {max(sizes)} test clips, as their groups are; a mean "
        "over folds counts the clips of small ones more"
    ]


def _about_classes(parts: Sequence[Fold], labels: Ints, class_names: Sequence[str]) -> list[str]:
    """Classes that are nowhere, or that a part of some fold lacks."""
    found = []
    for label, name in enumerate(class_names):
        clips = int(np.sum(labels == label))
        if not clips:
            found.append(f"class {name!r} has no clip")
            continue
        for part, consequence in (
            ("train", "cannot be recognised there"),
            ("validation", "has no say in what is chosen there"),
            ("test", "has no recall there"),
        ):
            lacking = [
                number
                for number, fold in enumerate(parts)
                if (indices := getattr(fold, part)) is not None
                and not np.any(labels[indices] == label)
            ]
            if lacking:
                numbers = ", ".join(map(str, lacking))
                found.append(
                    f"class {name!r} ({clips} clips) is not in the {part} part of fold {numbers}:"
                    f" it {consequence}"
                )
    return found
