"""Class scores of recordings, by a fine-tuned model.

A recording longer than --window is heard in windows whose scores are averaged, each weighed by its
length. Scores go to standard output, everything else to standard error.

Examples:
  A file and a folder, searched recursively:
    python -m voc2vec_jax.predict clip.wav recordings --model eval/mine/export
  All scores of all classes, for a spreadsheet; files that cannot be read are listed and left out:
    python -m voc2vec_jax.predict recordings --model eval/mine/export --top 100 --format csv \\
        --skip-bad > scores.csv
  The segments of a table with the columns path, start and end, which stand in the result too:
    python -m voc2vec_jax.predict segments.csv --model eval/mine/export --format csv > scores.csv
"""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from voc2vec_jax.audio.frame_grid import MIN_SAMPLES
from voc2vec_jax.audio.input_files import Input, find_inputs
from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.cli.command import parsed, run, say
from voc2vec_jax.errors import AudioError, ConfigError

if TYPE_CHECKING:
    from voc2vec_jax.features.class_scores import Prediction


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Audio files, folders that are searched recursively, and tables (`FILE.csv` or `FILE.tsv`
    with a column `path` and, if known, `id`, `start` and `end` in seconds)."""
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


def write(
    predictions: "Iterator[Prediction]", files: Sequence[Input], arguments: Arguments
) -> None:
    """Prints them in the format asked for; JSON and CSV as they come.

    What tables say beside the file, ids and times, is given back where there is any.
    """
    # Ids that are made of path and times say nothing that those do not.
    has_ids = any(item.own_id for item in files)
    has_times = any(not item.segment.is_whole for item in files)

    def about(item: Input) -> dict[str, str | float | None]:
        times = {"start": item.segment.start, "end": item.segment.end} if has_times else {}
        return {"file": item.file, **({"id": item.id} if has_ids else {}), **times}

    if arguments.format == "csv":
        rows = csv.writer(_Lines())
        rows.writerow([*about(files[0]), "seconds", "windows", "rank", "label", "score"])
        for one in predictions:
            known = [*about(one.item).values(), one.seconds, one.windows]
            for rank, (label, score) in enumerate(list(one.scores.items())[: arguments.top], 1):
                rows.writerow([*known, rank, label, f"{score:.6f}"])
    elif arguments.format == "json":
        for one in predictions:  # an object per line
            scores = dict(list(one.scores.items())[: arguments.top])
            fields: dict[str, Any] = {
                **about(one.item),
                "seconds": one.seconds,
                "windows": one.windows,
                "scores": scores,
            }
            print(json.dumps(fields, ensure_ascii=False), flush=True)
    else:
        from rich.console import Console
        from rich.table import Column, Table

        # A long name is folded; by default its end would be cut.
        heads = [Column(name, overflow="fold") for name in about(files[0])]
        table = Table(*heads, "seconds", "windows", "classes")
        for one in predictions:
            chosen = list(one.scores.items())[: arguments.top]
            classes = "  ".join(f"{label} {score:.3f}" for label, score in chosen)
            shown = ["" if value is None else str(value) for value in about(one.item).values()]
            table.add_row(*shown, f"{one.seconds:.1f}", str(one.windows), classes)
        Console().print(table)


class _Lines:
    """Rows of `csv`, which quotes what its own line ends would break, with line feeds alone."""

    def write(self, row: str) -> None:
        sys.stdout.write(row.removesuffix("\r\n") + "\n")


def predict_files(arguments: Arguments) -> None:
    """Does what the command line asks for.

    Raises:
        ConfigError, InputsError, AudioError, CheckpointError, OSError: See the exit codes.
    """
    from voc2vec_jax.features.class_scores import load_classifier, predict

    shortest = 2 * MIN_SAMPLES / SAMPLE_RATE
    for name, value in (("window", arguments.window), ("hop", arguments.hop)):
        if value is not None and value < shortest:
            raise ConfigError(f"--{name}={value}: must be at least {shortest} s")
    if not arguments.inputs:
        raise ConfigError("INPUT: give files, folders or tables of audio")
    if arguments.top < 1:
        raise ConfigError(f"--top={arguments.top}: must be at least 1")
    files = find_inputs(arguments.inputs)
    model = load_classifier(arguments.model, arguments.padding)
    bad: list[AudioError] | None = [] if arguments.skip_bad else None
    found = predict(
        model, files, window_seconds=arguments.window, hop_seconds=arguments.hop, bad=bad
    )
    try:
        write(found, files, arguments)
    except AudioError as error:
        advice = "(--skip-bad goes on without such files)"
        raise AudioError(error.path, f"{error.reason}\n{advice}") from None
    for problem in bad or ():
        say(f"skipped: {problem}")
    if bad:
        say(f"{len(bad)} of {len(files)} files skipped")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (see the README)."""
    return run(lambda: predict_files(parsed(Arguments, argv, __doc__, "voc2vec_jax.predict")))
