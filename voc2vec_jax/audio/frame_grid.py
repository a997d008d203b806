"""Which samples a frame of the convolutions sees, and how many frames a signal has."""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

_Count = TypeVar("_Count")

CONV_KERNELS = (10, 3, 3, 3, 3, 2, 2)
CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)
# Receptive field of one frame, and the distance between frames, of the stack above.
MIN_SAMPLES = 1 + sum(
    (kernel - 1) * math.prod(CONV_STRIDES[:layer]) for layer, kernel in enumerate(CONV_KERNELS)
)
HOP_SAMPLES = math.prod(CONV_STRIDES)


def frames_from_samples(
    samples: _Count,
    kernels: Sequence[int] = CONV_KERNELS,
    strides: Sequence[int] = CONV_STRIDES,
) -> _Count:
    """Frames that the convolution stack makes of a number of samples.

    Per layer floor((n - kernel) / stride) + 1, as
    `transformers.Wav2Vec2Model._get_feat_extract_output_lengths`, but never below 0.

    Args:
        samples: A count or an array of them, of any shape: int, signed numpy or jax integers
            (traced ones too).
        kernels: Kernel size of each layer.
        strides: Stride of each layer, as many as `kernels`.

    Returns:
        Frame counts, in the type and shape of `samples`.
    """
    frames: Any = samples
    for kernel, stride in zip(kernels, strides, strict=True):
        frames = (frames - kernel) // stride + 1
    # A count that has fallen to 0 or below stays there through later layers, so that one clip at
    # the end is enough; a product because `max` does not take arrays.
    return frames * (frames > 0)


def receptive_field_samples(
    kernels: Sequence[int] = CONV_KERNELS, strides: Sequence[int] = CONV_STRIDES
) -> int:
    """Samples that one frame of a convolution stack sees, which is the shortest possible clip."""
    field_samples, hop = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field_samples += (kernel - 1) * hop
        hop *= stride
    return field_samples


def samples_from_frames(frames: _Count) -> _Count:
    """Least number of samples that gives a number of frames; inverts `frames_from_samples`.

    Args:
        frames: A count >= 0 or an array of them, as for `frames_from_samples`.

    Returns:
        Sample counts, in the type and shape of `frames`; 0 for 0 frames.
    """
    count: Any = frames
    return (MIN_SAMPLES + HOP_SAMPLES * (count - 1)) * (count > 0)
