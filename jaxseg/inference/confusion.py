"""A confusion matrix as a picture and as a table."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxseg.errors import UserError
from jaxseg.outside import write_file

MAX_WRITTEN = 30
"""Up to so many classes the cells hold numbers; beyond, colours alone."""


def draw_confusion(confusion: np.ndarray, class_names: Sequence[str], path: Path) -> None:
    """Row-normalised in per cent: of the true pixels of a class, where they went. A class without any is grey.

    Args:
        confusion: int64 [K, K], rows truth, columns prediction.
        class_names: K names.
        path: of the PNG; its folder is made.

    Raises:
        UserError: the file cannot be written.
    """
    count = len(class_names)
    total = confusion.sum(axis=1, keepdims=True)
    percent = np.full(confusion.shape, np.nan)
    np.divide(100.0 * confusion, total, out=percent, where=total > 0)
    written = count <= MAX_WRITTEN
    side_in = 1.8 + max(2.0, (0.42 if written else 0.14) * count)
    figure = Figure(figsize=(side_in + 0.6, side_in), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_facecolor("lightgrey")
    image = axes.imshow(percent, vmin=0, vmax=100, cmap="Blues")
    figure.colorbar(image, ax=axes, shrink=0.6, label="% of the true pixels of the class")
    # A class name is text, whatever dollar signs are in it.
    style = {"fontsize": 9 if written else 6, "parse_math": False}
    axes.set_xticks(range(count), class_names, rotation=90, **style)
    axes.set_yticks(range(count), class_names, **style)
    axes.set(xlabel="prediction", ylabel="truth")
    if written:
        for row, column in np.argwhere(np.isfinite(percent)):
            value = percent[row, column]
            axes.text(
                column,
                row,
                _short(value),
                ha="center",
                va="center",
                fontsize=7.5,
                color="white" if value > 55 else "black",
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=100, format="png")
        write_file(path, drawn.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {path}", got=error.strerror) from error


def write_confusion(confusion: np.ndarray, class_names: Sequence[str], path: Path) -> None:
    """The counts of pixels as CSV: a head of predicted classes, then one row per true class.

    Raises:
        UserError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["truth \\ prediction", *class_names])
    for name, row in zip(class_names, confusion.tolist(), strict=True):
        table.writerow([name, *row])
    try:
        write_file(path, text.getvalue().encode())
    except OSError as error:
        raise UserError(f"cannot write {path}", got=error.strerror) from error


def _short(percent: float) -> str:
    """At most four characters; nothing for a true zero, so that what happened stands out."""
    if percent == 0:
        return ""
    return "<.1" if percent < 0.05 else f"{percent:.1f}" if percent < 99.95 else "100"
