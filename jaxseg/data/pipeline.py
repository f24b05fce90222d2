"""Batches ahead of the step: grain reads with threads (no workers) or in processes; content never depends on which.

A batch is made as a whole by one thread or worker from its number alone. So any start step, any number of
workers and any number of hosts give the same batches, and there is no iterator state to save.
"""

import ctypes
import gc
import os
import signal
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from jaxseg.data.plan import BatchPlan, EvalPlan, TrainPlan
from jaxseg.data.split import Split
from jaxseg.data.transforms import IMAGENET_MEAN, Augment, pad
from jaxseg.errors import RunFailed, UserError
from jaxseg.types import IGNORE_LABEL, Batch


class Stream(Iterator[Batch]):
    """Batches in order. Close it (or use `with`): workers and shared memory are gone then."""

    def __init__(
        self, make: Callable[[int], dict[str, Any]], start: int, stop: int, workers: int, ahead: int
    ):
        """Args: number of the batch -> batch; first and last + 1; worker processes; batches ahead."""
        if workers < 0 or ahead < 1:
            raise UserError(
                "data.num_workers, data.prefetch", got=(workers, ahead), expected="0+, 1+"
            )
        self._workers = workers
        source = grain.MapDataset.range(start, stop).map(make)
        if not workers:
            _one_opencv_thread()
            threads = min(ahead, len(os.sched_getaffinity(0)))
            options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
            self._open(iter(source.to_iter_dataset(options)))
            return
        if not flags.FLAGS.is_parsed():
            # grain's workers read absl flags, which only an absl program parses by itself.
            flags.FLAGS(["jaxseg"], known_only=True)
        plain = source.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        # Through pipes and not through shared memory: grain gives that back from a thread of its own, late
        # or, at the end of a program, never; and a batch that the caller keeps would keep its segment.
        # Equally fast at 2 MB a batch, 1.4 times as slow at 16 MB (measured).
        piped = grain.experimental.WithOptionsIterDataset(
            plain, grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
        )
        processes = grain.MultiprocessingOptions(
            num_workers=workers, per_worker_buffer_size=-(-ahead // workers)
        )
        self._open(iter(piped.mp_prefetch(processes, worker_init_fn=_start_worker)))

    def _open(self, batches: Any) -> None:
        self._held = [batches]
        # At the end of a program at the latest, while what closing needs is still there.
        self._shut = weakref.finalize(self, _shut, self._held, self._workers > 0)

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
        except RuntimeError as error:
            self.close()
            if "Worker process was terminated" not in str(error):
                raise
            said = str(error).partition(".")[0]
            raise RunFailed(
                f"a process that makes batches is gone, most likely for want of memory ({said}); make room or "
                "lower data.num_workers and data.prefetch; the same command goes on from the last checkpoint"
            ) from error
        if "error" in batch:
            self.close()
            raise (UserError if batch["mistake"] else RunFailed)(batch["error"])
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
        keys = [(self.seed, plan.epoch, *key) for key in _with_repeats(plan.indices)]

        def example(index: int, row: int) -> tuple[np.ndarray, np.ndarray]:
            found = self.split[index]
            rng = np.random.default_rng(keys[row])
            return self.augment(found["image"], found["label"], size_px=plan.size_px, rng=rng)

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

    What goes wrong is {'error': one line, 'mistake': whether a user's}, on its way out of a worker.
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
        except Exception as error:  # its way out of a worker would take a traceback per worker
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name} line {frame.lineno}"
            said = f"cannot make {split.names[index]}: {type(error).__name__}: {error} ({where})"
            return {"error": " ".join(said.split()), "mistake": False}
    return {
        "image": image,
        "label": label,
        "weight": (indices >= 0).astype(np.float32),
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


def _shut(held: list[Any], has_workers: bool) -> None:
    held.pop().close()
    if has_workers:
        # The queues' semaphores go with the objects, and those refer to each other.
        gc.collect()


def _start_worker(index: int, count: int) -> None:
    del index, count
    # Ctrl-C reaches the whole group; when to stop is for the run to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    _one_opencv_thread()


def _die_with_parent() -> None:
    """Linux: a run that is killed leaves no worker behind."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() == 1:  # it died before that
            os._exit(1)


def _one_opencv_thread() -> None:
    """Batches are made side by side; OpenCV's own threads would only get in each other's way."""
    cv2.setNumThreads(1)
