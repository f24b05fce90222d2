"""What a run leaves in its folder, and what it finds there: checkpoints, model, progress, record."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxseg import runtime
from jaxseg.arch import Arch, digest, to_plain
from jaxseg.energy import Meter
from jaxseg.inference.artifact import CARD, save_model
from jaxseg.training import state as states
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.phases import Journal
from jaxseg.training.plan import Plan
from jaxseg.training.report import Report
from jaxseg.training.state import TrainState
from jaxseg.training.terminal import Terminal
from jaxseg.training.workdir import MODEL, MODEL_BEST, PRETRAINED, PROGRESS, RECORD, Workdir
from jaxseg.weights import pretrained


class Keeper:
    """Reads and writes the folder of a run; the first process has one."""

    def __init__(self, workdir: Workdir, plan: Plan, start_s: float):
        self._workdir, self._plan, self._start_s = workdir, plan, start_s
        self._before = workdir.read(PROGRESS)
        self._spent_s, self._best, self._arch = 0.0, -1.0, plan.arch
        self._meter, self._spent_j = Meter(), 0.0
        self.checkpoints = Checkpoints(
            workdir.path / "checkpoints", keep_last=plan.keep_last, keep_best=plan.keep_best
        )

    def model_step(self) -> int | None:
        """The step of the model that is there: that state has been evaluated."""
        return self._workdir.read(f"{MODEL}/{CARD}").get("origin", {}).get("step")

    def pretrained(self, terminal: Terminal) -> Mapping[str, np.ndarray] | None:
        """The values that a fresh run starts from, if any; what became of them is told and written down."""
        if not self._plan.pretrained:
            return None
        values, report = pretrained.values(self._plan.arch, pretrained.find(self._plan.pretrained))
        self._workdir.write(PRETRAINED, report.to_dict())
        for line in report.lines():
            terminal.say(line)
        return values

    def report(self, journal: Journal, terminal: Terminal, *, scored: bool) -> Report:
        """The reporter of a run that stands at `journal`; time and scores of earlier sessions are taken over."""
        report = Report(
            self._workdir.path,
            terminal,
            step=journal.step,
            scored=scored,
            joules=self._joules,
            tensorboard=self._plan.tensorboard,
        )
        if journal.step:
            _warn_if_elsewhere(self._before, terminal)
            self._spent_s = self._before.get("wall_s", 0.0)
            self._spent_j = self._before.get("energy_j")
        self._best, self._arch = best_of_network(report.lines, self._plan.arch), journal.arch
        return report

    def save(self, state: TrainState, journal: Journal, scores: dict[str, Any] | None) -> None:
        """A checkpoint, and where the state has just been evaluated the model."""
        if scores is not None:
            # Before the checkpoint: a run that has a checkpoint of its last step has its model.
            told = {**self._origin(), "step": journal.step, "scores": scores}
            card = replace(self._plan.card, origin={**self._plan.card.origin, **told})
            variables = jax.device_get(states.inference_variables(state))
            if journal.arch != self._arch:
                self._best, self._arch = -1.0, journal.arch
            if scores["miou"] is not None and scores["miou"] >= self._best:
                self._best = scores["miou"]
                save_model(self._workdir.path / MODEL_BEST, journal.arch, variables, card)
            save_model(self._workdir.path / MODEL, journal.arch, variables, card)
        self.checkpoints.save(state, journal, scores)
        progress = {"step": journal.step, "wall_s": self._wall_s(), **runtime.provenance()}
        progress["energy_j"] = self._joules()
        self._workdir.write(PROGRESS, progress)

    def finish(self, state: TrainState, journal: Journal) -> dict[str, Any]:
        """Writes and gives the record of the whole run."""
        record = {
            "schema": 1,
            "step": journal.step,
            "state_digest": states.digest(state),
            # All sessions together, each up to its last checkpoint.
            "wall_s": self._wall_s(),
            "energy": self._meter.record(self._spent_j),
            "train_macs": journal.train_macs,
            "evidence": journal.evidence,
            "arch_hash": digest(journal.arch),
            **self._origin(),
            "seed": self._plan.seed,
            "jax": jax.__version__,
            **runtime.provenance(),
            "config": self._plan.config,
        }
        self._workdir.write(RECORD, record)
        return record

    def _joules(self) -> float | None:
        return self._meter.record(self._spent_j)["joules"]

    def _wall_s(self) -> float:
        return self._spent_s + time.perf_counter() - self._start_s

    def _origin(self) -> dict[str, Any]:
        began = self._workdir.read(PRETRAINED) if self._plan.pretrained else {}
        return {"pretrained": {k: began[k] for k in ("name", "sha256")}} if began else {}


def best_of_network(lines: Sequence[dict[str, Any]], first: Arch) -> float:
    """The highest mIoU that a log tells of the network that it ends with; -1.0 if it tells none.

    A network that has lost channels, or got heads that were not trained before, is another one.

    Args:
        lines: of `log.jsonl`. first: what the run began with.
    """
    best, arch = -1.0, to_plain(first)
    for line in lines:
        if line["kind"] == "phase" and line.get("arch", arch) != arch:
            best, arch = -1.0, line["arch"]
        elif line["kind"] == "eval" and line["miou"] is not None:
            best = max(best, line["miou"])
    return best


def _warn_if_elsewhere(before: dict[str, Any], terminal: Terminal) -> None:
    """Bits are promised for the same jaxlib and CPU count only: say so when either changed."""
    now = runtime.provenance()
    pairs = {
        "CPUs": (before.get("cpus"), now["cpus"]),
        "jaxlib": (before.get("versions", {}).get("jaxlib"), now["versions"]["jaxlib"]),
        "device": (before.get("device"), now["device"]),
    }
    changed = [f"{k} {a} -> {b}" for k, (a, b) in pairs.items() if a != b]
    if changed:
        terminal.say("note: resumed on another machine, bits may differ: " + ", ".join(changed))
