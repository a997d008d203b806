"""Scores of classification: from counts to UAR.

Everything follows from confusion matrices (rows are labels, columns predictions), which add up over
batches, folds and devices. scikit-learn is what the tests compare with.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voc2vec_jax.config.recipe import Protocol

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]

MEASURES = ("uar", "macro_f1", "accuracy")


@dataclass(frozen=True)
class Scores:
    """Of one set of predictions, in [0, 1]."""

    uar: float
    """Unweighted average recall."""
    macro_f1: float
    accuracy: float


@dataclass(frozen=True)
class ClassScores:
    """Of one class, in [0, 1]; None where there is nothing to take the share of."""

    precision: float | None
    """Of the clips predicted as the class, those that are of it."""
    recall: float | None
    """Of its clips, those that were predicted as it."""
    f1: float | None
    """Harmonic mean of the two; None for a class that is neither tested nor predicted."""
    tested: int
    """Its clips; scikit-learn calls them its support."""


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
    uar, macro_f1, accuracy = scores_of_all(np.asarray(counts, np.float64), protocol)
    return Scores(float(uar), float(macro_f1), float(accuracy))


def per_class(counts: NDArray[Any]) -> list[ClassScores]:
    """The scores of each class: scikit-learn's `precision_recall_fscore_support`.

    Args:
        counts: [classes, classes] rows are labels, columns predictions.
    """

    def share(part: float, whole: float) -> float | None:
        return float(part / whole) if whole else None

    return [
        ClassScores(
            precision=share(right, predicted),
            recall=share(right, tested),
            f1=share(2 * right, tested + predicted),
            tested=int(tested),
        )
        for right, tested, predicted in zip(
            np.diagonal(counts), np.sum(counts, axis=1), np.sum(counts, axis=0), strict=True
        )
    ]


def scores_of_all(counts: Floats, protocol: Protocol) -> Floats:
    """[..., classes, classes] -> [3, ...] UAR, macro F1, accuracy; some clip in each matrix.

    Counts may be weights of any scale.
    """
    right = np.diagonal(counts, axis1=-2, axis2=-1)  # [..., classes]
    labelled, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    counted = labelled > 0
    if protocol == "paper":
        counted = counted | (predicted > 0)
    recall = _shares(right, labelled)
    f1 = _shares(2 * right, labelled + predicted)
    classes = counted.sum(axis=-1)
    return np.stack(
        [
            np.sum(recall, axis=-1, where=counted) / classes,
            np.sum(f1, axis=-1, where=counted) / classes,
            right.sum(axis=-1) / labelled.sum(axis=-1),
        ]
    )


def _shares(parts: Floats, wholes: Floats) -> Floats:
    """parts / wholes, and 0 of nothing."""
    return np.divide(parts, wholes, out=np.zeros_like(parts), where=wholes > 0)
