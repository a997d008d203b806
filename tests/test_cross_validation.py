"""Folds in one folder: given ones, some of them, and several processes that fill it together."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.test_baselines import make_corpus
from voc2vec_jax.distributed.lock import WorkdirLock
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.evaluation.baselines import majority_row
from voc2vec_jax.evaluation.cross_validation import CrossValidation
from voc2vec_jax.evaluation.csv_files import FOLDS, read_folds
from voc2vec_jax.evaluation.folds import Fold
from voc2vec_jax.evaluation.results import Evaluation, FoldResult, save_fold

BARE: dict[str, Any] = {"content": {}, "settings": {}}

CORPUS = make_corpus()
ABOUT = CORPUS.ids, CORPUS.labels, CORPUS.groups, CORPUS.class_names
Ran = list[tuple[int, int]]


def row_of(
    ran: Ran, before: Callable[[int], None] = lambda number: None
) -> Callable[[int, Fold, int], FoldResult]:
    """The commonest class, and a note of every fold that is run."""
    inner = majority_row(CORPUS)

    def row(number: int, fold: Fold, seed: int) -> FoldResult:
        before(number)
        ran.append((seed, number))
        return inner(number, fold, seed)

    return row


def validation(out: Path, ran: Ran, **options: Any) -> CrossValidation:
    row = row_of(ran, **{k: options.pop(k) for k in ("before",) if k in options})
    settings = {"folds": 3, **BARE, "shared": True, **options}
    return CrossValidation(row, "m", CORPUS, "grouped", out, **settings)


def report(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "results.json").read_text()))


def test_the_folds_of_a_file_are_used_and_belong_to_the_folder(tmp_path: Path) -> None:
    """They are there before anything is run, and give the same results again."""
    first = CrossValidation(
        row_of([]), "m", CORPUS, "grouped", tmp_path / "a", folds=3, **BARE
    ).run_all()
    given = read_folds(tmp_path / "a" / FOLDS, *ABOUT)
    again = CrossValidation(
        row_of([]), "m", CORPUS, "grouped", tmp_path / "b", given=given, **BARE
    ).run_all()
    assert [r.clip_ids for r in again.results] == [r.clip_ids for r in first.results]
    assert again.folds_asked == 3
    for name in (FOLDS, "predictions.csv", "per_class.csv"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()

    # Two clips change places: other folds, which do not go on in this folder.
    lines = (tmp_path / "a" / FOLDS).read_text().splitlines()
    ours, theirs = (line.split(",") for line in (lines[1], lines[2]))
    lines[1:3] = [",".join(theirs), ",".join(ours)]
    (tmp_path / "other.csv").write_text("\n".join(lines))
    other = read_folds(tmp_path / "other.csv", *ABOUT)
    with pytest.raises(ConfigError, match="the folds of --folds-csv"):
        validation(tmp_path / "b", [], given=other)
    with pytest.raises(ConfigError, match="fold 0 has a validation part, and `paper` chooses"):
        CrossValidation(
            row_of([]), "m", CORPUS, "paper", tmp_path / "c", given=other, **BARE
        ).run_all()
    assert not (tmp_path / "c").exists()


def test_what_is_odd_about_given_folds_is_said(tmp_path: Path) -> None:
    """A group on both sides, clips that a fold or no fold uses; and what cannot be chosen by."""
    rows = ["0,test,0.wav", *(f"0,train,{clip}.wav" for clip in range(1, 70))]
    (tmp_path / "f.csv").write_text("\n".join(["fold,part,id", *rows, "0,validation,70.wav"]))
    given = read_folds(tmp_path / "f.csv", *ABOUT)
    evaluation = validation(tmp_path / "out", [], given=given)
    evaluation.run_missing()
    warnings = report(tmp_path / "out")["warnings"]
    assert "100% of the test clips have clips of their group in the training part" in warnings
    assert (
        "folds do not use every clip: one uses 71 of 90; 19 clips are in no part of any fold, and"
        " 1 are tested"
    ) in warnings
    (tmp_path / "f.csv").write_text("\n".join(["fold,part,id", *rows]))
    given = read_folds(tmp_path / "f.csv", *ABOUT)
    with pytest.raises(ConfigError, match="fold 0 has no validation part, on which `grouped`"):
        validation(tmp_path / "none", [], given=given)


def test_folds_are_divided_and_published_before_they_are_run(tmp_path: Path) -> None:
    def before(number: int) -> None:
        assert read_folds(tmp_path / FOLDS, *ABOUT).folds == 3

    ran: Ran = []
    validation(tmp_path, ran, before=before).run_missing()
    assert len(ran) == 3


def test_some_folds_of_every_seed(tmp_path: Path) -> None:
    ran: Ran = []
    some = validation(tmp_path, ran, seeds=(0, 5))
    some.run_missing(only=[2, 0])
    assert ran == [(0, 0), (0, 2), (5, 0), (5, 2)]
    assert some.missing() == [(0, 1), (5, 1)]
    assert (report(tmp_path)["folds_run"], report(tmp_path)["folds_asked"]) == (4, 6)
    rest = validation(tmp_path, ran, seeds=(0, 5))
    rest.run_missing()
    assert ran[4:] == [(0, 1), (5, 1)]
    found = [(fold["seed"], fold["fold"]) for fold in report(tmp_path)["per_fold"]]
    assert found == [(seed, fold) for seed in (0, 5) for fold in range(3)], "in their order"


def test_a_fold_that_is_under_way_is_left_to_others(tmp_path: Path) -> None:
    """Of two at once each runs what is free, and both end with the folds of all."""
    ours: Ran = []
    theirs: Ran = []
    told: list[int] = []

    def others_start(number: int) -> None:
        if number == 0:
            other = validation(tmp_path, theirs)
            other.run_missing()
            assert list(other.busy) == [(0, 0)]
            assert f"process {os.getpid()} on" in other.busy[0, 0]
            assert other.missing() == [(0, 0)]
            assert report(tmp_path)["folds_run"] == 2

    first = validation(
        tmp_path, ours, before=others_start, finished=lambda result: told.append(result.fold)
    )
    first.run_missing()
    assert (ours, theirs) == ([(0, 0)], [(0, 1), (0, 2)])
    assert first.publish().complete
    assert sorted(told) == [0, 1, 2], "each once"
    assert report(tmp_path)["folds_run"] == 3
    assert not list((tmp_path / "folds").glob("*.lock"))


def test_the_fold_of_a_dead_process_is_taken_up_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: Ran = []
    mine = validation(tmp_path, ran)
    lock = tmp_path / "folds" / "seed0-fold01.lock"
    dead = subprocess.Popen(["true"])
    dead.wait()
    with WorkdirLock(lock.parent, lock.name):
        owner = json.loads(lock.read_text())
    lock.write_text(json.dumps({**owner, "pid": dead.pid}))
    mine.run_missing()
    assert ran == [(0, 0), (0, 1), (0, 2)]
    assert f"taking over from process {dead.pid}" in capsys.readouterr().err


def test_a_fold_of_another_host_is_left_to_it(tmp_path: Path) -> None:
    """At once, without waiting for a sign of life; it is taken up when its fold is long silent."""
    ran: Ran = []
    mine = validation(tmp_path, ran)
    lock = tmp_path / "folds" / "seed0-fold01.lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    mine.run_missing()
    assert ran == [(0, 0), (0, 2)]
    assert "process 7 on elsewhere" in mine.busy[0, 1]
    os.utime(lock, (1, 1))
    mine.run_missing()
    assert ran == [(0, 0), (0, 2), (0, 1)]
    assert not mine.busy


def test_what_is_finished_while_a_report_is_written_gets_into_the_next(tmp_path: Path) -> None:
    """Else the last one to write might be one that had not seen all."""
    ran: Ran = []
    mine = validation(tmp_path, ran)
    mine.run_missing(only=[0])
    drawn: list[int] = []

    def draw(evaluation: Evaluation) -> None:
        drawn.append(evaluation.folds_run)
        for fold in (1, 2) if len(drawn) == 1 else ():
            part = mine._divisions[0].folds[fold]
            save_fold(tmp_path, majority_row(CORPUS)(fold, part, 0), mine._identity.run_sha256)

    assert mine.publish(draw).complete
    assert drawn == [1, 3]
    assert report(tmp_path)["folds_run"] == 3
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + 90


def test_nothing_is_written_of_no_fold(tmp_path: Path) -> None:
    assert not validation(tmp_path, []).publish().results
    assert not (tmp_path / "results.json").exists()
