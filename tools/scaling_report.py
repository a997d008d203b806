"""Tables of docs/scaling.md from the reports of tools.compile_ahead, as Markdown.

Example:
  python -m tools.scaling_report docs/scaling.json
  python -m tools.scaling_report runs/ahead/*.json --collect docs/scaling.json
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from tools.ahead import display, scaling
from voc2vec_jax.files import write_json

CHIPS = (8, 64, 256, 1024)


@dataclass(frozen=True)
class Arguments:
    """What to show."""

    reports: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """JSON of compile_ahead, one report or a list of them."""
    collect: Path | None = None
    """Also write all of them into this one file."""


def read(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """All reports, in order."""
    found: list[dict[str, Any]] = []
    for path in paths:
        content = json.loads(path.read_text(encoding="utf-8"))
        for report in content if isinstance(content, list) else [content]:
            # A sweep is a list under a name, other buckets are listed in the report of the longest.
            buckets = report.pop("buckets", [])
            found += report.get("sweep") or [report, *buckets]
    return found


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fitting(reports: Sequence[dict[str, Any]]) -> str:
    """A line per program: what it needs, and what it would do."""
    columns = (
        "configuration",
        "topology",
        "mesh",
        "precision",
        "remat",
        "accumulate",
        "clips",
        "GiB peak",
        "of",
        "fits",
        "TFLOP",
        "GiB HBM",
        "collectives, MiB",
        "est. s",
        "est. h/h",
        "compiled, s",
    )
    rows = []
    for report in reports:
        estimate, memory = report["estimate"], report["bytes"]
        exchanged = ", ".join(
            f"{kind} {entry['bytes'] / 2**20:,.0f}"
            for kind, entry in sorted((report["collectives"] or {}).items())
            if entry["bytes"] >= 2**20
        )
        flops, accessed = report["flops"], report["bytes_accessed"]
        rows.append(
            [
                Path(report["config"]).stem,
                report["topology"],
                "×".join(str(size) for size in report["mesh"].values()),
                report["precision"],
                report["remat"],
                str(report["accumulate_steps"]),
                f"{report['batch']['clips']} × {report['batch']['seconds']:g} s",
                display.gib(memory["peak"]),
                display.gib(memory["limit"]),
                display.fits(report),
                "–" if flops is None else f"{flops / 1e12:.1f}",
                "–" if accessed is None else f"{accessed / display.GIB:.0f}",
                exchanged or "–",
                f"{estimate['step_seconds']:.2f}" if estimate else "–",
                f"{estimate['audio_hours_per_hour']:,.0f}" if estimate else "–",
                f"{report['compile_seconds']:.0f} ({report['effort']})",
            ]
        )
    return markdown(columns, rows)


def scaling_rows(points: Sequence[scaling.Point]) -> str:
    """A line per number of chips."""
    columns = (
        "chips",
        "slices",
        "audio per update, s",
        "compute, ms",
        "memory, ms",
        "network, ms",
        "efficiency, nothing overlapped",
        "all overlapped",
        "hours/h",
    )
    rows = [
        [
            f"{point.chips:,}",
            f"{point.slices} × {'x'.join(map(str, point.shape))}",
            f"{point.audio_seconds:,.0f}",
            *(f"{1e3 * value:.1f}" for value in vars(point.step).values()),
            f"{point.efficiency:.1%}",
            f"{point.overlapped_efficiency:.1%}",
            f"{point.hours_per_hour:,.0f}",
        ]
        for point in points
    ]
    return markdown(columns, rows)


def is_data_parallel(report: dict[str, Any]) -> bool:
    """Whether `scaling` can speak of it."""
    complete = report["fits"] and report["bytes_accessed"] is not None
    return complete and report["mesh"]["data"] == report["devices"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = tyro.cli(Arguments, args=argv, description=__doc__)
    reports = read(arguments.reports)
    if arguments.collect:
        write_json(arguments.collect, reports)
    print(fitting(reports))
    for report in filter(is_data_parallel, reports):
        kind = report["topology"].partition(":")[0]
        if kind in scaling.SHAPES:
            try:
                scaling.gradient_bytes(report)
            except ValueError as error:
                print(f"\n{error}")
                continue
            print(f"\n{display.title(report)}: the same share of audio on every chip\n")
            print(scaling_rows([scaling.weak(report, chips) for chips in CHIPS]))
            fixed = [scaling.fixed(report, chips) for chips in CHIPS]
            print(f"\nThe same batch, {report['batch']['clips']} clips, where they divide\n")
            print(scaling_rows([point for point in fixed if point]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
