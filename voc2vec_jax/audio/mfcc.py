"""MFCCs as Kaldi computes them, with first and second differences: HuBERT's first features.

As `torchaudio.compliance.kaldi.mfcc(use_energy=False)` and `torchaudio.functional.compute_deltas`
at their defaults, for a signal with full scale ±1. In float64, since near the floor of the
logarithm the rounding of a float32 Fourier transform shows.
"""

import math

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from voc2vec_jax.audio.signal import SAMPLE_RATE

WINDOW_SAMPLES, HOP_SAMPLES = 400, 160
WIDTH = 39
_COEFFICIENTS = 13
_FFT_SAMPLES = 512
_MEL_BINS = 23
_LOWEST_HZ = 20.0
_PRE_EMPHASIS = 0.97
_LIFTER = 22
_FLOOR = float(np.finfo(np.float32).eps)
"""Of the energy in a mel bin, before its logarithm."""
_DELTA_REACH = 2
"""Frames to each side that a difference looks at."""
_BLOCK_FRAMES = 4_096

_Floats = NDArray[np.float64]


def _povey_window() -> _Floats:
    """[WINDOW_SAMPLES]: a Hann window that does not quite reach 0."""
    hann: _Floats = np.hanning(WINDOW_SAMPLES) ** 0.85
    return hann


def _mel_weights() -> _Floats:
    """[spectrum bins, mel bins]: triangles that are even on the mel scale."""

    def mel(hertz: NDArray | float) -> NDArray:
        return 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)

    edges = np.linspace(mel(_LOWEST_HZ), mel(SAMPLE_RATE / 2), _MEL_BINS + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(np.fft.rfftfreq(_FFT_SAMPLES, 1 / SAMPLE_RATE))[:, None]
    rise, fall = (bins - left) / (centre - left), (right - bins) / (right - centre)
    weights: _Floats = np.maximum(0.0, np.minimum(rise, fall))
    return weights


def _cepstrum_weights() -> _Floats:
    """[mel bins, coefficients]: orthonormal DCT-II, then the lifter."""
    dct = scipy.fft.dct(np.eye(_MEL_BINS), type=2, norm="ortho", axis=1)[:, :_COEFFICIENTS]
    lifter = 1 + 0.5 * _LIFTER * np.sin(np.pi * np.arange(_COEFFICIENTS) / _LIFTER)
    weights: _Floats = dct * lifter
    return weights


_WINDOW, _MEL, _CEPSTRUM = _povey_window(), _mel_weights(), _cepstrum_weights()


def mfcc(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """13 MFCCs of every 10 ms, and their first and second differences.

    Windows of 25 ms, the first at the first sample, none beyond the last (Kaldi's `snip_edges`).

    Args:
        waveform: float32 [S] at 16 kHz, full scale ±1, not normalised.

    Returns:
        float32 [T, 39], T = 1 + (S - 400) // 160.

    Raises:
        ValueError: `waveform` is not a signal, or is shorter than one window.
    """
    if waveform.ndim != 1 or waveform.dtype.kind != "f":
        raise ValueError(f"waveform is {waveform.dtype} {list(waveform.shape)}; give float32 [S]")
    if len(waveform) < WINDOW_SAMPLES:
        raise ValueError(
            f"waveform has {len(waveform)} samples, fewer than the {WINDOW_SAMPLES} of one window;"
            " leave it out or pad it"
        )
    windows = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW_SAMPLES)[::HOP_SAMPLES]
    blocks = range(0, len(windows), _BLOCK_FRAMES)
    static = np.concatenate([_cepstra(windows[i : i + _BLOCK_FRAMES]) for i in blocks])
    deltas = _differences(static)
    return np.concatenate([static, deltas, _differences(deltas)], axis=1).astype(np.float32)


def _cepstra(windows: NDArray[np.float32]) -> _Floats:  # [T, WINDOW_SAMPLES] -> [T, 13]
    frames = windows.astype(np.float64)
    frames -= frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames -= _PRE_EMPHASIS * before
    spectrum = scipy.fft.rfft(frames * _WINDOW, _FFT_SAMPLES, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    cepstra: _Floats = np.log(np.maximum(power @ _MEL, _FLOOR)) @ _CEPSTRUM
    return cepstra


def _differences(frames: _Floats) -> _Floats:
    """Slope of a line through five frames, [T, D]; the first and last frame repeat at the ends."""
    count, reach = len(frames), _DELTA_REACH
    padded = np.pad(frames, ((reach, reach), (0, 0)), mode="edge")
    slopes = np.zeros_like(frames)
    for offset in range(-reach, reach + 1):
        slopes += offset * padded[reach + offset : reach + offset + count]
    return slopes / math.fsum(offset**2 for offset in range(-reach, reach + 1))
