"""Folds that a corpus comes with are taken as they stand, and said where they are not used."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.evaluation.baselines import majority_row
from voc2vec_jax.evaluation.cross_validation import CrossValidation
from voc2vec_jax.evaluation.division import divide
from voc2vec_jax.evaluation.given_folds import CARVED
from voc2vec_jax.evaluation.labelled_corpus import LabelledCorpus
from voc2vec_jax.evaluation.report import summarise
from voc2vec_jax.evaluation.significance import compare_all
from voc2vec_jax.evaluation.tables import Scored, main_table, significance_table

BARE: dict[str, Any] = {"content": {}, "settings": {}}

LABELS = np.arange(120) % 3
GROUPS = [f"s{clip // 6}" for clip in range(120)]


def parts(*counts: int, names: tuple[str, ...] = ("train", "validation", "test")) -> list[str]:
    return [name for name, count in zip(names, counts, strict=True) for _ in range(count)]


@pytest.mark.parametrize(
    "names",
    [("train", "validation", "test"), ("Training", "DEV", "eval"), ("TRAIN", "val", "Test")],
)
def test_one_fold_is_taken_as_it_stands(names: tuple[str, ...]) -> None:
    marks = parts(80, 22, 18, names=names)
    division = divide("given", LABELS, GROUPS, "abc", given=marks, copies=[], seed=7)
    (fold,) = division.folds
    assert fold.train.tolist() == list(range(80))
    assert fold.selection.tolist() == list(range(80, 102))
    assert fold.test.tolist() == list(range(102, 120))
    assert CARVED not in division.warnings
    assert (division.seed, division.leaking_share) == (0, 0)


def test_a_validation_part_is_carved_where_none_is_given_and_it_is_said() -> None:
    marks = parts(96, 0, 24)
    first, second = (
        divide("given", LABELS, GROUPS, "abc", given=marks, copies=[], seed=seed) for seed in (0, 1)
    )
    (fold,) = first.folds
    assert fold.test.tolist() == list(range(96, 120))
    assert sorted([*fold.train, *fold.selection]) == list(range(96))
    assert {GROUPS[clip] for clip in fold.train}.isdisjoint(GROUPS[c] for c in fold.selection)
    assert 8 <= len(fold.selection) <= 18
    assert CARVED in first.warnings
    np.testing.assert_array_equal(fold.train, second.folds[0].train)


def test_folds_of_equal_numbers_have_an_order() -> None:
    marks = ["1", "01", "2"] * 40
    division = divide("given", LABELS, GROUPS, "abc", given=marks, copies=[])
    assert [fold.test[0] for fold in division.folds] == [1, 0, 2]


def test_k_folds_are_tested_once_each_in_reading_order() -> None:
    marks = [f"fold{clip % 12 + 1}" for clip in range(120)]
    division = divide("given", LABELS, GROUPS, "abc", given=marks, copies=[])
    assert len(division.folds) == 12
    for number, fold in enumerate(division.folds):
        assert fold.test.tolist() == list(range(number, 120, 12))
        sides = (fold.train, fold.selection, fold.test)
        assert sorted(np.concatenate(sides)) == list(range(120))
    for side in ("train", "selection"):
        share = np.mean(
            [
                GROUPS[clip] in {GROUPS[other] for other in getattr(fold, side)}
                for fold in division.folds
                for clip in fold.test
            ]
        )
        name = "training" if side == "train" else "validation"
        assert (
            f"{share:.0%} of the test clips have clips of their group in the {name} part"
            in division.warnings
        )
    assert divide("given", LABELS, GROUPS, "abc", given=marks, folds=12, copies=[]).folds


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ([], "the corpus comes without folds"),
        ([""] * 120, "the corpus comes without folds"),
        (["1", *[""] * 3, *["2"] * 116], "3 of 120 clips have no fold, the first of them clip 1"),
        ([*["train"] * 60, *["3"] * 60], "named train and also 3; name them"),
        (["train"] * 120, "no clip is of the part 'test', only of train"),
        ([*["dev"] * 60, *["test"] * 60], "no clip is of the part 'train'"),
        (["2"] * 120, "every clip is of fold '2'"),
        ([*["train"] * 3, *["test"] * 117], "the training part leaves 1 groups"),
    ],
)
def test_what_is_no_division_is_refused(marks: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        divide("given", LABELS, GROUPS, "abc", given=marks)


def test_folds_that_are_not_asked_for_are_refused_or_said() -> None:
    marks = parts(80, 20, 20)
    with pytest.raises(ConfigError, match=r"folds=10: the corpus comes with 1 \(test 20, train 80"):
        divide("given", LABELS, GROUPS, "abc", given=marks, folds=10)
    protocols: tuple[Protocol, ...] = ("grouped", "paper")
    for protocol in protocols:
        said = divide(protocol, LABELS, GROUPS, "abc", given=marks).warnings
        assert (
            f"the corpus comes with folds (test 20, train 80, validation 20), which protocol"
            f" {protocol} does not use; --protocol given does"
        ) in said


def corpus(marks: list[str]) -> LabelledCorpus:
    return LabelledCorpus(
        name="marked",
        ids=[f"{clip}.wav" for clip in range(120)],
        labels=LABELS,
        groups=GROUPS,
        class_names=["a", "b", "c"],
        fingerprint="f",
        waveforms=lambda: iter(()),
        folds=marks,
    )


def test_an_evaluation_under_given_folds(tmp_path: Path) -> None:
    marked = corpus([str(clip % 4) for clip in range(120)])
    runs = [
        CrossValidation(
            majority_row(marked),
            name,
            marked,
            "given",
            tmp_path / name,
            seeds=seeds,
            content={},
            settings={},
        ).run_all()
        for name, seeds in (("one", (0,)), ("two", (0, 1, 2)))
    ]
    assert [(run.folds_asked, run.folds_run) for run in runs] == [(4, 4), (4, 12)]
    assert runs[0].results[1].clip_ids == tuple(f"{clip}.wav" for clip in range(1, 120, 4))
    (test,) = compare_all(runs)
    assert (test.folds, test.difference) == (4, 0)


def test_one_fold_has_no_deviation_and_no_test(tmp_path: Path) -> None:
    marked = corpus(parts(80, 20, 20))
    runs = [
        CrossValidation(
            majority_row(marked), name, marked, "given", tmp_path / name, **BARE
        ).run_all()
        for name in ("one", "two")
    ]
    over_folds = json.loads((tmp_path / "one" / "results.json").read_text())["scores"]["over_folds"]
    assert (over_folds["uar"]["std"], over_folds["uar"]["folds"]) == (None, 1)
    board = {(run.model, "marked"): Scored(run, summarise(run)) for run in runs}
    tests = {"marked": compare_all(runs)}
    table = significance_table(tests, board, "given")
    assert not table.rows
    assert "marked: no test, which needs two folds that both of a pair have run" in table.notes
    assert main_table(board, "given").rows[0][1].endswith("± –")


def test_a_clip_without_a_fold_is_named() -> None:
    with pytest.raises(ConfigError, match=r"2 of 120 clips have no fold, such as '3\.wav'"):
        corpus([*"123", "", *"12" * 57, "", "1"]).divided("given")
