"""Curves of a run as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from voc2vec_jax.pictures import new_figure, save_png
from voc2vec_jax.training.log.metrics_file import PARTS, TIME_PREFIX

OF_LABELS = ("masked_accuracy", "unmasked_accuracy", "majority_rate")
OF_CLASSES = ("eval_uar", "eval_macro_f1")
PANELS = (
    (
        "loss per masked frame or clip (nats)",
        ("loss", "contrastive_loss", "masked_loss", "eval_loss", "target_entropy"),
    ),
    (
        "accuracy",
        ("accuracy", *OF_LABELS, "eval_accuracy", "eval_masked_accuracy", *OF_CLASSES),
    ),
    (
        "perplexity of codes or labels",
        (
            "code_perplexity",
            "probability_perplexity",
            "target_perplexity",
            "prediction_perplexity",
        ),
    ),
    ("feature penalty", ("feature_penalty",)),
    ("gradient norm", ("gradient_norm",)),
    ("learning rate", ("learning_rate",)),
    ("seconds of audio per second", ("time_audio_seconds_per_second",)),
    ("seconds of the host per line", tuple(f"{TIME_PREFIX}{part}_seconds" for part in PARTS)),
)


def plot_metrics(
    entries: Sequence[dict[str, Any]], png: Path, alarm_steps: Sequence[int] = ()
) -> None:
    """Draws the curves one reads to judge a pre-training run.

    Args:
        entries: Logged steps, as `read_metrics` returns them.
        png: Where the picture goes.
        alarm_steps: Where the collapse alarm rang; drawn as vertical lines.
    """
    figure = new_figure(15, 6.5)
    for axis, (title, names) in zip(figure.subplots(2, 4).flat, PANELS, strict=True):
        for name in names:
            points = [(e["step"], e[name]) for e in entries if e.get(name) is not None]
            if points:
                # Held-out figures are few, and a single point makes no line.
                marker = "o" if name.startswith("eval_") else ""
                label = name.removeprefix(TIME_PREFIX).removesuffix("_seconds").replace("_", " ")
                axis.plot(*zip(*points, strict=True), label=label, marker=marker, markersize=3)
        for number, step in enumerate(alarm_steps):
            # A label that begins with an underscore stays out of the legend.
            label = "collapse alarm" if number == 0 else "_again"
            axis.axvline(step, color="red", linestyle="--", label=label)
        axis.set_title(title)
        axis.set_xlabel("updates")
        axis.grid(alpha=0.3)
        if (len(names) > 1 or alarm_steps) and axis.lines:
            axis.legend()
    save_png(figure, png)
