"""The suite from tables of recordings to a page of tables, and what stops it."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.synthetic import write_wavs
from tools import evaluate_suite


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 clips of ten classes by six speakers."""
    folder = tmp_path_factory.mktemp("corpus")
    write_wavs(folder, speakers=6, takes=1)
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["evaluate_suite", *map(str, words)])
    evaluate_suite.main()


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
        "--embeddings", f"noise={tmp_path}/{{dataset}}.npz",
    )  # fmt: skip
    run(monkeypatch, *command)
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
    run(monkeypatch, *command)
    assert kept.stat().st_mtime_ns == changed
    again, first = json.loads(lost.read_text()), json.loads(before)
    assert again["scores"] == first["scores"]


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
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *command, "--baselines", "majority")
    assert stopped.value.code == 3
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


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--baselines", "mfcc-knn"], 2, "--baselines mfcc-knn: choose among majority"),
        (["--embeddings", "vectors.npz"], 2, "--embeddings vectors.npz: give NAME=FILE"),
        (["--embeddings", "x=no.npz"], 3, "no.npz: cannot be read"),
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
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *command, *words)
    assert stopped.value.code == code
    assert message in capsys.readouterr().err
