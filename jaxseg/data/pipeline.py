"""Batches ahead of the step: from threads (grain's) or processes; content never depends on which.

A batch is made as a whole by one thread or worker from its number alone. So any start step, any number of
workers and any number of hosts give the same batches, and there is no iterator state to save.
"""

import os
import traceback
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import grain
import numpy as np

from jaxseg.data import workers
from jaxseg.data.plan import BatchPlan, EvalPlan, TrainPlan
from jaxseg.data.split import Split
from jaxseg.data.transforms import IMAGENET_MEAN, Augment, pad, shrink
from jaxseg.errors import RunFailed, UserError
from jaxseg.types import IGNORE_LABEL, Batch


class Stream(Iterator[Batch]):
    """Batches in order. Close it (or use `with`): workers and shared memory are gone then."""

    def __init__(
        self,
        make: Callable[[int], dict[str, Any]],
        start: int,
        stop: int,
        num_workers: int,
        ahead: int,
    ):
        """Args: number of the batch -> batch; first and last + 1; worker processes; batches ahead."""
        if num_workers < 0 or ahead < 1:
            raise UserError(
                "data.num_workers, data.prefetch", got=(num_workers, ahead), expected="0+, 1+"
            )
        source = grain.MapDataset.range(start, stop).map(make)
        if not num_workers:
            workers.one_opencv_thread()
            threads = min(ahead, len(os.sched_getaffinity(0)))
            options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
            self._open(iter(source.to_iter_dataset(options)))
            return
        each = -(-ahead // num_workers)
        self._open(workers.Workers(make, start, stop, count=num_workers, ahead=each))

    def _open(self, batches: Any) -> None:
        self._held = [batches]
        # At the end of a program at the latest, while what closing needs is still there.
        self._shut = weakref.finalize(self, _shut, self._held)

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            UserError: an example cannot be read; one line that names it.
            RunFailed: an example cannot be made through a bug, or a worker is gone.
        """
        if not self._held:
            raise StopIteration
        try:
            batch = next(self._held[0])
        except StopIteration:
            self.close()
            raise
        except RunFailed:
            self.close()
            raise
        if "error" in batch:
            self.close()
            if batch["mistake"]:
                raise UserError(batch["error"])
            raise RunFailed(batch["error"]) from RuntimeError("\n" + batch["trace"])
        return batch

    def close(self) -> None:
        """Stops reading ahead; may be called twice."""
        self._shut()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def train_stream(
    split: Split,
    plan: TrainPlan,
    augment: Augment,
    *,
    seed: int,
    start: int,
    stop: int,
    num_workers: int = 0,
    prefetch: int = 4,
    process_index: int = 0,
    process_count: int = 1,
) -> Stream:
    """Batches start..stop-1 of a training plan, augmented.

    Args:
        split: where examples come from. plan: which. augment: how they are changed.
        seed: an example's randomness is that of (seed, epoch, index).
        start, stop: batch numbers.
        num_workers: processes; 0 = threads of this one.
        prefetch: batches made ahead.
        process_index, process_count: each host gets its contiguous part of every batch.
    """
    part = _part(plan.batch_size, process_index, process_count)
    return Stream(
        _MakeTraining(split, plan, part, augment, seed), start, stop, num_workers, prefetch
    )


def eval_stream(
    split: Split,
    plan: EvalPlan,
    *,
    num_workers: int = 0,
    prefetch: int = 4,
    process_index: int = 0,
    process_count: int = 1,
    fill: tuple[int, int, int] = IMAGENET_MEAN,
) -> Stream:
    """Every example of a split once; batches also hold 'size_px' int32 [B, 2], sizes before padding.

    Args:
        split: where examples come from. plan: their batches.
        num_workers, prefetch, process_index, process_count: as for `train_stream`.
        fill: colour beyond a smaller image.
    """
    part = _part(plan.batch_size, process_index, process_count)
    return Stream(_MakeEvaluation(split, plan, part, fill), 0, len(plan), num_workers, prefetch)


@dataclass(frozen=True)
class _MakeTraining:
    """Number of a batch -> the batch; travels to the workers."""

    split: Split
    plan: TrainPlan
    part: slice
    augment: Augment
    seed: int

    def __call__(self, step: int) -> dict[str, Any]:
        plan = self.plan.at(step)
        epochs = [plan.epoch] * len(plan.indices) if plan.drawn is None else plan.drawn.tolist()
        rows = zip(epochs, _with_repeats(plan.indices), strict=True)
        keys = [(self.seed, epoch, *key) for epoch, key in rows]

        def example(index: int, row: int) -> tuple[np.ndarray, np.ndarray]:
            found = self.split[index]
            image, label = shrink(found["image"], found["label"], plan.shrink)
            rng = np.random.default_rng(keys[row])
            return self.augment(image, label, size_px=plan.size_px, rng=rng)

        return _assemble(self.split, plan, self.part, example)


@dataclass(frozen=True)
class _MakeEvaluation:
    """Number of a batch -> the batch; travels to the workers."""

    split: Split
    plan: EvalPlan
    part: slice
    fill: tuple[int, int, int]

    def __call__(self, step: int) -> dict[str, Any]:
        plan = self.plan.at(step)

        def example(index: int, row: int) -> tuple[np.ndarray, np.ndarray]:
            del row
            if index < 0:
                empty = np.empty((0, 0, 3), np.uint8), np.empty((0, 0), np.uint8)
                return pad(*empty, plan.size_px, self.fill)
            found = self.split[index]
            return pad(found["image"], found["label"], plan.size_px, self.fill)

        batch = _assemble(self.split, plan, self.part, example)
        indices = plan.indices[self.part]
        batch["size_px"] = np.where(indices[:, None] < 0, 0, self.split.sizes_px[indices])
        return batch


def _assemble(
    split: Split,
    plan: BatchPlan,
    part: slice,
    example: Callable[[int, int], tuple[np.ndarray, np.ndarray]],
) -> dict[str, Any]:
    """A Batch of the examples in `part`.

    What goes wrong is {'error': one line, 'mistake': whether a user's, 'trace': else}, on its way out of a worker.
    """
    indices = plan.indices[part]
    image = np.empty((len(indices), *plan.size_px, 3), np.uint8)
    label = np.full((len(indices), *plan.size_px), IGNORE_LABEL, np.uint8)
    for i, index in enumerate(indices.tolist()):
        try:
            image[i], label[i] = example(index, (part.start or 0) + i)
        except UserError as error:
            return {"error": str(error), "mistake": True}
        except (OSError, cv2.error) as error:
            said = str(UserError(f"cannot read {split.names[index]}", got=error))
            return {"error": said, "mistake": True}
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name} line {frame.lineno}"
            said = f"cannot make {split.names[index]}: {type(error).__name__}: {error} ({where})"
            trace = traceback.format_exc()
            return {"error": " ".join(said.split()), "mistake": False, "trace": trace}
    weight = (indices >= 0).astype(np.float32)
    return {
        "image": image,
        "label": label,
        "weight": weight if plan.weight is None else weight * plan.weight[part],
        "index": indices.copy(),
    }


def _with_repeats(indices: np.ndarray) -> list[tuple[int, ...]]:
    """(index,), and (index, n) for its n-th repetition: copies of an example in one batch must differ."""
    seen: dict[int, int] = {}
    keys: list[tuple[int, ...]] = []
    for index in indices.tolist():
        count = seen.get(index, 0)
        keys.append((index, count) if count else (index,))
        seen[index] = count + 1
    return keys


def _part(batch_size: int, process_index: int, process_count: int) -> slice:
    """The rows of a batch that belong to one of several hosts."""
    if batch_size % process_count:
        raise UserError(
            "batch size", got=batch_size, expected=f"a multiple of {process_count} processes"
        )
    rows = batch_size // process_count
    return slice(process_index * rows, (process_index + 1) * rows)


def _shut(held: list[Any]) -> None:
    held.pop().close()
