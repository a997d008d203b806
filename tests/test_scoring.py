"""Scores against scikit-learn, also where classes are missing; intervals that cover."""

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from voc2vec_jax.evaluation.intervals import intervals, over_folds
from voc2vec_jax.scores import ClassScores, Scores, confusion, per_class, scores_of, scores_of_all

Interval = Callable[..., dict[str, tuple[float, float]]]
CLASSES = 4
ANSWERS = st.lists(
    st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=40
)
"""Label and prediction of each clip; short lists lack classes, or are of one class only."""


def split(answers: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.array(answers)
    return pairs[:, 0], pairs[:, 1]


@settings(max_examples=200, deadline=None)
@given(answers=ANSWERS)
def test_scores_are_those_of_scikit_learn(answers: list[tuple[int, int]]) -> None:
    labels, predictions = split(answers)
    counts = confusion(labels, predictions, CLASSES)
    np.testing.assert_array_equal(
        counts, metrics.confusion_matrix(labels, predictions, labels=range(CLASSES))
    )
    present = np.unique(labels)
    f1 = metrics.f1_score(labels, predictions, labels=present, average="macro", zero_division=0)
    with warnings.catch_warnings():
        # It warns of predictions that are no label, and of labels with a single class.
        warnings.simplefilter("ignore")
        balanced = metrics.balanced_accuracy_score(labels, predictions)
    found = scores_of(counts)
    assert found.uar == pytest.approx(balanced, abs=1e-12)
    assert found.macro_f1 == pytest.approx(f1, abs=1e-12)
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, predictions), abs=1e-12)
    each = metrics.precision_recall_fscore_support(
        labels, predictions, labels=range(CLASSES), zero_division=np.nan
    )
    for ours, theirs in zip(per_class(counts), zip(*each, strict=True), strict=True):
        for value, expected in zip(dataclasses.astuple(ours), theirs, strict=True):
            assert value == (None if np.isnan(expected) else pytest.approx(expected, abs=1e-12))


@settings(max_examples=200, deadline=None)
@given(answers=ANSWERS)
def test_scores_of_the_paper_are_those_of_its_calls(answers: list[tuple[int, int]]) -> None:
    labels, predictions = split(answers)
    found = scores_of(confusion(labels, predictions, CLASSES), "paper")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", metrics_warning())
        uar = metrics.recall_score(labels, predictions, average="macro")
        f1 = metrics.f1_score(labels, predictions, average="macro")
    assert found.uar == pytest.approx(uar, abs=1e-12)
    assert found.macro_f1 == pytest.approx(f1, abs=1e-12)


def metrics_warning() -> type[Warning]:
    from sklearn.exceptions import UndefinedMetricWarning

    return UndefinedMetricWarning


def test_an_absent_class_counts_for_the_paper_only_if_it_is_predicted() -> None:
    counts = confusion(np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1]), CLASSES)
    assert scores_of(counts).uar == (1 / 2 + 1) / 2
    assert scores_of(counts, "paper").uar == (1 / 2 + 1 + 0) / 3
    assert per_class(counts) == [
        ClassScores(1.0, 0.5, 2 / 3, 2),
        ClassScores(1.0, 1.0, 1.0, 2),
        ClassScores(0.0, None, 0.0, 0),
        ClassScores(None, None, None, 0),
    ]


def test_a_single_clip_and_a_single_class() -> None:
    right = confusion(np.array([2]), np.array([2]), CLASSES)
    assert scores_of(right) == scores_of(right, "paper") == Scores(1.0, 1.0, 1.0)
    wrong = confusion(np.array([2]), np.array([1]), CLASSES)
    assert scores_of(wrong) == Scores(0.0, 0.0, 0.0)
    one_class = confusion(np.zeros(3, int), np.array([0, 0, 1]), CLASSES)
    assert scores_of(one_class) == Scores(2 / 3, 4 / 5, 2 / 3)


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(ValueError, match="no clip to score"):
        scores_of(np.zeros((3, 3)))


