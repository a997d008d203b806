"""A folder of everything that goes wrong: prepared rightly, or listed with a reason."""

import json

import numpy as np
import pytest
import soundfile

from data_pipelines.corpora.prepared import open_prepared
from data_pipelines.preparation.prepare import prepare_folder
from data_pipelines.stores.flat_store import FlatStore


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[FlatStore, dict[str, str]]:
    """The store, and the reason of each dropped file."""
    folder = tmp_path_factory.mktemp("torture")
    soundfile.write(folder / "good.wav", tone(1, 16_000), 16_000, subtype="PCM_16")
    soundfile.write(folder / "last good.flac", tone(1, 16_000), 16_000)
    (folder / "corrupt.wav").write_bytes(np.random.default_rng(0).bytes(20_000))
    whole = (folder / "good.wav").read_bytes()
    (folder / "cut short.wav").write_bytes(whole[:20_000])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "header only.wav").write_bytes(whole[:44])
    nan = tone(1, 16_000).astype(np.float32)
    nan[5_000] = np.nan
    soundfile.write(folder / "nan.wav", nan, 16_000, subtype="FLOAT")
    soundfile.write(folder / "10 ms.wav", tone(0.01, 16_000), 16_000)
    six = np.zeros((44_100, 6))
    six[:, 2] = tone(1, 44_100)
    soundfile.write(folder / "6 channels.wav", six, 44_100, subtype="PCM_16")
    soundfile.write(folder / "8 kHz.wav", tone(1, 8_000), 8_000, subtype="PCM_16")
    soundfile.write(folder / "24 bit.wav", tone(1, 48_000), 48_000, subtype="PCM_24")
    soundfile.write(folder / "float.wav", tone(1, 16_000), 16_000, subtype="FLOAT")
    soundfile.write(folder / "loud.wav", 4 * tone(1, 16_000), 16_000, subtype="FLOAT")
    with open(folder / "mp3 inside.wav", "wb") as file:
        soundfile.write(file, tone(1, 44_100), 44_100, format="MP3")
    soundfile.write(folder / "10 minutes.wav", tone(600, 8_000), 8_000, subtype="PCM_16")
    soundfile.write(folder / "silence.wav", np.zeros(16_000), 16_000)
    (folder / "notes.txt").write_text("no audio")
    (folder / "folder.wav").mkdir()
    data_dir = tmp_path_factory.mktemp("data")
    directory = prepare_folder(folder, "torture", data_dir, classes=False)
    report = json.loads((directory / "report.json").read_text())
    assert report["ignored_files"] == 1
    assert report["silent"] == ["silence.wav"]
    assert report["clipped"] == ["loud.wav"]
    return open_prepared("torture", data_dir), {d["file"]: d["reason"] for d in report["dropped"]}


def test_nothing_is_lost_unlisted(prepared: tuple[FlatStore, dict[str, str]]) -> None:
    store, dropped = prepared
    assert len(store.ids) + len(dropped) == 16
    assert store.ids == [
        *("10 minutes.wav", "24 bit.wav", "6 channels.wav", "8 kHz.wav", "float.wav", "good.wav"),
        *("last good.flac", "loud.wav", "mp3 inside.wav", "silence.wav"),
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("corrupt.wav", "soundfile"),
        ("cut short.wav", "is truncated: its header says 32000 bytes"),
        ("empty.wav", "is empty"),
        ("header only.wav", "is truncated"),
        ("nan.wav", "has NaN or infinite samples"),
        ("10 ms.wav", "has 160 samples at 16 kHz, fewer than the 400"),
    ],
)
def test_what_cannot_be_used_is_listed_with_its_reason(
    prepared: tuple[FlatStore, dict[str, str]], name: str, reason: str
) -> None:
    assert reason in prepared[1][name]


@pytest.mark.parametrize(
    ("name", "seconds", "peak"),
    [
        ("good.wav", 1, 0.5),
        ("last good.flac", 1, 0.5),
        ("6 channels.wav", 1, 0.5 / 6),
        ("8 kHz.wav", 1, 0.5),
        ("24 bit.wav", 1, 0.5),
        ("float.wav", 1, 0.5),
        ("mp3 inside.wav", 1, 0.5),
        ("10 minutes.wav", 600, 0.5),
    ],
)
def test_what_can_be_used_still_is_the_tone(
    prepared: tuple[FlatStore, dict[str, str]], name: str, seconds: float, peak: float
) -> None:
    store, _ = prepared
    clip = store.ids.index(name)
    assert store.lengths[clip] / 16_000 == pytest.approx(seconds, abs=0.1)  # mp3 pads its ends
    middle = store.read(clip, 4_000, 8_000) / 32_768  # half a second, in which 220 periods fit
    spectrum = 2 * np.abs(np.fft.rfft(middle)) / len(middle)
    assert spectrum.argmax() == 220
    assert spectrum.max() == pytest.approx(peak, rel=0.02)
