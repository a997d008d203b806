"""Is one model better than another? Paired tests on the same folds, corrected for shared clips."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from voc2vec_jax.errors import ResultsError
from voc2vec_jax.evaluation.results import Evaluation, FoldResult
from voc2vec_jax.scores import Scores, confusion, scores_of


@dataclass(frozen=True)
class PairedTest:
    """Of the difference first − second, fold by fold."""

    first: str
    second: str
    measure: str
    folds: int
    """Pairs of folds, over all seeds."""
    difference: float
    """Mean over folds."""
    t: float
    p: float
    """Two-sided."""
    p_holm: float
    """Adjusted for the number of tests made together."""


def fold_scores(evaluation: Evaluation) -> dict[tuple[int, int], Scores]:
    """Scores by (seed, fold)."""
    return {
        (r.seed, r.fold): scores_of(
            confusion(r.labels, r.predictions, len(r.classes)), evaluation.protocol
        )
        for r in evaluation.results
    }


def corrected_t(differences: Sequence[float], test_share: float) -> tuple[float, float]:
    """The corrected resampled t-test (Nadeau and Bengio, 2003; Bouckaert and Frank, 2004).

    Folds share their training clips, so that their differences vary less than those of independent
    experiments; the variance is therefore multiplied by 1/J + test/train instead of 1/J.

    Args:
        differences: [J] of a score, one for each fold of each seed; at least two.
        test_share: Test clips over the other clips of a fold: 1 / 9 for ten folds.

    Returns:
        t with J − 1 degrees of freedom, and the two-sided p. Differences that are all 0 have t = 0.
    """
    from scipy.stats import t as student

    values = np.asarray(differences, np.float64)
    if len(values) < 2:
        raise ValueError(f"{len(values)} fold: a paired test needs two")
    mean = float(values.mean())
    # Differences that agree up to rounding have no variance.
    error = math.sqrt((1 / len(values) + test_share) * float(values.var(ddof=1)))
    if error <= 1e-12:
        t = 0.0 if abs(mean) <= 1e-12 else math.copysign(math.inf, mean)
    else:
        t = mean / error
    return t, float(2 * student.sf(abs(t), len(values) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: compare each with the level wanted for all of them together."""
    order = np.argsort(p_values, kind="stable")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def compare_all(evaluations: Sequence[Evaluation], measure: str = "uar") -> list[PairedTest]:
    """Tests every pair of models on the folds of one dataset and protocol.

    Args:
        evaluations: Of different models; folds that one of a pair lacks are left out of its test.
        measure: A field of `Scores`.

    Returns:
        A test for each pair that has two folds in common, adjusted together.

    Raises:
        ResultsError: The same fold has other test clips in one evaluation than in another.
    """
    found = []
    for place, first in enumerate(evaluations):
        for second in evaluations[place + 1 :]:
            pairs = _common_folds(first, second)
            if len(pairs) < 2:
                continue
            one, two = fold_scores(first), fold_scores(second)
            differences = [getattr(one[key], measure) - getattr(two[key], measure) for key in pairs]
            tested = float(np.mean([len(result.clip_ids) for result in pairs.values()]))
            t, p = corrected_t(differences, tested / (first.clips - tested))
            found.append((first.model, second.model, differences, t, p))
    adjusted = holm([p for *_, p in found])
    return [
        PairedTest(one, two, measure, len(d), float(np.mean(d)), t, p, p_holm)
        for (one, two, d, t, p), p_holm in zip(found, adjusted, strict=True)
    ]


def _common_folds(first: Evaluation, second: Evaluation) -> dict[tuple[int, int], FoldResult]:
    """By (seed, fold), what both have."""
    other = {(result.seed, result.fold): result for result in second.results}
    pairs = {}
    for result in first.results:
        key = (result.seed, result.fold)
        if key not in other:
            continue
        if result.clip_ids != other[key].clip_ids:
            raise ResultsError(
                f"{first.dataset}: fold {result.fold} of seed {result.seed} has other test clips"
                f" in {first.model} than in {second.model}; run one of them again"
            )
        pairs[key] = result
    return pairs