def test_the_deviation_over_folds_is_the_samples_or_the_papers() -> None:
    folds = [Scores(0.2, 0.1, 0.5), Scores(0.4, 0.1, 0.6), Scores(0.6, 0.1, 0.7)]
    ours = over_folds(folds, "grouped")
    assert (ours["uar"].mean, ours["uar"].std) == pytest.approx((0.4, 0.2))
    paper = over_folds(folds, "paper")
    assert (paper["uar"].mean, paper["uar"].std) == pytest.approx((0.4, np.std([0.2, 0.4, 0.6])))
    assert (paper["macro_f1"].std, paper["uar"].folds) == (pytest.approx(0), 3)
    assert np.isnan(over_folds(folds[:1], "grouped")["uar"].std)
    assert over_folds(folds[:1], "paper")["uar"].std == 0


def test_intervals_hold_the_score_and_are_repeatable() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    predictions = np.where(rng.random(300) < 0.6, labels, rng.integers(0, 3, 300))
    groups = [f"g{clip // 5}" for clip in range(300)]
    found = intervals(labels, predictions, groups, 3)
    scores = scores_of(confusion(labels, predictions, 3))
    for name, (low, high) in found.items():
        assert low < getattr(scores, name) < high
        assert 0.05 < high - low < 0.2
    assert found == intervals(labels, predictions, groups, 3)
    assert found != intervals(labels, predictions, groups, 3, seed=1)


def test_few_groups_widen_an_interval() -> None:
    """Where a group is wholly right or wholly wrong, clips are not independent."""
    labels = np.tile([0, 1], 200)
    right = np.repeat(np.random.default_rng(1).random(20) < 0.5, 20)
    predictions = np.where(right, labels, 1 - labels)
    groups = [f"g{clip // 20}" for clip in range(400)]
    by_group = intervals(labels, predictions, groups, 2)["uar"]
    by_clip = intervals(labels, predictions, [""] * 400, 2)["uar"]
    assert by_group[1] - by_group[0] > 3 * (by_clip[1] - by_clip[0])


