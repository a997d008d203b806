"""The sound of a clip as it is kept: int16 samples, and what they are multiplied by.

16-bit files, and whatever else stays within full scale, have a scale of 1. What goes beyond, as
files of floats and resampled ones may, has the scale that makes its largest sample fit, so that
training hears what `load_audio` gives to every other command.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Int16Array = NDArray[np.int16]


class Sound(NamedTuple):
    """What is kept of a clip's sound."""

    samples: Int16Array
    """[S] at 16 kHz, 32768 for `scale`."""
    scale: float = 1.0
    """A float32."""

    @property
    def sha256(self) -> str:
        """Equal where two clips are the same sound."""
        return sound_sha256(self.samples.astype("<i2", copy=False).tobytes(), self.scale)


def sound_sha256(samples: bytes, scale: float) -> str:
    """Hash of little-endian int16 samples; the scale is part of it where it is not 1."""
    found = hashlib.sha256(samples)
    if scale != 1:
        found.update(np.float32(scale).astype("<f4").tobytes())
    return found.hexdigest()


def to_int16(waveform: NDArray[np.float32]) -> Sound:
    """float32 [S], full scale ±1, rounded to int16.

    A 16-bit file comes out exact; +1, which int16 lacks, becomes 32767. A waveform that goes beyond
    ±1 is divided by the smallest scale that fits it in, so that nothing is cut off; a file of
    16-bit integers that were written as floats comes out exact too if it uses all of their range.
    """
    highest, lowest = (float(of(waveform, initial=0)) for of in (np.max, np.min))
    scale = 1.0
    if max(highest, -lowest) > 1:
        largest = float(np.finfo(np.float32).max)
        scale = float(np.float32(min(max(highest * (32768 / 32767), -lowest), largest)))
    samples = np.rint(waveform * np.float32(32768) if scale == 1 else waveform / (scale / 32768))
    return Sound(np.clip(samples, -32768, 32767).astype("<i2"), scale)


def from_int16(samples: Int16Array, scale: float = 1.0) -> NDArray[np.float32]:
    """Undo `to_int16` up to rounding: float32 [S], full scale ±1."""
    return samples.astype(np.float32) * np.float32(scale / 32768)
