"""Folds, answers and classes as tables: what is written, what is read back, what is refused."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.test_results import CLASSES, make_fold
from voc2vec_jax.errors import ConfigError, DataError
from voc2vec_jax.evaluation.csv_files import (
    GivenFolds,
    read_folds,
    write_folds,
    write_per_class,
    write_predictions,
)
from voc2vec_jax.evaluation.folds import Fold, grouped_folds, paper_folds
from voc2vec_jax.scores import ClassScores

ODD = ["a,b.wav", 'say "a".wav', "two\nlines", "a\rb", " space ", "café.wav", r"\xe9.wav", "07"]
"""Names of files that a table may garble; the last but one is one that is not UTF-8."""
LABELS = np.tile([0, 1, 2, 0], 2)
GROUPS = ["s0", "s0", "s1", "s1", "", "", "s,2", "s,2"]
CORPUS = (ODD, LABELS, GROUPS, CLASSES)


def lists(folds: tuple[Fold, ...]) -> list[list[list[int] | None]]:
    parts = [(fold.train, fold.validation, fold.test) for fold in folds]
    return [[None if part is None else part.tolist() for part in fold] for fold in parts]


def test_folds_come_back_as_they_were(tmp_path: Path) -> None:
    """Also the order of the training part, which decides that of labels under `paper`."""
    path = tmp_path / "folds.csv"
    grouped = {seed: grouped_folds(LABELS, GROUPS, 3, seed) for seed in (0, 4)}
    for folds in (grouped, {0: paper_folds(8, 4)}):
        write_folds(path, folds, *CORPUS)
        found = read_folds(path, *CORPUS)
        assert (found.folds, found.seeds) == (len(folds[0]), list(folds))
        for seed, of_seed in folds.items():
            assert lists(found.of_seed(seed)) == lists(of_seed)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 8
    first = paper_folds(8, 4)[0].train[0]
    assert rows[0] == {
        "seed": "0", "fold": "0", "part": "train", "id": ODD[first], "group": GROUPS[first],
        "label": CLASSES[LABELS[first]],
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"has no folds of seed 3; give --seeds 0"):
        found.of_seed(3)


def given(tmp_path: Path, text: str) -> GivenFolds:
    path = tmp_path / "given.csv"
    path.write_text(text, encoding="utf-8")
    return read_folds(path, ["a", "b", "c", "d"], np.array([0, 1, 0, -1]), [""] * 4, CLASSES)


def test_folds_of_anybody_hold_for_every_seed(tmp_path: Path) -> None:
    found = given(tmp_path, "\ufeffid,part,fold,note\nc,train,0,x\na,train,0,\nb,test,0,\n\n")
    assert lists(found.of_seed(0)) == lists(found.of_seed(9)) == [[[2, 0], None, [1]]]
    other = given(tmp_path, "id,part,fold\na,train,0\nc,train,0\nb,test,0\n")
    assert found.sha256 != other.sha256, "the order of the training part counts"


def test_an_id_that_is_no_utf8_is_the_one_of_the_corpus(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(b"fold,part,id\n0,train,a\n0,test,ni\xf1o\n")
    found = read_folds(path, ["a", r"ni\xf1o"], np.array([0, 1]), [""] * 2, CLASSES)
    assert lists(found.of_seed(0)) == [[[0], None, [1]]]


FOLD = "fold,part,id\n0,train,a\n0,test,b\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fold,id\n0,a\n", "columns are fold,id: fold, part and id are needed"),
        ("", "columns are : fold, part and id are needed"),
        ("fold,part,id\n", "has no folds"),
        (f"{FOLD}0,train\n", "line 4: 2 cells for 3 columns"),
        (f"{FOLD}0,train,x\n", "line 4: id 'x' is not in the corpus"),
        (f"{FOLD}0,dev,c\n", "line 4: part 'dev': must be one of train, validation, test"),
        (f"{FOLD}-1,train,c\n", "line 4: fold '-1': must be a whole number from 0"),
        (f"{FOLD}0,train,b\n", "line 4: id 'b' is there twice in fold 0"),
        (f"{FOLD}1,train,a\n1,test,b\n", "line 5: id 'b' is tested in two folds"),
        (f"{FOLD}2,train,a\n2,test,c\n", r"folds are numbered \[0, 2\], not from 0 without gaps"),
        ("fold,part,id\n0,train,a\n", "fold 0 has no test part"),
        (
            "fold,part,id,label\n0,train,a,laugh\n",
            "line 2: label of 'a' is 'laugh', .* it is 'cough'",
        ),
        ("fold,part,id,group\n0,train,a,s1\n", "line 2: group of 'a' is 's1', .* it is ''"),
        (
            "seed,fold,part,id\n0,0,train,a\n0,0,test,b\n1,0,train,a\n1,0,test,b\n1,1,train,a\n"
            "1,1,test,c\n",
            r"every seed needs as many folds \(seed 0: 1, seed 1: 2\)",
        ),
    ],
)
def test_folds_that_cannot_be_meant_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"given\.csv: {message}"):
        given(tmp_path, text)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.csv: cannot be read"):
        read_folds(tmp_path / "no.csv", *CORPUS)


def test_predictions_hold_every_answer_to_the_last_bit(tmp_path: Path) -> None:
    folds = [make_fold(0, clips=8, clip_ids=tuple(ODD)), make_fold(1, seed=2)]
    write_predictions(tmp_path / "predictions.csv", folds)
    path = tmp_path / "predictions.csv"
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [*ODD, *folds[1].clip_ids]
    assert [row["seed"] for row in rows] == ["0"] * 8 + ["2"] * 5
    assert [row["fold"] for row in rows] == ["0"] * 8 + ["1"] * 5
    assert [row["group"] for row in rows] == [g for fold in folds for g in fold.groups]
    for column, values in (("label", "labels"), ("prediction", "predictions")):
        expected = np.concatenate([getattr(fold, values) for fold in folds])
        assert [CLASSES.index(row[column]) for row in rows] == expected.tolist()
    scores = [[float(row[f"score_{name}"]) for name in CLASSES] for row in rows]
    np.testing.assert_array_equal(scores, np.concatenate([fold.scores for fold in folds]))


def test_a_class_has_empty_cells_where_there_is_nothing_to_count(tmp_path: Path) -> None:
    classes = [ClassScores(0.5, 1.0, 2 / 3, 2), ClassScores(None, None, None, 0)]
    write_per_class(tmp_path / "per_class.csv", ("a,b", "sigh"), classes)
    assert (tmp_path / "per_class.csv").read_text().splitlines() == [
        "class,precision,recall,f1,tested",
        '"a,b",0.5,1.0,0.6666666666666666,2',
        "sigh,,,,0",
    ]
