"""Frames of many clips of any length, in few compilations and little padding."""

import math
from collections.abc import Sequence

import numpy as np

from voc2vec_jax.audio import SAMPLE_RATE, frames_from_samples, normalize
from voc2vec_jax.models.wav2vec2 import ModelOutput
from voc2vec_jax.pretrained import PretrainedModel

BATCH_SECONDS = 32.0
"""Padded audio that is encoded at once."""
SHORTEST_BUCKET = 8_192
"""Samples."""


def encode(
    model: PretrainedModel,
    waveforms: Sequence[np.ndarray],
    *,
    layer: int | None = None,
    window_seconds: float = 30.0,
) -> list[np.ndarray]:
    """The frames of each clip, which depend neither on the other clips nor on their order.

    A clip is normalised as the checkpoint says, over its whole length. One that is longer than
    `window_seconds` is cut into equally long windows that are encoded apart, since attention takes
    memory by the square of the length.

    Args:
        model: An encoder, with `padding="masked"`.
        waveforms: Float32 [S] each, 16 kHz mono.
        layer: Which hidden state: 0 is the input of the first block, i the output of block i.
            None is the model's output, after the final norm where there is one.
        window_seconds: Longest stretch that is encoded at once.

    Returns:
        Per clip [T, D] float32.
    """
    assert model.padding == "masked"
    windows: list[tuple[int, np.ndarray]] = []
    for clip, waveform in enumerate(waveforms):
        signal = normalize(waveform) if model.preprocessor.do_normalize else waveform
        count = math.ceil(len(signal) / (window_seconds * SAMPLE_RATE))
        ends = [len(signal) * (i + 1) // count for i in range(count)]
        windows += [(clip, part) for part in np.split(signal, ends[:-1])]
    frames: list[np.ndarray | None] = [None] * len(windows)
    for rows, bucket in _batches([len(part) for _, part in windows]):
        size = 2 ** (len(rows) - 1).bit_length()  # few sizes, so that few are compiled
        batch = np.zeros((size, bucket), np.float32)
        lengths = np.full(size, bucket, np.int32)  # of rows that nobody reads
        for row, number in enumerate(rows):
            part = windows[number][1]
            batch[row, : len(part)] = part
            lengths[row] = len(part)
        out = model(batch, lengths, output_hidden_states=layer is not None)
        assert isinstance(out, ModelOutput)
        hidden = out.last_hidden_state
        if layer is not None:
            assert out.hidden_states is not None
            hidden = out.hidden_states[layer]
        values = np.asarray(hidden)
        counts = frames_from_samples(lengths, model.config.conv_kernel, model.config.conv_stride)
        for row, number in enumerate(rows):
            frames[number] = values[row, : counts[row]]
    per_clip: list[list[np.ndarray]] = [[] for _ in waveforms]
    for (clip, _), part_frames in zip(windows, frames, strict=True):
        assert part_frames is not None
        per_clip[clip].append(part_frames)
    return [np.concatenate(parts) for parts in per_clip]


def _batches(lengths: Sequence[int]) -> list[tuple[list[int], int]]:
    """Indices of windows that are encoded together, and the samples that they are padded to."""
    by_bucket: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        by_bucket.setdefault(_bucket(length), []).append(number)
    batches = []
    for bucket, numbers in sorted(by_bucket.items()):
        size = max(int(BATCH_SECONDS * SAMPLE_RATE) // bucket, 1)
        size = 2 ** (size.bit_length() - 1)
        batches += [(numbers[i : i + size], bucket) for i in range(0, len(numbers), size)]
    return batches


def _bucket(samples: int) -> int:
    """The shortest of 2^k and 3 · 2^(k-2) that holds `samples`: few compilations, little waste."""
    octave = 2 ** (max(samples, SHORTEST_BUCKET) - 1).bit_length()
    return octave * 3 // 4 if max(samples, SHORTEST_BUCKET) <= octave * 3 // 4 else octave
