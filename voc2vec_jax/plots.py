"""Curves of a run as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

PANELS = (
    ("loss per masked frame (nats)", ("loss", "contrastive_loss")),
    ("contrastive accuracy", ("accuracy",)),
    ("codebook perplexity", ("code_perplexity", "probability_perplexity")),
    ("feature penalty", ("feature_penalty",)),
    ("gradient norm", ("gradient_norm",)),
    ("learning rate", ("learning_rate",)),
)


def plot_metrics(entries: Sequence[dict[str, Any]], png: Path) -> None:
    """Draws the curves one reads to judge a pre-training run.

    Args:
        entries: Logged steps, as `metrics.read_metrics` returns them.
        png: Where the picture goes.
    """
    # The object interface needs no display and leaves the user's pyplot alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, names) in zip(figure.subplots(2, 3).flat, PANELS, strict=True):
        for name in names:
            points = [(e["step"], e[name]) for e in entries if e.get(name) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), label=name.replace("_", " "))
        axis.set_title(title)
        axis.set_xlabel("updates")
        axis.grid(alpha=0.3)
        if len(names) > 1 and axis.lines:
            axis.legend()
    unfinished = png.with_name(png.name + ".part")
    figure.savefig(unfinished, format="png", dpi=110)
    unfinished.replace(png)
