"""The Pareto front of a search as a picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxseg.errors import UserError
from jaxseg.inference.search import Deployment


def draw_front(
    front: Sequence[Deployment],
    chosen: Deployment,
    final_only: dict[str, float],
    unit: str,
    path: Path,
) -> None:
    """MIoU in per cent against mean cost per image: the front, what was chosen, the original network.

    Raises:
        UserError: the file cannot be written.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.step(
        [x.cost for x in front], [100 * x.miou for x in front], where="post", label="Pareto front"
    )
    axes.plot(final_only["cost"], 100 * final_only["miou"], "s", color="black", label="final only")
    axes.plot(chosen.cost, 100 * chosen.miou, "o", color="crimson", label="chosen")
    axes.set(xlabel=f"mean {unit} per image", ylabel="mIoU in % on the split of the search")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise UserError(f"cannot write {path}", got=error.strerror) from error
