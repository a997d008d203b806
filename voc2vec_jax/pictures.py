"""Pictures that need no display and leave the user's pyplot alone."""

from pathlib import Path
from typing import Any

from voc2vec_jax.files import writing


def new_figure(width: float, height: float) -> Any:
    """An empty figure of matplotlib, its sides in inches."""
    # Imported here: matplotlib takes a second.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Any, png: Path, *, dpi: int = 110) -> None:
    """Writes a figure, whole or not at all; its folder is made."""
    png.parent.mkdir(parents=True, exist_ok=True)
    with writing(png, by_many=True) as unfinished:
        figure.savefig(unfinished, format="png", dpi=dpi)
