"""What a preparation found: clips and hours against what is expected, and what to look at.

What is no clip stands in one of three lists: `dropped`, what belongs to the dataset and cannot be
read or understood; `copies` of other files; and `excluded`, what was left out on purpose.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike
from rich.table import Table

from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.pictures import new_figure, save_png

CLIPPED_SAMPLES = 3
"""From so many samples at full scale (after resampling) a clip counts as clipped."""
SILENT_RMS = 1e-3
"""-60 dB of full scale."""
COPY_OF = "is a copy of "
"""How the reason of a copy begins."""
ON_THE_LIST = "is on the list of clips to exclude"
SHOWN = 5
"""Files that the table names of each kind; `report.json` has them all."""


@dataclass(frozen=True)
class Expected:
    """How much a complete copy of a dataset holds; None where nobody knows."""

    clips: int | None = None
    hours: float | None = None
    tolerance: float = 0.0
    """Share of clips by which the count may differ before the report says so."""
    paper_clips: int | None = None
    """What the voc2vec paper's table says."""
    paper_hours: float | None = None
    note: str = ""
    """Why the two differ, or why nothing is expected."""


def make_report(
    kept: pa.Table,
    dropped: Sequence[Mapping[str, str]],
    *,
    dataset: str,
    class_names: Sequence[str],
    ignored_files: int,
    ignored_audio: Mapping[str, int],
    expected: Expected,
    excluded: Sequence[Mapping[str, str]] = (),
    copies: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """The content of `report.json`; `kept` is a table as `index.table_of` makes it."""
    column = {name: kept.column(name).combine_chunks() for name in kept.column_names}
    label, variance = column["label"].to_numpy(), column["variance"].to_numpy().astype(np.float64)
    power = variance + column["mean"].to_numpy().astype(np.float64) ** 2
    per_class = np.bincount(label[label >= 0], minlength=len(class_names))
    seconds = column["length"].to_numpy() / SAMPLE_RATE
    folds = {fold: count for fold, count in _counts(column["fold"]).items() if fold}

    def sources(chosen: np.ndarray) -> list[str]:
        found: list[str] = column["source"].filter(pa.array(chosen)).to_pylist()
        return found

    return {
        "dataset": dataset,
        "clips": len(kept),
        "hours": int(column["length"].to_numpy().sum()) / SAMPLE_RATE / 3600,
        "classes": {name: int(per_class[number]) for number, name in enumerate(class_names)},
        "groups": len(_counts(column["group"]).keys() - {""}),
        "folds": dict(sorted(folds.items())),
        "seconds": {
            "shortest": float(seconds.min()),
            "median": float(np.median(seconds)),
            "mean": float(seconds.mean()),
            "longest": float(seconds.max()),
        },
        "dropped": list(dropped),
        "excluded": list(excluded),
        "copies": list(copies),
        "ignored_files": ignored_files,
        "ignored_audio": dict(ignored_audio),
        "expected": {"clips": expected.clips, "hours": expected.hours},
        "paper": {"clips": expected.paper_clips, "hours": expected.paper_hours},
        "verdict": _verdict(len(kept), expected),
        "clipped": sources(column["full_scale_samples"].to_numpy() >= CLIPPED_SAMPLES),
        "beyond_full_scale": sources(column["scale"].to_numpy() != 1),
        "silent": sources(power < SILENT_RMS**2),
        "duplicates": _duplicates(column["sha256"], column["source"]),
    }


def _counts(words: pa.Array) -> dict[str, int]:
    """How often each occurs."""
    counts = pc.value_counts(words)
    return dict(
        zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)
    )


def _duplicates(digests: pa.Array, sources: pa.Array) -> list[list[str]]:
    """Files of the same sound, in the order in which the first of each came."""
    counts = pc.value_counts(digests)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    found: dict[bytes, list[str]] = {digest: [] for digest in repeated.to_pylist()}
    place = pc.is_in(digests, repeated)
    pairs = zip(digests.filter(place).to_pylist(), sources.filter(place).to_pylist(), strict=True)
    for digest, source in pairs:
        found[digest].append(source)
    return [sorted(files) for files in found.values()]


