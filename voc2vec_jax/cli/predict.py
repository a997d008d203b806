"""Class scores of recordings, by a fine-tuned model.

A recording longer than --window is heard in windows whose scores are averaged, each weighed by its
length. Scores go to standard output, everything else to standard error.

Examples:
  A file and a folder, searched recursively:
    python -m voc2vec_jax.predict clip.wav recordings --model eval/mine/export
  All scores of all classes, for a spreadsheet; files that cannot be read are listed and left out:
    python -m voc2vec_jax.predict recordings --model eval/mine/export --top 100 --format csv \\
        --skip-bad > scores.csv
"""

import csv
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from voc2vec_jax.audio.input_files import Input, InputsError, decode_ahead, find_inputs
from voc2vec_jax.audio.signal import (
    MIN_SAMPLES,
    SAMPLE_RATE,
    AudioError,
    normalize,
    pad_batch,
)
from voc2vec_jax.cli.train import BAD_DATA, DONE, WRONG_USAGE
from voc2vec_jax.config import ConfigError

if TYPE_CHECKING:
    from voc2vec_jax.checkpoints.pretrained import PretrainedModel

CHUNK_FILES = 64
"""Files that are decoded before their windows are sorted by length and put into batches."""


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Audio files, or folders that are searched recursively."""
    model: str
    """A fine-tuned classifier: a Hugging Face folder, a run's working directory, or a hub id."""
    top: int = 1
    """Classes to name, the likeliest first."""
    window: float = 10.0
    """Seconds; longer recordings are heard in windows."""
    hop: float | None = None
    """Seconds from a window to the next; None: as few windows of equal length as cover all."""
    format: Literal["table", "json", "csv"] = "table"
    skip_bad: bool = False
    """List files that cannot be read and go on, instead of stopping at the first."""
    padding: Literal["masked", "hf"] = "masked"
    """`hf` for a model whose card says that it was trained without a mask."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of a recording."""

    file: str
    seconds: float
    windows: int
    scores: dict[str, float]
    """Probabilities by class, the likeliest first."""


def load_classifier(source: str, padding: Literal["masked", "hf"]) -> "PretrainedModel":
    """A model with a trained classifier.

    Raises:
        ConfigError: It has none.
        CheckpointError: See `from_pretrained`.
    """
    from voc2vec_jax.checkpoints.convert import ConversionError
    from voc2vec_jax.checkpoints.loading import from_pretrained
    from voc2vec_jax.models.architectures import CLASSIFIERS

    advice = (
        "its scores would be random. Fine-tune it first (python -m voc2vec_jax.evaluate --model "
        f"{source} --folder RECORDINGS --export --out DIR) and give DIR/export"
    )
    try:
        model = from_pretrained(source, padding=padding)
    except ConversionError as error:
        if "missing     classifier.weight" not in str(error):
            raise
        raise ConfigError(f"{source}: names a classifier but holds none; {advice}") from None
    if model.architecture not in CLASSIFIERS.values():
        raise ConfigError(
            f"{source}: is a {model.architecture.__name__} without a trained classifier; {advice}"
        )
    return model


