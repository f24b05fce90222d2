"""Pictures of a search (after GAS): how sure it is of every edge, and the cells that it would give."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxseg.models.backbones.gas import CANDIDATES, EDGES, ZERO, Genotype, reductions

PLACES = {"older": (0.0, 1.0), "newer": (0.0, 0.0), "x1": (1.2, 0.9), "x2": (2.4, 0.2)}
"""Of nodes in a cell's picture."""

COLUMNS = 4


def draw_alphas(shares: np.ndarray) -> np.ndarray:
    """Softmax of alpha' [K, P, Q] as one picture, a row per edge, a column per candidate: uint8 [H, W, 3]."""
    cells, edges, _ = shares.shape
    figure = Figure(figsize=(5, 1.2 + 0.11 * cells * edges), layout="constrained", dpi=80)
    axes = figure.subplots()
    axes.imshow(shares.reshape(cells * edges, -1), vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(CANDIDATES)), CANDIDATES, rotation=45, ha="right")
    axes.set_yticks(
        [edges * (k + 0.5) - 0.5 for k in range(cells)], [f"cell {k}" for k in range(cells)]
    )
    for k in range(1, cells):
        axes.axhline(edges * k - 0.5, color="white", linewidth=0.7)
    return _pixels(figure)


def draw_cells(genotype: Genotype) -> np.ndarray:
    """Every cell as a graph, edges named after what they do, 'zero' left out: uint8 [H, W, 3]."""
    rows = -(-len(genotype) // COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 2.2 * rows), layout="constrained", dpi=80)
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for k, (choices, axes) in enumerate(zip(genotype, grid.flat, strict=False)):
        axes.set_title(
            f"cell {k}" + (" (reduces)" if k in reductions(len(genotype)) else ""), fontsize=9
        )
        axes.set_xlim(-0.4, 2.8)
        axes.set_ylim(-0.3, 1.4)
        for (source, node), choice in zip(EDGES, choices, strict=True):
            if choice == ZERO:
                continue
            (x0, y0), (x1, y1) = PLACES[source], PLACES[node]
            arrow = {"arrowstyle": "->", "shrinkA": 9, "shrinkB": 9, "color": "grey"}
            axes.annotate("", (x1, y1), (x0, y0), arrowprops=arrow)
            axes.text(x0 + 0.55 * (x1 - x0), y0 + 0.55 * (y1 - y0), choice, fontsize=6, ha="center")
        for name, (x, y) in PLACES.items():
            axes.text(
                x,
                y,
                name,
                fontsize=7,
                ha="center",
                va="center",
                bbox={"boxstyle": "round", "fc": "white"},
            )
    return _pixels(figure)


def _pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