def read_report(directory: Path) -> dict[str, Any]:
    """The `report.json` of a store or of a prepared dataset.

    Older versions put all that was left out into `dropped`, where the reason tells copies and what
    was excluded on purpose.
    """
    report: dict[str, Any] = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    if "copies" not in report:
        every = report["dropped"]
        kinds: dict[str, list[Any]] = {"copies": [], "excluded": [], "dropped": []}
        for drop in every:
            copy, listed = drop["reason"].startswith(COPY_OF), drop["reason"] == ON_THE_LIST
            kinds["copies" if copy else "excluded" if listed else "dropped"].append(drop)
        report |= kinds
    return {"beyond_full_scale": [], **report}


def _verdict(clips: int, expected: Expected) -> str:
    """One line: are all clips there that a complete copy holds?"""
    if expected.clips is None:
        verdict = "no count is known for a complete copy"
    elif abs(clips - expected.clips) <= expected.tolerance * expected.clips:
        verdict = f"complete: {expected.clips} clips expected"
    else:
        verdict = f"DIFFERS: {expected.clips} clips expected; is the copy complete?"
    return f"{verdict} ({expected.note})" if expected.note else verdict


def report_table(report: dict[str, Any]) -> Table:
    """The report for a reader at a terminal."""
    seconds, paper = report["seconds"], report["paper"]
    table = Table(title=report["dataset"], show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("clips", f"{report['clips']}; {report['verdict']}")
    table.add_row("hours", f"{report['hours']:.4f}")
    if paper["clips"] is not None:
        table.add_row("voc2vec paper", f"{paper['clips']} clips, {paper['hours']} h")
    table.add_row("seconds", ", ".join(f"{key} {value:.2f}" for key, value in seconds.items()))
    for name in ("classes", "folds"):
        if report[name]:
            counts = ", ".join(f"{key} {count}" for key, count in report[name].items())
            table.add_row(name, f"{len(report[name])}: {counts}")
    table.add_row("groups", str(report["groups"]))
    for name, kind in (("unreadable", "dropped"), ("copies", "copies"), ("excluded", "excluded")):
        table.add_row(name, _some([f"{drop['file']}: {drop['reason']}" for drop in report[kind]]))
    duplicates = [" = ".join(files) for files in report["duplicates"]]
    table.add_row("clipped", _some(report["clipped"]))
    table.add_row("beyond full scale", _some(report["beyond_full_scale"]))
    table.add_row("silent", _some(report["silent"]))
    table.add_row("duplicates", _some(duplicates))
    table.add_row("ignored files", str(report["ignored_files"]))
    ignored = [f"{count} in {folder}" for folder, count in report["ignored_audio"].items()]
    table.add_row("ignored audio", _some(ignored))
    return table


def _some(lines: Sequence[str]) -> str:
    """How many, and the first few."""
    more = [f"… and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([str(len(lines)), *lines[:SHOWN], *more])


def plot_durations(lengths: ArrayLike, title: str, png: Path) -> None:
    """Draws a histogram of clip durations; lengths are samples at 16 kHz."""
    seconds = np.array(lengths) / SAMPLE_RATE
    figure = new_figure(7, 4)
    axis = figure.subplots()
    # Durations spread over decades, and so do the counts of what is rare.
    edges = np.geomspace(0.95 * seconds.min(), 1.05 * seconds.max(), 41)
    axis.hist(seconds, bins=edges.tolist())
    axis.set_xscale("log")
    axis.set_xlabel("duration (s)")
    axis.set_ylabel("clips")
    axis.set_title(f"{title}: {len(seconds)} clips, {seconds.sum() / 3600:.2f} h")
    save_png(figure, png)