def rare_class(groups: int, owners: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Five classes of all groups, half of them right, and one that few groups have, never right."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.tile(np.repeat(np.arange(5), 6), groups), np.full(6 * owners, 5)])
    names = [f"g{g}" for g in range(groups) for _ in range(30)]
    names += [f"g{g}" for g in range(owners) for _ in range(6)]
    wrong = (labels + 1) % 5
    predictions = np.where((labels < 5) & (rng.random(len(labels)) < 0.5), labels, wrong)
    return labels, predictions, names


@pytest.mark.parametrize(("groups", "owners"), [(8, 1), (11, 1), (50, 2)])
def test_every_draw_has_every_class(groups: int, owners: int) -> None:
    """A draw without the class that is never recognised would have a higher UAR."""
    labels, predictions, names = rare_class(groups, owners)
    point = scores_of(confusion(labels, predictions, 6)).uar
    low, high = intervals(labels, predictions, names, 6)["uar"]
    assert 0.35 < (point - low) / (high - low) < 0.65
    # The classes that everyone has decide the rest: five sixths of their own interval.
    common = labels < 5
    theirs = [name for name, kept in zip(names, common, strict=True) if kept]
    alone = intervals(labels[common], predictions[common], theirs, 5)["uar"]
    assert high - low == pytest.approx(5 / 6 * (alone[1] - alone[0]), rel=1e-6)


def test_a_group_that_is_alone_says_nothing_of_others() -> None:
    labels = np.tile([0, 1], 10)
    assert intervals(labels, labels, ["one"] * 20, 2)["uar"] == (0, 1)


def test_an_interval_is_the_weighted_draws_written_out() -> None:
    """One draw after the other, each clip with the weight of its group."""
    rng = np.random.default_rng(3)
    labels, predictions = rng.integers(0, 3, 90), rng.integers(0, 3, 90)
    owners = np.arange(90) % 9
    found = intervals(labels, predictions, [f"g{o}" for o in owners], 3, replicates=50, seed=4)
    weights = np.random.default_rng(4).standard_exponential((9, 50))
    drawn = [metrics.balanced_accuracy_score(labels, predictions, sample_weight=weights[owners, r])
             for r in range(50)]  # fmt: skip
    point = metrics.balanced_accuracy_score(labels, predictions)
    wide = np.sqrt(10 / 8) * stats.t.ppf(0.975, 8) / stats.norm.ppf(0.975)
    expected = point + wide * (np.quantile(drawn, [0.025, 0.975]) - point)
    assert found["uar"] == pytest.approx(tuple(expected))


def coverage(
    groups: int, clips: int, trials: int, ease: float = 0.0, interval: Interval = intervals
) -> float:
    """How often an interval holds the UAR over all speakers, who differ in how easy they are."""
    rng = np.random.default_rng(groups)
    eases = ease + np.linspace(-1, 1, 6)
    truth = (1 / (1 + np.exp(-rng.normal(size=(100_000, 1)) - eases))).mean()
    owners = np.repeat(np.arange(groups), clips)
    names, covered = [f"g{o}" for o in owners], 0
    for _ in range(trials):
        right = 1 / (1 + np.exp(-rng.normal(size=(groups, 1)) - eases))  # [groups, classes]
        labels = rng.integers(0, 6, len(owners))
        other = (labels + rng.integers(1, 6, len(owners))) % 6
        predictions = np.where(rng.random(len(owners)) < right[owners, labels], labels, other)
        low, high = interval(labels, predictions, names, 6, replicates=500)["uar"]
        covered += low <= truth <= high
    return covered / trials


def drawn_with_replacement(
    labels: np.ndarray, predictions: np.ndarray, groups: list[str], classes: int, *, replicates: int
) -> dict[str, tuple[float, float]]:
    """What `intervals` gave before: percentiles of draws of as many groups as there are."""
    members = np.unique(groups, return_inverse=True)[1]
    count = members.max() + 1
    by_group = np.zeros((count, classes * classes))
    np.add.at(by_group, (members, labels * classes + predictions), 1)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), replicates)
    drawn = scores_of_all((draws @ by_group).reshape(-1, classes, classes), "grouped")
    low, high = np.quantile(drawn[0], [0.025, 0.975])
    return {"uar": (low, high)}


def test_intervals_of_eight_speakers_cover_nearly_as_often_as_they_say() -> None:
    """Percentiles of draws with replacement cover .87, five standard errors below .95 here."""
    assert coverage(8, 30, 200) > 0.95 - 2.5 * np.sqrt(0.95 * 0.05 / 200)


@pytest.mark.thorough
@pytest.mark.parametrize("ease", [0.0, 2.0])
@pytest.mark.parametrize("groups", [8, 11, 27, 100])
def test_intervals_of_few_and_many_speakers_cover(groups: int, ease: float) -> None:
    """The table of docs/evaluation.md (run with -s): a UAR of about .5, and one of about .85."""
    found, before = (
        coverage(groups, 60, 1_000, ease, interval)
        for interval in (intervals, drawn_with_replacement)
    )
    print(f"{groups} groups, ease {ease:g}: {found:.3f}; drawn with replacement {before:.3f}")
    assert 0.90 < found < 0.975
    assert found > before - 0.005


@pytest.mark.parametrize("accuracy", [0.5, 0.8])
def test_intervals_cover_the_truth_as_often_as_they_say(accuracy: float) -> None:
    """Groups of clips that are right or wrong together; 200 samples of 60 groups."""
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        labels = np.tile([0, 1], 120)
        right = np.repeat(rng.random(60) < accuracy, 4)
        predictions = np.where(right, labels, 1 - labels)
        groups = [f"g{clip // 4}" for clip in range(240)]
        low, high = intervals(labels, predictions, groups, 2, replicates=300)["uar"]
        covered += low <= accuracy <= high
    assert 0.88 < covered / 200 < 0.99  # 0.95 asked for, standard error 0.015
