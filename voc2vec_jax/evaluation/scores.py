"""Scores of classification: from counts to UAR, with the spread over folds and over groups.

Everything follows from confusion matrices (rows are labels, columns predictions), which add up over
batches, folds and devices. scikit-learn is what the tests compare with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voc2vec_jax.evaluation.folds import Ints, Protocol

Floats = NDArray[np.float64]

REPLICATES = 2_000
"""Of the bootstrap."""
LEVEL = 0.95
MEASURES = ("uar", "macro_f1", "accuracy")


@dataclass(frozen=True)
class Scores:
    """Of one set of predictions, in [0, 1]."""

    uar: float
    """Unweighted average recall."""
    macro_f1: float
    accuracy: float


@dataclass(frozen=True)
class Spread:
    """Of a score over folds."""

    mean: float
    std: float
    """See `over_folds` for its denominator."""
    folds: int


def confusion(labels: Ints, predictions: Ints, classes: int) -> Ints:
    """[classes, classes] how often a label (row) was predicted as what (column)."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def scores_of(counts: NDArray[Any], protocol: Protocol = "grouped") -> Scores:
    """The scores of a confusion matrix.

    A class without clips in it has no recall, and UAR is the mean over the classes that have: that
    is scikit-learn's `balanced_accuracy_score`; macro F1 is a mean over the same classes. Under
    `paper`, a class that has no clips but is predicted counts as 0 in both means, which is what
    the voc2vec repository gets from `recall_score` and `f1_score` with `average="macro"`. Wherever
    all classes have clips, as in scores pooled over folds, the two are one.

    Args:
        counts: [classes, classes] rows are labels, columns predictions.
        protocol: Whose rule for absent classes.

    Raises:
        ValueError: No clip was counted.
    """
    if not np.sum(counts) > 0:
        raise ValueError("no clip to score")
    uar, macro_f1, accuracy = _scores(np.asarray(counts, np.float64), protocol)
    return Scores(float(uar), float(macro_f1), float(accuracy))


def recalls(counts: NDArray[Any]) -> list[float | None]:
    """The share found of each class; None where there was nothing to find."""
    return [
        float(row[label] / row.sum()) if row.sum() else None for label, row in enumerate(counts)
    ]


def _scores(counts: Floats, protocol: Protocol) -> Floats:
    """[..., classes, classes] -> [3, ...] UAR, macro F1, accuracy; some clip in each matrix."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)  # [..., classes]
    labelled, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    counted = labelled > 0
    if protocol == "paper":
        counted = counted | (predicted > 0)
    recall = right / np.maximum(labelled, 1)
    f1 = 2 * right / np.maximum(labelled + predicted, 1)
    classes = counted.sum(axis=-1)
    return np.stack(
        [
            np.sum(recall, axis=-1, where=counted) / classes,
            np.sum(f1, axis=-1, where=counted) / classes,
            right.sum(axis=-1) / labelled.sum(axis=-1),
        ]
    )


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
    by_group = np.zeros((count, classes * classes), np.int64)
    np.add.at(by_group, (members, np.asarray(labels) * classes + predictions), 1)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), replicates)
    counts = (draws @ by_group).reshape(replicates, classes, classes)
    drawn = _scores(counts.astype(np.float64), "grouped")
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=1)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(MEASURES)}
