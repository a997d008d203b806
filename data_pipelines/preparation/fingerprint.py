"""Audio fingerprints: which clips are the same recording, whatever was done to them since.

After Haitsma and Kalker (ISMIR 2002): every 16 ms a 32-bit hash says for each pair of neighbouring
frequency bands whether their difference in level grows. Loudness, sample rate and codec hardly
change that sign; other recordings agree in half of the bits. Bands end below 3.7 kHz, so that
recordings at 8 kHz have them all.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from voc2vec_jax.audio.signal import SAMPLE_RATE

HOP_SAMPLES = 256
WINDOW_SAMPLES = 4_096
LAG_FRAMES = 4
"""Over which a change is looked at."""
HASH_BITS = 32
LOWEST_HZ, HIGHEST_HZ = 250.0, 3_700.0
SOUNDING_RMS = 1e-3
"""A quieter frame (-60 dB of full scale) is not compared."""
WEAK_BITS = 4
"""Least certain bits of a hash, all of whose flips are looked up too."""
MOST_COMMON = 200
"""A hash that occurs more often says nothing."""
CANDIDATES = 20
"""Alignments of a clip that are compared bit by bit."""
MIN_FRAMES = 16
MIN_SHARE = 0.6
"""Of the sounding frames of the shorter clip, how many have to be compared."""
MAX_ERROR_RATE = 0.30
"""Share of differing bits up to which two clips are one recording; chance is 0.5."""
MIN_DEVIATIONS = 5.0
"""How many standard deviations below chance it has to be as well, which decides for short clips."""

_BLOCK_FRAMES = 512
_OFFSET = 1 << 31
"""Added to an alignment to make it positive."""


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Of one clip; F frames, 16 ms apart."""

    hashes: NDArray[np.uint32]
    """[F]"""
    weakest: NDArray[np.uint8]
    """[F, WEAK_BITS] the least certain bits of each hash, least certain first."""
    sounding: NDArray[np.bool_]
    """[F]"""


@dataclass(frozen=True)
class Match:
    """A clip of an index that is the recording that was searched for."""

    clip: int
    offset_seconds: float
    """Where in that clip the searched one starts; negative if before its start."""
    error_rate: float
    """Share of differing bits."""


def _band_weights() -> NDArray[np.float32]:
    """[bins, HASH_BITS + 1] which bin of the spectrum belongs to which band."""
    hertz = np.fft.rfftfreq(WINDOW_SAMPLES, 1 / SAMPLE_RATE)
    edges = np.geomspace(LOWEST_HZ, HIGHEST_HZ, HASH_BITS + 2)
    band = np.searchsorted(edges, hertz, side="right") - 1
    return (band[:, None] == np.arange(HASH_BITS + 1)).astype(np.float32)


_BANDS = _band_weights()
_HANN = np.hanning(WINDOW_SAMPLES).astype(np.float32)


