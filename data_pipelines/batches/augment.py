"""Optional changes to the sound that a model hears in training: its level, and noise under it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STREAM = 4  # apart from the streams of `window_plan.py`, which share the seed


@dataclass(frozen=True)
class Augmentation:
    """Random gain and white noise, drawn anew for every window of every update.

    What a window gets is a pure function of (seed, step, row), so that it depends neither on where
    a run started nor on the number of processes.
    """

    seed: int
    gain_db: float
    """The level changes by up to this much either way, evenly in decibels; 0: not at all."""
    noise_snr_db: tuple[float, float] | None
    """Noise lies between these many decibels under the window's own power; None: no noise."""

    def __call__(self, window: NDArray[np.float32], step: int, row: int) -> None:
        """Changes `window` [S] in place; `row` counts within the global batch."""
        draws = np.random.default_rng([_STREAM, self.seed, step, row])
        gain, level = draws.uniform(-1, 1), draws.uniform()
        if self.noise_snr_db is not None:
            low, high = self.noise_snr_db
            power = np.mean(np.square(window)) * 10 ** (-(low + level * (high - low)) / 10)
            window += np.sqrt(power) * draws.standard_normal(len(window), np.float32)
        window *= np.float32(10 ** (gain * self.gain_db / 20))
