"""What the reports count in real recordings; wants them in the folder VOC2VEC_REAL_AUDIO."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.prepare import prepare_dataset, prepare_table


@pytest.fixture
def recordings() -> Path:
    folder = os.environ.get("VOC2VEC_REAL_AUDIO")
    if not folder:
        pytest.skip("VOC2VEC_REAL_AUDIO does not name a folder of real recordings")
    return Path(folder)


def report_of(directory: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((directory / "report.json").read_text())
    return report


def test_donate_a_cry(recordings: Path, tmp_path: Path) -> None:
    report = report_of(prepare_dataset("donate_a_cry", recordings / "donateacry", tmp_path))
    assert report["clips"] == 457
    assert report["hours"] == pytest.approx(0.8782, abs=5e-5)
    assert report["classes"] == {
        "belly_pain": 16,
        "burping": 8,
        "discomfort": 27,
        "hungry": 382,
        "tired": 24,
    }
    assert report["groups"] == 221
    assert report["dropped"] == report["duplicates"] == []
    assert report["verdict"] == "complete: 457 clips expected"


def test_human_voice(recordings: Path, tmp_path: Path) -> None:
    folder = recordings / "HumanVoiceDataset"
    report = report_of(prepare_dataset("human_voice/all", folder, tmp_path))
    assert report["clips"] == 179
    assert report["hours"] == pytest.approx(0.0575, abs=5e-5)
    assert report["groups"] == 1
    assert report["dropped"] == []
    mono = report_of(prepare_dataset("human_voice/mono", folder, tmp_path))
    assert mono["clips"] == 104


def test_emogator_by_table(recordings: Path, tmp_path: Path) -> None:
    table = recordings / "emogator" / "labels.csv"
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    with open(tmp_path / "emogator.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "group"])
        for row in rows:
            path = table.parent / row["path"]
            writer.writerow([path, row["label"], row["speaker_or_character"]])
    report = report_of(prepare_table(tmp_path / "emogator.csv", None, tmp_path / "data"))
    assert report["clips"] == 2430
    assert report["hours"] == pytest.approx(1.246, abs=1e-3)
    assert len(report["classes"]) == 30
    assert set(report["classes"].values()) == {81}
    assert report["groups"] == 27
    assert report["dropped"] == []
