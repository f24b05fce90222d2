"""One training run in one folder: start or resume, evaluate, save, write the model.

W/config.json      the config; a resume with another one is refused
W/checkpoints/     whole states with their journals (orbax)
W/log.jsonl        one line per log, evaluation and phase;  W/tensorboard/, W/pictures/
W/model/           the last weights as a deployable folder
W/model_best/      those of the best val mIoU that the network has had as it is in the end
W/pretrained.json  what became of the weights it started from, where there were any
W/run.json         written at the end: what was run, where, how long, and the digest of the state
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxseg import processes, runtime
from jaxseg.data.pipeline import train_stream
from jaxseg.errors import RunFailed
from jaxseg.processes import on_first, share
from jaxseg.training import state as states
from jaxseg.training.evaluator import Evaluator
from jaxseg.training.interrupt import Interrupts
from jaxseg.training.keeper import Keeper
from jaxseg.training.loop import fit, is_finished
from jaxseg.training.phases import Journal, Phase, total_steps
from jaxseg.training.plan import Plan
from jaxseg.training.report import Silence
from jaxseg.training.state import TrainState
from jaxseg.training.terminal import Terminal
from jaxseg.training.workdir import RECORD, Workdir


def train(workdir: Path, plan: Plan) -> dict[str, Any]:
    """Trains, or goes on where the folder stands. Of several processes all call this, with equal plans.

    Returns:
        What `run.json` holds.

    Raises:
        UserError: the folder belongs to another config, is in use, or cannot be written.
        RunFailed: too many updates in a row were skipped, a checkpoint cannot be saved, a worker or another process
            of the run is gone.
        Interrupted: told to stop by a signal, and saved.
    """
    start_s = time.perf_counter()
    with _in_one_line(), contextlib.ExitStack() as stack:
        opened: list[Workdir] = []
        on_first(lambda: opened.append(Workdir(workdir, plan.config)))
        for one in opened:
            stack.callback(one.close)
        interrupts = stack.enter_context(Interrupts())
        return _train(opened[0] if opened else None, plan, interrupts, start_s)


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """Raises a RunFailed for what befalls a run: a full disk, or the loss of another process."""
    try:
        yield
    except OSError as error:  # of what is read every error is a user's by now
        where = f": {error.filename}" if error.filename else ""
        raise RunFailed(
            f"{error.strerror or error}{where}; what was saved stays, and the same command goes on from it"
        ) from error
    except (ValueError, RuntimeError) as error:
        if not processes.is_loss(error):
            raise
        raise RunFailed(
            f"another of the {jax.process_count()} processes is gone, see what it said "
            f"({str(error).splitlines()[0][:120]}); the same command goes on from the last checkpoint"
        ) from error


def _train(
    workdir: Workdir | None, plan: Plan, interrupts: Interrupts, start_s: float
) -> dict[str, Any]:
    """`workdir` is None in all processes but the first, which do not touch the folder."""
    total = total_steps(plan.phases)
    terminal = Terminal(min(total, plan.max_steps or total), quiet=workdir is None)
    keeper = Keeper(workdir, plan, start_s) if workdir else None
    state, journal = _start_or_resume(keeper, plan, terminal)
    scored = on_first(lambda: keeper.model_step() == journal.step)
    for line in (_headline(plan, journal), *plan.notes):
        terminal.say(line)
    if keeper:
        report = keeper.report(journal, terminal, scored=scored)
    else:
        report = Silence()

    def save(state: TrainState, journal: Journal, scores: dict[str, Any] | None) -> None:
        if keeper:
            keeper.save(state, journal, scores)

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
        cut = 0 < plan.max_steps <= journal.step
        if scored and (cut or is_finished(plan.phases, journal, state)):
            terminal.say(f"already finished at step {journal.step}; nothing to do")
            told = on_first(lambda: workdir.read(RECORD))
            if told.get("step") == journal.step:  # else it is of an earlier, shorter run
                return told
        else:
            state, journal = fit(
                plan.phases,
                state,
                journal,
                parallel=plan.parallel,
                open_stream=open_stream,
                evaluate=Evaluator(plan, interrupts),
                save=save,
                reporter=report,
                every=plan.every,
                interrupts=interrupts,
                scored=scored,
                patience=plan.max_skipped,
                names=plan.train_split.names,
                max_steps=plan.max_steps,
            )
        if keeper:
            keeper.checkpoints.wait()
    finally:
        report.close()
        if keeper:
            keeper.checkpoints.close()
    return on_first(lambda: keeper.finish(state, journal))


def _start_or_resume(
    keeper: Keeper | None, plan: Plan, terminal: Terminal
) -> tuple[TrainState, Journal]:
    """The newest intact checkpoint's state and journal, or a fresh start.

    The journal comes first: its architecture and phase give the template of the state.
    """

    def template(journal: Journal) -> TrainState:
        # A run that was cut between two phases has not entered the second one yet.
        before = journal.phase > 0 and not journal.entered
        phase = plan.phases[journal.phase - before]
        made = jax.eval_shape(lambda: states.create(journal.arch, phase, plan.seed, ema=plan.ema))
        return made.replace(extra=journal.extra_template())

    found: list[TrainState] = []

    def newest() -> dict[str, Any] | None:
        saved = keeper.checkpoints.newest(template, terminal.say)
        if saved is None:
            return None
        found.append(saved[0])
        return saved[1].to_dict()

    record = on_first(newest)
    if record is not None:
        journal = Journal.from_dict(record)
        state = found[0] if found else jax.tree.map(jnp.zeros_like, template(journal))
        return share(state), journal
    # Weights to start from are read on a fresh start only.
    values = keeper.pretrained(terminal) if keeper else None
    state = states.create(plan.arch, plan.phases[0], plan.seed, ema=plan.ema, values=values)
    return share(state), Journal(step=0, phase=0, phase_step=0, arch=plan.arch)


def _headline(plan: Plan, journal: Journal) -> str:
    where = f"resuming at step {journal.step}" if journal.step else "starting"
    return (
        f"{where}: {len(plan.train_split)} training and {len(plan.eval_split)} "
        f"{plan.eval_split.name} images on {runtime.device_name()}"
    )
