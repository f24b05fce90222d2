"""Where a run is written down: terminal, JSON lines, TensorBoard, pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.arch import Arch, count, to_plain
from jaxseg.errors import UserError
from jaxseg.inference import pictures
from jaxseg.models import zoo
from jaxseg.objectives.metrics import scores as to_scores
from jaxseg.training.curves import draw_curves
from jaxseg.training.loop import Window
from jaxseg.training.phases import Phase
from jaxseg.training.terminal import Terminal


class Report:
    """The loop's reporter. `log.jsonl` holds one JSON object per line with `kind` and `step`.

    A resumed run drops lines past its checkpoint, so that no step is told twice; with `scored` False also scores of
    that very step, which are to be made again. `joules`: spent so far, where the machine counts them.
    """

    def __init__(
        self,
        folder: Path,
        terminal: Terminal,
        *,
        step: int,
        scored: bool = True,
        joules: Callable[[], float | None] = lambda: None,
        tensorboard: bool = True,
    ):
        self._folder, self._terminal, self._joules = folder, terminal, joules
        self._log_path = folder / "log.jsonl"
        last = {"eval": step if scored else step - 1}
        lines = read_log(self._log_path)
        self.lines = [x for x in lines if x["step"] <= last.get(x["kind"], step)]
        self._log_path.write_text("".join(json.dumps(x) + "\n" for x in self.lines))
        (folder / "pictures").mkdir(exist_ok=True)
        self._board = _board(folder / "tensorboard", step + 1) if tensorboard else None

    def phase(self, step: int, phase: Phase, arch: Arch) -> None:
        """A phase begins (or goes on after a resume)."""
        trained = ", ".join(phase.trainable)
        cost = count(zoo.blocks(arch), *phase.plan.size_px)
        self._terminal.phase(
            f"phase {phase.name}: up to {phase.steps} steps, training {trained}; "
            f"{cost.params / 1e6:.2f} M parameters, {cost.macs / 1e6:.0f} M MACs; "
            "the first step compiles" + (f"\n  {phase.about}" if phase.about else "")
        )
        told = {"phase": phase.name, "num_blocks": len(arch.backbone.blocks)}
        told |= {"params": cost.params, "macs": cost.macs, "size_px": list(phase.plan.size_px)}
        if phase.on_enter:  # it may have become another network
            told["arch"] = to_plain(arch)
        self._write("phase", step, told)

    def train(self, step: int, window: Window) -> None:
        """One log line; updates that were skipped are told apart and are in none of its means."""
        sums = {
            key: np.sum([np.asarray(x[key], np.float64) for x in window.sums], axis=0)
            for key in window.sums[0]
        }
        values = {
            # The whole, and where losses are combined also each of them: loss/dice and so on.
            **{
                key.replace("loss_sum", "loss"): float(
                    sums[key] / max(sums[key.replace("loss_sum", "loss_count")], 1e-9)
                )
                for key in sums
                if key.startswith("loss_sum")
            },
            "miou": to_scores(sums["hit"], sums["true"], sums["predicted"])["miou"],
            "grad_norm": float(sums["grad_norm_sum"] / max(sums["steps"], 1)),
            "learning_rate": float(sums["rate_sum"] / max(sums["steps"], 1)),
            "images_per_s": window.images / window.wall_s,
            "wait_frac": window.wait_s / window.wall_s,
            "train_macs": window.macs,
        }
        if (spent := self._joules()) is not None:
            values["energy_j"] = spent
        if skipped := int(sums["skipped"]):
            self._write("skipped", step, {"skipped": skipped, "of": len(window.sums)})
            self._terminal.say(
                f"step {step}: {skipped} of {len(window.sums)} updates skipped, loss or gradient was no number"
            )
        if not sums["steps"]:
            return
        self._write("train", step, values)
        self._terminal.train(step, values, window)

    def evaluated(self, step: int, scores: dict[str, Any]) -> None:
        """Scores, plus the overlays of fixed images that came with them."""
        drawn = {"overlays": scores.pop("sheet", None), **scores.pop("pictures", {})}
        self._write("eval", step, scores)
        self._terminal.evaluated(step, scores)
        for name, picture in drawn.items():
            if picture is None:
                continue
            pictures.write_png(self._folder / "pictures" / f"{name}_{step:07d}.png", picture)
            if self._board:
                self._board.add_image(name, picture, step, dataformats="HWC")
        draw_curves(self.lines, self._folder / "pictures" / "curves.png")

    def close(self) -> None:
        """Flushes TensorBoard and clears the live line."""
        if self._board:
            self._board.close()
        self._terminal.close()

    def _write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        line = {"kind": kind, "step": step, **values}
        self.lines.append(line)
        with self._log_path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._board:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, step)


class Silence:
    """The reporter of a process that is not the first: says and writes nothing."""

    def phase(self, step: int, phase: Phase, arch: Arch) -> None: ...

    def train(self, step: int, window: Window) -> None: ...

    def evaluated(self, step: int, scores: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


def _board(folder: Path, purge_step: int) -> Any:
    """A TensorBoard writer; imported here, since it imports torch where that is installed, for a second or more."""
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder), purge_step=purge_step)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line cut off by a kill is left out.

    Raises:
        UserError: another line is not JSON.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    parsed = []
    for number, line in enumerate(lines, 1):
        try:
            parsed.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise UserError(f"{path} line {number} is not JSON", do="move the file away") from error
    return parsed
