"""The loop. It knows phases, steps, batches and time; no method, no config, no file format.

Evaluation, saving and reporting are handed in as callables, so this file reads as the story of a run.
"""

import collections
import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import numpy as np

from jaxseg.arch import Arch, train_macs
from jaxseg.errors import Interrupted, RunFailed
from jaxseg.models import zoo
from jaxseg.training import partition
from jaxseg.training.interrupt import Interrupts
from jaxseg.training.parallel import Parallel, to_host
from jaxseg.training.phases import Journal, Phase
from jaxseg.training.state import TrainState, enter


class Reporter(Protocol):
    """Where the loop tells what happens. Every call is on the host, between steps."""

    def phase(self, step: int, phase: Phase, arch: Arch) -> None: ...

    def train(self, step: int, window: "Window") -> None: ...

    def evaluated(self, step: int, scores: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Window:
    """What happened between two log lines.

    sums:    metric sums of the steps in it, on the host.
    images:  images seen. wall_s: seconds passed. wait_s: of these, waiting for the next batch.
    macs:    MACs spent since the run began.
    """

    sums: list[dict[str, Any]]
    images: int
    wall_s: float
    wait_s: float
    macs: int


@dataclass(frozen=True)
class Every:
    """Cadences in steps of the whole run; 0 = never (the end always evaluates and saves)."""

    log: int = 20
    evaluate: int = 0
    save: int = 0


def fit(
    phases: Sequence[Phase],
    state: TrainState,
    journal: Journal,
    *,
    parallel: Parallel,
    open_stream: Callable[[Phase, int, int], Any],
    evaluate: Callable[[Arch, TrainState, int], dict[str, Any]],
    save: Callable[[TrainState, Journal, dict[str, Any] | None], None],
    reporter: Reporter,
    every: Every,
    interrupts: Interrupts,
    scored: bool = False,
    patience: int = 10,
    names: Sequence[str] = (),
    max_steps: int = 0,
) -> tuple[TrainState, Journal]:
    """Runs the phases from where `journal` stands to the end, or to `max_steps` updates.

    Args:
        phases: the whole run, in order.
        state: the state that belongs to `journal`.
        journal: where the run stands; a copy is advanced and returned.
        parallel: how steps are compiled and batches placed.
        open_stream: (phase, first, last) -> closable iterator over batches first..last-1 of the phase.
        evaluate: (arch, state, step) -> scores; must not donate the state.
        save: (state, journal, scores of this very step or None).
        reporter: told of phases, windows and scores.
        every: cadences.
        interrupts: asked after every step, and by `evaluate` itself. Of several processes all stop at the same step.
        scored: whether this very state has been evaluated. An evaluation that is due and missing, since the run was
            stopped in the middle of it, is made up for first.
        patience: skipped updates in a row after which the run ends, see `training.steps`.
        names: of the training images, to tell which ones those updates saw.
        max_steps: cut the run short after so many updates; 0 = none. Never rescales a schedule.

    Returns:
        The last state and journal; both saved.

    Raises:
        Interrupted: told to stop; the state of the last step is being saved.
        RunFailed: too many updates in a row were skipped.
    """
    journal = replace(journal, evidence=list(journal.evidence))
    scores = None

    def score(arch: Arch, state: TrainState) -> dict[str, Any]:
        """Evaluates and tells; a run that is told to stop meanwhile saves what it has."""
        try:
            found = evaluate(arch, state, journal.step)
        except Interrupted:
            save(state, journal, None)
            raise
        describe = phases[journal.phase].describe
        found |= describe(arch, state) if describe and journal.entered else {}
        reporter.evaluated(journal.step, found)
        return found

    due = every.evaluate and journal.step and journal.step % every.evaluate == 0
    if due and journal.entered and not scored:
        scores = score(journal.arch, parallel.put_state(state))
        save(state, journal, scores)
    while journal.phase < len(phases) and not (max_steps and journal.step >= max_steps):
        phase = phases[journal.phase]
        if not journal.entered:
            journal.arch, state = enter(phase, journal.arch, state)
            journal.entered = True
            journal.describe_extra(state.extra)
        arch = journal.arch
        state = parallel.put_state(state)
        reporter.phase(journal.step, phase, arch)
        step_macs = functools.cache(functools.partial(_step_macs, arch, phase))
        compiled = parallel.compile(functools.partial(phase.make_step, arch, phase))
        last = phase.steps
        if max_steps:
            last = min(last, journal.phase_step + max_steps - journal.step)
        clock = _Clock(phase.plan.batch_size, _Skipped(patience, names))
        # A piece of a stretch may have nothing left to do.
        empty = journal.phase_step >= last
        opened = contextlib.nullcontext() if empty else open_stream(phase, journal.phase_step, last)
        with opened as stream:
            while journal.phase_step < last and not phase.is_over(state, journal.phase_step):
                with clock.waiting():
                    batch = next(stream)
                    seen, size_px = batch["index"], batch["label"].shape[1:]
                    batch = parallel.put_batch(batch, interrupts.signal or 0)
                state, sums = compiled(state, batch)
                journal.step += 1
                journal.phase_step += 1
                journal.train_macs += step_macs(size_px)
                # Read the device one step late and never run ahead of it by more than two steps.
                clock.ready_to_log(journal, reporter)
                due = every.log and journal.step % every.log == 0
                clock.add(sums, seen, due=due, step=journal.step)
                scores = None
                due = every.evaluate and journal.step % every.evaluate == 0
                # What a phase has to tell of itself is lost when it is over.
                if due or (phase.describe and phase.is_over(state, journal.phase_step)):
                    clock.flush(journal, reporter)
                    scores = score(arch, state)
                    clock.restart()
                # Asked once: a signal from here on is for the next step. Several processes stop at the same step,
                # so what is heard is what came back from the devices.
                told = clock.told if jax.process_count() > 1 else interrupts.signal or 0
                if told:
                    clock.flush(journal, reporter)
                due = every.save and journal.step % every.save == 0
                if told or due or scores is not None:
                    save(state, journal, scores)
                if told:
                    raise Interrupted(told)
            clock.flush(journal, reporter)
        if phase.is_over(state, journal.phase_step):
            why = "steps" if journal.phase_step >= phase.steps else "until"
            steps = journal.step - sum(ended["steps"] for ended in journal.evidence)
            journal.evidence.append({"phase": phase.name, "steps": steps, "ended_by": why})
            if journal.phase + 1 == len(phases):
                break
            journal.phase, journal.entered = journal.phase + 1, False
            if not phases[journal.phase].goes_on:
                journal.phase_step = 0
    if scores is None:
        scores = score(journal.arch, state)
        save(state, journal, scores)
    return state, journal


def is_finished(phases: Sequence[Phase], journal: Journal, state: TrainState) -> bool:
    """Whether nothing is left to do (apart from a larger max_steps)."""
    at_last = journal.phase == len(phases) - 1
    return at_last and phases[-1].is_over(state, journal.phase_step)


def _step_macs(arch: Arch, phase: Phase, size_px: tuple[int, int]) -> int:
    """MACs of one update on a batch of crops of `size_px`."""
    height, width = size_px
    per_image = train_macs(
        zoo.blocks(arch), height, width, lambda n: partition.is_trainable(n, phase.trainable)
    )
    return per_image * phase.plan.batch_size


class _Clock:
    """Collects sums and times between log lines, fetching from the device one step late.

    told: the signal that any process has been sent, as known two steps later at the latest; 0 = none.
    """

    def __init__(self, batch_size: int, skipped: "_Skipped"):
        self._batch_size = batch_size
        self._due_step: int | None = None
        self._pending: collections.deque[tuple[int, Any, Any, Any]] = collections.deque()
        self._skipped = skipped
        self.told = 0
        self.restart()

    def restart(self) -> None:
        self._sums: list[dict[str, Any]] = []
        self._start_s = time.perf_counter()
        self._wait_s = 0.0

    def waiting(self) -> "_Waiting":
        return _Waiting(self)

    def add(self, sums: dict[str, Any], seen: Any, *, due: bool, step: int) -> None:
        told = sums.pop("told")
        self._sums.append(sums)
        self._pending.append((step, sums["skipped"], seen, told))
        if len(self._pending) > 2:
            self._look_at_oldest()
        if due:
            self._due_step = step

    def ready_to_log(self, journal: Journal, reporter: Reporter) -> None:
        if self._due_step is not None:
            self.flush(journal, reporter)

    def flush(self, journal: Journal, reporter: Reporter) -> None:
        step, self._due_step = self._due_step or journal.step, None
        while self._pending:
            self._look_at_oldest()
        if not self._sums:
            return
        sums = to_host(self._sums)
        wall_s = time.perf_counter() - self._start_s
        images = self._batch_size * len(sums)
        window = Window(sums, images, wall_s, self._wait_s, journal.train_macs)
        self.restart()
        reporter.train(step, window)

    def _look_at_oldest(self) -> None:
        """Waits for the oldest step that was not looked at."""
        *update, told = self._pending.popleft()
        self._skipped.add(*update)
        self.told = max(self.told, int(told))


class _Skipped:
    """Counts updates in a row that were skipped, and remembers the images that they saw."""

    def __init__(self, patience: int, names: Sequence[str]):
        self._patience, self._names = patience, names
        self._row: list[tuple[int, list[int]]] = []

    def add(self, step: int, skipped: Any, seen: Any) -> None:
        """Waits for the step.

        Raises:
            RunFailed: as many as `patience` in a row.
        """
        if not np.asarray(skipped):
            self._row = []
            return
        self._row.append((step, [int(i) for i in np.ravel(seen)]))
        if len(self._row) < self._patience:
            return
        images = sorted({i for _, batch in self._row for i in batch})
        called = [self._names[i] if i < len(self._names) else str(i) for i in images]
        shown = ", ".join(called[:20]) + (
            f" and {len(called) - 20} more" if len(called) > 20 else ""
        )
        raise RunFailed(
            f"training diverged: loss or gradient was no number in the {len(self._row)} updates from step "
            f"{self._row[0][0]} to {step}, all skipped; they saw the training images {shown}; look at these, "
            "lower the learning rate or set optim.clip_norm, then start again in a new --workdir"
        )


class _Waiting:
    """Adds the time inside the block to the clock's waiting time."""

    def __init__(self, clock: _Clock):
        self._clock = clock

    def __enter__(self) -> None:
        self._start_s = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._clock._wait_s += time.perf_counter() - self._start_s
