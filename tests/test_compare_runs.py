"""Pictures and figures of several runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from tools import compare_runs


def make_run(folder: Path, rate: float, steps: int) -> Path:
    folder.mkdir()
    entries: list[dict[str, Any]] = [
        {"step": 10 * i, "contrastive_loss": float(i), "accuracy": None, "gradient_norm": rate}
        for i in range(1, steps + 1)
    ]
    lines = [json.dumps(entry) for entry in entries]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {"optim": {"learning_rate": rate}, "data": {"folder": str(folder), "name": "x"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_two_runs_become_a_picture_and_their_differing_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [make_run(tmp_path / "calm", 0.1, 130), make_run(tmp_path / "wild", 0.2, 7)]
    out = tmp_path / "both"
    monkeypatch.setattr("sys.argv", ["compare_runs", *map(str, runs), "--out", str(out)])
    compare_runs.main()
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    figures = json.loads(out.with_suffix(".json").read_text())
    assert figures["differing_settings"] == {"optim.learning_rate": {"calm": 0.1, "wild": 0.2}}
    assert len(figures["curves"]["calm"]) <= compare_runs.POINTS
    first = figures["curves"]["calm"][0]  # steps 10, 20 and 30 as one point
    assert first == {"step": 30, "contrastive_loss": 2.0, "gradient_norm": 0.1}
    assert figures["curves"]["calm"][-1]["step"] == 1300
    assert [point["step"] for point in figures["curves"]["wild"]] == list(range(10, 80, 10))


def test_what_comes_later_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 0.1, 9)
    assert [point["step"] for point in compare_runs.read_curves(run, 30)] == [10, 20, 30]
    with pytest.raises(ValueError, match="no step logged up to update 5"):
        compare_runs.read_curves(run, 5)
