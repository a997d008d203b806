"""Tests of the embedded corpus: contract, determinism, acoustics and difficulty."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
import time
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from scipy import signal
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, recall_score
from sklearn.model_selection import LeaveOneGroupOut, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_pipelines.synthetic.corpus import (
    CLASSES,
    SAMPLE_RATE,
    SyntheticClip,
    synthesize,
    synthetic_corpus,
    write_wavs,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def corpus() -> list[SyntheticClip]:
    """The default corpus: 10 classes, 8 speakers, 5 takes."""
    return list(synthetic_corpus())


@pytest.fixture(scope="module", params=[2, pytest.param(None, marks=pytest.mark.thorough)])
def clips(request: pytest.FixtureRequest) -> list[SyntheticClip]:
    """Of two speakers and takes; or the default corpus, which takes seconds."""
    if request.param is None:
        whole: list[SyntheticClip] = request.getfixturevalue("corpus")
        return whole
    return list(synthetic_corpus(speakers=request.param, takes=request.param))


def _of_class(corpus: list[SyntheticClip], name: str) -> list[NDArray[np.float32]]:
    return [clip.waveform for clip in corpus if CLASSES[clip.label] == name]


def _median_over_clips(corpus: list[SyntheticClip], measure: str) -> dict[str, float]:
    """Median per class of the level (dBFS) or of the share of energy above 1 kHz."""

    def level(waveform: NDArray[np.float32]) -> float:
        return float(10 * np.log10(np.mean(waveform**2)))

    def brightness(waveform: NDArray[np.float32]) -> float:
        hz, power = signal.welch(waveform, SAMPLE_RATE, nperseg=1024)
        return float(power[hz > 1000].sum() / power.sum())

    function = {"level": level, "brightness": brightness}[measure]
    return {n: float(np.median([function(w) for w in _of_class(corpus, n)])) for n in CLASSES}


def _digest(waveform: NDArray[np.float32]) -> str:
    return hashlib.sha256((waveform * 32768).astype("<i2").tobytes()).hexdigest()


# --- contract -------------------------------------------------------------------------------------


def test_ids_labels_and_groups_in_class_major_order() -> None:
    clips = list(synthetic_corpus(speakers=2, takes=2))
    expected = [
        (f"{name}-s{speaker:02d}-t{take:02d}", label, f"s{speaker:02d}")
        for label, name in enumerate(CLASSES)
        for speaker in range(2)
        for take in range(2)
    ]
    assert [(clip.id, clip.label, clip.group) for clip in clips] == expected


def test_waveforms_are_bounded_float32_on_the_16_bit_grid(
    clips: list[SyntheticClip],
) -> None:
    for clip in clips:
        assert clip.waveform.dtype == np.float32, clip.id
        assert clip.waveform.ndim == 1, clip.id
        assert np.abs(clip.waveform).max() <= 1, clip.id  # false for NaN too
        integers = clip.waveform * np.float32(32768)
        np.testing.assert_array_equal(integers, np.rint(integers), err_msg=clip.id)


@pytest.mark.thorough
def test_durations_and_levels_resemble_a_collection_of_recordings(
    corpus: list[SyntheticClip],
) -> None:
    seconds = np.array([len(clip.waveform) / SAMPLE_RATE for clip in corpus])
    assert len(corpus) == 400
    assert 12 <= seconds.sum() / 60 <= 15
    assert 0.3 <= seconds.min() < 0.7
    assert 4 < seconds.max() <= 8
    level_dbfs = [10 * np.log10(np.mean(clip.waveform**2)) for clip in corpus]
    assert min(level_dbfs) > -50
    assert max(level_dbfs) < -6
    assert np.std(level_dbfs) > 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((len(CLASSES), 0, 0, 0), "label=10"),
        ((-1, 0, 0, 0), "label=-1"),
        ((0, -1, 0, 0), "speaker=-1"),
        ((0, 0, -1, 0), "take=-1"),
        ((0, 0, 0, -1), "seed=-1"),
    ],
)
def test_argument_outside_its_range_is_named(
    arguments: tuple[int, int, int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        synthesize(*arguments)


def test_empty_corpus_is_refused() -> None:
    with pytest.raises(ValueError, match="speakers=0"):
        next(synthetic_corpus(speakers=0))


@pytest.mark.parametrize("speaker", [8, 99, 2**31])
def test_speakers_beyond_the_default_eight(speaker: int) -> None:
    for label in range(len(CLASSES)):
        waveform = synthesize(label, speaker, 2**31, seed=2**63)
        assert 0 < np.abs(waveform).max() <= 1


# --- determinism ----------------------------------------------------------------------------------


def test_another_process_and_order_give_the_same_bytes() -> None:
    keys = [(label, label % 3, 1, 7) for label in range(len(CLASSES))]
    program = (
        "from data_pipelines.synthetic.corpus import synthesize; from hashlib import sha256\n"
        f"for key in {keys[::-1]}:\n"
        "    x = synthesize(*key)\n"
        "    print(sha256((x * 32768).astype('<i2').tobytes()).hexdigest())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [_digest(synthesize(*key)) for key in keys][::-1]


def test_clip_does_not_depend_on_the_size_of_the_corpus(clips: list[SyntheticClip]) -> None:
    full = {clip.id: clip.waveform for clip in clips}
    for clip in synthetic_corpus(speakers=2, takes=1):
        np.testing.assert_array_equal(clip.waveform, full[clip.id])


def test_every_argument_changes_the_clip() -> None:
    keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 1, 1, 1)]
    assert len({_digest(synthesize(*key)) for key in keys}) == len(keys)


# --- acoustics ------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_laugh_notes_repeat_four_to_seven_times_a_second(corpus: list[SyntheticClip]) -> None:
    rates = []
    for waveform in _of_class(corpus, "laugh"):
        envelope = librosa.feature.rms(y=waveform, frame_length=640, hop_length=160)[0]  # 100 Hz
        modulation = np.abs(np.fft.rfft(envelope - envelope.mean(), 4096))
        hz = np.fft.rfftfreq(4096, 0.01)
        modulation[hz < 2.5] = 0  # rise and fall of the whole laugh
        rates.append(hz[modulation.argmax()])
    assert 4 < np.median(rates) < 7


@pytest.mark.thorough
def test_scream_is_the_loudest_class(corpus: list[SyntheticClip]) -> None:
    level = _median_over_clips(corpus, "level")
    assert max(level, key=level.__getitem__) == "scream"


@pytest.mark.thorough
def test_hum_is_the_dullest_class(corpus: list[SyntheticClip]) -> None:
    brightness = _median_over_clips(corpus, "brightness")
    assert min(brightness, key=brightness.__getitem__) == "hum"


def test_scream_is_pitched_an_octave_above_hum() -> None:
    def pitch_hz(name: str, speaker: int) -> float:
        waveform = synthesize(CLASSES.index(name), speaker, take=0)
        track = librosa.yin(waveform, fmin=60, fmax=2000, sr=SAMPLE_RATE)
        loud = librosa.feature.rms(y=waveform, frame_length=2048, hop_length=512)[0]
        return float(np.median(track[loud > 0.5 * loud.max()]))

    ratios = [pitch_hz("scream", speaker) / pitch_hz("hum", speaker) for speaker in range(8)]
    assert np.median(ratios) > 2


# --- difficulty -----------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("coefficients", [13, 20])
def test_mfcc_statistics_neither_fail_nor_solve_the_corpus(
    corpus: list[SyntheticClip], coefficients: int
) -> None:
    """Figures of the module docstring: `pytest tests/test_synthetic.py -k mfcc -s`."""
    mfccs = [
        librosa.feature.mfcc(y=clip.waveform, sr=SAMPLE_RATE, n_mfcc=coefficients)
        for clip in corpus
    ]
    features = np.array([np.r_[m.mean(axis=1), m.std(axis=1)] for m in mfccs])
    labels = np.array([clip.label for clip in corpus])
    speakers = np.array([clip.group for clip in corpus])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    by_class = cross_val_predict(model, features, labels, groups=speakers, cv=LeaveOneGroupOut())
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    by_speaker = cross_val_predict(model, features, speakers, cv=folds)
    class_uar = recall_score(labels, by_class, average="macro")
    speaker_accuracy = accuracy_score(speakers, by_speaker)
    print(f"\n{coefficients=} {class_uar=:.3f} {speaker_accuracy=:.3f}")
    assert 0.4 < class_uar < 0.95  # chance 0.1
    assert 0.25 < speaker_accuracy < 0.9  # chance 0.125


# --- files and speed ------------------------------------------------------------------------------


def test_written_wavs_hold_exactly_the_waveforms(tmp_path: Path) -> None:
    clips = list(synthetic_corpus(speakers=1, takes=2, seed=3))
    assert write_wavs(tmp_path / "new" / "folder", speakers=1, takes=2, seed=3) == len(clips)
    with (tmp_path / "new" / "folder" / "clips.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == len(clips)
    for row, clip in zip(rows, clips, strict=True):
        name = CLASSES[clip.label]
        assert row == {"path": f"{name}/{clip.id}.wav", "label": name, "group": clip.group}
        waveform, rate = soundfile.read(tmp_path / "new" / "folder" / row["path"], dtype="float32")
        assert rate == SAMPLE_RATE
        np.testing.assert_array_equal(waveform, clip.waveform)


def test_command_line_writes_the_corpus(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "data_pipelines.synthetic", str(tmp_path)]
    run = subprocess.run(
        [*command, "--speakers", "1", "--takes", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == f"clips={len(CLASSES)} folder={tmp_path}\n"
    assert len(list(tmp_path.glob("*/*.wav"))) == len(CLASSES)


@pytest.mark.thorough
def test_default_corpus_takes_less_than_twenty_seconds() -> None:
    start = time.process_time()
    count = sum(1 for _ in synthetic_corpus(takes=1))
    assert (time.process_time() - start) * 400 / count < 20
