"""What people hold becomes 16 kHz mono float32, or is refused with what to do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from voc2vec_jax.audio.signal import load_audio, resample
from voc2vec_jax.audio.sounds import waveforms_of

SINE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8_000) / 16_000)


@pytest.mark.parametrize(
    ("sound", "step"),
    [
        (SINE.astype(np.float32), 0),
        (SINE, 1e-7),
        (SINE.astype(np.float16), 1e-3),
        (SINE.tolist(), 1e-7),
        (torch.from_numpy(SINE).requires_grad_(), 1e-7),
        (np.round(SINE * 2**15).astype(np.int16), 2**-15),
        (np.round(SINE * 2**15).astype(np.int64), 2**-15),
        (np.round(SINE * 2**15).astype(int).tolist(), 2**-15),
        (np.round(SINE * 2**31).astype(np.int32), 1e-7),
        (np.round(SINE * 2**7).astype(np.int8), 2**-7),
        (np.round(SINE * 2**7 + 128).astype(np.uint8), 2**-7),
    ],
    ids=lambda value: getattr(getattr(value, "dtype", None), "name", None),
)
def test_every_kind_of_number_is_sound_at_its_full_scale(sound: Any, step: float) -> None:
    for given in (sound, [sound], [sound, sound]):
        waveforms = waveforms_of(given)
        assert len(waveforms) == (2 if given is not sound and len(given) == 2 else 1)
        for waveform in waveforms:
            assert waveform.dtype == np.float32
            np.testing.assert_allclose(waveform, SINE, atol=step)


@pytest.mark.parametrize("kind", [np.int16, np.int64])
def test_the_lowest_sample_of_16_bits_is_sound(kind: type) -> None:
    (waveform,) = waveforms_of(np.array([-(2**15), 2**15 - 1, 0], kind))
    np.testing.assert_array_equal(waveform, np.float32([-1, 1 - 2**-15, 0]))


def test_files_say_their_own_rate(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.repeat(SINE, 3), 48_000)
    for given in (path, str(path), [path], [str(path)]):
        np.testing.assert_array_equal(waveforms_of(given)[0], load_audio(path))
    assert len(load_audio(path)) == 8_000


def test_another_rate_is_refused_or_resampled() -> None:
    wide = np.repeat(SINE, 3).astype(np.float32)
    with pytest.raises(ValueError, match="sampling_rate=48000: the models take 16000 Hz; give res"):
        waveforms_of(wide, 48_000)
    (waveform,) = waveforms_of(wide, 48_000, resampled=True)
    np.testing.assert_array_equal(waveform, resample(wide, 48_000))
    assert len(waveforms_of(SINE, 16_000)[0]) == 8_000


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (np.zeros((2, 8_000)), r"sound 0 has shape \[2, 8000\]; give one channel"),
        ([np.zeros(800), np.zeros((1, 800))], r"sound 1 has shape \[1, 800\]"),
        (torch.zeros(2, 800), r"has shape \[2, 800\]"),
        ([], "no sounds; give an array"),
        (np.array(["a", "b"]), "sound 0 is <U1; give floats"),
        (np.array([1, 2**40]), "sound 0 is int64; give floats"),
        (np.array([1 + 2j]), "sound 0 is complex128"),
    ],
)
def test_what_is_no_single_channel_is_refused(sound: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        waveforms_of(sound)
