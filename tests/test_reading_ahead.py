"""Recordings in memory are bounded by their seconds, however many files there are."""

import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from voc2vec_jax.audio import input_files, reading_ahead
from voc2vec_jax.audio.input_files import Input
from voc2vec_jax.audio.reading_ahead import decode_ahead, in_groups
from voc2vec_jax.audio.segments import WHOLE, Segment
from voc2vec_jax.errors import AudioError
from voc2vec_jax.features import class_scores, embedding

FILES = 24


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Input]:
    """Of a second each, stereo at 8 kHz: as much in memory as 16 kHz mono."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(FILES):
        sound = np.full((8_000, 2), (number + 1) / 100)
        sf.write(folder / f"{number:02d}.wav", sound, 8_000)
    return [Input(path.name, path) for path in sorted(folder.iterdir())]


class Loaded:
    """Stands for `load_audio`; knows what was read and which of it is still in memory."""

    def __init__(self) -> None:
        self.alive: list[weakref.ref[np.ndarray]] = []
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self, path: Path, **times: float | None) -> np.ndarray:
        waveform = np.full(16_000, int(path.stem), np.float32)
        waveform[::2] += 1.0
        with self._lock:
            self.keep(waveform)
        return waveform

    def keep(self, waveform: np.ndarray) -> None:
        self.alive = [held for held in self.alive if held() is not None]
        self.alive.append(weakref.ref(waveform))
        self.most = max(self.most, len(self.alive))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    loaded = Loaded()
    monkeypatch.setattr(input_files, "load_audio", loaded)
    return loaded


@pytest.mark.parametrize(("seconds", "most"), [(0.5, 1), (3.0, 3), (5.5, 5)])
def test_what_waits_is_bounded_by_its_seconds(
    inputs: list[Input],
    loaded: Loaded,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    most: int,
) -> None:
    monkeypatch.setattr(reading_ahead, "AHEAD_SECONDS", seconds)
    seen = []
    for item, waveform in decode_ahead(inputs):
        assert not isinstance(waveform, AudioError)
        seen.append((item, int(waveform[1])))
        del waveform
    assert seen == [(item, number) for number, item in enumerate(inputs)]
    assert loaded.most <= most + 1  # that which is in use


def test_files_are_decoded_while_another_one_is_in_use(
    inputs: list[Input], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = threading.Event()

    def load(path: Path, **times: float | None) -> np.ndarray:
        if path.stem == "01":
            second.set()
        return np.zeros(400, np.float32)

    monkeypatch.setattr(input_files, "load_audio", load)
    monkeypatch.setattr(reading_ahead, "AHEAD_SECONDS", 0.5)
    coming = decode_ahead(inputs)  # is held, for one that is let go of reads no more
    next(coming)
    assert second.wait(60)


def _seconds(path: Path, segment: Segment = WHOLE) -> float:
    return reading_ahead._seconds_in_memory(Input(path.name, path, segment))


def test_lengths_are_known_before_decoding(tmp_path: Path) -> None:
    for name, rate, channels in (("a.flac", 48_000, 2), ("b.wav", 8_000, 1), ("c.ogg", 16_000, 1)):
        sf.write(tmp_path / name, np.zeros((2 * rate, channels)), rate)
    (tmp_path / "d.m4a").write_bytes(bytes(8_000))
    known = [_seconds(path) for path in sorted(tmp_path.iterdir())]
    assert known == [12.0, 2.0, 2.0, 2.0]
    part = Segment(0.5, 1.0)  # is sought in FLAC and WAV; what is compressed is decoded whole
    assert [_seconds(tmp_path / name, part) for name in ("a.flac", "c.ogg")] == [3.0, 2.0]
    assert _seconds(tmp_path / "none.wav") == 0.0
    streamed = tmp_path / "b.wav"
    whole = bytearray(streamed.read_bytes())
    whole[40:44] = bytes(4)  # a writer that never came back to say how much it wrote
    streamed.write_bytes(whole)
    assert _seconds(streamed) >= 0.5


def test_groups_end_by_files_and_by_seconds() -> None:
    bad = AudioError("x", "is bad")
    lengths = [1, 1, 1, 5, 1, 0, 9, 2]
    decoded = [
        (Input(str(n), Path(str(n))), np.zeros(16_000 * s, np.float32) if s else bad)
        for n, s in enumerate(lengths)
    ]
    groups = [[item.id for item, _ in group] for group in in_groups(iter(decoded), 3, 5.0)]
    assert groups == [["0", "1", "2"], ["3"], ["4", "5", "6"], ["7"]]


def test_predict_keeps_a_group_and_what_waits(
    inputs: list[Input], loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_ahead, "AHEAD_SECONDS", 2.0)
    monkeypatch.setattr(class_scores, "GROUP_SECONDS", 3.0)
    normalised = Loaded()

    def scores(model: Any, waveforms: dict[Input, np.ndarray], *rest: Any) -> Iterator[Input]:
        for waveform in waveforms.values():
            normalised.keep(waveform)
        yield from waveforms

    monkeypatch.setattr(class_scores, "_scores", scores)
    model: Any = SimpleNamespace(preprocessor=SimpleNamespace(do_normalize=True))
    assert list(class_scores.predict(model, inputs)) == inputs
    assert normalised.most <= 3
    assert loaded.most <= 3 + 2 + 1


class Fake:
    """Stands for `Encoding`."""

    pool = "mean"
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=1))

    def __call__(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [waveform[1].reshape(1, 1) for waveform in waveforms]

    def facts(self) -> dict[str, Any]:
        return {"features": "fake"}


def test_embed_keeps_a_part_and_what_waits(
    inputs: list[Input], loaded: Loaded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reading_ahead, "AHEAD_SECONDS", 2.0)
    monkeypatch.setattr(embedding, "SECONDS_PER_PART", 3.0)
    fake: Any = Fake()
    embedding.embed_files(inputs, fake, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as held:
        assert held["embeddings"][:, 0].tolist() == list(range(FILES))
    assert loaded.most <= 3 + 2 + 1