def fingerprint(waveform: NDArray[np.float32]) -> Fingerprint:
    """The fingerprint of a clip, float32 [S] at 16 kHz; short ones are padded with silence."""
    shortest = WINDOW_SAMPLES + HOP_SAMPLES * LAG_FRAMES
    waveform = np.pad(waveform, (0, max(shortest - len(waveform), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW_SAMPLES)[::HOP_SAMPLES]
    levels, powers = [], []  # [F, bands], [F]
    for start in range(0, len(frames), _BLOCK_FRAMES):
        block = frames[start : start + _BLOCK_FRAMES]
        spectrum = scipy.fft.rfft(block * _HANN, axis=1)
        power = spectrum.real**2 + spectrum.imag**2
        levels.append(np.log(power @ _BANDS + 1e-9))
        powers.append(np.einsum("fs,fs->f", block, block) / WINDOW_SAMPLES)
    tilt = np.diff(np.concatenate(levels), axis=1)
    change = tilt[LAG_FRAMES:] - tilt[:-LAG_FRAMES]  # [F, HASH_BITS]
    bits = np.uint32(1) << np.arange(HASH_BITS, dtype=np.uint32)
    weakest = np.argpartition(np.abs(change), WEAK_BITS, axis=1)[:, :WEAK_BITS]
    return Fingerprint(
        hashes=np.where(change > 0, bits, 0).sum(axis=1, dtype=np.uint32),
        weakest=weakest.astype(np.uint8),
        sounding=np.concatenate(powers)[LAG_FRAMES:] > SOUNDING_RMS**2,
    )


class FingerprintIndex:
    """Clips that can be searched for another clip.

    Args:
        fingerprints: At least one; matches number them in this order.
    """

    def __init__(self, fingerprints: Sequence[Fingerprint]) -> None:
        self._fingerprints = fingerprints
        counts = [len(item.hashes) for item in fingerprints]
        clips = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        frames = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
        sounding = np.concatenate([item.sounding for item in fingerprints])
        hashes = np.concatenate([item.hashes for item in fingerprints])[sounding]
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._clips, self._frames = clips[sounding][order], frames[sounding][order]

    def search(self, query: Fingerprint) -> list[Match]:
        """The clips that are the recording of `query`, or contain it or a part of it."""
        clips, offsets = self._hits(query)
        # One number for each alignment; the most common first, of equals the one found first.
        keys = clips.astype(np.int64) << 32 | (offsets.astype(np.int64) + _OFFSET)
        alignments, first, votes = np.unique(keys, return_index=True, return_counts=True)
        chosen = alignments[np.lexsort((first, -votes))[:CANDIDATES]].tolist()
        best: dict[int, Match] = {}
        for key in chosen:
            clip, offset = key >> 32, (key & 0xFFFFFFFF) - _OFFSET
            rate, frames = _compare(self._fingerprints[clip], query, offset)
            # Windows overlap, so that only one frame in sixteen tells something new.
            deviation = 0.5 / np.sqrt(max(HASH_BITS * frames * HOP_SAMPLES / WINDOW_SAMPLES, 1))
            limit = min(MAX_ERROR_RATE, 0.5 - MIN_DEVIATIONS * deviation)
            if rate <= limit and (clip not in best or rate < best[clip].error_rate):
                best[clip] = Match(clip, offset * HOP_SAMPLES / SAMPLE_RATE, rate)
        return sorted(best.values(), key=lambda match: match.error_rate)

    def _hits(self, query: Fingerprint) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Clip, and frame in it at which the query would start, for each hash they share."""
        (own_frames,) = np.nonzero(query.sounding)
        flips = np.uint32(1) << query.weakest.astype(np.uint32)  # [F, WEAK_BITS]
        subsets = [
            list(chosen)
            for count in range(WEAK_BITS + 1)
            for chosen in itertools.combinations(range(WEAK_BITS), count)
        ]
        flip = np.stack([np.bitwise_or.reduce(flips[:, s], axis=1) for s in subsets])
        wanted = (query.hashes ^ flip.astype(np.uint32))[:, own_frames].ravel()
        first = np.searchsorted(self._hashes, wanted, side="left")
        counts = np.searchsorted(self._hashes, wanted, side="right") - first
        counts[counts > MOST_COMMON] = 0
        # Runs of places in the index, one run after the other.
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        places = np.repeat(first, counts) + within
        frames = np.repeat(np.tile(own_frames, len(subsets)), counts)
        return self._clips[places], self._frames[places] - frames


def _compare(one: Fingerprint, other: Fingerprint, offset: int) -> tuple[float, int]:
    """Share of differing bits when `other` starts at a frame of `one`, and frames compared.

    The share is 1 if too little overlaps.
    """
    start, stop = max(offset, 0), min(len(one.hashes), offset + len(other.hashes))
    ours, theirs = slice(start, stop), slice(start - offset, stop - offset)
    both = one.sounding[ours] & other.sounding[theirs]
    shorter = min(one.sounding.sum(), other.sounding.sum())
    if both.sum() < max(MIN_FRAMES, MIN_SHARE * shorter):
        return 1.0, 0
    differing = np.bitwise_count(one.hashes[ours] ^ other.hashes[theirs])[both]
    return float(differing.mean()) / HASH_BITS, len(differing)
