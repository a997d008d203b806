"""How far a score can be trusted: its spread over folds, its interval by bootstrap over groups."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.scores import MEASURES, Floats, Ints, Scores, scores_of_all

if TYPE_CHECKING:
    from scipy.sparse import csr_array

REPLICATES = 2_000
"""Of the bootstrap."""
LEVEL = 0.95
FEW_GROUPS = 20
"""With fewer, an interval covers less often than it says; reports then say so."""
_BLOCK_GROUPS = 1_024
"""Whose draws are in memory at a time: 16 MB."""


@dataclass(frozen=True)
class Spread:
    """Of a score over folds."""

    mean: float
    std: float
    """See `over_folds` for its denominator."""
    folds: int


def over_folds(scores: Sequence[Scores], protocol: Protocol) -> dict[str, Spread]:
    """Mean and standard deviation over folds, by score.

    The deviation is the population's (n) under `paper`, as in the voc2vec repository, and else the
    sample's (n − 1), which a single fold does not have: NaN.
    """
    ddof = 0 if protocol == "paper" else 1
    spreads = {}
    for name in MEASURES:
        values = np.array([getattr(score, name) for score in scores])
        std = float(values.std(ddof=ddof)) if len(values) > ddof else float("nan")
        spreads[name] = Spread(float(values.mean()), std, len(values))
    return spreads


def intervals(
    labels: Ints,
    predictions: Ints,
    groups: Sequence[str],
    classes: int,
    protocol: Protocol = "grouped",
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % confidence intervals of pooled predictions, by Bayesian bootstrap over groups.

    Clips of one group come and go together, because they are not independent. Each draw weights
    the groups by Rubin's (1981) uniform Dirichlet, so that every class has some weight in every
    draw and a score is always over the same classes; drawing groups with replacement instead loses
    the classes that few groups have. The ends are percentiles of the draws, their distances from
    the score widened by what few groups make them fall short: sqrt((G + 1) / (G - 1)), by which G
    such weights spread less than means of G independent groups, and Student's t with G - 1 degrees
    of freedom over the normal quantile.

    Time and memory grow with clips and groups, not with their product with classes or draws.

    Args:
        labels: [clips].
        predictions: [clips].
        groups: [clips]; a clip whose group is '' is its own.
        classes: How many there are.
        protocol: Whose rule for absent classes; that of the score.
        replicates: Draws.
        seed: Decides them.

    Returns:
        Lower and upper end by score, in [0, 1]; all of [0, 1] where there is one group only, which
        says nothing of others.
    """
    by_group = _confusion_by_group(labels, predictions, groups, classes)
    count = by_group.shape[0]
    if count == 1:
        return dict.fromkeys(MEASURES, (0.0, 1.0))
    counts = np.asarray(by_group.sum(axis=0)).reshape(classes, classes)
    point = scores_of_all(counts, protocol)
    drawn = scores_of_all(
        _weighted_counts(by_group, replicates, seed).reshape(replicates, classes, classes), protocol
    )
    tail = (1 - LEVEL) / 2
    widened = _widening(count)
    low, high = (
        np.clip(point + widened * (np.quantile(drawn, at, axis=1) - point), 0, 1)
        for at in (tail, 1 - tail)
    )
    # Of a score that no draw changes, rounding may put the ends beside it.
    low, high = np.minimum(low, point), np.maximum(high, point)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(MEASURES)}


def _confusion_by_group(
    labels: Ints, predictions: Ints, groups: Sequence[str], classes: int
) -> "csr_array":
    """[groups, classes * classes] counts; a group has few of the cells."""
    from scipy.sparse import csr_array

    place: dict[str, int] = {}
    members = [
        place.setdefault(group or f"\0{clip}", len(place)) for clip, group in enumerate(groups)
    ]
    cells = np.asarray(labels, np.int64) * classes + predictions
    # Built from pairs, which are summed where they repeat.
    return csr_array((np.ones(len(cells)), (members, cells)), (len(place), classes * classes))


def _weighted_counts(by_group: "csr_array", replicates: int, seed: int) -> Floats:
    """[replicates, cells] counts under drawn weights, a block of groups at a time.

    Exponential weights are Dirichlet ones up to their sum, which no score depends on.
    """
    random = np.random.default_rng(seed)
    counts = np.zeros((by_group.shape[1], replicates))
    for start in range(0, by_group.shape[0], _BLOCK_GROUPS):
        block = by_group[start : start + _BLOCK_GROUPS]
        counts += block.T @ random.standard_exponential((block.shape[0], replicates))
    return counts.T


def _widening(groups: int) -> float:
    """By how much the percentiles of that many groups lie too near the score."""
    from scipy.stats import norm
    from scipy.stats import t as student

    upper = (1 + LEVEL) / 2
    spread = math.sqrt((groups + 1) / (groups - 1))
    return float(spread * student.ppf(upper, groups - 1) / norm.ppf(upper))
