"""Which clips train, select and test a model: the folds that a protocol makes.

`grouped` folds share no group (speaker, session, upload) between their sides, are stratified as far
as groups allow, and set a validation part of the training groups aside for whatever is chosen, so
that the test part is scored once. `paper` folds are those of the voc2vec repository: a random
tenth each, neither stratified nor grouped, which both selects the epoch and is reported.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from voc2vec_jax.errors import ConfigError, UnlabelledError
from voc2vec_jax.evaluation.independent_units import Copies, units_of
from voc2vec_jax.evaluation.stratified import largest_class, require_folds, stratified_splits
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
    require_folds(folds, count, "clips")
    shuffled = list(range(count))
    random.Random(PAPER_SEED).shuffle(shuffled)
    order = np.array(shuffled, np.int64)
    size = count // folds
    parts = []
    for number in range(folds):
        start = number * size
        stop = count if number == folds - 1 else start + size
        train = np.concatenate([order[:start], order[stop:]])
        parts.append(Fold(train, None, order[start:stop]))
    return tuple(parts)


def grouped_folds(
    labels: Ints,
    groups: Sequence[str],
    folds: int = 10,
    seed: int = 0,
    validation_share: float = VALIDATION_SHARE,
    copies: Copies = None,
) -> tuple[Fold, ...]:
    """Folds whose train, validation and test parts share no group, stratified as groups allow.

    See `stratified.py` for the rule. Groups with copies of one recording count as one.

    Args:
        labels: [clips] class of each clip.
        groups: What must not straddle a fold; a clip whose group is '' is its own.
        folds: How many; each clip is tested in one of them.
        seed: Decides which groups go together.
        validation_share: Of the training clips, roughly.
        copies: Clips that are the same recording.

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
    units = units_of(groups, copies).of_clip
    parts = []
    for rest, test in stratified_splits(labels, units, folds, seed):
        if not len(test):
            raise ConfigError(
                f"folds={folds}: groups are so unequal that a fold would be empty; use fewer folds"
            )
        train, validation = carve_validation(
            rest, labels, units, seed, f"folds={folds}: a fold", validation_share
        )
        parts.append(Fold(train, validation, test))
    return tuple(parts)


def carve_validation(
    rest: Ints,
    labels: Ints,
    units: Ints,
    seed: int,
    what: str,
    validation_share: float = VALIDATION_SHARE,
) -> tuple[Ints, Ints]:
    """Clips to train on and clips to choose by, which share no unit, from those not tested.

    The validation part is one division of the units by the rule of the folds themselves: the first
    of those that leave most classes in training and, among these, have most classes themselves.

    Args:
        rest: Places of the clips that are not tested.
        labels: [clips] class of each clip of the corpus.
        units: [clips] what must not straddle the parts.
        seed: Decides which units go together.
        what: Begins the error.
        validation_share: Of `rest`, roughly.

    Raises:
        ConfigError: Fewer than two units, or than two clips of any class.
    """
    known, most = len(np.unique(units[rest])), largest_class(labels[rest])
    if min(known, most) < 2:
        raise ConfigError(
            f"{what} leaves {known} groups, and {most} clips of its largest class, to train and"
            " validate on: two each are needed; use more folds"
        )
    inner = stratified_splits(
        labels[rest], units[rest], min(round(1 / validation_share), known, most), seed
    )
    return max(
        ((rest[kept], rest[held]) for kept, held in inner if len(kept) and len(held)),
        key=lambda pair: tuple(len(np.unique(labels[part])) for part in pair),
    )


def require_labels(labels: Ints, groups: Sequence[str]) -> None:
    """Refuses clips without a class."""
    if len(labels) != len(groups):
        raise ValueError(f"{len(labels)} labels for {len(groups)} groups")
    unlabelled = int(np.sum(np.asarray(labels) < 0))
    if unlabelled or not len(labels):
        raise UnlabelledError(
            f"{unlabelled} of {len(labels)} clips have no label; evaluation needs a corpus with a"
            " class for every clip, so give those clips a label or leave them out"
        )
