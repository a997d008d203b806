"""Paired tests: their definition, their level, and what they refuse."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.test_results import make_evaluation, make_fold
from voc2vec_jax.errors import ResultsError
from voc2vec_jax.evaluation.results import FoldResult
from voc2vec_jax.evaluation.significance import compare_all, corrected_t, fold_scores, holm


def test_without_shared_training_clips_it_is_students_test() -> None:
    differences = np.random.default_rng(0).normal(0.02, 0.05, 10)
    expected = stats.ttest_1samp(differences, 0)
    assert corrected_t(differences.tolist(), 0.0) == pytest.approx(tuple(expected))


def test_the_correction_widens_the_error() -> None:
    differences = np.random.default_rng(0).normal(0.02, 0.05, 10).tolist()
    t, p = corrected_t(differences, 1 / 9)
    plain_t, plain_p = corrected_t(differences, 0.0)
    assert t == pytest.approx(plain_t * math.sqrt(0.1 / (0.1 + 1 / 9)))
    assert p > plain_p


def test_differences_without_variance() -> None:
    assert corrected_t([0.0, 0.0, 0.0], 0.1) == (0.0, 1.0)
    assert corrected_t([0.1, 0.1, 0.1], 0.1) == (math.inf, 0.0)
    assert corrected_t([-0.1, -0.1], 0.1) == (-math.inf, 0.0)
    with pytest.raises(ValueError, match="needs two"):
        corrected_t([0.1], 0.1)


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(p_values=st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_the_value_and_bonferroni_and_keeps_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1, len(p_values) * p)
    order = np.argsort(p_values)
    assert np.all(np.diff(np.array(adjusted)[order]) >= 0)


def answers(share_right: float, seed: int) -> list[FoldResult]:
    """Five folds of 40 clips, of which a share is right."""
    results = []
    for number in range(5):
        base = make_fold(number, clips=40)
        rng = np.random.default_rng([number, seed])
        predictions = np.where(rng.random(40) < share_right, base.labels, (base.labels + 1) % 3)
        results.append(make_fold(number, clips=40, predictions=predictions))
    return results


def test_every_pair_is_tested_on_its_common_folds() -> None:
    good, poor, same = (
        make_evaluation(answers(share, seed), model=name, clips=200)
        for name, share, seed in (("good", 0.95, 0), ("poor", 0.4, 1), ("same", 0.95, 0))
    )
    tests = compare_all([good, poor, same])
    assert [(test.first, test.second) for test in tests] == [
        ("good", "poor"),
        ("good", "same"),
        ("poor", "same"),
    ]
    one, two = fold_scores(good), fold_scores(poor)
    differences = [one[key].uar - two[key].uar for key in one]
    t, p = corrected_t(differences, 40 / 160)
    assert tests[0].difference == pytest.approx(np.mean(differences))
    assert (tests[0].t, tests[0].p, tests[0].folds) == (t, p, 5)
    assert tests[0].p < 0.01
    assert tests[0].p_holm == pytest.approx(3 * p)
    assert tests[2].t == pytest.approx(-t)
    assert (tests[1].difference, tests[1].p, tests[1].p_holm) == (0, 1, 1)


def test_missing_folds_are_left_out_and_one_fold_is_no_test() -> None:
    whole = make_evaluation(answers(0.9, 0), model="whole", clips=200)
    part = make_evaluation(answers(0.5, 1)[:3], model="part", clips=200)
    single = make_evaluation(answers(0.5, 1)[:1], model="single", clips=200)
    (test,) = compare_all([whole, part, single])
    assert (test.first, test.second, test.folds) == ("whole", "part", 3)


def test_seeds_on_the_same_test_clips_are_no_further_folds() -> None:
    """As under `paper`: three seeds of a model against one of a baseline, on five test sets."""
    runs = [
        dataclasses.replace(r, seed=seed) for seed in (0, 1, 2) for r in answers(0.8, 10 + seed)
    ]
    model = make_evaluation(runs, model="model", seeds=(0, 1, 2), clips=200)
    base = make_evaluation(answers(0.6, 5), model="base", clips=200)
    (test,) = compare_all([model, base])
    one, two = fold_scores(model), fold_scores(base)
    means = [np.mean([one[seed, fold].uar for seed in (0, 1, 2)]) for fold in range(5)]
    differences = [mean - two[0, fold].uar for fold, mean in enumerate(means)]
    assert (test.folds, test.difference) == (5, pytest.approx(np.mean(differences)))
    assert (test.t, test.p) == pytest.approx(corrected_t(differences, 40 / 160))


def test_seeds_that_divide_anew_are_folds_of_their_own() -> None:
    """Repeated cross-validation: as many differences as test sets."""
    divided = [
        dataclasses.replace(r, seed=seed, clip_ids=tuple(f"{seed}{name}" for name in r.clip_ids))
        for seed in (0, 1)
        for r in answers(0.8, seed)
    ]
    model = make_evaluation(divided, model="model", seeds=(0, 1), clips=200)
    other = make_evaluation(divided, model="other", seeds=(0, 1), clips=200)
    (test,) = compare_all([model, other])
    assert test.folds == 10


def test_the_correction_counts_the_clips_that_were_trained_on() -> None:
    """The fewer of a pair: a baseline is fitted to the validation part as well."""
    model, base = answers(0.9, 0), answers(0.6, 1)
    model = [dataclasses.replace(r, train_clips=140) for r in model]
    one, two = (
        make_evaluation(results, model=name, clips=200)
        for name, results in (("model", model), ("base", base))
    )
    scores, others = fold_scores(one), fold_scores(two)
    differences = [scores[key].uar - others[key].uar for key in scores]
    for pair in ([one, two], [two, one]):
        (test,) = compare_all(pair)
        assert abs(test.t) == pytest.approx(abs(corrected_t(differences, 40 / 140)[0]))


@pytest.mark.thorough
def test_equal_models_differ_as_often_as_the_level_says() -> None:
    """Type I error with three seeds on ten folds, as under `paper`.

    Two classifiers of exchangeable features on 400 data sets; as thirty folds instead of ten,
    seeds that hardly matter made it .13.
    """
    rng = np.random.default_rng(1)
    rejected = 0
    for _ in range(400):
        labels = rng.integers(0, 2, 200)
        order = np.arange(200)
        correct = np.zeros((2, 3, 200), bool)
        for model in range(2):
            held = rng.random(10) < 0.5
            x = rng.normal(size=(200, 10)) + 0.35 * labels[:, None] * held
            for fold in range(10):
                train = order % 10 != fold
                mean = x[train].mean(0)
                a = x[train] - mean
                w = np.linalg.solve(
                    a.T @ a + 10 * np.eye(10), a.T @ (labels[train] - labels[train].mean())
                )
                for seed in range(3):
                    noisy = w + 0.005 * rng.normal(size=10)
                    said = (x[~train] - mean) @ noisy > 0
                    correct[model, seed, ~train] = said == labels[~train]
        evaluations = [
            make_evaluation(
                [
                    FoldResult(
                        fold=fold,
                        seed=seed,
                        classes=("a", "b"),
                        clip_ids=tuple(map(str, order[order % 10 == fold])),
                        groups=("",) * 20,
                        labels=labels[order % 10 == fold],
                        predictions=np.where(correct[model, seed], labels, 1 - labels)[
                            order % 10 == fold
                        ],
                        scores=np.full((20, 2), 0.5),
                        train_clips=180,
                    )
                    for seed in range(3)
                    for fold in range(10)
                ],
                model=str(model),
                seeds=(0, 1, 2),
                folds_asked=10,
                clips=200,
            )
            for model in range(2)
        ]
        (test,) = compare_all(evaluations)
        assert test.folds == 10
        rejected += test.p < 0.05
    assert rejected / 400 < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


def test_other_clips_in_a_fold_are_refused() -> None:
    whole = make_evaluation(answers(0.9, 0), clips=200)
    ids = tuple(f"x{i}" for i in range(40))
    other = make_evaluation([make_fold(n, clips=40) for n in range(4)], clips=200)
    moved = make_evaluation([*other.results, make_fold(4, clips=40, clip_ids=ids)], clips=200)
    with pytest.raises(ResultsError, match="fold 4 of seed 0 has other test clips"):
        compare_all([whole, moved])
