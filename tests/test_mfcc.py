"""MFCCs equal Kaldi's.

Where a mel bin holds next to nothing beside loud ones, the logarithm shows the rounding of a
float32 Fourier transform: on some recordings torchaudio differs from itself in float64 by 1.6e-2.
There the reference is torchaudio in float64, and float32 is matched up to that rounding.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from voc2vec_jax.audio.mfcc import WIDTH, mfcc
from voc2vec_jax.audio.signal import find_audio, load_audio

BOUND = 1e-3
"""On values of up to 100."""
ROUNDING = 3e-2
"""Of a float32 reference, where it shows."""


def by_kaldi(waveform: np.ndarray) -> np.ndarray:
    """13 coefficients [T, 13] by a package that follows Kaldi's C++."""
    import kaldi_native_fbank as knf

    options = knf.MfccOptions()
    options.use_energy = False
    options.frame_opts.dither = 0.0
    computer = knf.OnlineMfcc(options)
    computer.accept_waveform(16_000, waveform.tolist())
    computer.input_finished()
    return np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])


def differences(frames: np.ndarray) -> np.ndarray:
    """Regression over five frames by its formula, frame by frame."""
    last = len(frames) - 1
    found = np.zeros_like(frames)
    for t in range(len(frames)):
        for n in (1, 2):
            found[t] += n * (frames[min(t + n, last)] - frames[max(t - n, 0)]) / 10
    return found


def by_torchaudio(waveform: np.ndarray) -> np.ndarray:
    """[T, 39] in float64; skips the test where torchaudio is not installed."""
    try:
        from torchaudio.compliance import kaldi
        from torchaudio.functional import compute_deltas
    except (ImportError, OSError) as error:
        pytest.skip(f"torchaudio cannot be imported ({error})")
    import torch

    signal = torch.from_numpy(waveform).to(torch.float64)[None]
    static = kaldi.mfcc(signal, use_energy=False, sample_frequency=16_000).T
    deltas = compute_deltas(static)
    return torch.cat([static, deltas, compute_deltas(deltas)]).T.numpy()


def errors(waveform: np.ndarray) -> np.ndarray:
    """Absolute differences [T, 39] from Kaldi's C++ in float32."""
    static = by_kaldi(waveform).astype(np.float64)
    deltas = differences(static)
    expected = np.concatenate([static, deltas, differences(deltas)], axis=1)
    found = mfcc(waveform)
    assert found.dtype == np.float32
    assert found.shape == expected.shape == (1 + (len(waveform) - 400) // 160, WIDTH)
    return np.abs(found - expected)


@pytest.mark.parametrize("samples", [400, 401, 559, 560, 719, 720, 1_040, 16_000, 16_123])
@pytest.mark.parametrize("loudness", [1e-4, 1e-2, 1.0])
def test_noise_of_any_length_and_loudness(samples: int, loudness: float) -> None:
    random = np.random.default_rng(samples)
    noise = (loudness * random.uniform(-1, 1, samples)).astype(np.float32)
    assert errors(noise).max() < BOUND


@pytest.mark.parametrize("hertz", [60.0, 440.0, 7_900.0])
def test_tones(hertz: float) -> None:
    """Most mel bins of a tone hold next to nothing."""
    tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(8_000) / 16_000)
    assert errors(tone.astype(np.float32)).max() < ROUNDING


def test_silence_offset_and_a_click() -> None:
    silence = np.zeros(1_600, np.float32)
    assert errors(silence).max() < BOUND
    assert errors(silence + np.float32(0.25)).max() < BOUND
    click = silence.copy()
    click[777] = -1.0
    assert errors(click).max() < BOUND


def test_numbers_of_torchaudio() -> None:
    """A chirp, as `by_torchaudio` gives it with torchaudio 2.11 and PyTorch 2.13."""
    time = np.arange(2_000) / 16_000
    chirp = (0.3 * np.sin(2 * np.pi * (200 + 8_000 * time) * time)).astype(np.float32)
    found = mfcc(chirp)
    for (frame, coefficient), value in TORCHAUDIO.items():
        assert found[frame, coefficient] == pytest.approx(value, abs=BOUND), (frame, coefficient)


TORCHAUDIO = {
    (0, 0): -51.2550,
    (0, 1): 73.4167,
    (0, 12): -8.1664,
    (0, 13): 0.5877,
    (0, 20): 14.3822,
    (0, 38): -0.3016,
    (5, 0): -49.1963,
    (5, 12): -2.7317,
    (5, 20): -24.8175,
    (5, 38): 1.5997,
    (10, 0): -51.6128,
    (10, 1): -2.1051,
    (10, 12): 3.2959,
    (10, 20): 19.5074,
    (10, 38): -1.3113,
}
"""By frame and coefficient."""


def test_long_clips_are_computed_in_blocks_without_a_seam() -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, 160 * 4_200 + 240).astype(np.float32)
    whole = mfcc(noise)
    assert whole.shape == (4_200, 39)
    part = mfcc(noise[160 * 4_060 :])  # across the seam at 4,096
    np.testing.assert_allclose(part[4:], whole[4_064:], atol=1e-5)


@pytest.mark.parametrize(
    "wrong", [np.zeros(399, np.float32), np.zeros((1, 800), np.float32), np.zeros(800, np.int16)]
)
def test_what_is_no_signal_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="waveform"):
        mfcc(wrong)


def recordings() -> list[Path]:
    """Forty of them."""
    folder = os.environ.get("VOC2VEC_REAL_AUDIO")
    if not folder:
        pytest.skip("VOC2VEC_REAL_AUDIO does not name a folder of real recordings")
    paths, _ = find_audio(Path(folder))
    return paths[:: max(len(paths) // 40, 1)]


def test_real_recordings() -> None:
    exact = []
    for path in recordings():
        waveform = load_audio(path)
        for samples in (len(waveform), len(waveform) // 2, 400):
            found = errors(waveform[: max(samples, 400)])
            assert found.max() < ROUNDING, path
            exact.append(found.max() < BOUND)
    assert np.mean(exact) > 0.9


def test_real_recordings_by_torchaudio() -> None:
    by_torchaudio(np.zeros(400, np.float32))  # skips before anything is read
    for path in recordings():
        waveform = load_audio(path)
        for samples in (len(waveform), len(waveform) // 2, 400):
            part = waveform[: max(samples, 400)]
            assert np.abs(mfcc(part) - by_torchaudio(part)).max() < BOUND, path