def windows_of(samples: int, window: int, hop: int | None) -> list[slice]:
    """Parts that cover a recording, each at most `window` long, and at least half as long."""
    if samples <= window:
        return [slice(0, samples)]
    if hop is None:
        pieces = -(-samples // window)
        cuts = [piece * samples // pieces for piece in range(pieces + 1)]
        return [slice(start, stop) for start, stop in itertools.pairwise(cuts)]
    starts = [*range(0, samples - window, hop), samples - window]
    return [slice(start, start + window) for start in starts]


def predict(
    model: "PretrainedModel",
    files: Sequence[Input],
    *,
    window_seconds: float = 10.0,
    hop_seconds: float | None = None,
    bad: list[AudioError] | None = None,
) -> Iterator[Prediction]:
    """Scores of recordings, in their order.

    Args:
        model: A trained classifier.
        files: Audio files.
        window_seconds: Longest part that is heard at once.
        hop_seconds: Distance of windows; None: as few of equal length as cover all.
        bad: Gets the errors of files that cannot be read; None: the first one is raised.

    Raises:
        AudioError: A file cannot be read.
    """
    window = round(window_seconds * SAMPLE_RATE)
    hop = None if hop_seconds is None else max(round(hop_seconds * SAMPLE_RATE), 1)
    chunks = [files[first : first + CHUNK_FILES] for first in range(0, len(files), CHUNK_FILES)]
    for chunk, decoded in decode_ahead(chunks):
        waveforms: dict[Path, NDArray[np.float32]] = {}
        for item, waveform in zip(chunk, decoded, strict=True):
            if not isinstance(waveform, AudioError):
                # Over the whole recording, as in training.
                do_normalize = model.preprocessor.do_normalize
                waveforms[item.path] = normalize(waveform) if do_normalize else waveform
            elif bad is None:
                raise waveform
            else:
                bad.append(waveform)
        yield from _scores(model, waveforms, window, hop)


def _scores(
    model: "PretrainedModel",
    waveforms: dict[Path, NDArray[np.float32]],
    window: int,
    hop: int | None,
) -> Iterator[Prediction]:
    from scipy.special import softmax

    from voc2vec_jax.features.frames import batches
    from voc2vec_jax.models import ClassifierOutput

    parts = [
        (file, part)
        for file, waveform in waveforms.items()
        for part in windows_of(len(waveform), window, hop)
    ]
    sums = {file: np.zeros(len(model.config.labels)) for file in waveforms}
    frames: dict[Path, list[int]] = {file: [] for file in waveforms}
    # Under `hf` a score depends on the padding, so that nothing is padded.
    masked = model.padding == "masked"
    sizes = [part.stop - part.start for _, part in parts]
    for numbers in batches(sizes) if masked else [[number] for number in range(len(parts))]:
        rows = [parts[number] for number in numbers]
        cut = [waveforms[file][part] for file, part in rows]
        out = model(*pad_batch(cut, normalize="none"))
        assert isinstance(out, ClassifierOutput)
        for (file, _), logits, mask in zip(
            rows, np.asarray(out.logits, np.float64), np.asarray(out.frame_mask), strict=True
        ):
            frames[file].append(int(mask.sum()))
            sums[file] += frames[file][-1] * logits
    for file, waveform in waveforms.items():
        scores = softmax(sums[file] / sum(frames[file]))
        order = np.argsort(-scores, kind="stable")
        yield Prediction(
            file=str(file),
            seconds=round(len(waveform) / SAMPLE_RATE, 3),
            windows=len(frames[file]),
            scores={model.config.labels[label]: float(scores[label]) for label in order},
        )


def write(predictions: Iterator[Prediction], arguments: Arguments) -> None:
    """Prints them in the format asked for; JSON and CSV as they come."""
    if arguments.format == "csv":
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow(["file", "seconds", "windows", "rank", "label", "score"])
        for one in predictions:
            for rank, (label, score) in enumerate(list(one.scores.items())[: arguments.top], 1):
                rows.writerow([one.file, one.seconds, one.windows, rank, label, f"{score:.6f}"])
    elif arguments.format == "json":
        for one in predictions:  # an object per line
            fields: dict[str, Any] = {**vars(one)}
            fields["scores"] = dict(list(one.scores.items())[: arguments.top])
            print(json.dumps(fields, ensure_ascii=False), flush=True)
    else:
        from rich.console import Console
        from rich.table import Column, Table

        # A long name is folded; by default its end would be cut.
        table = Table(Column("file", overflow="fold"), "seconds", "windows", "classes")
        for one in predictions:
            named = list(one.scores.items())[: arguments.top]
            classes = "  ".join(f"{label} {score:.3f}" for label, score in named)
            table.add_row(one.file, f"{one.seconds:.1f}", str(one.windows), classes)
        Console().print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (see the README)."""
    arguments = tyro.cli(
        Arguments, args=argv, description=__doc__, prog="python -m voc2vec_jax.predict"
    )
    try:
        shortest = 2 * MIN_SAMPLES / SAMPLE_RATE
        for name, value in (("window", arguments.window), ("hop", arguments.hop)):
            if value is not None and value < shortest:
                raise ConfigError(f"--{name}={value}: must be at least {shortest} s")
        if arguments.top < 1:
            raise ConfigError(f"--top={arguments.top}: must be at least 1")
        files = find_inputs(arguments.inputs)
        model = load_classifier(arguments.model, arguments.padding)
        bad: list[AudioError] | None = [] if arguments.skip_bad else None
        found = predict(
            model, files, window_seconds=arguments.window, hop_seconds=arguments.hop, bad=bad
        )
        write(found, arguments)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USAGE
    except InputsError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_DATA
    except AudioError as error:
        print(f"error: {error}\n(--skip-bad goes on without such files)", file=sys.stderr)
        return BAD_DATA
    except Exception as error:
        from voc2vec_jax.cli.train import exit_code

        code = exit_code(error)
        if code is None:
            raise
        print(f"error: {error}", file=sys.stderr)
        return code
    for problem in bad or ():
        print(f"skipped: {problem}", file=sys.stderr)
    if bad:
        print(f"{len(bad)} of {len(files)} files skipped", file=sys.stderr)
    return DONE
