"""Is one model better than another? Paired tests on the same folds, corrected for shared clips.

A fold is a set of test clips, whatever number it has and whichever seeds ran it: scores of several
seeds on the same test clips are averaged before anything is tested, since they are no independent
trials. Repeated cross-validation, where each seed divides anew, has as many folds as test sets.
"""

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
    """Different test sets that both were scored on; seeds are averaged within each."""
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
        differences: [J] of a score, one for each test set; at least two.
        test_share: Test clips over the clips trained on: 1 / 9 for ten folds without a validation
            part, 1 / 7.9 where an eighth of the others only selects.

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


@dataclass(frozen=True)
class _TestSet:
    """What one evaluation says of one set of test clips, over its seeds."""

    score: float
    """Mean over seeds."""
    clips: int
    train_clips: int
    """The fewest of any seed."""


def compare_all(evaluations: Sequence[Evaluation], measure: str = "uar") -> list[PairedTest]:
    """Tests every pair of models on the test sets of one dataset and protocol.

    The share of test clips in the correction is the mean over test sets of test clips over the
    clips that parameters were fitted to; where the two of a pair were fitted to different numbers
    (a baseline is fitted again with the validation part), the smaller one counts, which makes p
    larger.

    Args:
        evaluations: Of different models; test sets that one of a pair lacks are left out of its
            test. Each is averaged over its own seeds, of which the two may have other numbers.
        measure: A field of `Scores`.

    Returns:
        A test for each pair that has two test sets in common, adjusted together.

    Raises:
        ResultsError: The same fold has other test clips in one evaluation than in another.
    """
    found = []
    sets = [_test_sets(evaluation, measure) for evaluation in evaluations]
    for place, first in enumerate(evaluations):
        for other in range(place + 1, len(evaluations)):
            second = evaluations[other]
            _require_same_folds(first, second)
            pairs = [
                (one, sets[other][key]) for key, one in sets[place].items() if key in sets[other]
            ]
            if len(pairs) < 2:
                continue
            differences = [one.score - two.score for one, two in pairs]
            shares = [one.clips / min(one.train_clips, two.train_clips) for one, two in pairs]
            t, p = corrected_t(differences, float(np.mean(shares)))
            found.append((first.model, second.model, differences, t, p))
    adjusted = holm([p for *_, p in found])
    return [
        PairedTest(one, two, measure, len(d), float(np.mean(d)), t, p, p_holm)
        for (one, two, d, t, p), p_holm in zip(found, adjusted, strict=True)
    ]


def _test_sets(evaluation: Evaluation, measure: str) -> dict[frozenset[str], _TestSet]:
    """By the ids of their clips, in the order of the folds."""
    scores = fold_scores(evaluation)
    runs: dict[frozenset[str], list[FoldResult]] = {}
    for result in evaluation.results:
        runs.setdefault(frozenset(result.clip_ids), []).append(result)
    return {
        clips: _TestSet(
            float(np.mean([getattr(scores[r.seed, r.fold], measure) for r in results])),
            len(clips),
            min(r.train_clips for r in results),
        )
        for clips, results in runs.items()
    }


def _require_same_folds(first: Evaluation, second: Evaluation) -> None:
    other = {(result.seed, result.fold): result for result in second.results}
    for result in first.results:
        twin = other.get((result.seed, result.fold))
        if twin is not None and set(result.clip_ids) != set(twin.clip_ids):
            raise ResultsError(
                f"{first.dataset}: fold {result.fold} of seed {result.seed} has other test clips"
                f" in {first.model} than in {second.model}; run one of them again"
            )
