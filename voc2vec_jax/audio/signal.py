"""Audio files in, padded batches of 16 kHz mono float32 out; no JAX needed here.

Every way in which a file can be unusable ends in one `AudioError` that names it: a clip is never
replaced, shortened or skipped in silence.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from voc2vec_jax.audio.decode import decode
from voc2vec_jax.audio.frame_grid import MIN_SAMPLES
from voc2vec_jax.audio.segments import Segment
from voc2vec_jax.audio.walking import files_below
from voc2vec_jax.errors import AudioError

SAMPLE_RATE = 16_000
# fmt: off
AUDIO_SUFFIXES = frozenset({
    ".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff",
    ".aifc", ".au", ".caf", ".m4a", ".aac", ".3gp", ".amr", ".webm", ".mp4", ".wv",
})
# fmt: on

# Channels cancel if all others together are the loudest one's mirror image, and take away more than
# half of its power. Noise 10 dB down in each channel still leaves a correlation of -0.91; channels
# that are silent, faint, alike or unlike have none below 0, or leave the power.
_MIRRORED_CORRELATION = -0.9
_CANCELLED_POWER = 0.5
_MIX_FRAMES = 2**18  # that are in float64 at a time

_Float32 = npt.NDArray[np.float32]


def load_audio(
    path: str | os.PathLike[str],
    *,
    allow_truncated: bool = False,
    start: float = 0.0,
    end: float | None = None,
) -> _Float32:
    """Reads a file, or a segment of it, as 16 kHz mono.

    soundfile decodes what it can; everything else goes to the `ffmpeg` program, if one is on PATH.
    Channels are averaged, then resampled as by `librosa.load(path, sr=16_000, res_type="soxr_hq")`.
    Where averaging cancels the signal (antiphase stereo, also with noise in it or out of a lossy
    codec), a warning is given and the channel with the most power is taken.

    A file that holds less than its header says is refused: wav, rf64, w64, aiff, caf, au and flac.
    The sizes that streaming writers leave (0, or the largest that fits) mean "until the end of the
    file". mp3, ogg and opus carry no reliable length, so that a cut in one is not noticed; what
    ffmpeg reads is refused if ffmpeg reports any decoding error.

    A segment is cut at the file's own rate r, from sample round(start * r) up to round(end * r),
    and then treated as a file of its own.

    Args:
        path: A local file, of any name.
        allow_truncated: Return what can be read of a truncated or damaged file.
        start: Where the segment begins, in seconds.
        end: Where it ends, in seconds; None: with the file.

    Returns:
        float32 [S], S >= `MIN_SAMPLES`, finite, full scale at +-1.

    Raises:
        AudioError: The file is missing, unreadable, empty, truncated, not audio, too long, too
            short, or has non-finite samples; or it does not hold the segment.
        ValueError: `start` and `end` are no segment.
    """
    path = os.fspath(path)
    samples, rate = decode(path, allow_truncated, Segment(start, end))
    if not np.isfinite(samples).all():
        raise AudioError(path, "has NaN or infinite samples; export it again from its source")
    waveform = _mix_to_mono(samples, path)
    if rate != SAMPLE_RATE and waveform.size:
        waveform = resample(waveform, rate)
    if len(waveform) < MIN_SAMPLES:
        heard = Segment(start, end)
        which = "" if heard.is_whole else f"in {heard} "
        raise AudioError(
            path,
            f"{which}has {len(waveform)} samples at 16 kHz, fewer than the {MIN_SAMPLES} of one "
            "frame; leave it out or pad it",
        )
    return waveform


def resample(waveform: _Float32, rate: int) -> _Float32:
    """A signal [S] of another rate, in Hz, at 16 kHz."""
    import librosa  # takes seconds to import, and 16 kHz files do not need it

    resampled: _Float32 = librosa.resample(
        waveform, orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq"
    )
    return resampled


def normalize(waveform: _Float32) -> _Float32:
    """Gives a clip zero mean and unit (biased) variance: (x - mean) / sqrt(var + 1e-7).

    Matches `transformers.Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm` bit for bit.

    Args:
        waveform: float32 [S], S >= 1.

    Returns:
        float32 [S].

    Raises:
        ValueError: `waveform` is empty, not 1-D or not float32.
    """
    if waveform.ndim != 1 or waveform.dtype != np.float32 or not waveform.size:
        raise ValueError(
            f"waveform must be float32 [S], got {waveform.dtype} {list(waveform.shape)}"
        )
    return _standardize(waveform)


def pad_batch(
    waveforms: Sequence[_Float32],
    *,
    normalize: Literal["none", "clip", "padded"] = "clip",
    pad_to: int | None = None,
) -> tuple[_Float32, npt.NDArray[np.int32]]:
    """Stacks clips into a batch, padded on the right.

    Matches `transformers.Wav2Vec2FeatureExtractor` bit for bit: "clip" is what it does with
    `return_attention_mask=True`, "padded" what it does with `return_attention_mask=False`.

    Args:
        waveforms: Clips, float32 [S_i], S_i >= `MIN_SAMPLES`.
        normalize: "clip" normalises each clip over its own samples and leaves the padding 0;
            "padded" normalises it together with its padding, which moves off 0 and makes the
            signal louder the more padding there is; "none" changes nothing.
        pad_to: Samples to pad to; the longest clip if None.

    Returns:
        waveform float32 [B, S] and the clips' own lengths in samples, int32 [B].

    Raises:
        ValueError: There are no clips, or one is not finite float32 [S_i], is shorter than
            `MIN_SAMPLES`, or is longer than `pad_to`.
    """
    if normalize not in ("none", "clip", "padded"):
        raise ValueError(f"normalize must be 'none', 'clip' or 'padded', got {normalize!r}")
    if len(waveforms) == 0:
        raise ValueError("waveforms is empty; a batch needs at least one clip")
    width = max(map(len, waveforms)) if pad_to is None else pad_to
    for index, waveform in enumerate(waveforms):
        if waveform.ndim != 1 or waveform.dtype != np.float32:
            raise ValueError(
                f"waveforms[{index}] must be float32 [S], "
                f"got {waveform.dtype} {list(waveform.shape)}"
            )
        if len(waveform) < MIN_SAMPLES:
            raise ValueError(
                f"waveforms[{index}] has {len(waveform)} samples, fewer than the {MIN_SAMPLES} "
                "of one frame; leave it out or pad it"
            )
        if len(waveform) > width:
            raise ValueError(
                f"waveforms[{index}] has {len(waveform)} samples, more than pad_to={width}; "
                "crop it or raise pad_to"
            )
        finite = np.isfinite(waveform)
        if not finite.all():
            at = int(finite.argmin())
            raise ValueError(f"waveforms[{index}] has {waveform[at]} at sample {at}")

    batch = np.zeros((len(waveforms), width), np.float32)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = _standardize(waveform) if normalize == "clip" else waveform
        if normalize == "padded":
            row[:] = _standardize(row)
    return batch, np.array([len(waveform) for waveform in waveforms], np.int32)


def find_audio(folder: str | os.PathLike[str]) -> tuple[list[Path], int]:
    """Lists the audio files below a folder by suffix, whatever its case.

    Hidden files and folders (a name that starts with ".") are left out; links to folders are
    followed, see `files_below`.

    Args:
        folder: Where to look.

    Returns:
        The files, sorted by their "/"-separated path below `folder`, which is the same order on
        every machine; and the number of other files, hidden ones included.

    Raises:
        FileNotFoundError: `folder` does not exist.
        NotADirectoryError: `folder` is a file.
        OSError: A folder in it cannot be read.
    """
    root = Path(folder)
    if not root.exists():
        raise FileNotFoundError(f"{str(root)!r}: no such folder; check the path")
    if not root.is_dir():
        raise NotADirectoryError(f"{str(root)!r}: is a file; give the folder that holds it")

    paths = list(files_below(root))
    audio = [
        path
        for path in paths
        if path.suffix.lower() in AUDIO_SUFFIXES
        and not any(part.startswith(".") for part in path.parts)
    ]
    return [root / path for path in sorted(audio, key=Path.as_posix)], len(paths) - len(audio)


def _standardize(waveform: _Float32) -> _Float32:
    standardized: _Float32 = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
    return standardized


def _mix_to_mono(samples: _Float32, path: str) -> _Float32:
    """Mean of [S, channels] over channels, or the loudest channel where the mean cancels."""
    frames, channels = samples.shape
    if channels == 1:
        return samples[:, 0]
    mono = np.empty(frames, np.float32)
    sums, products = np.zeros(channels), np.zeros((channels, channels))
    for start in range(0, frames, _MIX_FRAMES):
        block = samples[start : start + _MIX_FRAMES].astype(np.float64)
        mono[start : start + _MIX_FRAMES] = block.mean(axis=1)
        block -= samples[0]  # of an offset nothing but rounding would be left
        sums += block.sum(axis=0)
        products += block.T @ block
    covariance = products - np.outer(sums, sums) / max(frames, 1)
    loudest = int(covariance.diagonal().argmax())
    power = covariance[loudest, loudest]
    with_others = covariance[loudest].sum() - power
    power_of_others = max(covariance.sum() - 2 * with_others - power, 0.0)
    if (
        with_others < _MIRRORED_CORRELATION * np.sqrt(power * power_of_others)
        and covariance.sum() < _CANCELLED_POWER * power
    ):
        warnings.warn(
            f"{path!r}: channels cancel in the mix (antiphase); taking channel {loudest} alone",
            stacklevel=3,
        )
        return np.ascontiguousarray(samples[:, loudest])
    return mono
