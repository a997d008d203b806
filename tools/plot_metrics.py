"""Draw the curves of a run, finished or not: `python -m tools.plot_metrics runs/demo`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from voc2vec_jax.training.log.curves import plot_metrics
from voc2vec_jax.training.log.metrics_file import read_events, read_metrics

COLUMNS = (
    "step",
    "loss",
    "contrastive_loss",
    "eval_loss",
    "accuracy",
    "code_perplexity",
    "masked_accuracy",
    "majority_rate",
    "prediction_perplexity",
)
"""Of those, what the run's task has."""


@dataclass(frozen=True)
class Arguments:
    """Reads `metrics.jsonl` of a working directory and writes `curves.png` beside it."""

    workdir: Annotated[Path, tyro.conf.Positional]
    """Where the run lives."""
    table: bool = False
    """Also print the figures, ten lines of them."""


def main() -> None:
    """Runs the command line."""
    arguments = tyro.cli(Arguments, description=__doc__)
    path = arguments.workdir / "metrics.jsonl"
    if not path.is_file():
        raise SystemExit(f"error: {path}: not found; is {arguments.workdir} a --workdir?")
    entries = read_metrics(path)
    png = arguments.workdir / "curves.png"
    alarms = read_events(path, "collapse_alarm")
    plot_metrics(entries, png, [event["step"] for event in alarms])
    if arguments.table:
        names = [name for name in COLUMNS if any(name in entry for entry in entries)]
        print("  ".join(f"{name:>21}" for name in names))
        for entry in entries[:: max(len(entries) // 10, 1)]:
            print("  ".join(_figure(entry.get(name)) for name in names))
        for event in alarms:
            print(f"collapse alarm at step {event['step']}: {event['saw']}. {event['try']}")
    print(f"curves: {png}")


def _figure(value: float | None) -> str:
    return f"{'-':>21}" if value is None else f"{value:21.5g}"


if __name__ == "__main__":
    main()
