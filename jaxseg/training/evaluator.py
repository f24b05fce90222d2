"""Scores of a state in the middle of a run: each process labels its part of every batch, and the sums meet."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxseg.arch import Arch
from jaxseg.data.pipeline import eval_stream
from jaxseg.data.plan import EvalPlan
from jaxseg.inference import pictures
from jaxseg.inference.evaluation import Album, Tally, evaluate
from jaxseg.inference.predictor import make_score
from jaxseg.processes import add_up
from jaxseg.training import state as states
from jaxseg.training.interrupt import SIGNALS, Interrupts
from jaxseg.training.plan import Plan
from jaxseg.training.state import TrainState


class Evaluator:
    """(arch, state, step) -> scores on the eval split, compiled once per architecture.

    Raises `Interrupted` if any process has been told to stop meanwhile, in all processes.
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
        stream = eval_stream(
            plan.eval_split,
            self._batches,
            num_workers=plan.num_workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        with stream as batches:
            tally = evaluate(
                self._score,
                plan.parallel.put_local(states.inference_variables(state)),
                self._while_wanted(batches),
                arch.num_classes,
                put=plan.parallel.put_local_batch,
                watch=album,
            )
        tally = self._together(tally)
        sheet = (
            pictures.comparison(album.images, album.labels, album.predictions, card.class_colors)
            if album.images
            else None
        )
        wall_s = time.perf_counter() - start_s
        return {**tally.scores(), "split": plan.eval_split.name, "wall_s": wall_s, "sheet": sheet}

    def _while_wanted(self, batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            if self._interrupts:
                return  # all hear of it where the sums meet
            yield batch

    def _together(self, tally: Tally) -> Tally:
        """The sums of all processes.

        Raises:
            Interrupted: one of them has been told to stop, so that sums are not of the whole split.
        """
        told = add_up(np.array([self._interrupts.signal == x for x in SIGNALS], np.int32))
        for number, count in zip(SIGNALS, told, strict=True):
            if count:
                self._interrupts.check(number)
        loss = add_up(np.array([tally.loss_sum, tally.loss_count]))
        images = add_up(np.array([tally.num_images]))
        return Tally(add_up(tally.confusion), float(loss[0]), float(loss[1]), int(images[0]))
