"""The folds of a corpus as one, and what a reader of their scores has to know of them."""

import functools
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
from voc2vec_jax.evaluation.given_folds import CARVED, counted, given_folds
from voc2vec_jax.evaluation.independent_units import (
    Copies,
    Units,
    said_of_copies,
    said_of_joining,
    units_of,
)
from voc2vec_jax.evaluation.intervals import FEW_GROUPS
from voc2vec_jax.scores import Ints

DEFAULT_FOLDS = 10
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
    folds: int | None = None,
    seed: int = 0,
    given: Sequence[str] = (),
    copies: Copies = None,
) -> Division:
    """The folds of a protocol, with what is wrong with them; made once for the same arguments.

    Args:
        protocol: Whose rules.
        labels: [clips] class of each clip.
        groups: Speaker, session or upload of each clip; '' where unknown.
        class_names: What the labels mean.
        folds: How many; each clip is tested in one of them. None: 10, or as many as are given.
        seed: Decides the grouped folds; those of the paper and given ones do not depend on it.
        given: [clips] the part or fold that each clip comes with; () where they come without.
        copies: Sets of clips that are the same recording; None where nobody looked. Under
            `grouped` they share a side of every fold, the other protocols only say what they leak.

    Raises:
        ConfigError: The corpus does not have so many folds in it.
        UnlabelledError: A clip has no label.
    """
    return _divided(
        protocol,
        np.asarray(labels, np.int64).tobytes(),
        tuple(groups),
        tuple(class_names),
        folds,
        seed,
        tuple(given),
        None if copies is None else tuple(tuple(clips) for clips in copies),
    )


@functools.lru_cache(maxsize=16)
def _divided(
    protocol: Protocol,
    label_bytes: bytes,
    groups: tuple[str, ...],
    class_names: tuple[str, ...],
    folds: int | None,
    seed: int,
    given: tuple[str, ...],
    copies: Copies,
) -> Division:
    labels = np.frombuffer(label_bytes, np.int64)
    require_labels(labels, groups)
    said = []
    if protocol == "given":
        seed = 0
        parts, carved = given_folds(labels, units_of(groups, copies).of_clip, given)
        said = [CARVED] if carved else []
        if folds not in (None, len(parts)):
            raise ConfigError(
                f"folds={folds}: the corpus comes with {len(parts)} ({counted(given)}); leave"
                " --folds out under protocol given"
            )
    elif protocol == "paper":
        parts = paper_folds(len(labels), DEFAULT_FOLDS if folds is None else folds)
        seed = PAPER_SEED
    else:
        parts = grouped_folds(
            labels, groups, DEFAULT_FOLDS if folds is None else folds, seed, copies=copies
        )
    if any(given) and protocol != "given":
        said.append(
            f"the corpus comes with folds ({counted(given)}), which protocol {protocol} does not"
            " use; --protocol given does"
        )
    return division_of(protocol, seed, parts, labels, groups, class_names, copies, said)


def division_of(
    protocol: Protocol,
    seed: int,
    parts: Sequence[Fold],
    labels: Ints,
    groups: Sequence[str],
    class_names: Sequence[str],
    copies: Copies = None,
    said: Sequence[str] = (),
) -> Division:
    """Folds that are there already, with what a reader has to know of them.

    Args:
        protocol: Whose rules they follow.
        seed: That they were made by.
        parts: The folds, wherever they come from.
        labels: [clips] class of each clip.
        groups: Speaker, session or upload of each clip; '' where unknown.
        class_names: What the labels mean.
        copies: As in `divide`.
        said: Further sentences for the report.
    """
    units = units_of(groups, copies)
    named = np.array([group != "" for group in groups])
    group_of = np.where(named, units_of(groups, None).of_clip, -1)
    leaking = _leaking("clips of their group", parts, group_of)
    return Division(
        protocol=protocol,
        seed=seed,
        folds=tuple(parts),
        grouped=protocol == "grouped" and _groups_matter(units.names),
        leaking_share=share_also_in(parts, group_of, "train"),
        warnings=(
            *_about_groups(protocol, groups, units),
            *(leaking if protocol != "grouped" else ()),
            *said,
            *_about_units(parts, units),
            *_about_sizes(parts),
            *_about_classes(parts, labels, class_names),
            *said_of_copies(units, labels),
            *(
                said_of_joining(units)
                if protocol == "grouped"
                else _leaking("a copy of themselves", parts, units.recording)
            ),
        ),
    )


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


def _groups_matter(groups: Sequence[str]) -> bool:
    """Whether some group has two clips."""
    known = [group for group in groups if group]
    return len(set(known)) < len(known)


def _about_groups(protocol: Protocol, groups: Sequence[str], units: Units) -> list[str]:
    found, unknown = [], sum(group == "" for group in groups)
    if protocol == "paper":
        found.append(f"{SELECTION_ON_TEST}: scores are optimistic, as in the paper")
    if unknown == len(groups):
        kind = "stratified only" if protocol == "grouped" else "taken as they are"
        found.append(f"groups are unknown: folds are {kind}; a speaker may be on both sides")
    elif protocol == "grouped" and not _groups_matter(units.names):
        found.append("no group has two clips: folds are stratified only")
    if 0 < unknown < len(groups):
        found.append(f"{unknown} of {len(groups)} clips have no group and count as one each")
    return found


def _about_units(parts: Sequence[Fold], units: Units) -> list[str]:
    tested = len(np.unique(np.concatenate([units.of_clip[fold.test] for fold in parts])))
    if tested >= FEW_GROUPS:
        return []
    return [
        f"only {tested} groups are tested: intervals of so few are rough, and cover less often than"
        " they say where groups differ much"
    ]


def _leaking(what: str, parts: Sequence[Fold], marks: Ints) -> list[str]:
    """Sentences on the test clips that share a mark with clips of other parts."""
    shares = [(side, share_also_in(parts, marks, side)) for side in ("train", "validation")]
    return [
        f"{share:.0%} of the test clips have {what} in the"
        f" {'training' if side == 'train' else side} part"
        for side, share in shares
        if share
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
