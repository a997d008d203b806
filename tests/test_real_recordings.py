"""What the reports count in real recordings; wants them in the folder VOC2VEC_REAL_AUDIO."""

import csv
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest

from data_pipelines.preparation.fingerprint import FingerprintIndex, fingerprint
from data_pipelines.preparation.prepare import prepare_dataset, prepare_table
from data_pipelines.stores.sound import from_int16, to_int16
from voc2vec_jax.audio.signal import load_audio


@pytest.fixture
def recordings() -> Path:
    folder = os.environ.get("VOC2VEC_REAL_AUDIO")
    if not folder:
        pytest.skip("VOC2VEC_REAL_AUDIO does not name a folder of real recordings")
    return Path(folder)


def report_of(directory: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((directory / "report.json").read_text())
    return report


@pytest.mark.thorough
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


@pytest.mark.thorough
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


TRANSFORMATIONS = {
    "8 kHz": ["-ar", "8000", "-f", "wav"],
    "22.05 kHz, -12 dB": ["-ar", "22050", "-af", "volume=-12dB", "-f", "wav"],
    "mp3 64 kbit/s": ["-b:a", "64k", "-ac", "1", "-f", "mp3"],
    "44.1 kHz, +6 dB, mp3 64 kbit/s": [
        *("-ar", "44100", "-b:a", "64k", "-af", "volume=6dB", "-f", "mp3"),
    ],
    "first 0.313 s cut off": ["-af", "atrim=start=0.313,asetpts=PTS-STARTPTS", "-f", "wav"],
    "last 0.5 s cut off": ["-af", "areverse,atrim=start=0.5,areverse", "-f", "wav"],
}


def is_one_recording(one: str, other: str) -> bool:
    """The stereo takes of HumanVoiceDataset repeat the mono ones, five of them misnamed."""
    takes = "exports/mono", "exports/stereo"
    return one == other or all("notes/" + take in one + other for take in takes)


@pytest.mark.thorough
def test_overlap_recall_and_false_positives(recordings: Path, tmp_path: Path) -> None:
    """Prints the table in docs/data.md: `-k overlap -s`, with VOC2VEC_OVERLAP_CLIPS=500."""
    count = int(os.environ.get("VOC2VEC_OVERLAP_CLIPS", "40"))
    paths = sorted(p for p in recordings.rglob("*") if p.suffix.lower() in (".wav", ".mp3"))
    chosen = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))[:count]]
    decoded = {str(p): from_int16(*to_int16(load_audio(p))) for p in chosen}
    index = FingerprintIndex([fingerprint(samples) for samples in decoded.values()])
    names = list(decoded)
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    changed = tmp_path / "changed.bin"
    for title, options in TRANSFORMATIONS.items():
        recognised = wrong = 0
        for clip, name in enumerate(names):
            command = [ffmpeg, "-v", "error", "-y", "-i", name, *options, str(changed)]
            subprocess.run(command, check=True)
            heard = from_int16(*to_int16(load_audio(changed)))
            found = [m.clip for m in index.search(fingerprint(heard))]
            recognised += clip in found
            wrong += sum(not is_one_recording(name, names[other]) for other in found)
        print(f"{title}: recall {recognised}/{count}, false {wrong}/{count * (count - 1)}")
        assert recognised >= 0.93 * count
        assert wrong == 0
