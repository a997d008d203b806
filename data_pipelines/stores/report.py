"""What a preparation found: clips and hours against what is expected, and what to look at."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rich.table import Table

from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.pictures import new_figure, save_png

CLIPPED_SAMPLES = 3
"""From so many samples at full scale (after resampling) a clip counts as clipped."""
SILENT_RMS = 1e-3
"""-60 dB of full scale."""
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
    kept: Sequence[dict[str, Any]],
    dropped: Sequence[dict[str, str]],
    *,
    dataset: str,
    class_names: Sequence[str],
    ignored_files: int,
    ignored_audio: dict[str, int],
    expected: Expected,
) -> dict[str, Any]:
    """The content of `report.json`; `kept` and `dropped` are entries of a `Journal`."""
    per_class = Counter(entry["label"] for entry in kept)
    seconds = np.array([entry["length"] for entry in kept]) / SAMPLE_RATE
    copies = defaultdict(list)
    for entry in kept:
        copies[entry["sha256"]].append(entry["source"])
    return {
        "dataset": dataset,
        "clips": len(kept),
        "hours": sum(entry["length"] for entry in kept) / SAMPLE_RATE / 3600,
        "classes": {name: per_class[label] for label, name in enumerate(class_names)},
        "groups": len({entry["group"] for entry in kept} - {""}),
        "folds": dict(sorted(Counter(e["fold"] for e in kept if e["fold"]).items())),
        "seconds": {
            "shortest": float(seconds.min()),
            "median": float(np.median(seconds)),
            "mean": float(seconds.mean()),
            "longest": float(seconds.max()),
        },
        "dropped": list(dropped),
        "ignored_files": ignored_files,
        "ignored_audio": ignored_audio,
        "expected": {"clips": expected.clips, "hours": expected.hours},
        "paper": {"clips": expected.paper_clips, "hours": expected.paper_hours},
        "verdict": _verdict(len(kept), expected),
        "clipped": [e["source"] for e in kept if e["full_scale_samples"] >= CLIPPED_SAMPLES],
        "silent": [e["source"] for e in kept if e["variance"] + e["mean"] ** 2 < SILENT_RMS**2],
        "duplicates": [sorted(files) for files in copies.values() if len(files) > 1],
    }


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
    dropped = [f"{drop['file']}: {drop['reason']}" for drop in report["dropped"]]
    duplicates = [" = ".join(files) for files in report["duplicates"]]
    table.add_row("dropped", _some(dropped))
    table.add_row("clipped", _some(report["clipped"]))
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
