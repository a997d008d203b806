"""Which clips train, select and test a model: the folds of both protocols.

`grouped` folds share no group (speaker, session, upload) between their sides, are stratified as far
as groups allow, and set a validation part of the training groups aside for whatever is chosen, so
that the test part is scored once. `paper` folds are those of the voc2vec repository: a random
tenth each, neither stratified nor grouped, which both selects the epoch and is reported.
"""

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voc2vec_jax.errors import ConfigError, UnlabelledError
from voc2vec_jax.scores import Ints

PAPER_SEED = 42
SELECTION_ON_TEST = "selection on the test fold"
"""What every output of the paper protocol says of itself."""
VALIDATION_SHARE = 0.125
"""Of a fold's training clips, set aside to choose by."""


@dataclass(frozen=True, eq=False)
class Fold:
    """Clips by their place in the corpus; the parts share none."""

    train: Ints
    """Under `paper` in the order of its shuffle, which decides the order of its labels."""
    validation: Ints | None
    """None: nothing is set aside, and the paper protocol selects on `test`."""
    test: Ints

    @property
    def selection(self) -> Ints:
        """What the epoch is chosen on."""
        return self.test if self.validation is None else self.validation


def paper_folds(count: int, folds: int = 10) -> tuple[Fold, ...]:
    """The voc2vec repository's folds, index for index.

    Python's own generator, seeded with 42, shuffles the clips in the order of the corpus; fold i
    is the i-th run of floor(count / folds) of them, and the last one takes the rest too. There is
    no validation part: that repository chooses the epoch on the fold it reports.

    Raises:
        ConfigError: Fewer clips than folds, or fewer than two folds.
    """
    _require_folds(folds, count, "clips")
    order = list(range(count))
    random.Random(PAPER_SEED).shuffle(order)
    size = count // folds
    parts = []
    for number in range(folds):
        start = number * size
        stop = count if number == folds - 1 else start + size
        train = np.array(order[:start] + order[stop:], np.int64)
        parts.append(Fold(train, None, np.array(order[start:stop], np.int64)))
    return tuple(parts)


def grouped_folds(
    labels: Ints,
    groups: Sequence[str],
    folds: int = 10,
    seed: int = 0,
    validation_share: float = VALIDATION_SHARE,
) -> tuple[Fold, ...]:
    """Folds whose train, validation and test parts share no group, stratified as groups allow.

    scikit-learn's StratifiedGroupKFold, without the groups where each clip is its own. The
    validation part is one division of the training groups by the same rule: the first of those
    that leave most classes in training and, among these, have most classes themselves.

    Args:
        labels: [clips] class of each clip.
        groups: What must not straddle a fold; a clip whose group is '' is its own.
        folds: How many; each clip is tested in one of them.
        seed: Decides which groups go together.
        validation_share: Of the training clips, roughly.

    Returns:
        Folds with ascending indices.

    Raises:
        ConfigError: Fewer groups than folds, no class of so many clips, or too little left to train
            and validate on.
        UnlabelledError: A clip has no label.
    """
    if not 0 < validation_share <= 0.5:
        raise ConfigError(f"validation_share={validation_share}: must lie in (0, 0.5]")
    require_labels(labels, groups)
    named = np.array(
        [f"group {group}" if group else f"clip {i}" for i, group in enumerate(groups)], dtype=object
    )
    parts = []
    for rest, test in stratified_splits(labels, named, folds, seed):
        if not len(test):
            raise ConfigError(
                f"folds={folds}: groups are so unequal that a fold would be empty; use fewer folds"
            )
        known, most = len(set(named[rest])), _largest_class(labels[rest])
        if min(known, most) < 2:
            raise ConfigError(
                f"folds={folds}: a fold leaves {known} groups, and {most} clips of its largest"
                " class, to train and validate on: two each are needed; use more folds"
            )
        inner = stratified_splits(
            labels[rest], named[rest], min(round(1 / validation_share), known, most), seed
        )
        train, validation = max(
            ((rest[kept], rest[held]) for kept, held in inner if len(kept) and len(held)),
            key=lambda pair: tuple(len(np.unique(labels[part])) for part in pair),
        )
        parts.append(Fold(train, validation, test))
    return tuple(parts)


def stratified_splits(
    labels: Ints, groups: NDArray, folds: int, seed: int
) -> list[tuple[Ints, Ints]]:
    """(rest, held out) of each fold, ascending; no group is in both.

    Folds are stratified as far as groups allow, and may lack rare classes.

    Args:
        labels: [clips] class of each clip.
        groups: [clips] what must not straddle a fold; all different if there are no groups.
        folds: How many.
        seed: Decides which groups go together.

    Raises:
        ConfigError: Fewer groups than folds, or no class of so many clips.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    _require_folds(folds, len(set(groups)), "groups")
    _require_folds(folds, _largest_class(labels), "clips in the largest class")
    every_clip_its_own = len(set(groups)) == len(groups)
    kind = StratifiedKFold if every_clip_its_own else StratifiedGroupKFold
    splitter = kind(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # `Division.warnings` says more of rare classes: which, and which folds lack them.
        warnings.filterwarnings("ignore", message="The least populated class")
        return list(
            splitter.split(np.zeros(len(labels)), labels, None if every_clip_its_own else groups)
        )


def _largest_class(labels: Ints) -> int:
    return int(np.unique(labels, return_counts=True)[1].max(initial=0))


def _require_folds(folds: int, available: int, what: str) -> None:
    if not 2 <= folds <= available:
        raise ConfigError(
            f"folds={folds}: must be at least 2 and at most {available}, the number of {what}"
        )


def require_labels(labels: Ints, groups: Sequence[str]) -> None:
    if len(labels) != len(groups):
        raise ValueError(f"{len(labels)} labels for {len(groups)} groups")
    unlabelled = int(np.sum(np.asarray(labels) < 0))
    if unlabelled or not len(labels):
        raise UnlabelledError(
            f"{unlabelled} of {len(labels)} clips have no label; evaluation needs a corpus with a"
            " class for every clip, so give those clips a label or leave them out"
        )
