"""The benchmark measures what it says, in processes that see one framework each."""

import json
from pathlib import Path

import pytest

from tools import benchmark
from tools.benchmarking import worker
from tools.benchmarking.work import FOREIGN, SIDES, WORKS

FIGURES = {"wall_seconds", "cpu_seconds", "peak_rss_mib", "baseline_rss_mib", "warm_up_seconds"}


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLA_FLAGS")  # the tests' four virtual devices are not for the workers


def check(works: list[str], results: list[dict], pairs: int) -> None:
    assert [result["work"] for result in results] == works
    for result in results:
        for side in SIDES:
            figures = result[side]
            assert figures.keys() >= FIGURES
            assert figures["foreign_modules"] == []
            assert len(figures["runs"]) == pairs
            assert 0 < figures["baseline_rss_mib"] < figures["peak_rss_mib"]
            assert len(figures["warm_up_seconds"]) == (0 if result["work"] == "load" else 2)
        for unit in ("wall", "cpu"):
            ratio = result[f"{unit}_ratio"]
            assert 0 < ratio["lowest"] <= ratio["median"] <= ratio["highest"]


def reported(work: str, path: Path) -> dict:
    options = ["--pairs", "1", "--size", "tiny", "--threads", "1", "--json", str(path)]
    assert benchmark.main([work, *options]) == 0
    report: dict = json.loads(path.read_text())
    assert report["environment"]["threads"] == 1
    return report


def test_inference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = reported("inference", tmp_path / "out.json")
    check(["inference"], report["works"], pairs=1)
    assert "inference 8 × 5 s" in capsys.readouterr().out


@pytest.mark.thorough
def test_loading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = reported("load", tmp_path / "out.json")
    check(["load", "load"], report["works"], pairs=1)
    assert [result["format"] for result in report["works"]] == [".safetensors", ".bin"]
    assert "load tiny.bin" in capsys.readouterr().out


@pytest.mark.slow
def test_everything(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    assert benchmark.main(["all", "--pairs", "2", "--size", "tiny", "--json", str(path)]) == 0
    results = json.loads(path.read_text())["works"]
    check([*WORKS, "load"], results, pairs=2)
    assert [result["format"] for result in results[-2:]] == [".safetensors", ".bin"]
    ours, theirs = (results[1][side]["first_value"] for side in SIDES)
    assert ours == pytest.approx(theirs, rel=1e-4)  # the losses of the first step


def test_sides_take_turns_at_going_first() -> None:
    assert benchmark.order(3) == [("jax", "torch"), ("torch", "jax"), ("jax", "torch")]


@pytest.mark.thorough
def test_a_worker_that_fails_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(benchmark.WorkerError, match="the jax worker ended with code 1"):
        benchmark.measure("load", tmp_path / "none", 1, 1)
    assert "none" in capfd.readouterr().err


def test_a_worker_sees_what_it_should_not_have_loaded() -> None:
    import torch  # noqa: F401

    assert "jax" in worker.foreign_modules("torch")
    assert "torch" in worker.foreign_modules("jax")
    assert all(name not in FOREIGN["jax"] for name in FOREIGN["torch"])


def test_different_work_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Fake:
        def __init__(self, request: benchmark.Request):
            self.side = request.side
            self.ready = {"warm_up_seconds": []}

        def __enter__(self) -> "Fake":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def run(self) -> dict[str, float]:
            seconds = {"jax": 1.0, "torch": 2.0}[self.side]
            return {"wall_seconds": seconds, "cpu_seconds": 2 * seconds}

        def finish(self) -> dict[str, object]:
            value = {"jax": 1.0, "torch": theirs}[self.side]
            return {"first_value": value, "peak_rss_mib": 1.0, "foreign_modules": []}

    monkeypatch.setattr(benchmark, "Worker", Fake)
    theirs = 1.0001
    result = benchmark.measure("inference", tmp_path, 3, 1)
    assert result["wall_ratio"] == {"median": 0.5, "lowest": 0.5, "highest": 0.5}
    theirs = 1.01
    with pytest.raises(benchmark.WorkerError, match="not the same work"):
        benchmark.measure("inference", tmp_path, 3, 1)
