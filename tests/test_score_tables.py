"""Tables say what they average over, and come out whole in Markdown and LaTeX."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.test_results import CLASSES, RUN, make_evaluation, make_fold
from voc2vec_jax.errors import ResultsError
from voc2vec_jax.evaluation import published
from voc2vec_jax.evaluation.folds import SELECTION_ON_TEST
from voc2vec_jax.evaluation.plots import plot_confusion, plot_recalls
from voc2vec_jax.evaluation.report import load_evaluation, summarise, write_report
from voc2vec_jax.evaluation.results import fold_path, save_fold
from voc2vec_jax.evaluation.significance import compare_all
from voc2vec_jax.evaluation.tables import (
    Scored,
    Table,
    gap_table,
    main_table,
    pooled_table,
    significance_table,
)


def scored(model: str, dataset: str, protocol: str = "grouped", folds: int = 3) -> Scored:
    evaluation = make_evaluation(
        [make_fold(n, clips=20) for n in range(folds)],
        model=model,
        dataset=dataset,
        protocol=protocol,
        clips=60,
        excluded=({"file": "x", "reason": "empty"},),
    )
    return Scored(evaluation, summarise(evaluation))


BOARD = {
    ("a", "cries"): scored("a", "cries"),
    ("a", "laughs"): scored("a", "laughs"),
    ("b", "cries"): scored("b", "cries", folds=2),
}


def test_the_main_table_has_the_papers_layout() -> None:
    table = main_table(BOARD, "grouped")
    assert table.header == [
        "model", "cries UAR", "cries F1", "laughs UAR", "laughs F1", "mean of 2 UAR",
        "mean of 2 F1", "folds run of asked",
    ]  # fmt: skip
    first, second, *rest = table.rows
    spread = BOARD["a", "cries"].summary.folds["uar"]
    assert first[1] == f"{spread.mean:.3f} ± {spread.std:.3f}".replace("0.", ".")
    assert first[5] == f"{spread.mean:.3f} ± .000".replace("0.", ".", 1)  # of two equal datasets
    assert first[-1] == "6 of 6"
    assert second[3:7] == ["–"] * 4  # no mean over datasets that were not all run
    assert second[-1] == "2 of 3"
    assert [row[0] for row in rest] == [
        f"{row.model} (published)" for row in published.VOC2VEC_TABLE
    ]
    assert rest[3][5:7] == [".696 ± .189", ".678 ± .200"]
    assert "laughs: 60 clips, 1 excluded" in table.notes


@pytest.mark.parametrize("protocol", ["grouped", "paper"])
def test_every_table_names_exclusions_and_the_protocols_flaw(protocol: str) -> None:
    board = {("a", "cries"): scored("a", "cries", protocol), ("b", "cries"): scored("b", "cries")}
    tests = {"cries": compare_all([s.evaluation for s in board.values()])}
    for table in (
        main_table(board, protocol),  # type: ignore[arg-type]
        pooled_table(board, protocol),  # type: ignore[arg-type]
        significance_table(tests, board, protocol),  # type: ignore[arg-type]
    ):
        assert "cries: 60 clips, 1 excluded" in table.notes
        text = table.markdown()
        assert (SELECTION_ON_TEST in text) == (protocol == "paper")
        widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
        assert widths == {len(table.header) + 1}


def test_the_gap_is_between_pooled_scores_of_what_ran_under_both() -> None:
    paper = {key: scored(*key, "paper") for key in (("a", "cries"), ("c", "cries"))}
    table = gap_table(BOARD, paper)
    (row,) = table.rows
    assert row[:2] == ["a", "cries"]
    uar = f"{BOARD['a', 'cries'].summary.pooled.uar:.3f}".removeprefix("0")
    assert row[2:5] == [uar, uar, "+0.000"]


def test_latex_is_escaped() -> None:
    table = Table("50 % of a_b", ["model", "x & y"], [["m_1", ".5 ± .1"]], ["−1 < #2"])
    text = table.latex()
    assert r"\caption{50 \% of a\_b. $-$1 $<$ \#2.}" in text
    assert r"model & x \& y \\" in text
    assert r"m\_1 & .5 $\pm$ .1 \\" in text
    assert text.count(r"\begin") == text.count(r"\end") == 2


def test_published_rows_are_those_of_the_readme() -> None:
    best = max(published.VOC2VEC_TABLE, key=lambda row: row.uar)
    assert (best.model, best.uar, best.macro_f1) == (
        "voc2vec-hubert-ls-pt",
        (0.696, 0.189),
        (0.678, 0.2),
    )
    assert len(published.VOC2VEC_TABLE) == len(published.DATASETS) == 6


def test_an_evaluation_is_read_back(tmp_path: Path) -> None:
    evaluation = replace(BOARD["a", "cries"].evaluation, identity={"run_sha256": RUN})
    for result in evaluation.results:
        save_fold(tmp_path, result, RUN)
    write_report(tmp_path, evaluation)
    found = load_evaluation(tmp_path)
    assert (found.model, found.dataset, found.protocol) == ("a", "cries", "grouped")
    assert (found.folds_asked, found.seeds, found.complete) == (3, (0,), True)
    assert found.excluded == ({"file": "x", "reason": "empty"},)
    assert summarise(found).pooled == BOARD["a", "cries"].summary.pooled
    assert found.identity == {"run_sha256": RUN}
    save_fold(tmp_path, evaluation.results[1], "b2" * 32)
    with pytest.raises(ResultsError, match=r"seed0-fold01\.json: is a fold of another run"):
        load_evaluation(tmp_path)
    fold_path(tmp_path, 0, 1).unlink()
    with pytest.raises(ResultsError, match=r"seed0-fold01\.json: is damaged"):
        load_evaluation(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(ResultsError, match=r"results\.json: is damaged"):
        load_evaluation(tmp_path)


@pytest.mark.parametrize("classes", [3, 30])
def test_pictures_are_drawn(classes: int, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 9, (classes, classes))
    counts[1] = 0  # a class without clips
    names = [*CLASSES, *map(str, range(classes - 3))]
    plot_confusion(counts, names, "title", tmp_path / "new" / "confusion.png")
    plot_recalls(
        {"a": [0.5, None] + [0.1] * (classes - 2), "b": [0.2] * classes},
        names,
        "title",
        tmp_path / "recalls.png",
    )
    for png in ("new/confusion.png", "recalls.png"):
        assert (tmp_path / png).read_bytes().startswith(b"\x89PNG")
