"""The suite from tables of recordings to a page of tables, and what stops it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.synthetic.corpus import write_wavs
from tests.test_results import RUN, make_evaluation, make_fold
from tools import evaluate_suite
from tools.evaluation import rows
from voc2vec_jax.evaluation.linear import LOGISTIC_REGRESSION
from voc2vec_jax.evaluation.report import write_report
from voc2vec_jax.evaluation.results import save_fold
from voc2vec_jax.files import array_sha256

pytestmark = pytest.mark.unoptimised


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 clips of ten classes by six speakers."""
    folder = tmp_path_factory.mktemp("corpus")
    write_wavs(folder, speakers=6, takes=1)
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["evaluate_suite", *map(str, words)])
    return evaluate_suite.main()


def test_one_command_makes_every_table_and_goes_on_where_it_was(
    table: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ids = [line.split(",")[0] for line in table.read_text().splitlines()[1:]]
    vectors = np.random.default_rng(0).normal(size=(len(ids), 4)).astype(np.float32)
    np.savez(tmp_path / "clips.npz", ids=np.array(ids), embeddings=vectors)
    out = tmp_path / "out"
    command = (
        table, "--out", out, "--data-dir", cache, "--folds", 3, "--seeds", 0, 1,
        "--baselines", "majority", "mfcc-lr",
    )  # fmt: skip
    run(monkeypatch, *command, "--embeddings", f"noise={tmp_path}/{{dataset}}.npz")
    page = (out / "tables.md").read_text(encoding="utf-8")
    assert page in capsys.readouterr().out
    for title in (
        "Protocol grouped: scores over folds",
        "Protocol paper: pooled predictions",
        "Protocol paper: paired tests of UAR",
        "Gap between the protocols",
        "What to know",
    ):
        assert f"### {title}" in page
    assert "clips: 60 clips, 0 excluded" in page
    assert "majority vs mfcc-lr" in page
    assert r"\begin{tabular}" in (out / "tables.tex").read_text(encoding="utf-8")
    figures = json.loads((out / "suite.json").read_text(encoding="utf-8"))
    found = {(e["model"], e["protocol"]): e for e in figures["evaluations"]}
    assert len(found) == 6
    assert found["mfcc-lr", "grouped"]["folds_run"] == 6  # two seeds
    assert found["mfcc-lr", "paper"]["folds_run"] == 3  # its folds do not depend on the seed
    assert found["majority", "grouped"]["scores"]["pooled"]["uar"] == pytest.approx(0.1)
    assert found["mfcc-lr", "grouped"]["scores"]["pooled"]["uar"] > 0.3
    assert found["noise", "grouped"]["scores"]["pooled"]["uar"] < 0.25
    assert len(figures["paired_tests"]) == 6
    assert figures["published"]["rows"][3]["uar"] == [0.696, 0.189]
    for png in ("grouped/clips/recalls.png", "paper/clips/noise/confusion.png"):
        assert (out / png).read_bytes().startswith(b"\x89PNG")

    kept = out / "grouped" / "clips" / "mfcc-lr" / "folds" / "seed1-fold02.json"
    lost = kept.with_name("seed1-fold01.json")
    before, changed = lost.read_text(), kept.stat().st_mtime_ns
    lost.unlink()
    run(monkeypatch, *command, "--protocols", "grouped")
    assert kept.stat().st_mtime_ns == changed
    again, first = json.loads(lost.read_text()), json.loads(before)
    assert again["scores"] == first["scores"]


def test_a_row_of_other_vectors_is_refused_by_name_and_the_others_go_on(
    table: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for picture in ("plot_confusion", "plot_recalls"):
        monkeypatch.setattr(evaluate_suite, picture, lambda *_: None)
    quick = replace(LOGISTIC_REGRESSION, strengths=(1.0,))
    monkeypatch.setitem(rows.CLASSIFIERS, "lr", quick)
    ids = [line.split(",")[0] for line in table.read_text().splitlines()[1:]]
    vectors = np.random.default_rng(0).normal(size=(len(ids), 4)).astype(np.float32)
    out, first, moved = tmp_path / "out", tmp_path / "x.npz", tmp_path / "elsewhere" / "y.npz"
    moved.parent.mkdir()

    def suite(file: Path, baseline: str = "majority") -> int:
        return run(
            monkeypatch, table, "--out", out, "--data-dir", cache, "--folds", 3,
            "--protocols", "grouped", "--baselines", baseline, "--embeddings", f"x={file}",
        )  # fmt: skip

    np.savez(first, ids=np.array(ids), embeddings=vectors)
    assert suite(first) == 0
    results = out / "grouped" / "clips" / "x" / "results.json"
    content = json.loads(results.read_text())
    assert content["identity"]["vectors_sha256"] == array_sha256(vectors)
    # The same vectors, whatever they are called and in whatever order: nothing is run again.
    fold = results.parent / "folds" / "seed0-fold00.json"
    kept = fold.stat().st_mtime_ns
    np.savez(moved, ids=np.array(ids[::-1]), embeddings=vectors[::-1])
    assert suite(moved) == 0
    assert fold.stat().st_mtime_ns == kept
    # Others in the file of the same name, and a fold that is missing.
    fold.unlink()
    np.savez(first, ids=np.array(ids), embeddings=2 * vectors)
    capsys.readouterr()
    assert suite(first) == 1
    said = capsys.readouterr()
    assert (
        f"error: x is not in the tables: {results.parent}: holds another evaluation (" in said.err
    )
    there, now = (array_sha256(v)[:12] for v in (vectors, 2 * vectors))
    assert f"the vectors of the clips: {there}… there, {now}… asked for" in said.err
    assert "| majority |" in said.out
    assert "| x |" not in said.out
    assert [e["model"] for e in json.loads((out / "suite.json").read_text())["evaluations"]] == [
        "majority"
    ]
    assert not fold.exists()


def test_what_lies_there_is_not_shown_as_that_of_a_command_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only a command that got as far as to write the results anew says that they are its own."""
    evaluation = make_evaluation([make_fold(n) for n in range(2)], identity={"run_sha256": RUN})
    for result in evaluation.results:
        save_fold(tmp_path, result, RUN)
    write_report(tmp_path, evaluation)
    runs = rows.ModelRuns(3, (0,), tmp_path, False, "")

    def ends(code: int, writes: bool = False) -> None:
        def process(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
            if writes:
                write_report(tmp_path, evaluation)
            return subprocess.CompletedProcess(command, code)

        monkeypatch.setattr(rows.subprocess, "run", process)

    for code in (2, 3, 1, -9):
        ends(code)
        assert runs.run("model", "clips.csv", None, "grouped", tmp_path) is None
        assert f"{tmp_path}: is not in the tables" in capsys.readouterr().err
    for code, writes in ((1, True), (0, False)):
        ends(code, writes)
        found = runs.run("model", "clips.csv", None, "grouped", tmp_path)
        assert found is not None
        assert found.folds_run == 2
    assert capsys.readouterr().err.count("not in the tables") == 0


def test_a_corrupt_clip_stops_the_run_or_is_counted(
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (table.parent / "broken.wav").write_bytes(b"RIFF no audio")
    bad = table.with_name("bad.csv")
    header = table.read_text().splitlines()[0].split(",")
    cells = {"path": "broken.wav", "label": "cough", "group": "s0"}
    bad.write_text(table.read_text() + ",".join(cells.get(name, "") for name in header) + "\n")
    command = (bad, "--out", tmp_path / "out", "--data-dir", tmp_path, "--folds", 3)
    assert run(monkeypatch, *command, "--baselines", "majority") == 3
    error = capsys.readouterr().err
    assert "1 files cannot be used" in error
    assert "broken.wav" in error
    assert "--exclude-bad" in error
    assert not (tmp_path / "out").exists()
    run(monkeypatch, *command, "--baselines", "majority", "--exclude-bad")
    page = capsys.readouterr().out
    assert page.count("### ") - 1 == page.count("bad: 60 clips, 1 excluded")  # "What to know"
    content = json.loads((tmp_path / "out/paper/bad/majority/results.json").read_text())
    assert content["excluded_clips"] == 1
    assert content["excluded"][0]["file"] == "broken.wav"


@pytest.mark.thorough
def test_folds_of_the_corpus_are_evaluated_beside_others(
    table: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    header, *lines = table.read_text().splitlines()
    marked = table.with_name("marked.csv")
    # Four folds of speakers; the recordings of the fifth and sixth are in the last.
    folds = [str(min(index // 10, 3)) for index in range(len(lines))]
    marked.write_text(
        "\n".join([f"{header},fold", *(f"{a},{b}" for a, b in zip(lines, folds, strict=True))])
    )
    out = tmp_path / "out"
    command = (
        marked, "--out", out, "--data-dir", cache, "--protocols", "given", "paper", "--seeds", 0, 1,
        "--baselines", "majority", "mfcc-lr",
    )  # fmt: skip
    assert run(monkeypatch, *command) == 0
    found = json.loads((out / "given/marked/mfcc-lr/results.json").read_text())
    assert (found["protocol"], found["folds_asked"], found["seeds"]) == ("given", 4, [0])
    ids = [json.loads(path.read_text())["clip_ids"]
           for path in sorted((out / "given/marked/mfcc-lr/folds").iterdir())]  # fmt: skip
    assert [len(fold) for fold in ids] == [10, 10, 10, 30]
    page = (out / "tables.md").read_text(encoding="utf-8")
    assert "### Protocol given: paired tests of UAR" in page
    assert "folds as the corpus comes with them" in page
    assert "- marked, paper: the corpus comes with folds (0 10, 1 10, 2 10, 3 30)" in page
    assert "- marked, given: only 6 groups are tested" in page
    assert run(monkeypatch, *command, "--folds", 5) == 2


COMMAND = """
# Stands in for the command that fine-tunes: the commonest class, and a fold that fails if asked to.
import argparse, sys
from pathlib import Path
from voc2vec_jax.cli.corpus import named_corpus, open_labelled
from voc2vec_jax.evaluation.baselines import majority_row
from voc2vec_jax.evaluation.cross_validation import CrossValidation

parser = argparse.ArgumentParser()
for flag in ("--model", "--table", "--protocol"):
    parser.add_argument(flag, required=True)
for flag in ("--data-dir", "--out"):
    parser.add_argument(flag, type=Path, required=True)
parser.add_argument("--folds", type=int)
parser.add_argument("--seeds", type=int, nargs="+")
parser.add_argument("--epochs", type=int)
parser.add_argument("--exclude-bad", action="store_true")
args = parser.parse_args()
_, corpus = open_labelled(
    named_corpus(args.table, args.data_dir), exclude_bad=args.exclude_bad
)
inner = majority_row(corpus)

def row(number, fold, seed):
    if (args.model, number, seed) == ("dying", 1, 1):
        sys.exit(1)
    return inner(number, fold, seed)

CrossValidation(row, args.model, corpus, args.protocol, args.out, folds=args.folds,
               seeds=args.seeds, content={}, settings={"epochs": args.epochs}).run_all()
"""


@pytest.mark.thorough
def test_models_run_in_processes_of_their_own_and_a_dying_one_leaves_its_folds(
    table: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    script = tmp_path / "command.py"
    script.write_text(COMMAND, encoding="utf-8")
    root = Path(__file__).parent.parent
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setattr(rows, "EVALUATE", (sys.executable, str(script)))
    command = (
        table, "--out", tmp_path / "out", "--data-dir", cache, "--folds", 3, "--seeds", 0, 1,
        "--protocols", "grouped", "--baselines", "majority", "--model-flags=--epochs 4",
        "--models", "bad=dying", "good=hf:org/name --epochs 5",
    )  # fmt: skip
    assert run(monkeypatch, *command) == 1
    captured = capfd.readouterr()
    assert "exit code 1 of" in captured.err
    lines = {line.split(" | ")[0]: line for line in captured.out.splitlines() if " of " in line}
    assert "| 4 of 6 |" in lines["| bad"]
    assert "| 6 of 6 |" in lines["| good"]
    results = json.loads((tmp_path / "out/grouped/clips/good/results.json").read_text())
    assert results["model"] == "hf:org/name"
    assert results["settings"] == {"epochs": 5}  # a model's own flags come last
    figures = json.loads((tmp_path / "out" / "suite.json").read_text(encoding="utf-8"))
    pairs = {(test["first"], test["second"]): test for test in figures["paired_tests"]}
    assert pairs["majority", "good"]["difference"] == 0
    # Of the six folds of both seeds two test the same speakers, and count once.
    assert (pairs["bad", "good"]["folds"], pairs["majority", "good"]["folds"]) == (3, 5)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--baselines", "mfcc-knn"], 2, "--baselines mfcc-knn: choose among majority"),
        (["--embeddings", "vectors.npz"], 2, "--embeddings vectors.npz: give NAME=VALUE"),
        (["--embeddings", "x=no.npz"], 3, "no.npz: cannot be read"),
        (["--models", "runs/mine"], 2, "--models runs/mine: give NAME=VALUE"),
        (["--models", "majority=runs/mine"], 2, "majority=…: another row has that name"),
        (["--folds", "7"], 2, "folds=7: must be at least 2 and at most 6, the number of groups"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    words: list[str],
    code: int,
    message: str,
    table: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command: list[object] = [table, "--out", tmp_path, "--data-dir", cache]
    command += ["--protocols", "grouped"]
    if "--baselines" not in words:
        command += ["--baselines", "majority"]
    if "--folds" not in words:
        command += ["--folds", 3]
    assert run(monkeypatch, *command, *words) == code
    assert message in capsys.readouterr().err


def test_every_row_takes_the_folds_of_a_file(
    table: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (table, "--data-dir", cache, "--protocols", "grouped", "--baselines", "majority")
    assert run(monkeypatch, *command, "--out", tmp_path / "a", "--folds", 4) == 0
    folds = tmp_path / "a" / "grouped" / "clips" / "majority" / "folds.csv"
    (tmp_path / "clips.csv").write_bytes(folds.read_bytes())
    commands = []

    def started(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(rows.subprocess, "run", started)
    more = ("--folds-csv", tmp_path / "{dataset}.csv", "--models", "m=hf:org/name")
    assert run(monkeypatch, *command, "--out", tmp_path / "b", *more) == 1, "m has failed"
    again = tmp_path / "b" / "grouped" / "clips" / "majority"
    for name in ("folds.csv", "predictions.csv"):
        assert (again / name).read_bytes() == folds.with_name(name).read_bytes()
    (words,) = commands
    assert words[words.index("--folds-csv") + 1] == str(tmp_path / "clips.csv")
    assert "--folds" not in words


def test_baselines_run_every_seed_that_divides_and_no_other(
    table: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (table, "--data-dir", cache, "--baselines", "majority", "--seeds", 0, 1)
    assert (
        run(monkeypatch, *command, "--protocols", "grouped", "--folds", 2, "--out", tmp_path / "a")
        == 0
    )
    folds = tmp_path / "a" / "grouped" / "clips" / "majority" / "folds.csv"
    lines = folds.read_text().splitlines()
    (tmp_path / "same.csv").write_text("\n".join(
        line.partition(",")[2] for line in lines if not line.startswith("1,")
    ))  # fmt: skip
    for name, file, protocol, run_folds in (
        ("b", folds, "given", 4),
        ("c", tmp_path / "same.csv", "grouped", 2),
    ):
        more = ("--protocols", protocol, "--folds-csv", file, "--out", tmp_path / name)
        assert run(monkeypatch, *command, *more) == 0
        results = tmp_path / name / protocol / "clips" / "majority" / "results.json"
        assert json.loads(results.read_text())["folds_run"] == run_folds


def test_folds_are_refused_before_features_are_computed(
    table: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_suite, "host_rows", lambda *_: pytest.fail("computes features"))
    assert run(monkeypatch, table, "--out", tmp_path, "--data-dir", cache, "--folds", 7) == 2


def test_two_datasets_of_one_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "a/clips.csv", "b/clips.csv", "--out", tmp_path) == 2
    said = capsys.readouterr().err
    assert "a/clips.csv and b/clips.csv: are both called 'clips'" in said
