"""Which examples make up batch t: pure functions of t, so a run resumes exactly and any worker can make any batch."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxseg.errors import UserError

PAD_MULTIPLE_PX = 32


class BatchPlan(NamedTuple):
    """One batch before anything is read.

    step:    number of the batch, from 0.
    epoch:   number of the pass over the set; part of the randomness of its examples.
    size_px: (height, width) of the batch.
    indices: int32 [B], rows of the split; -1 marks padding.
    shrink:  factors along height and width by which an example becomes smaller before anything else is done to it.
    weight:  float32 [B], weights in the loss; None = 1 for all.
    drawn:   int [B], passes that the examples belong to, where these differ; None = `epoch` for all.
    """

    step: int
    epoch: int
    size_px: tuple[int, int]
    indices: np.ndarray
    shrink: tuple[float, float] = (1.0, 1.0)
    weight: np.ndarray | None = None
    drawn: np.ndarray | None = None


@dataclass(frozen=True)
class TrainPlan:
    """Endless shuffled epochs of equal batches.

    An epoch is a permutation by (seed, epoch); the tail that does not fill a batch is left out of that epoch
    (another epoch leaves out others). A set smaller than a batch is repeated until it fills one.
    A method that wants other sizes or examples per epoch derives from this and replaces `epoch_batches`,
    keeping the number of batches per epoch, or `at` as well.

    num_examples: N. batch_size: B. seed: 0 or more. size_px: (height, width) of the crops.
    """

    num_examples: int
    batch_size: int
    seed: int
    size_px: tuple[int, int]

    def __post_init__(self) -> None:
        if self.num_examples < 1 or self.batch_size < 1 or self.seed < 0 or min(self.size_px) < 1:
            raise UserError(
                "training plan",
                got=f"{self.num_examples} examples, batch size {self.batch_size}, "
                f"seed {self.seed}, crops of {self.size_px} px",
                expected="all 1 or more, seed 0 or more",
            )

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, at least 1."""
        return max(1, self.num_examples // self.batch_size)

    def at(self, step: int) -> BatchPlan:
        """Batch `step`, which depends on nothing else."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return _batches(self, epoch)[position]

    def epoch_batches(self, epoch: int) -> list[BatchPlan]:
        """The batches of one epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        # A new permutation for every repetition of a small set.
        repeats = -(-self.batch_size // self.num_examples)
        order = np.concatenate([rng.permutation(self.num_examples) for _ in range(repeats)])
        count = self.steps_per_epoch
        rows = order[: count * self.batch_size].astype(np.int32).reshape(count, -1)
        first = epoch * count
        return [BatchPlan(first + i, epoch, self.size_px, row) for i, row in enumerate(rows)]


@functools.lru_cache(maxsize=4)
def _batches(plan: TrainPlan, epoch: int) -> list[BatchPlan]:
    """The epoch at hand is asked for once per batch, by several threads."""
    return plan.epoch_batches(epoch)


class EvalPlan:
    """Every example once, in a fixed order, in batches of few shapes.

    Images all of one size keep it. Where sizes differ, each is padded up to a multiple of 32 px, and images of
    equal padded size go together, so the number of compiled programs is the number of padded sizes.
    """

    def __init__(self, sizes_px: np.ndarray, batch_size: int):
        """Args: int [N, 2] (height, width); B."""
        if batch_size < 1:
            raise UserError("evaluation batch size", got=batch_size, expected="1 or more")
        sizes = np.asarray(sizes_px)
        if len(sizes) and (sizes != sizes[0]).any():
            sizes = -(-sizes // PAD_MULTIPLE_PX) * PAD_MULTIPLE_PX
        groups: dict[tuple[int, int], list[int]] = {}
        for row, (height, width) in enumerate(sizes.tolist()):
            groups.setdefault((height, width), []).append(row)
        self.batch_size = batch_size
        self._batches: list[BatchPlan] = []
        for size_px, rows in groups.items():
            for start in range(0, len(rows), batch_size):
                indices = np.full(batch_size, -1, np.int32)
                some = rows[start : start + batch_size]
                indices[: len(some)] = some
                self._batches.append(BatchPlan(len(self._batches), 0, size_px, indices))

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._batches)

    def at(self, step: int) -> BatchPlan:
        """Batch `step`."""
        return self._batches[step]
