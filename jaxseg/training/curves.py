"""Learning curves as a PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def draw_curves(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss, mIoU and learning rate over steps, from the lines of `log.jsonl`."""
    train = [x for x in lines if x["kind"] == "train"]
    evals = [x for x in lines if x["kind"] == "eval"]
    phases = [x for x in lines if x["kind"] == "phase"]
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    loss, miou, rate = figure.subplots(1, 3)

    def plot(axes: Any, source: list[dict[str, Any]], key: str, **style: Any) -> None:
        points = [(x["step"], x[key]) for x in source if x.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), **style)

    plot(loss, train, "loss", label="train")
    plot(loss, evals, "loss", label="val", marker="o")
    plot(miou, train, "miou", label="train (augmented crops)")
    plot(miou, evals, "miou", label="val", marker="o")
    plot(rate, train, "learning_rate", label="learning rate")
    for axes, title in ((loss, "loss"), (miou, "mIoU"), (rate, "learning rate")):
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        for phase in phases[1:]:
            axes.axvline(phase["step"], color="grey", linestyle=":")
        if axes.lines and axes is not rate:
            axes.legend()
    figure.savefig(path, dpi=90)
