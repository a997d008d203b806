"""Many files as vectors or frames, in parts that a stop does not lose."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from voc2vec_jax.audio.input_files import Decoded, Input, decode_ahead
from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.checkpoints.pretrained import PretrainedModel
from voc2vec_jax.errors import AudioError, ConfigError
from voc2vec_jax.features.frames import LayerFeatures, batches, stream
from voc2vec_jax.features.npz_parquet import Part, Parts
from voc2vec_jax.models.pooling import mean_over_frames

CLIPS_PER_PART = 128
"""What a stop can lose."""


class Encoding:
    """What becomes of a clip: its frames, or the mean of them.

    Args:
        model: An encoder, with `padding="masked"`.
        layer: See `LayerFeatures`, whose rule for long clips holds too.
        pool: `mean` or `frames`.

    Raises:
        ConfigError: The model has no such layer.
    """

    def __init__(
        self,
        model: PretrainedModel,
        layer: int | None = None,
        pool: Literal["mean", "frames"] = "mean",
    ):
        layers = model.config.num_hidden_layers
        if layer is not None and not 0 <= layer <= layers:
            raise ConfigError(f"layer={layer}: the model has layers 0 to {layers}")
        self.model, self.layer, self.pool = model, layer, pool
        self._features = LayerFeatures(model, layer)

    def __call__(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Per clip [1, D] or [T, D] float32; waveforms are float32 [S] each, 16 kHz mono."""
        lengths = [len(waveform) for waveform in waveforms]
        work = batches(lengths)
        self._features.expect(lengths, work)
        values: dict[int, np.ndarray] = {}
        results = stream(self._features, waveforms.__getitem__, work)
        for clips, made in zip(work, results, strict=True):
            values |= {clip: frames for clip, (frames,) in zip(clips, made, strict=True)}
        in_order = [values[clip] for clip in range(len(waveforms))]
        if self.pool == "frames":
            return in_order
        return [mean_over_frames(frames)[None] for frames in in_order]

    def facts(self) -> dict[str, Any]:
        """Equal if, and only if, the same clip gives the same numbers."""
        weights = hashlib.sha256()
        for path, value in sorted(self.model.params.items()):
            weights.update(path.encode())
            weights.update(np.asarray(value).tobytes())
        return {
            "model_type": self.model.config.model_type,
            "weights_sha256": weights.hexdigest(),
            "normalize": self.model.preprocessor.do_normalize,
            "features": self._features.name,
            "pool": self.pool,
        }


def embed_files(
    inputs: Sequence[Input], encoding: Encoding, out: Path, *, skip_bad: bool = False
) -> dict[str, str]:
    """Writes the embeddings of files; goes on from where an earlier call was stopped.

    Args:
        inputs: The files, in the order of the result.
        encoding: What becomes of each.
        out: The file to write; see `npz_parquet` for its form.
        skip_bad: Leave out files that cannot be read, instead of stopping at the first.

    Returns:
        Ids of the files left out, and why.

    Raises:
        AudioError: A file cannot be read; what was embedded before is kept.
        ResumeError: Parts of another run lie beside `out`.
        OSError: They cannot be written.
    """
    files = hashlib.sha256()
    for item in inputs:
        state = item.path.stat()
        part = "" if item.segment.is_whole else f" {item.segment.start} {item.segment.end}"
        files.update(f"{item.id} {state.st_size} {state.st_mtime_ns}{part}\n".encode())
    parts = Parts(out, encoding.facts() | {"files_sha256": files.hexdigest()})
    chunks = [inputs[i : i + CLIPS_PER_PART] for i in range(0, len(inputs), CLIPS_PER_PART)]
    left = [number for number in range(len(chunks)) if not parts.path(number).exists()]
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("clips"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        done = len(inputs) - sum(len(chunks[number]) for number in left)
        task = bar.add_task("", total=len(inputs), completed=done)
        work = decode_ahead([chunks[number] for number in left])
        for number, (chunk, decoded) in zip(left, work, strict=True):
            parts.write(number, _part(encoding, chunk, decoded, skip_bad))
            bar.advance(task, len(chunk))
    return parts.finish(len(chunks), pooled=encoding.pool == "mean")


def _part(
    encoding: Encoding, chunk: Sequence[Input], decoded: Sequence[Decoded], skip_bad: bool
) -> Part:
    ids, waveforms, bad = [], [], {}
    for item, held in zip(chunk, decoded, strict=True):
        if not isinstance(held, AudioError):
            ids.append(item.id)
            waveforms.append(held)
        elif skip_bad:
            bad[item.id] = held.reason
        else:
            raise AudioError(
                held.path,
                f"{held.reason} (what was embedded before is kept; --skip-bad leaves such files"
                " out)",
            )
    values = encoding(waveforms)
    nothing = np.zeros((0, encoding.model.config.hidden_size), np.float32)
    return Part(
        ids=ids,
        seconds=np.array([len(waveform) / SAMPLE_RATE for waveform in waveforms], np.float32),
        counts=np.array([len(clip) for clip in values], np.int64),
        values=np.concatenate([nothing, *values]),
        bad=bad,
    )
