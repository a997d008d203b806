"""How far a score can be trusted: its spread over folds, its interval by bootstrap over groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.scores import MEASURES, Ints, Scores, scores_of_all

REPLICATES = 2_000
"""Of the bootstrap."""
LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """Of a score over folds."""

    mean: float
    std: float
    """See `over_folds` for its denominator."""
    folds: int


def over_folds(scores: Sequence[Scores], protocol: Protocol) -> dict[str, Spread]:
    """Mean and standard deviation over folds, by score.

    The deviation is the sample's (n − 1) under `grouped`, and the population's (n) under `paper`,
    as in the voc2vec repository. A single fold has none under `grouped`: NaN.
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
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % confidence intervals of pooled predictions, by bootstrap over groups.

    Clips of one group come and go together, because they are not independent; percentiles of
    `replicates` draws of as many groups as there are, with replacement. A class that a draw lacks
    is not counted in it.

    Args:
        labels: [clips].
        predictions: [clips].
        groups: [clips]; a clip whose group is '' is its own.
        classes: How many there are.
        replicates: Draws.
        seed: Decides them.

    Returns:
        Lower and upper end by score.
    """
    names = [group or f"\0{clip}" for clip, group in enumerate(groups)]
    members = np.unique(names, return_inverse=True)[1]
    count = int(members.max()) + 1
    # In floats, whose product is one of BLAS; counts are exact in them.
    by_group = np.zeros((count, classes * classes))
    np.add.at(by_group, (members, np.asarray(labels) * classes + predictions), 1)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), replicates)
    counts = (draws.astype(np.float64) @ by_group).reshape(replicates, classes, classes)
    drawn = scores_of_all(counts, "grouped")
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=1)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(MEASURES)}
