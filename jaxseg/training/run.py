"""One training run in one folder: start or resume, evaluate, save, write the model.

W/config.json      the config; a resume with another one is refused
W/checkpoints/     whole states with their journals (orbax)
W/log.jsonl        one line per log, evaluation and phase;  W/tensorboard/, W/pictures/
W/model/           the last weights as a deployable folder;  W/model_best/: best val mIoU
W/pretrained.json  what became of the weights it started from, where there were any
W/run.json         written at the end: what was run, where, how long, and the digest of the state
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from jaxseg import runtime
from jaxseg.arch import Arch, digest
from jaxseg.data.datasets import Split
from jaxseg.data.pipeline import eval_stream, train_stream
from jaxseg.data.plan import EvalPlan
from jaxseg.data.transforms import Augment
from jaxseg.errors import UserError
from jaxseg.inference import pictures
from jaxseg.inference.artifact import CARD, Card, flatten, save_model
from jaxseg.inference.evaluation import Album, evaluate
from jaxseg.inference.predictor import make_score
from jaxseg.training import state as states
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.interrupt import Interrupts
from jaxseg.training.loop import Every, fit, is_finished
from jaxseg.training.parallel import Parallel
from jaxseg.training.phases import Journal, Phase
from jaxseg.training.report import Report
from jaxseg.training.state import TrainState
from jaxseg.training.terminal import Terminal
from jaxseg.weights import pretrained

PRETRAINED = "pretrained.json"


@dataclass(frozen=True)
class Plan:
    """Everything a run needs, as plain values; `build.py` makes it from a config.

    arch:    of the first phase. phases: the whole run.
    train_split, eval_split: data. augment: host transform of training images.
    card:    what the deployed model says of itself.
    config:  plain JSON values, for config.json and run.json.
    pretrained: what a fresh run starts from (see `weights.pretrained.find`); '' = random weights.
    """

    arch: Arch
    phases: tuple[Phase, ...]
    parallel: Parallel
    train_split: Split
    eval_split: Split
    augment: Augment
    card: Card
    config: dict[str, Any]
    seed: int
    every: Every
    max_steps: int = 0
    max_skipped: int = 10
    ema: bool = False
    num_workers: int = 0
    prefetch: int = 4
    eval_batch_size: int = 8
    num_pictures: int = 4
    keep_last: int = 2
    keep_best: int = 1
    tensorboard: bool = True
    pretrained: str = ""


def has_begun(workdir: Path) -> bool:
    """Whether a run has saved anything there yet, so that it is resumed."""
    return (workdir / "progress.json").exists()


def train(workdir: Path, plan: Plan) -> dict[str, Any]:
    """Trains, or goes on where the folder stands.

    Returns:
        What `run.json` holds.

    Raises:
        UserError: the folder belongs to another config, or cannot be written.
        RunFailed: too many updates in a row were skipped, or a checkpoint cannot be saved.
        Interrupted: told to stop by a signal, and saved.
    """
    with Interrupts() as interrupts:
        return _train(Path(workdir), plan, interrupts)


def _train(workdir: Path, plan: Plan, interrupts: Interrupts) -> dict[str, Any]:
    start_s = time.perf_counter()
    _claim(workdir, plan.config)
    before = _read_json(workdir / "progress.json")
    checkpoints = Checkpoints(
        workdir / "checkpoints", keep_last=plan.keep_last, keep_best=plan.keep_best
    )
    total = sum(phase.steps for phase in plan.phases)
    terminal = Terminal(min(total, plan.max_steps or total))
    state, journal = _start_or_resume(checkpoints, plan, workdir, terminal)
    terminal.say(_headline(plan, journal))
    began = _read_json(workdir / PRETRAINED) if plan.pretrained else {}
    origin = {"pretrained": {k: began[k] for k in ("name", "sha256")}} if began else {}
    scored = _read_json(workdir / "model" / CARD).get("origin", {}).get("step") == journal.step
    report = Report(
        workdir, terminal, step=journal.step, scored=scored, tensorboard=plan.tensorboard
    )
    evaluator = _Evaluator(plan, interrupts)
    if journal.step:
        _warn_if_elsewhere(before, terminal)
    spent_s = before.get("wall_s", 0.0) if journal.step else 0.0
    best = max(
        (x["miou"] for x in report.lines if x["kind"] == "eval" and x["miou"] is not None),
        default=-1.0,
    )

    def save(state: TrainState, journal: Journal, scores: dict[str, Any] | None) -> None:
        nonlocal best
        if scores is not None:
            # Before the checkpoint: a run that has a checkpoint of its last step has its model.
            told = {**plan.card.origin, **origin, "step": journal.step, "scores": scores}
            card = replace(plan.card, origin=told)
            variables = jax.device_get(states.inference_variables(state))
            if scores["miou"] is not None and scores["miou"] > best:
                best = scores["miou"]
                save_model(workdir / "model_best", journal.arch, variables, card)
            save_model(workdir / "model", journal.arch, variables, card)
        checkpoints.save(state, journal, scores)
        wall_s = spent_s + time.perf_counter() - start_s
        progress = {"step": journal.step, "wall_s": wall_s, **runtime.provenance()}
        _write_json(workdir / "progress.json", progress)

    def open_stream(phase: Phase, first: int, last: int) -> Any:
        return train_stream(
            plan.train_split,
            phase.plan,
            plan.augment,
            seed=phase.plan.seed,
            start=first,
            stop=last,
            num_workers=plan.num_workers,
            prefetch=plan.prefetch,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    try:
        if is_finished(plan.phases, journal, state) and scored:
            terminal.say(f"already finished at step {journal.step}; nothing to do")
            if told := _read_json(workdir / "run.json"):
                return told
        else:
            state, journal = fit(
                plan.phases,
                state,
                journal,
                parallel=plan.parallel,
                open_stream=open_stream,
                evaluate=evaluator,
                save=save,
                reporter=report,
                every=plan.every,
                interrupts=interrupts,
                scored=scored,
                patience=plan.max_skipped,
                names=plan.train_split.names,
                max_steps=plan.max_steps,
            )
        checkpoints.wait()
    finally:
        report.close()
        checkpoints.close()
    record = {
        "schema": 1,
        "step": journal.step,
        "state_digest": states.digest(state),
        # All sessions together, each up to its last checkpoint.
        "wall_s": spent_s + time.perf_counter() - start_s,
        "train_macs": journal.train_macs,
        "evidence": journal.evidence,
        "arch_hash": digest(journal.arch),
        **origin,
        "seed": plan.seed,
        "jax": jax.__version__,
        **runtime.provenance(),
        "config": plan.config,
    }
    _write_json(workdir / "run.json", record)
    return record


def _start_or_resume(
    checkpoints: Checkpoints, plan: Plan, workdir: Path, terminal: Terminal
) -> tuple[TrainState, Journal]:
    """The newest intact checkpoint's state and journal, or a fresh start.

    The journal comes first: its architecture and phase give the template of the state. Pretrained weights are
    read on a fresh start only.
    """

    def template(journal: Journal) -> TrainState:
        phase = plan.phases[journal.phase]
        made = jax.eval_shape(lambda: states.create(journal.arch, phase, plan.seed, ema=plan.ema))
        return plan.parallel.on_devices(made.replace(extra=journal.extra_template()))

    found = checkpoints.newest(template, terminal.say)
    if found is not None:
        return found
    values = None
    if plan.pretrained:
        values, report = pretrained.values(plan.arch, pretrained.find(plan.pretrained))
        _write_json(workdir / PRETRAINED, report.to_dict())
        for line in report.lines():
            terminal.say(line)
    state = states.create(plan.arch, plan.phases[0], plan.seed, ema=plan.ema, values=values)
    return state, Journal(step=0, phase=0, phase_step=0, arch=plan.arch)


class _Evaluator:
    """(arch, state, step) -> scores on the eval split, compiled once per architecture.

    Raises `Interrupted` between two batches if the run has been told to stop.
    """

    def __init__(self, plan: Plan, interrupts: Interrupts):
        self._plan, self._interrupts = plan, interrupts
        self._arch: Arch | None = None
        self._batches = EvalPlan(plan.eval_split.sizes_px, plan.eval_batch_size)

    def __call__(self, arch: Arch, state: TrainState, step: int) -> dict[str, Any]:
        plan, card = self._plan, self._plan.card
        start_s = time.perf_counter()
        if arch != self._arch:
            self._arch, self._score = arch, make_score(arch, card.mean, card.std)
        album = Album(plan.num_pictures)
        with eval_stream(plan.eval_split, self._batches, num_workers=plan.num_workers) as batches:
            tally = evaluate(
                self._score,
                states.inference_variables(state),
                self._while_wanted(batches),
                arch.num_classes,
                watch=album,
            )
        sheet = (
            pictures.comparison(album.images, album.labels, album.predictions, card.class_colors)
            if album.images
            else None
        )
        wall_s = time.perf_counter() - start_s
        return {**tally.scores(), "split": plan.eval_split.name, "wall_s": wall_s, "sheet": sheet}

    def _while_wanted(self, batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            self._interrupts.check()
            yield batch


def _claim(workdir: Path, config: dict[str, Any]) -> None:
    """Writes config.json, or checks that the one there is the same apart from max_steps."""
    path = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        saved = json.loads(path.read_text()) if path.exists() else None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot use --workdir {workdir}", got=error) from error
    if saved is not None:
        old, new = flatten(saved), flatten(config)
        keys = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
        keys = [k for k in keys if k != "max_steps"]
        if keys:
            shown = ", ".join(
                f"{k.replace('/', '.')} {old.get(k)!r} -> {new.get(k)!r}" for k in keys[:4]
            )
            raise UserError(
                f"{workdir} was started with another config",
                got=shown + (f" and {len(keys) - 4} more" if len(keys) > 4 else ""),
                expected="the same values (only max_steps may differ on resume)",
                do="use another --workdir",
            )
    _write_json(path, config)


def _headline(plan: Plan, journal: Journal) -> str:
    where = f"resuming at step {journal.step}" if journal.step else "starting"
    return (
        f"{where}: {len(plan.train_split)} training and {len(plan.eval_split)} "
        f"{plan.eval_split.name} images on {runtime.device_name()}"
    )


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


def _read_json(path: Path) -> dict[str, Any]:
    """The record, or an empty one where there is none."""
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path}", got=error, do="remove it, or the whole run"
        ) from error


def _write_json(path: Path, record: dict[str, Any]) -> None:
    """Atomic: a reader never sees half a file."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(json.dumps(record, indent=2) + "\n")
        fresh.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}", got=error.strerror) from error
