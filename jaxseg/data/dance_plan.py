"""Data slimming after DANCE (2107.07706) as a plan: which images are in batch t, at which size, with what weights."""

import bisect
import functools
import math
import threading
from dataclasses import dataclass, field

import numpy as np

from jaxseg.data.dance import DataSlimming
from jaxseg.data.plan import BatchPlan, TrainPlan
from jaxseg.errors import UserError


def crop_px(size_px: tuple[int, int], ratio: float, stride: int) -> tuple[int, int]:
    """The crop at a ratio: each side a multiple of the stride, the nearest one (of two the greater), at most `size_px`.

    At ratio 1 it is `size_px` itself, whatever the stride.

    Raises:
        UserError: a side would be 0.
    """
    if ratio == 1:
        return size_px
    height, width = (
        min(math.floor(ratio * side / stride + 0.5), side // stride) * stride for side in size_px
    )
    if min(height, width) < 1:
        raise UserError(
            "dance.data.ratios",
            got=f"{ratio} of crops of {size_px[0]} x {size_px[1]} px",
            expected=f"at least half of the network's output stride of {stride} px",
            do="take larger crops or ratios",
        )
    return height, width


@dataclass(frozen=True)
class SlimPlan(TrainPlan):
    """Endless epochs of images that are kept, in batches of one size each.

    An epoch is the plain plan's permutation of all images, of which those drawn by (seed, epoch) are dropped. Each of
    the others goes, in this order, to the heap of its size; B of a heap are a batch. What remains in a heap waits for
    the next epoch and comes first then, so nothing that is kept is lost and all batches are full. The batches that an
    epoch fills come in an order drawn by (seed, epoch). Epochs have differing numbers of batches, so batch t is found
    by going through the epochs before it, once (4 ms each for 3000 images in batches of 8).

    The first `slimming.warm_epochs` epochs are the plain plan's, weights and all; so are all epochs where nothing is
    dropped or made smaller, apart from the weights.

    q:        N ranks. slimming: what they mean.
    stride:   of the network in px; sides of smaller crops are multiples of it.
    """

    q: tuple[float, ...] = ()
    slimming: DataSlimming = field(default_factory=DataSlimming)
    stride: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.q) != self.num_examples:
            raise ValueError(f"{len(self.q)} ranks for {self.num_examples} examples")
        if (self.slimming.drop(self._ranks) == 1).all():
            raise UserError(
                "dance.data.tau_drop",
                got=f"{self.slimming.tau_drop}, which drops all {self.num_examples} images",
                expected="one that keeps some",
            )
        self.sizes_px()

    def sizes_px(self) -> dict[float, tuple[int, int]]:
        """Ratio -> (height, width) of its crops; two ratios may share a size."""
        return {r: crop_px(self.size_px, r, self.stride) for r in self.slimming.ratios}

    @functools.cached_property
    def _ranks(self) -> np.ndarray:
        return np.array(self.q)

    @functools.cached_property
    def _sizes(self) -> tuple[list[tuple[int, int]], np.ndarray]:
        """The different sizes, and which of them each image has, int [N]."""
        size_of = self.sizes_px()
        sizes = sorted(set(size_of.values()))
        places = np.array([sizes.index(size_of[ratio]) for ratio in self.slimming.ratios])
        return sizes, places[np.digitize(self._ranks, self.slimming.edges)]

    @property
    def _first_slim_step(self) -> int:
        return self.slimming.warm_epochs * self.steps_per_epoch

    def at(self, step: int) -> BatchPlan:
        first = self._first_slim_step
        if step < first:
            return super().at(step)
        if self.slimming.sorts:
            return _epochs(self).at(step)
        plain = super().at(step)
        return plain._replace(weight=self._weights(plain.indices))

    def steps_in(self, epochs: int) -> int:
        """Batches that the first `epochs` epochs fill: the length of a run of so many."""
        warm = min(epochs, self.slimming.warm_epochs)
        if not self.slimming.sorts:
            return epochs * self.steps_per_epoch
        return warm * self.steps_per_epoch if warm == epochs else _epochs(self).start(epochs)

    def kept(self, epoch: int) -> np.ndarray:
        """Whether each image is kept in an epoch: bool [N], from (seed, epoch) alone."""
        if epoch < self.slimming.warm_epochs:
            return np.ones(self.num_examples, bool)
        return self._rng(epoch).random(self.num_examples) >= self.slimming.drop(self._ranks)

    def _rng(self, epoch: int, use: int = 0) -> np.random.Generator:
        # An example's key is (seed, epoch, index, ..), and this is the index of none.
        return np.random.default_rng((self.seed, epoch, 2**32 - 1, use))

    def _weights(self, indices: np.ndarray) -> np.ndarray:
        return self.slimming.weights(self._ranks[indices])

    def _fill(self, epoch: int, waiting: "_Heaps") -> tuple[list[BatchPlan], "_Heaps"]:
        """The batches that an epoch fills, their numbers counted from 0, and what waits after it."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.num_examples)
        order = order[self.kept(epoch)[order]]
        sizes, which = self._sizes
        batches, rest = [], []
        for i, size_px in enumerate(sizes):
            fresh = order[which[order] == i]
            rows = np.stack([np.full_like(fresh, epoch), fresh], axis=1)
            rows = np.concatenate([waiting[i], rows]) if waiting else rows
            full = len(rows) // self.batch_size * self.batch_size
            rest.append(rows[full:])
            shrink = (size_px[0] / self.size_px[0], size_px[1] / self.size_px[1])
            filled = rows[:full].reshape(-1, self.batch_size, 2)
            weights = self._weights(filled[..., 1])
            batches += [
                BatchPlan(0, epoch, size_px, row[:, 1].astype(np.int32), shrink, weight, row[:, 0])
                for row, weight in zip(filled, weights, strict=True)
            ]
        turn = self._rng(epoch, 1).permutation(len(batches))
        return [batches[i]._replace(step=step) for step, i in enumerate(turn.tolist())], rest


_Heaps = list[np.ndarray]
"""For every size what waits for its batch to be full: int64 [n, 2], (epoch, index). Empty before the first epoch."""


class _Epochs:
    """Where the slimmed epochs of a plan begin and with what waiting; grows as far as it is asked."""

    def __init__(self, plan: SlimPlan):
        self._plan, self._first = plan, plan.slimming.warm_epochs
        self._starts: list[int] = [plan._first_slim_step]
        self._waiting: list[_Heaps] = [[]]
        self._lock = threading.Lock()
        self._batches = functools.lru_cache(maxsize=4)(self._fill)

    def at(self, step: int) -> BatchPlan:
        with self._lock:
            while self._starts[-1] <= step:
                self._grow()
            # Of epochs that fill no batch the last has the same start.
            which = bisect.bisect_right(self._starts, step) - 1
            batch = self._batches(which)[0][step - self._starts[which]]
        return batch._replace(step=step)

    def start(self, epoch: int) -> int:
        """Number of the first batch of an epoch."""
        with self._lock:
            while len(self._starts) <= epoch - self._first:
                self._grow()
            return self._starts[epoch - self._first]

    def _grow(self) -> None:
        batches, waiting = self._batches(len(self._waiting) - 1)
        self._starts.append(self._starts[-1] + len(batches))
        self._waiting.append(waiting)

    def _fill(self, which: int) -> tuple[list[BatchPlan], _Heaps]:
        return self._plan._fill(self._first + which, self._waiting[which])


@functools.lru_cache(maxsize=4)
def _epochs(plan: SlimPlan) -> _Epochs:
    return _Epochs(plan)
