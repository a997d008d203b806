"""A voice, a vocal tract, a microphone and a room: the physics of the embedded corpus.

    voice   cubic glottal pulse with jitter, shimmer and subharmonics (Klatt & Klatt 1990)
    breath  white noise, damped while the glottis is closed (Klatt 1980)
    tract   cascade of moving resonances, scaled by vocal tract length (Fant 1960)

`sources` turns the control signals of a `Score` into sound at the glottis, `tract` filters it as
one `Speaker` would, `record` puts it into a room. S samples · K settings of the controls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from voc2vec_jax.audio.signal import SAMPLE_RATE

Array = NDArray[Any]  # float64, or complex128 where the unit is a spectrum

HOP = 160  # samples between two settings of the vocal tract (10 ms)
FFT_SIZE = 1024  # leaves 44 ms after each 20 ms frame for the resonances to ring out
CONTROL_STEP = 40  # samples between two settings of the sources (2.5 ms, for plosive onsets)
CONTROL_SECONDS = CONTROL_STEP / SAMPLE_RATE
SPEED_OF_SOUND = 35_000.0  # cm/s, in warm moist air
ADULT_TRACT_CM = 17.5
VOWEL_FORMANTS = 3
BREATH_HZ = 3000.0  # above it turbulence noise falls by 6 dB per octave


@dataclass(frozen=True)
class Speaker:
    """What the takes of one speaker share: voice, tract and recording place."""

    pitch_hz: float
    tract_cm: float
    formant_shift: Array  # [3] personal deviation from the scaled targets, as a factor
    effort: float  # added to the effort of each gesture
    breath_db: float  # added to the level of the breath source
    jitter: float  # standard deviation of the cycle length, as a fraction
    shimmer: float  # standard deviation of the cycle amplitude, as a fraction
    tempo: float
    nasality: float  # added to the nasality of the sound
    mic_db_per_octave: float  # slope above 1 kHz
    noise_dbfs: float
    room_seconds: float  # time in which the reverberation falls by 60 dB
    room_db: float  # reverberation relative to the direct sound


@dataclass(frozen=True)
class Score:
    """Control signals of a clip; K settings, `CONTROL_STEP` samples apart."""

    voice: Array  # [K] linear amplitude
    breath: Array  # [K] linear amplitude
    pitch_hz: Array  # [K]
    effort: Array  # [K]
    roughness: Array  # [K]
    formants_hz: Array  # [K, 3]


def amplitude(decibels: float) -> float:
    return float(10.0 ** (decibels / 20.0))


def glide(knots: Array, length: int) -> Array:
    """[N, F] knots -> [length, F], interpolated linearly."""
    place, nodes = np.linspace(0, len(knots) - 1, length), np.arange(len(knots))
    return np.stack([np.interp(place, nodes, column) for column in knots.T], axis=1)


def smooth(track: Array, seconds: float) -> Array:
    """Moving average of a track [K] or [K, F]; articulators glide, they do not jump."""
    width = 2 * round(seconds / CONTROL_SECONDS / 2) + 1
    return np.asarray(signal.savgol_filter(track, width, 1, axis=0, mode="nearest"))


def sources(score: Score, speaker: Speaker, rng: np.random.Generator) -> tuple[Array, Array]:
    """Voice and breath [S] at the glottis: flow derivative and turbulence noise."""
    samples = len(score.voice) * CONTROL_STEP
    settings = (np.arange(len(score.voice)) + 0.5) * CONTROL_STEP

    def at_samples(track: Array) -> Array:
        return np.interp(np.arange(samples), settings, track)

    pitch_hz, roughness = at_samples(score.pitch_hz), at_samples(score.roughness)
    flutter = smooth(rng.normal(size=len(settings)), 0.12)
    pitch_hz = pitch_hz * (1 + 0.012 * at_samples(flutter / flutter.std()))
    # Jitter belongs to a whole cycle, so cycles are counted first and then stretched.
    cycle = np.cumsum(pitch_hz / SAMPLE_RATE).astype(int)
    jitter = speaker.jitter * rng.normal(size=cycle[-1] + 1)
    pitch_hz = pitch_hz * (1 + jitter[cycle] * (1 + 3 * roughness))
    phase = np.cumsum(pitch_hz / SAMPLE_RATE)
    cycle = phase.astype(int)
    shimmer = 1 + speaker.shimmer * rng.normal(size=cycle[-1] + 1)
    shimmer_now = shimmer[cycle] * (1 - 0.5 * roughness * (cycle % 2))
    modulation_hz = rng.uniform(30, 150)
    rumble = np.sin(2 * np.pi * modulation_hz / SAMPLE_RATE * np.arange(samples))
    loudness = at_samples(score.voice) * shimmer_now * (1 + 0.6 * roughness * rumble)

    open_quotient = 0.85 - 0.4 * at_samples(score.effort)
    opening = (phase - cycle) / open_quotient  # runs from 0 to 1 while the glottis is open
    flow = np.where(opening < 1, 6.75 * opening**2 * (1 - opening), 0.0)
    # Differencing the sampled flow, rather than sampling its derivative with the jump at closure,
    # keeps the aliasing of high voices down. The division makes the level independent of pitch.
    voice = np.diff(flow, prepend=0.0) * SAMPLE_RATE / pitch_hz * loudness

    closed = (opening >= 1) * np.minimum(at_samples(score.voice) * 2, 1)
    breath = rng.normal(size=samples) * at_samples(score.breath) * (1 - 0.6 * closed)
    return voice, breath


def _resonance(hz: Array, centre_hz: Array | float, bandwidth_hz: Array | float) -> Array:
    """Frequency response of a second-order resonance, 1 at 0 Hz."""
    response: Array = centre_hz**2 / (centre_hz**2 - hz**2 + 1j * hz * bandwidth_hz)
    return response


def tract(voice: Array, breath: Array, score: Score, nasality: float, speaker: Speaker) -> Array:
    """Filter the sources [S] by tilt, moving formants, nose and microphone; overlap-add, [S]."""
    samples = len(voice)
    count = -(-samples // HOP) + 1
    centres = np.minimum(np.arange(count) * HOP // CONTROL_STEP, len(score.voice) - 1)
    padding = (HOP, count * HOP - samples)

    def spectra(source: Array) -> Array:
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(source, padding), 2 * HOP)[::HOP]
        window = signal.get_window("hann", 2 * HOP)  # periodic: overlapping halves sum to one
        return np.fft.rfft(frames * window, FFT_SIZE)

    hz = np.fft.rfftfreq(FFT_SIZE, 1 / SAMPLE_RATE)
    corner_hz = 350 * 16.0 ** score.effort[centres, None]  # a relaxed voice is dull
    spectrum = spectra(voice) / (1 + 1j * hz / corner_hz)
    spectrum += spectra(breath) / (1 + 1j * hz / BREATH_HZ)
    openness = score.breath[centres] / (score.breath[centres] + score.voice[centres] + 1e-9)

    # A uniform tube, closed at the glottis, has all its resonances in closed form; the lowest
    # three are then moved from where the tube has them to where the vowel wants them.
    scale = ADULT_TRACT_CM / speaker.tract_cm
    quarter_wave_hz = SPEED_OF_SOUND / (4 * speaker.tract_cm)
    losses_hz = 80 + 12 * (hz / 1000) ** 2  # bandwidth
    response = 1 / np.cosh(np.pi / 2 * (0.5 * losses_hz + 1j * hz) / quarter_wave_hz)
    for index in range(VOWEL_FORMANTS):
        tube_hz = (2 * index + 1) * quarter_wave_hz
        response /= _resonance(hz, tube_hz, 80 + 12 * (tube_hz / 1000) ** 2)
        # An open glottis damps the lowest resonances most.
        width_hz = (80 + 30 * index) * (1 + 2.5 * openness[:, None] / (1 + index))
        spectrum *= _resonance(hz, score.formants_hz[centres, index, None], width_hz)
    nose = _resonance(hz, 450 * scale, 150) / _resonance(hz, 900 * scale, 150)  # pole and zero
    share = min(max(nasality + speaker.nasality, 0.0), 1.0)
    response *= 1 - share + share * nose
    microphone = hz / (hz + 80j) * np.maximum(hz / 1000, 1) ** (speaker.mic_db_per_octave / 6.02)

    blocks = np.fft.irfft(spectrum * response * microphone, FFT_SIZE)
    blocks = np.pad(blocks, ((0, 0), (0, -FFT_SIZE % HOP))).reshape(count, -1, HOP)
    output = np.zeros((count + blocks.shape[1], HOP))
    for offset in range(blocks.shape[1]):
        output[offset : offset + count] += blocks[:, offset]
    return output.ravel()[HOP : HOP + samples]


def record(
    dry: Array, level_dbfs: float, speaker: Speaker, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Add the room, set the level, add background noise and quantise to 16 bits."""
    length = round(speaker.room_seconds * SAMPLE_RATE)
    tail = rng.normal(size=length) * 10 ** (-3 * np.arange(length) / length)
    tail *= amplitude(speaker.room_db) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    wet = signal.fftconvolve(dry, tail)[: len(dry)]
    active = np.sqrt(np.mean(wet[np.abs(wet) > 0.02 * np.abs(wet).max()] ** 2))
    wet *= min(amplitude(level_dbfs) / active, 0.97 / np.abs(wet).max())
    noise = signal.lfilter([1, 0.2], [1, -0.85], rng.normal(size=len(wet)))
    wet += noise / noise.std() * amplitude(speaker.noise_dbfs)
    return np.asarray(np.clip(np.rint(wet * 32768), -32768, 32767) / 32768, np.float32)
