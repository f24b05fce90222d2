"""The loop. It knows phases, steps, batches and time; no method, no config, no file format.

Evaluation, saving and reporting are handed in as callables, so this file reads as the story of a run.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax

from jaxseg.arch import Arch, train_macs
from jaxseg.models import zoo
from jaxseg.training import partition
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
        max_steps: cut the run short after so many updates; 0 = none. Never rescales a schedule.

    Returns:
        The last state and journal; both saved.
    """
    journal = replace(journal, evidence=list(journal.evidence))
    scores = None
    while journal.phase < len(phases) and not (max_steps and journal.step >= max_steps):
        phase = phases[journal.phase]
        if journal.phase_step == 0:
            journal.arch, state = enter(phase, journal.arch, state)
            journal.describe_extra(state.extra)
        arch = journal.arch
        state = parallel.put_state(state)
        reporter.phase(journal.step, phase, arch)
        step_macs = _step_macs(arch, phase)
        compiled = parallel.compile(phase.make_step(arch, phase))
        last = phase.steps
        if max_steps:
            last = min(last, journal.phase_step + max_steps - journal.step)
        clock = _Clock(phase.plan.batch_size)
        with open_stream(phase, journal.phase_step, last) as stream:
            while journal.phase_step < last and not phase.is_over(state, journal.phase_step):
                with clock.waiting():
                    batch = parallel.put_batch(next(stream))
                state, sums = compiled(state, batch)
                journal.step += 1
                journal.phase_step += 1
                journal.train_macs += step_macs
                # Read the device one step late and never run ahead of it by more than two steps.
                clock.ready_to_log(journal, reporter)
                clock.add(sums, due=every.log and journal.step % every.log == 0, step=journal.step)
                scores = None
                if every.evaluate and journal.step % every.evaluate == 0:
                    clock.flush(journal, reporter)
                    scores = evaluate(arch, state, journal.step)
                    reporter.evaluated(journal.step, scores)
                    clock.restart()
                if scores is not None or (every.save and journal.step % every.save == 0):
                    save(state, journal, scores)
            clock.flush(journal, reporter)
        if phase.is_over(state, journal.phase_step):
            why = "steps" if journal.phase_step >= phase.steps else "until"
            journal.evidence.append(
                {"phase": phase.name, "steps": journal.phase_step, "ended_by": why}
            )
            if journal.phase + 1 < len(phases):
                journal.phase, journal.phase_step = journal.phase + 1, 0
            else:
                break
    if scores is None:
        scores = evaluate(journal.arch, state, journal.step)
        reporter.evaluated(journal.step, scores)
        save(state, journal, scores)
    return state, journal


def is_finished(phases: Sequence[Phase], journal: Journal, state: TrainState) -> bool:
    """Whether nothing is left to do (apart from a larger max_steps)."""
    at_last = journal.phase == len(phases) - 1
    return at_last and phases[-1].is_over(state, journal.phase_step)


def _step_macs(arch: Arch, phase: Phase) -> int:
    """MACs of one update on the phase's batch."""
    height, width = phase.plan.size_px
    per_image = train_macs(
        zoo.blocks(arch), height, width, lambda n: partition.is_trainable(n, phase.trainable)
    )
    return per_image * phase.plan.batch_size


class _Clock:
    """Collects sums and times between log lines, fetching from the device one step late."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._due_step: int | None = None
        self.restart()

    def restart(self) -> None:
        self._sums: list[dict[str, Any]] = []
        self._start_s = time.perf_counter()
        self._wait_s = 0.0

    def waiting(self) -> "_Waiting":
        return _Waiting(self)

    def add(self, sums: dict[str, Any], *, due: bool, step: int) -> None:
        self._sums.append(sums)
        if len(self._sums) > 2:
            jax.block_until_ready(self._sums[-3])
        if due:
            self._due_step = step

    def ready_to_log(self, journal: Journal, reporter: Reporter) -> None:
        if self._due_step is not None:
            self.flush(journal, reporter)

    def flush(self, journal: Journal, reporter: Reporter) -> None:
        step, self._due_step = self._due_step or journal.step, None
        if not self._sums:
            return
        sums = to_host(self._sums)
        wall_s = time.perf_counter() - self._start_s
        images = self._batch_size * len(sums)
        window = Window(sums, images, wall_s, self._wait_s, journal.train_macs)
        self.restart()
        reporter.train(step, window)


class _Waiting:
    """Adds the time inside the block to the clock's waiting time."""

    def __init__(self, clock: _Clock):
        self._clock = clock

    def __enter__(self) -> None:
        self._start_s = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._clock._wait_s += time.perf_counter() - self._start_s
