"""Labels beside the samples of a batch: which label belongs to which frame of which window.

A frame and a label each look at a stretch of the clip. With the usual convolutions, frame t of a
window that begins at sample s has its centre at s + 320 t + 199.5; label i has its own at
160 i + 199.5 (MFCC, 100 Hz) or 320 i + 199.5 (a model's layer, 50 Hz).
"""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_pipelines.batches.window_plan import PlannedBatch
from data_pipelines.frame_labels.label_store import (
    MAX_DISAGREEMENT_SECONDS,
    REMAKE,
    Grid,
    LabelStore,
)
from data_pipelines.stores.flat_store import FlatStore
from voc2vec_jax.audio.frame_grid import (
    CONV_KERNELS,
    CONV_STRIDES,
    frames_from_samples,
    receptive_field_samples,
)
from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.errors import ConfigError, DataError

Alignment = Literal["nearest", "fairseq"]
NO_TARGET = -1
SHOWN = 5
"""Clips that an error names."""

logger = logging.getLogger(__name__)


def nearest_labels(start: int, frames: int, frame_grid: Grid, label_grid: Grid) -> NDArray:
    """int64 [frames]: for each frame the label whose centre is nearest to its own.

    Of two that are as near it is the earlier one. May point before the first label or past the
    last one, for which that one is the nearest.

    Args:
        start: First sample of the window inside its clip.
        frames: How many of the window's frames.
        frame_grid: Receptive field of a frame and distance between frames.
        label_grid: The same of labels.
    """
    # Twice the distance of each centre from that of label 0, to stay with whole numbers.
    first = 2 * start + frame_grid.window_samples - label_grid.window_samples
    distance = first + 2 * frame_grid.hop_samples * np.arange(frames)
    hop = label_grid.hop_samples
    return -((hop - distance) // (2 * hop))  # ceil(distance / 2 hop - 1/2)


def fairseq_labels(
    start: int, samples: int, frames: int, available: int, frame_grid: Grid, label_grid: Grid
) -> NDArray:
    """int64 [frames]: the label of each frame by fairseq's rule, -1 where it has none.

    As `HubertDataset.crop_to_max_size` and `collater_frm_label` with `HubertModel.forward_targets`:
    a window's labels begin at `round(start · rate / 16000)` (half to even), as many follow as
    `round(samples · rate / 16000)` says or as are left, and frame t has label floor(t · ratio).
    fairseq drops the frames beyond; with labels at 100 Hz that is the last one of half of the
    windows that reach the end of their clip.

    Args:
        start: First sample of the window inside its clip.
        samples: Length of the window.
        frames: How many of the window's frames.
        available: Labels of the clip.
        frame_grid: Receptive field of a frame and distance between frames.
        label_grid: The same of labels.
    """
    labels_per_sample = label_grid.rate_hz / SAMPLE_RATE  # multiplied, as there, to round alike
    first = round(start * labels_per_sample)
    count = min(round(samples * labels_per_sample), available - first)
    ratio = frame_grid.hop_samples // label_grid.hop_samples
    labels = np.arange(frames) * ratio
    return np.where(np.arange(frames) < count // ratio, first + labels, NO_TARGET)


@dataclass(frozen=True, eq=False)
class FrameTargets:
    """The label of every frame as `targets` [b, T] int32; see `pipeline.Joined`.

    T is the number of frames of the bucket. -1 stands beyond the frames of a window and, under
    `fairseq`, at frames that have no label.
    """

    labels: LabelStore
    rows_of_clips: NDArray[np.int64]
    """[clips of the corpus] where each stands in the store of labels; -1 for clips never heard."""
    conv_kernel: Sequence[int] = CONV_KERNELS
    conv_stride: Sequence[int] = CONV_STRIDES
    alignment: Alignment = "nearest"
    name: str = "targets"

    @property
    def fingerprint(self) -> str:
        """See `Joined`."""
        facts = [self.labels.fingerprint, *self.conv_kernel, *self.conv_stride, self.alignment]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @property
    def frame_grid(self) -> Grid:
        """Receptive field and distance of the model's frames."""
        field = receptive_field_samples(self.conv_kernel, self.conv_stride)
        return Grid(field, math.prod(self.conv_stride))

    def rows(self, batch: PlannedBatch) -> NDArray[np.int32]:
        """See `Joined`."""
        frames = self._frames(batch.bucket_samples)
        targets = np.full((len(batch.clips), frames), NO_TARGET, np.int32)
        windows = zip(targets, batch.clips, batch.starts, batch.lengths, strict=True)
        for row, clip, start, length in windows:
            own = self._window(int(self.rows_of_clips[clip]), int(start), int(length))
            row[: len(own)] = own
        return targets

    def _frames(self, samples: int) -> int:
        return int(frames_from_samples(samples, self.conv_kernel, self.conv_stride))

    def _window(self, clip: int, start: int, samples: int) -> NDArray[np.int32]:
        """Targets [T] of a window, T its own number of frames; `clip` as the label store has it."""
        frames = self._frames(samples)
        available = int(self.labels.counts[clip])
        label_grid = self.labels.manifest.grid
        if self.alignment == "fairseq":
            grids = (self.frame_grid, label_grid)
            index = fairseq_labels(start, samples, frames, available, *grids)
        else:
            index = nearest_labels(start, frames, self.frame_grid, label_grid)
            index = np.clip(index, 0, available - 1)
        has_label = index >= 0
        targets = np.full(frames, NO_TARGET, np.int32)
        if has_label.any():
            first, last = int(index[has_label][0]), int(index[has_label][-1])
            stretch = self.labels.read(clip, first, last - first + 1)
            targets[has_label] = stretch[index[has_label] - first]
        return targets


def open_targets(
    directory: str | Path,
    corpus: FlatStore,
    heard: NDArray[np.bool_],
    *,
    conv_kernel: Sequence[int] = CONV_KERNELS,
    conv_stride: Sequence[int] = CONV_STRIDES,
    clusters: int | None = None,
    rate_hz: float | None = None,
    alignment: Alignment = "nearest",
) -> FrameTargets:
    """The labels of a corpus for a model, or why they do not fit.

    Args:
        directory: A label store.
        corpus: The clips that are trained on.
        heard: [clips] bool, which of them need labels.
        conv_kernel: Of the model, like `conv_stride`.
        conv_stride: Their product is the distance between its frames.
        clusters: What the model predicts; None accepts any number.
        rate_hz: What the labels' rate must be; None accepts any that frames can be given.
        alignment: `nearest`, or `fairseq` for its rounding.

    Raises:
        ConfigError: The labels are of another rate or of another number of clusters.
        DataError: They cannot be read, clips have none, or they are of another sound under the
            name of a clip, or disagree with its length.
    """
    labels = LabelStore.open(directory)
    manifest = labels.manifest
    found = manifest.grid.rate_hz
    targets = FrameTargets(labels, labels.rows_of(corpus.ids), conv_kernel, conv_stride, alignment)
    if rate_hz is not None and found != rate_hz:
        raise ConfigError(
            f"data.label_rate_hz={rate_hz:g}: the labels in {directory} ({manifest.features}) are"
            f" at {found:g} Hz; give data.labels of that rate, or change data.label_rate_hz"
        )
    if targets.frame_grid.hop_samples % manifest.grid.hop_samples:
        raise ConfigError(
            f"data.labels={directory}: has labels at {found:g} Hz ({manifest.features}), and the"
            f" model has frames at {targets.frame_grid.rate_hz:g} Hz, which must be the same or a"
            f" fraction such as 1/2; {REMAKE}"
        )
    if clusters is not None and clusters != manifest.clusters:
        raise ConfigError(
            f"data.labels={directory}: has {manifest.clusters} clusters, and the configuration"
            f" {clusters}; give labels with --clusters {clusters}, or configure"
            f" {manifest.clusters}"
        )
    _require_labels_of(targets, corpus, heard, directory)
    return targets


def _require_labels_of(
    targets: FrameTargets, corpus: FlatStore, heard: NDArray[np.bool_], directory: str | Path
) -> None:
    labels, rows = targets.labels, targets.rows_of_clips
    missing = np.flatnonzero(heard & (rows < 0))
    if len(missing):
        raise DataError(
            f"data.labels={directory}: has no labels for {len(missing)} of {heard.sum()} clips of"
            f" {corpus.name} ({_names(corpus, missing)}); it was made for {labels.manifest.corpus}."
            " Make labels for this corpus: python -m tools.make_labels --assign-with"
            f" {directory} …"
        )
    clips = np.flatnonzero(heard)
    own_samples, counts = corpus.lengths[clips], labels.counts[rows[clips]]
    other = clips[own_samples != labels.samples[rows[clips]]]
    if len(other):
        first = int(other[0])
        raise DataError(
            f"data.labels={directory}: {len(other)} clips of {corpus.name} have other lengths than"
            f" those of the same names that were labelled ({_names(corpus, other)}:"
            f" {corpus.lengths[first]} samples, {labels.samples[rows[first]]} then); it is of"
            f" another corpus or an older state of this one, so {REMAKE}"
        )
    _require_same_sound(targets, corpus, clips, directory)
    seconds = counts / labels.manifest.grid.rate_hz
    apart = np.abs(seconds - own_samples / SAMPLE_RATE) > MAX_DISAGREEMENT_SECONDS
    wrong = clips[apart | (counts == 0)]
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"data.labels={directory}: the labels of {len(wrong)} clips disagree with their length"
            f" by more than {MAX_DISAGREEMENT_SECONDS} s, or there are none"
            f" ({_names(corpus, wrong)}: {labels.counts[rows[first]]} labels at"
            f" {labels.manifest.grid.rate_hz:g} Hz for {corpus.lengths[first] / SAMPLE_RATE:.3f}"
            f" s); {REMAKE}"
        )


def _require_same_sound(
    targets: FrameTargets, corpus: FlatStore, clips: NDArray[np.integer], directory: str | Path
) -> None:
    labels, rows = targets.labels, targets.rows_of_clips
    if not labels.clip_sha256:
        logger.warning(
            "labels=%s format_version=%d: an older version made them, which did not note the sound"
            " that they are of, so that only names and lengths of clips were compared",
            *(directory, labels.manifest.format_version),
        )
        return
    own = (corpus.clip_sha256[clip] for clip in clips.tolist())
    then = (labels.clip_sha256[row] for row in rows[clips].tolist())
    differ = np.fromiter((a != b for a, b in zip(own, then, strict=True)), bool, len(clips))
    if differ.any():
        raise DataError(
            f"data.labels={directory}: {differ.sum()} clips of {corpus.name} are other sounds than"
            f" those of the same names and lengths that were labelled"
            f" ({_names(corpus, clips[differ])}); it is of another corpus or an older state of this"
            f" one, so {REMAKE}"
        )


def _names(corpus: FlatStore, clips: NDArray[np.integer]) -> str:
    shown = ", ".join(repr(corpus.ids[clip]) for clip in clips[:SHOWN])
    return shown + (", …" if len(clips) > SHOWN else "")
