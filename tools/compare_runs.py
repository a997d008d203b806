"""Curves of runs in one picture, and what sets the runs apart.

    python -m tools.compare_runs runs/learnt runs/collapsed --out docs/collapse --until 200

writes docs/collapse.png and docs/collapse.json.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from voc2vec_jax.files import write_json
from voc2vec_jax.pictures import new_figure, save_png
from voc2vec_jax.training.log.metrics_file import read_metrics

PANELS = (
    "contrastive_loss",
    "accuracy",
    "code_perplexity",
    "masked_loss",
    "target_entropy",
    "masked_accuracy",
    "majority_rate",
    "prediction_perplexity",
    "gradient_norm",
)
"""Of those, what the task of the runs has."""
POINTS = 60
"""Points of a curve in the JSON, each the mean of the logged steps up to it."""


@dataclass(frozen=True)
class Arguments:
    """Reads `metrics.jsonl` and `config.json` of each working directory."""

    workdirs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Runs, named in the picture by their folder."""
    out: Path
    """Where the picture and the figures go, without suffix."""
    until: int | None = None
    """Leave out what comes after this many updates."""


def read_curves(workdir: Path, until: int | None) -> list[dict[str, float]]:
    """A run's figures by step, thinned to at most `POINTS` by averaging.

    Raises:
        ValueError: No step was logged before `until`.
    """
    entries = [
        entry
        for entry in read_metrics(workdir / "metrics.jsonl")
        if until is None or entry["step"] <= until
    ]
    if not entries:
        raise ValueError(f"{workdir}: no step logged up to update {until}")
    width = -(-len(entries) // POINTS)
    curves = []
    for start in range(0, len(entries), width):
        chunk = entries[start : start + width]
        point: dict[str, float] = {"step": chunk[-1]["step"]}
        for name in PANELS:
            values = [entry[name] for entry in chunk if entry.get(name) is not None]
            if values:  # nothing was counted where every negative equals its target
                point[name] = round(sum(values) / len(values), 4)
        curves.append(point)
    return curves


def differing_settings(configs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By field, the value in each run, where they are not all the same; places are left out."""
    flat = {
        name: {
            f"{section}.{field}": value
            for section, fields in config.items()
            if isinstance(fields, dict)
            for field, value in fields.items()
            if (section, field) not in (("data", "folder"), ("data", "data_dir"))
        }
        for name, config in configs.items()
    }
    fields = sorted({field for run in flat.values() for field in run})
    values = {field: {name: run.get(field) for name, run in flat.items()} for field in fields}
    return {f: v for f, v in values.items() if len({json.dumps(x) for x in v.values()}) > 1}


def draw(curves: dict[str, list[dict[str, float]]], png: Path) -> None:
    """One panel per figure, one line per run."""
    panels = [p for p in PANELS if any(p in point for run in curves.values() for point in run)]
    columns = -(-len(panels) // 2)
    figure = new_figure(5 * columns, 5.5)
    for axis, panel in zip(figure.subplots(2, columns, squeeze=False).flat, panels, strict=False):
        for name, points in curves.items():
            shown = [(point["step"], point[panel]) for point in points if panel in point]
            axis.plot(*zip(*shown, strict=True), label=name)
        axis.set_title(panel.replace("_", " "))
        axis.set_xlabel("updates")
        axis.grid(alpha=0.3)
    if len(curves) > 1:
        figure.axes[0].legend()
    save_png(figure, png, dpi=90)


def main() -> None:
    """Runs the command line."""
    arguments = tyro.cli(Arguments, description=__doc__)
    try:
        curves = {run.name: read_curves(run, arguments.until) for run in arguments.workdirs}
        configs = {
            run.name: json.loads((run / "config.json").read_text(encoding="utf-8"))
            for run in arguments.workdirs
        }
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    png, figures = arguments.out.with_suffix(".png"), arguments.out.with_suffix(".json")
    draw(curves, png)
    content: dict[str, Any] = {"curves": curves}
    if len(curves) > 1:
        content = {"differing_settings": differing_settings(configs), **content}
    write_json(figures, content)
    print(f"curves: {png}, {figures}")


if __name__ == "__main__":
    main()
