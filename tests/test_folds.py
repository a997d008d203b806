"""Folds: the paper's to the index, the grouped ones without a group on two sides."""

import random
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from voc2vec_jax.errors import ConfigError, UnlabelledError
from voc2vec_jax.evaluation.division import divide
from voc2vec_jax.evaluation.folds import SELECTION_ON_TEST, Fold, grouped_folds, paper_folds
from voc2vec_jax.evaluation.stratified import stratified_splits

SIZES = {
    "asvp_esd": 12_625,
    "asvp_esd_babies": 1_339,
    "cnvve": 921,
    "donate_a_cry": 457,
    "deeply_nonverbal": 800,
    "vivae": 1_085,
}
"""Clips of the six datasets, as in the paper."""
STEPS_PER_EPOCH = {12_625: 711, 1_339: 76, 921: 52, 457: 26, 800: 45, 1_085: 62}
"""Batches of 16 in the training part of the first fold."""


@pytest.mark.parametrize("count", SIZES.values(), ids=SIZES)
def test_paper_folds_are_the_published_ones(count: int) -> None:
    """Written from the description: shuffle all indices with seed 42, cut into tenths in order."""
    state = random.getstate()
    random.seed(42)
    remaining = list(range(count))
    random.shuffle(remaining)
    random.setstate(state)
    shuffled = tuple(remaining)
    expected = []
    for _ in range(9):
        expected.append(remaining[: count // 10])
        remaining = remaining[count // 10 :]
    expected.append(remaining)
    folds = paper_folds(count)
    assert [fold.test.tolist() for fold in folds] == expected
    for fold, test in zip(folds, expected, strict=True):
        tested = set(test)
        assert fold.train.tolist() == [clip for clip in shuffled if clip not in tested]
        assert fold.validation is None
        assert fold.selection is fold.test
    assert -(-len(folds[0].train) // 16) == STEPS_PER_EPOCH[count]


def test_paper_folds_leave_the_global_generator_alone() -> None:
    random.seed(7)
    before = random.getstate()
    paper_folds(50)
    assert random.getstate() == before


CORPORA = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=8, max_size=40
).filter(lambda groups: max(np.bincount(np.concatenate(groups))) >= 8)
"""Groups, each with the labels of its clips."""


def flatten(corpus: list[list[int]]) -> tuple[np.ndarray, list[str]]:
    labels = np.concatenate([np.array(group) for group in corpus])
    return labels, [f"g{number}" for number, group in enumerate(corpus) for _ in group]


@settings(max_examples=60, deadline=None)
@given(corpus=CORPORA, folds=st.integers(2, 5), seed=st.integers(0, 2**32 - 1))
def test_grouped_folds_test_every_clip_once_and_split_no_group(
    corpus: list[list[int]], folds: int, seed: int
) -> None:
    labels, groups = flatten(corpus)
    try:
        parts = grouped_folds(labels, groups, folds, seed)
    except ConfigError:  # very unequal groups
        assume(False)
    assert sorted(np.concatenate([fold.test for fold in parts])) == list(range(len(labels)))
    for fold in parts:
        assert fold.validation is not None
        sides = (fold.train, fold.validation, fold.test)
        assert sorted(np.concatenate(sides)) == list(range(len(labels)))
        assert all(len(side) for side in sides)
        assert all(side.tolist() == sorted(side) for side in sides)
        owners = [{groups[clip] for clip in side} for side in sides]
        assert sum(map(len, owners)) == len(set.union(*owners))


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(20, 60), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_without_groups_every_part_has_every_class_in_proportion(
    counts: list[int], seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    parts = grouped_folds(labels, [""] * len(labels), 5, seed)
    for fold in parts:
        for label, count in enumerate(counts):
            assert abs(np.sum(labels[fold.test] == label) - count / 5) < 1
            validation = np.sum(labels[fold.selection] == label)
            assert abs(validation - 0.8 * count / 8) < 1.5
            assert np.any(labels[fold.train] == label)


def test_folds_of_groups_are_stratified() -> None:
    """scikit-learn did not, before 1.8, when it shuffled: fold sizes of 111 to 5,490."""
    rng = np.random.default_rng(0)
    corpus = []  # speakers of 2 to 60 clips, each mostly of one of four unequal classes
    for favourite in rng.choice(4, 120, p=[0.5, 0.3, 0.15, 0.05]):
        shares = np.full(4, 0.05) + 0.8 * np.eye(4)[favourite]
        corpus.append(rng.choice(4, rng.integers(2, 61), p=shares).tolist())
    labels, groups = flatten(corpus)
    whole = np.bincount(labels) / len(labels)
    for seed in range(3):
        for fold in grouped_folds(labels, groups, 5, seed):
            assert abs(len(fold.test) / len(labels) - 1 / 5) < 0.02
            shares = np.bincount(labels[fold.test], minlength=4) / len(fold.test)
            np.testing.assert_allclose(shares, whole, atol=0.03)


@settings(max_examples=80, deadline=None)
@given(
    corpus=st.lists(
        st.lists(st.integers(0, 5), min_size=1, max_size=8), min_size=10, max_size=60
    ).filter(lambda groups: max(np.bincount(np.concatenate(groups))) >= 8),
    folds=st.integers(2, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_groups_go_where_scikit_learn_puts_them(
    corpus: list[list[int]], folds: int, seed: int
) -> None:
    """Published folds stand on its rule; ties of small groups are many here."""
    labels, groups = flatten(corpus)
    assume(len(corpus) < len(labels))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = list(splitter.split(np.zeros(len(labels)), labels, groups))
    found = stratified_splits(labels, np.array(groups), folds, seed)
    for (rest, held), (their_rest, their_held) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(held, their_held)
        np.testing.assert_array_equal(rest, their_rest)


@pytest.mark.thorough
def test_many_classes_and_groups_go_where_scikit_learn_puts_them() -> None:
    rng = np.random.default_rng(0)
    for seed in range(5):
        labels, groups = rng.integers(0, 40, 3_000), rng.integers(0, 400, 3_000)
        splitter = StratifiedGroupKFold(10, shuffle=True, random_state=seed)
        expected = splitter.split(np.zeros(3_000), labels, groups)
        for (_, held), (_, theirs) in zip(
            stratified_splits(labels, groups, 10, seed), expected, strict=True
        ):
            np.testing.assert_array_equal(held, theirs)


def test_a_division_is_made_once_for_the_same_corpus() -> None:
    """The suite asks for it with every row."""
    labels, groups = make_corpus()
    first = divide("grouped", labels, groups, "abc", folds=3)
    assert divide("grouped", labels.copy(), list(groups), "abc", folds=3) is first
    groups[0] = "g7"
    changed = [
        divide("grouped", labels, groups, "abc", folds=3),
        divide("grouped", labels, groups, "abc", folds=3, seed=1),
        divide("grouped", labels, groups, "abc", folds=3, copies=[[0, 1]]),
    ]
    assert len({id(division) for division in [first, *changed]}) == 4


def test_few_groups_are_said() -> None:
    labels = np.tile([0, 1, 2], 40)
    for count, few in ((19, True), (20, False)):
        groups = [f"g{clip % count}" for clip in range(120)]
        said = divide("grouped", labels, groups, "abc", folds=3).warnings
        assert any(text.startswith("only 19 groups are tested") for text in said) == few


def test_unequal_folds_are_said() -> None:
    labels = np.tile([0, 1], 60)
    groups = ["much"] * 80 + [f"g{clip // 4}" for clip in range(40)]
    said = divide("grouped", labels, groups, "ab", folds=4).warnings
    assert any(
        text.startswith("folds are unequal: ") and " to 80 test clips" in text for text in said
    )
    even = divide("grouped", labels, [f"g{clip // 4}" for clip in range(120)], "ab", folds=4)
    assert not any("unequal" in text for text in even.warnings)


def make_corpus() -> tuple[np.ndarray, list[str]]:
    """120 clips of 30 groups, three classes, the third of which 3 groups have."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 120)
    labels[[0, 20, 40]] = 2
    return labels, [f"g{clip // 4}" for clip in range(120)]


def as_lists(folds: tuple[Fold, ...]) -> list[list[list[int]]]:
    return [[f.train.tolist(), f.selection.tolist(), f.test.tolist()] for f in folds]


def test_the_seed_decides_the_grouped_folds() -> None:
    corpus = make_corpus()
    assert as_lists(grouped_folds(*corpus, 5, 3)) == as_lists(grouped_folds(*corpus, 5, 3))
    assert as_lists(grouped_folds(*corpus, 5, 3)) != as_lists(grouped_folds(*corpus, 5, 4))


def test_the_validation_part_is_about_an_eighth() -> None:
    labels, groups = make_corpus()
    for fold in grouped_folds(labels, groups, 10, 0):
        rest = len(fold.train) + len(fold.selection)
        assert 0.08 < len(fold.selection) / rest < 0.18


def test_a_class_too_rare_for_the_folds_is_named_with_the_folds_that_lack_it() -> None:
    labels, groups = make_corpus()
    division = divide("grouped", labels, groups, ["a", "b", "rare"], folds=5)
    assert division.grouped
    assert division.leaking_share == 0
    lacking = [i for i, fold in enumerate(division.folds) if 2 not in labels[fold.test]]
    assert len(lacking) == 2
    expected = (
        f"class 'rare' (3 clips) is not in the test part of fold {lacking[0]}, {lacking[1]}:"
        " it has no recall there"
    )
    assert expected in division.warnings
    assert not any("'a'" in warning for warning in division.warnings)
    for fold in division.folds:
        assert 2 in labels[fold.train]


def test_a_class_of_one_group_cannot_be_learnt_where_it_is_tested() -> None:
    labels, groups = make_corpus()
    labels[labels == 2] = 0
    labels[:4] = 2
    division = divide("grouped", labels, groups, ["a", "b", "alone", "none"], folds=5)
    (tested,) = [i for i, fold in enumerate(division.folds) if 2 in labels[fold.test]]
    assert (
        f"class 'alone' (4 clips) is not in the train part of fold {tested}:"
        " it cannot be recognised there"
    ) in division.warnings
    assert "class 'none' has no clip" in division.warnings


def test_unknown_groups_are_said_to_be_unknown() -> None:
    labels, groups = make_corpus()
    unknown = divide("grouped", labels, [""] * 120, "abc", folds=3)
    assert not unknown.grouped
    assert unknown.warnings[0].startswith("groups are unknown: folds are stratified only")
    own = divide("grouped", labels, [f"c{clip}" for clip in range(120)], "abc", folds=3)
    assert not own.grouped
    assert own.warnings[0] == "no group has two clips: folds are stratified only"
    assert as_lists(own.folds) == as_lists(unknown.folds)
    some = divide("grouped", labels, ["", "", *groups[2:]], "abc", folds=3)
    assert some.grouped
    assert some.warnings[0] == "2 of 120 clips have no group and count as one each"


def test_the_paper_protocol_says_what_it_leaks() -> None:
    labels, groups = make_corpus()
    division = divide("paper", labels, groups, "abc", seed=5)
    assert (division.seed, division.grouped) == (42, False)
    leaking = sum(
        groups[clip] in {groups[other] for other in fold.train}
        for fold in division.folds
        for clip in fold.test
    )
    assert division.leaking_share == leaking / 120 > 0.9
    assert division.warnings[0].startswith(SELECTION_ON_TEST)
    assert f"{leaking / 120:.0%} of the test clips" in division.warnings[1]


@pytest.mark.parametrize(
    ("labels", "groups", "folds", "message"),
    [
        ([0, 1] * 10, ["a", "b"] * 10, 3, "folds=3: must be at least 2 and at most 2, the number"),
        (
            [0, 1] * 10,
            ["a", "b"] * 10,
            2,
            "folds=2: a fold leaves 1 groups, and 10 clips of its largest",
        ),
        ([0, 1] * 10, ["a", "b"] * 10, 1, "folds=1: must be at least 2"),
        ([0, 1, 2, 3], ["a", "b", "c", "d"], 2, "at most 1, the number of clips in the largest"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    labels: list[int], groups: list[str], folds: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        grouped_folds(np.array(labels), groups, folds)


def test_too_few_clips_for_the_paper_are_refused() -> None:
    with pytest.raises(ConfigError, match="folds=10: must be at least 2 and at most 9"):
        paper_folds(9)


@pytest.mark.parametrize("protocol", ["grouped", "paper"])
def test_unlabelled_clips_are_refused(protocol: str) -> None:
    labels = np.array([0, 1, -1, 0])
    with pytest.raises(UnlabelledError, match="1 of 4 clips have no label"):
        divide(protocol, labels, [""] * 4, "ab", folds=2)  # type: ignore[arg-type]
