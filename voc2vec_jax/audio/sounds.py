"""Sounds as people hold them (arrays, lists, tensors, paths) as 16 kHz mono float32."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from voc2vec_jax.audio.signal import SAMPLE_RATE, load_audio, resample

Sound = Any
"""An array [S] of any float or integer type, a list of numbers, a tensor of PyTorch, or a path."""
FULL_SCALE = {"i1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31}
"""Of integers, by type; 8-bit sound without a sign has its zero at 128."""


def waveforms_of(
    sounds: Sound | Sequence[Sound], sampling_rate: int | None = None, *, resampled: bool = False
) -> list[npt.NDArray[np.float32]]:
    """Float32 [S] each, for one sound or a list of them.

    Args:
        sounds: One array, list of numbers, tensor or path, or a list of such. Integers are samples
            of their type's full scale; those of 64 bits count as 16-bit samples if they fit.
        sampling_rate: Of the arrays, Hz; None means 16 kHz. Files say their own.
        resampled: Resample arrays of another rate, instead of refusing them.

    Raises:
        ValueError: Several channels, no numbers, nothing at all, or another rate.
        AudioError: A file cannot be used.
    """
    rate = SAMPLE_RATE if sampling_rate is None else sampling_rate
    if rate != SAMPLE_RATE and not resampled:
        raise ValueError(
            f"sampling_rate={rate}: the models take {SAMPLE_RATE} Hz; give resample=True, or "
            "resample before"
        )
    held = [sounds] if _is_one(sounds) else list(sounds)
    if not held:
        raise ValueError("no sounds; give an array, a path, or a list of them")
    return [_waveform(sound, rate, number) for number, sound in enumerate(held)]


def _is_one(sounds: Any) -> bool:
    """Whether this is a single sound, and not a list of some."""
    if isinstance(sounds, str | os.PathLike) or hasattr(sounds, "ndim"):
        return True
    numbers = int | float | np.number
    return isinstance(sounds, list | tuple) and len(sounds) > 0 and isinstance(sounds[0], numbers)


def _waveform(sound: Sound, rate: int, number: int) -> npt.NDArray[np.float32]:
    if isinstance(sound, str | os.PathLike):
        return load_audio(sound)
    if hasattr(sound, "detach"):  # a tensor of PyTorch, which is not imported for it
        sound = sound.detach().cpu()
    samples = np.asarray(sound)
    if samples.ndim != 1:
        raise ValueError(
            f"sound {number} has shape {list(samples.shape)}; give one channel, [samples]: of "
            "[channels, samples] the mean over channels (x.mean(axis=0)), of a batch list(x)"
        )
    waveform = _to_float(samples, number)
    return waveform if rate == SAMPLE_RATE else resample(waveform, rate)


def _to_float(samples: npt.NDArray[Any], number: int) -> npt.NDArray[np.float32]:
    kind = samples.dtype.str[1:]
    if samples.dtype.kind == "f" or samples.dtype.name == "bfloat16":
        return samples.astype(np.float32)
    if kind == "u1":
        return (samples.astype(np.float32) - np.float32(128)) / np.float32(128)
    if kind == "i8" and len(samples):
        sixteen = np.iinfo(np.int16)
        if sixteen.min <= samples.min() and samples.max() <= sixteen.max:
            kind = "i2"
    if kind not in FULL_SCALE:
        raise ValueError(
            f"sound {number} is {samples.dtype}; give floats with full scale ±1, or integers of 8, "
            "16 or 32 bits"
        )
    scaled: npt.NDArray[np.float32] = (samples / FULL_SCALE[kind]).astype(np.float32)
    return scaled
