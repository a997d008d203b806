"""The folds of a corpus as one, and what a reader of their scores has to know of them."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.evaluation.cautions import (
    about_classes,
    about_groups,
    about_leaking,
    about_sizes,
    about_units,
    about_use,
    groups_matter,
    share_also_in,
)
from voc2vec_jax.evaluation.folds import (
    PAPER_SEED,
    Fold,
    grouped_folds,
    paper_folds,
    require_labels,
)
from voc2vec_jax.evaluation.given_folds import CARVED, counted, given_folds
from voc2vec_jax.evaluation.independent_units import (
    Copies,
    said_of_copies,
    said_of_joining,
    units_of,
)
from voc2vec_jax.scores import Ints

DEFAULT_FOLDS = 10


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

    Raises:
        ConfigError: The protocol selects on another part than the folds have.
    """
    for number, fold in enumerate(parts):
        if protocol != "paper" and fold.validation is None:
            raise ConfigError(
                f"fold {number} has no validation part, on which `{protocol}` chooses; set clips "
                "of its training part aside, or choose on the test part with --protocol paper"
            )
        if protocol == "paper" and fold.validation is not None:
            raise ConfigError(
                f"fold {number} has a validation part, and `paper` chooses on the test part; give "
                "--protocol grouped"
            )
    units = units_of(groups, copies)
    named = np.array([group != "" for group in groups])
    group_of = np.where(named, units_of(groups, None).of_clip, -1)
    share = share_also_in(parts, group_of, "train")
    leaking_copies = about_leaking("a copy of themselves", parts, units.recording)
    return Division(
        protocol=protocol,
        seed=seed,
        folds=tuple(parts),
        grouped=protocol == "grouped" and groups_matter(units.names) and not share,
        leaking_share=share,
        warnings=(
            *about_groups(protocol, groups, units),
            *about_leaking("clips of their group", parts, group_of),
            *said,
            *about_use(parts, len(labels)),
            *about_units(parts, units),
            *about_sizes(parts),
            *about_classes(parts, labels, class_names),
            *said_of_copies(units, labels),
            *leaking_copies,
            *(said_of_joining(units) if protocol == "grouped" and not leaking_copies else ()),
        ),
    )
