"""Pictures of the documents, from `results/` alone."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.report import ROOT, load, rows_of

IMAGES = ROOT / "docs" / "images"


def mess(path: Path) -> None:
    """MIoU on test against measured latency (ratio to the plain network), every seed a point of its own."""
    gains = rows_of(load("mess"), "gain")
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()

    def points(label: str, pairs: list[tuple[float, float]], marker: str, color: str) -> None:
        if pairs:
            x, y = np.array(pairs).T
            axes.plot(x, 100 * y, marker, color=color, label=label, alpha=0.85)

    points("plain", [(1.0, g["plain"]["test"]) for g in gains], "s", "black")
    kinds = {
        "input": ("input-dependent", "o", "crimson"),
        "static": ("best static exit as quick", "^", "tab:blue"),
        "cheapest_static": ("quickest static exit as good", "v", "tab:cyan"),
    }
    for kind, (label, marker, color) in kinds.items():
        found = [g[p][kind] for g in gains for p in ("0.1", "1.0") if kind in g[p]]
        points(label, [(f["ratio_measured"], f["test_miou"]) for f in found], marker, color)
    routed = [g[p] for g in gains for p in ("0.1", "1.0") if "input" in g[p]]
    for key, marker, color in (("random", "x", "gray"), ("oracle", "*", "goldenrod")):
        pairs = [(f["input"]["ratio_measured"], f[f"{key}_test_miou"]) for f in routed]
        points(f"{key} routing, same shares", pairs, marker, color)
    narrow = sorted({k for g in gains for k in g if k.startswith("narrow_")})
    pairs = [(g[k]["ratio_measured"], g[k]["test_miou"]) for g in gains for k in narrow if k in g]
    points("narrower, from scratch", pairs, "D", "tab:green")
    axes.set(
        xlabel="mean latency per image / plain network, measured in turn", ylabel="test mIoU in %"
    )
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def draw_all() -> None:
    """Every picture."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    mess(IMAGES / "mess.png")
