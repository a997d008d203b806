"""Pictures of evaluations: confusion matrices, and the recall of each class."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from voc2vec_jax.pictures import new_figure, save_png
from voc2vec_jax.scores import Ints

WRITTEN_CLASSES = 16
"""Up to so many, the cells of a confusion matrix have numbers in them."""


def plot_confusion(counts: Ints, classes: Sequence[str], title: str, png: Path) -> None:
    """Draws the shares of each class (row) that were taken for each class.

    Args:
        counts: [classes, classes] rows are labels.
        classes: Their names.
        title: Above the picture.
        png: Where it goes.
    """
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    side = 2.5 + 0.35 * max(len(classes), 8)
    figure = new_figure(side + 1, side)
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [f"{name} ({total})" for name, total in zip(classes, totals[:, 0], strict=True)]
    axis.set_xticks(range(len(classes)), classes, rotation=90)
    axis.set_yticks(range(len(classes)), names)
    axis.set_xlabel("predicted")
    axis.set_ylabel("label (clips tested)")
    axis.set_title(title, fontsize=10, wrap=True)
    if len(classes) <= WRITTEN_CLASSES:
        for row, column in np.ndindex(*counts.shape):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = str(counts[row, column])
            axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(image, ax=axis, label="share of the label", shrink=0.8)
    save_png(figure, png)


def plot_recalls(
    recalls: Mapping[str, Sequence[float | None]], classes: Sequence[str], title: str, png: Path
) -> None:
    """Draws the recall of each class by each model; a class without clips has no mark.

    Args:
        recalls: [classes] by model.
        classes: Their names.
        title: Above the picture.
        png: Where it goes.
    """
    figure = new_figure(3 + 0.5 * max(len(classes), 8), 4.5)
    axis = figure.subplots()
    places = np.arange(len(classes))
    width = 0.6 / max(len(recalls) - 1, 1)
    for number, (model, values) in enumerate(recalls.items()):
        heights = [np.nan if value is None else value for value in values]
        offset = (number - (len(recalls) - 1) / 2) * width
        axis.plot(places + offset, heights, "o", markersize=4, label=model)
    axis.axhline(1 / len(classes), color="grey", linestyle="--", label="chance")
    axis.set_xticks(places, classes, rotation=90 if len(classes) > 8 else 0)
    axis.set_ylim(-0.03, 1.03)
    axis.set_ylabel("recall, pooled over folds")
    axis.set_title(title, fontsize=10)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    save_png(figure, png)
