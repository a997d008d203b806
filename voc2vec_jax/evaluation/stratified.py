"""Splits that keep groups whole and classes in proportion: scikit-learn's rules, made to grow.

Where every clip is its own group, scikit-learn's StratifiedKFold divides. Its StratifiedGroupKFold
takes minutes for 1e5 clips of 1e4 groups, and an evaluation divides a corpus once for every fold;
`_fold_of_groups` makes the same choices with each group's trials in one array.
"""

import warnings

import numpy as np
from numpy.typing import NDArray

from voc2vec_jax.errors import ConfigError
from voc2vec_jax.scores import Floats, Ints


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
    names, members = np.unique(groups, return_inverse=True)
    require_folds(folds, len(names), "groups")
    require_folds(folds, largest_class(labels), "clips in the largest class")
    if len(names) == len(labels):
        return _without_groups(labels, folds, seed)
    fold_of = _fold_of_groups(labels, members, folds, seed)[members]  # [clips]
    return [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold))
            for fold in range(folds)]  # fmt: skip


def _without_groups(labels: Ints, folds: int, seed: int) -> list[tuple[Ints, Ints]]:
    from sklearn.model_selection import StratifiedKFold

    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # `Division.warnings` says more of rare classes: which, and which folds lack them.
        warnings.filterwarnings("ignore", message="The least populated class")
        return list(splitter.split(np.zeros(len(labels)), labels))


def _fold_of_groups(labels: Ints, members: Ints, folds: int, seed: int) -> Ints:
    """[groups] the fold that each goes to, as StratifiedGroupKFold(shuffle=True) has it.

    Groups with the most uneven classes go first, equal ones in shuffled order, each to the fold
    where it leaves the shares of classes most alike over folds, of equals to the emptiest one.
    Sums are taken in the order in which scikit-learn takes them, because ties are decided by the
    last bit.
    """
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    groups = int(members.max()) + 1
    cells = np.bincount(members * len(sizes) + classes, minlength=groups * len(sizes))
    counts = cells.reshape(groups, len(sizes)).astype(np.float64)  # [groups, classes]
    order = np.arange(groups)
    np.random.RandomState(seed).shuffle(order)
    uneven = np.std(counts[order], axis=1)
    order = order[np.argsort(-uneven, kind="stable")]

    fold_of = np.empty(groups, np.int64)
    filled = np.zeros((folds, len(sizes)))
    clips = np.zeros(folds)
    each = np.arange(folds)
    for group in order:
        # [trial, fold, class]: in trial i the group is added to fold i.
        trials = np.repeat(filled[None], folds, axis=0)
        trials[each, each] += counts[group]
        chosen = _best(_unevenness(trials / sizes), clips)
        filled[chosen] += counts[group]
        clips[chosen] += counts[group].sum()
        fold_of[group] = chosen
    return fold_of


def _unevenness(shares: Floats) -> Floats:
    """[trials, folds, classes] -> [trials] mean over classes of the deviation over folds.

    `np.mean(np.std(shares, axis=1), axis=1)` without what those do besides, a third of the time.
    """
    _, folds, classes = shares.shape
    off = shares - np.add.reduce(shares, axis=1, keepdims=True) / folds
    variances = np.add.reduce(off * off, axis=1) / folds
    result: Floats = np.add.reduce(np.sqrt(variances), axis=1) / classes
    return result


def _best(unevenness: Floats, clips: Floats) -> int:
    """The least uneven trial; where the next ones are as good as the best so far, the emptiest."""
    best, least, fewest = 0, np.inf, np.inf
    for fold, (value, filled) in enumerate(zip(unevenness.tolist(), clips.tolist(), strict=True)):
        close = abs(value - least) <= 1e-8 + 1e-5 * abs(least)  # as numpy.isclose
        if value < least or (close and filled < fewest):
            best, least, fewest = fold, value, filled
    return best


def largest_class(labels: Ints) -> int:
    """Clips in it; 0 where there are none."""
    return int(np.unique(labels, return_counts=True)[1].max(initial=0))


def require_folds(folds: int, available: int, what: str) -> None:
    """Refuses more folds than there is to put into them, and fewer than two."""
    if not 2 <= folds <= available:
        raise ConfigError(
            f"folds={folds}: must be at least 2 and at most {available}, the number of {what}"
        )
