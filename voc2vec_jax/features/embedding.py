"""Many files as vectors or frames, in parts that a stop does not lose."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    track,
)

from voc2vec_jax.audio.input_files import Input
from voc2vec_jax.audio.reading_ahead import Decoded, decode_ahead, in_groups
from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.checkpoints.pretrained import PretrainedModel
from voc2vec_jax.errors import AudioError, ConfigError, ResumeError
from voc2vec_jax.features.frames import (
    CHUNK_SECONDS,
    Arrays,
    Floats,
    LayerFeatures,
    Then,
    batches,
    is_long,
    keep,
    stream,
)
from voc2vec_jax.features.npz_parquet import read_about, write_result
from voc2vec_jax.features.parts import TERMS, Part, Parts, parts_folder
from voc2vec_jax.files import differences, sha256_of
from voc2vec_jax.models.pooling import mean_over_frames

CLIPS_PER_PART = 128
"""What a stop can lose."""
SECONDS_PER_PART = 1_200.0
"""Sound at which a part ends, too, so that memory depends on no number of files."""
PIECE_SECONDS = 10.0
"""Clips beyond `CHUNK_SECONDS` go through in pieces of at most so much: the work that attention
makes grows with the square of this, so that long recordings take no longer than short ones."""
LEFT_OUT = "left_out"
"""In what a result says of itself: ids of files that are not in it, and why."""


class Encoding:
    """What becomes of a clip: its frames, or the mean of them.

    Args:
        model: An encoder, with `padding="masked"`.
        layer: See `LayerFeatures`, whose rule for long clips holds too, in `PIECE_SECONDS`.
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
        self._features = LayerFeatures(model, layer, PIECE_SECONDS)

    def __call__(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Per clip [1, D] or [T, D] float32; waveforms are float32 [S] each, 16 kHz mono."""
        work = batches([len(waveform) for waveform in waveforms])
        self._features.expect([len(waveform) for waveform in waveforms], work)
        values: dict[int, np.ndarray] = {}
        results = stream(self._encode, waveforms.__getitem__, work)
        for clips, made in zip(work, results, strict=True):
            values |= {clip: rows for clip, (rows,) in zip(clips, made, strict=True)}
        return [values[clip] for clip in range(len(waveforms))]

    def _encode(self, waveforms: Sequence[Floats], then: Then = keep) -> list[Arrays]:
        if self.pool == "frames":
            return self._features(waveforms, then)
        if not any(is_long(len(waveform)) for waveform in waveforms):
            return [(mean_over_frames(f)[None],) for (f,) in self._features(waveforms, then)]
        return [(self._mean_of_pieces(waveform),) for waveform in waveforms]

    def _mean_of_pieces(self, waveform: Floats) -> Floats:  # [S] -> [1, D]
        """The mean over all frames, which are not all in memory: 10 h of them are 5.5 GB."""
        total, count = np.zeros(self._features.width), 0
        for frames in self._features.pieces(waveform):
            total += frames.sum(axis=0, dtype=np.float64)
            count += len(frames)
        return (total / count).astype(np.float32)[None]

    def facts(self) -> dict[str, Any]:
        """Equal if, and only if, the same clip gives the same numbers."""
        return {
            "model_sha256": self.model.sha256,
            "features": self._features.name,
            "pool": self.pool,
            "pieces": f"{PIECE_SECONDS:g} s beyond {CHUNK_SECONDS:g} s",
        }


@dataclass(frozen=True)
class Embedded:
    """A result that is there."""

    clips: int
    left_out: dict[str, str]
    """Ids of files that could not be read, and why."""
    already: bool
    """Whether it was there before."""


def embed_files(
    inputs: Sequence[Input],
    encoding: Encoding,
    out: Path,
    *,
    skip_bad: bool = False,
    wide: bool = False,
) -> Embedded:
    """Writes the embeddings of files; goes on from where an earlier call was stopped.

    What is there is known by its content: the model's, the files' and the settings, no path.

    Args:
        inputs: The files, in the order of the result.
        encoding: What becomes of each.
        out: The file to write; see `npz_parquet` for its form. If it holds the same already,
            nothing is done.
        skip_bad: Leave out files that cannot be read, instead of stopping at the first.
        wide: Parquet gets a column for each number of a vector.

    Raises:
        AudioError: A file cannot be read; what was embedded before is kept.
        ResumeError: `out` holds something else, or parts of another run lie beside it.
        WorkdirLockedError: Another process is writing it.
        OSError: They cannot be written.
    """
    with parts_folder(out) as folder:
        content = encoding.facts() | {"files_sha256": _sha256(inputs)}
        about = content | ({"columns": "wide"} if wide else {})
        left_out = _held(out, about) if out.exists() else None
        if left_out and not skip_bad:
            raise ResumeError(
                f"{out}: is there already, and was written with --skip-bad, without {len(left_out)}"
                f" files such as {next(iter(left_out))!r}; give that again, or delete it"
            )
        parts = Parts(folder, content)
        already = left_out is not None
        if left_out is None:
            _fill(parts, inputs, encoding, skip_bad)
            left_out = parts.bad()
            write_result(
                out,
                map(parts.read, range(parts.count())),
                about | {LEFT_OUT: left_out},
                pooled=encoding.pool == "mean",
                wide=wide,
            )
        parts.remove()
    return Embedded(len(inputs) - len(left_out), left_out, already)


def _held(out: Path, about: dict[str, Any]) -> dict[str, str]:
    """What is left out of a result that is there, if it is the one that is asked for."""
    before = read_about(out)
    left_out: dict[str, str] = before.pop(LEFT_OUT, {})
    if differing := differences(before, about, TERMS):
        raise ResumeError(
            f"{out}: is there already, of another run ({'; '.join(differing)}); give another"
            " --out, or delete it"
        )
    return left_out


def _fill(parts: Parts, inputs: Sequence[Input], encoding: Encoding, skip_bad: bool) -> None:
    """Makes the parts that are missing; where each ends depends on the files alone."""
    number = parts.count()
    done = sum(map(parts.files, range(number)))
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("clips"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=len(inputs), completed=done)
        decoded = decode_ahead(inputs[done:])
        for group in in_groups(decoded, CLIPS_PER_PART, SECONDS_PER_PART):
            parts.write(number, _part(encoding, group, skip_bad))
            number += 1
            bar.advance(task, len(group))
            group.clear()


def _part(encoding: Encoding, group: Sequence[tuple[Input, Decoded]], skip_bad: bool) -> Part:
    ids, waveforms, bad = [], [], {}
    for item, held in group:
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


def _sha256(inputs: Sequence[Input]) -> str:
    """Equal if, and only if, ids and the bytes of the files are, in this order."""
    paths = list({item.path: None for item in inputs})
    console = Console(stderr=True)
    with ThreadPoolExecutor() as pool:
        hashes = track(
            pool.map(_content, paths),
            "hashing files",
            total=len(paths),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        contents = dict(zip(paths, hashes, strict=True))
    found = hashlib.sha256()
    for item in inputs:
        # Where a file lies, and how it was named, decide nothing.
        asked = [item.id, contents[item.path], item.segment.start, item.segment.end]
        found.update(f"{json.dumps(asked)}\n".encode())
    return found.hexdigest()


def _content(path: Path) -> str:
    """The hash of a file; why it cannot be read is said when it is decoded."""
    try:
        return sha256_of(path) if path.is_file() else "no file"
    except OSError:
        return "cannot be read"
