"""The live line on a terminal; plain lines when the output is a file or a pipe."""

import math
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from jaxseg.output import Outlet
from jaxseg.training.loop import Window


def duration(seconds: float) -> str:
    """90.0 -> '1:30', 3700.0 -> '1:01:40'."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def percent(value: float | None) -> str:
    """0.613 -> '61.3 %'."""
    return "-" if value is None else f"{100 * value:.1f} %"


class Terminal:
    """Shows step, loss, mIoU of train and val, images/s, share of time waiting for data, time left."""

    def __init__(self, total_steps: int, console: Console | None = None, *, quiet: bool = False):
        """Args: of the whole run; where to; whether nothing is to be shown at all.

        A run goes on when nobody reads what it prints any more: `log.jsonl` has it all.
        """
        self._total = total_steps
        self._val: float | None = None
        outlet = cast(IO[str], Outlet())
        self.console = console or Console(file=outlet, soft_wrap=True, highlight=False, quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[line]}"),
            console=self.console,
            transient=True,
        )
        self._task: Any = None
        self._compiles = True

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False)

    def phase(self, text: str) -> None:
        """A phase begins; its program is compiled within the first window of steps."""
        self._compiles = True
        self.say(text)

    def train(self, step: int, values: dict[str, Any], window: Window) -> None:
        """Updates the live line, or prints one. Time left is not told from steps that were compiled for."""
        per_step_s = math.nan if self._compiles else window.wall_s / len(window.sums)
        self._compiles = False
        line = (
            f"loss {values['loss']:.3f}  mIoU train {percent(values['miou'])} "
            f"val {percent(self._val)}  {values['images_per_s']:.1f} img/s  "
            f"data wait {percent(values['wait_frac'])}  "
            f"left {duration(per_step_s * (self._total - step))}"
        )
        if not self.console.is_terminal:
            self.say(f"step {step}/{self._total}  {line}")
            return
        if self._task is None:
            self._task = self._progress.add_task("train", total=self._total, line="")
            self._progress.start()
        self._progress.update(self._task, completed=step, line=line)

    def evaluated(self, step: int, scores: dict[str, Any]) -> None:
        """A line per evaluation stays on the screen."""
        self._val = scores["miou"]
        self.say(
            f"step {step}: {scores['split']} mIoU {percent(scores['miou'])}  "
            f"pixel accuracy {percent(scores['aacc'])}  loss {scores['loss']:.3f}  "
            f"({duration(scores['wall_s'])})"
        )

    def close(self) -> None:
        """Clears the live line."""
        if self._task is not None:
            self._progress.stop()
            self._task = None
