"""Data slimming after DANCE (2107.07706): simple images are trained on smaller, skipped now and then, and count less.

Only the paper's abstract is known to us. That complexity steers size, dropping and weight is the paper's; the maps from
complexity to these three, and their defaults, are ours. Every map can be switched off alone.
"""

import bisect
import functools
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from jaxseg.data.dance_scores import MEASURES, RANKS, WITHIN_GROUP
from jaxseg.data.plan import BatchPlan, TrainPlan
from jaxseg.errors import UserError, unknown_name


@dataclass(frozen=True)
class DataSlimming:
    """What is done to an image of rank q in [0, 1], 0 the simplest (see `dance_scores.ranks`).

    measure:  of complexity, a name in `dance_scores.MEASURES`.
    rank:     'within_group' (drives, cities; where there are none it is the next), 'global' or 'minmax'.
    ratios:   R, ascending, of the sides of what is trained on to the full ones; (1.0,) = off.
    edges:    of q between the ratios, one fewer than these; an edge belongs to the greater ratio.
    tau_drop: images of q below it may be dropped; 0 = off.
    d_max:    probability of dropping an image of q = 0; it falls linearly to 0 at `tau_drop`.
    deterministic: all images of q below `tau_drop` are dropped, always.
    w_min:    weight in the loss of the image that counts least, the greatest being 1, in (0, 1]; 1 = off.
    weight_sign: +1: complex images count more; -1: simple ones do. Which is the paper's is not known to us.
    warm_epochs: the run's first epochs, in which nothing is slimmed.
    """

    measure: str = "spatial_information"
    rank: str = WITHIN_GROUP
    ratios: tuple[float, ...] = (0.5, 0.75, 1.0)
    edges: tuple[float, ...] = (1 / 3, 2 / 3)
    tau_drop: float = 0.2
    d_max: float = 0.5
    deterministic: bool = False
    w_min: float = 0.5
    weight_sign: int = 1
    warm_epochs: int = 0

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise unknown_name("dance.data.measure", self.measure, MEASURES)
        if self.rank not in RANKS:
            raise unknown_name("dance.data.rank", self.rank, RANKS)
        ratios, edges = self.ratios, self.edges
        inside = all(0 < r <= 1 for r in ratios)
        _check("ratios", ratios, ratios and inside and _ascend(ratios), "ascending, in (0, 1]")
        fits = len(edges) == len(ratios) - 1 and all(0 < e < 1 for e in edges) and _ascend(edges)
        _check("edges", edges, fits, f"{len(ratios) - 1} ascending numbers in (0, 1)")
        _check("tau_drop", self.tau_drop, 0 <= self.tau_drop <= 1, "a number in [0, 1]")
        _check("d_max", self.d_max, 0 <= self.d_max <= 1, "a number in [0, 1]")
        _check("w_min", self.w_min, 0 < self.w_min <= 1, "a number in (0, 1]")
        _check("weight_sign", self.weight_sign, self.weight_sign in (1, -1), "1 or -1")
        _check("warm_epochs", self.warm_epochs, self.warm_epochs >= 0, "0 or more")

    @property
    def sorts(self) -> bool:
        """Whether epochs differ from plain ones in what is seen or how large; weights alone change neither."""
        return self.ratios != (1.0,) or (
            self.tau_drop > 0 and (self.deterministic or self.d_max > 0)
        )

    @property
    def changes(self) -> bool:
        """Whether anything at all is switched on."""
        return self.sorts or self.w_min < 1

    def ratio(self, q: np.ndarray) -> np.ndarray:
        """Ratio of sides, float64 of the shape of q; never falls with q."""
        return np.asarray(self.ratios)[np.digitize(q, self.edges)]

    def drop(self, q: np.ndarray) -> np.ndarray:
        """Probability of being dropped, float64 of the shape of q; never rises with q."""
        q = np.asarray(q, np.float64)
        if not self.tau_drop:
            return np.zeros_like(q)
        if self.deterministic:
            return (q < self.tau_drop).astype(np.float64)
        return self.d_max * np.maximum(0.0, (self.tau_drop - q) / self.tau_drop)

    def gain(self, q: np.ndarray) -> np.ndarray:
        """g(q) in [w_min, 1], float64 of the shape of q: the weight in the loss before a batch's mean is made 1."""
        q = np.asarray(q, np.float64)
        return self.w_min + (1 - self.w_min) * (q if self.weight_sign > 0 else 1 - q)

    def weights(self, q: np.ndarray) -> np.ndarray:
        """Weights in the loss of the images of batches, float32 of the shape of q [..., B].

        The mean of a batch is 1 but for rounding.
        """
        gain = self.gain(q)
        return (gain / gain.mean(axis=-1, keepdims=True)).astype(np.float32)

    def mean_square_ratio(self, q: Sequence[float] = ()) -> float:
        """Mean of the squared ratio over images that are kept: what slimming the network is coupled to.

        Args:
            q: ranks, [N]; empty = evenly spread.
        """
        ranks = np.asarray(q, float) if len(q) else (np.arange(10_000) + 0.5) / 10_000
        kept = 1.0 - self.drop(ranks)
        return float(np.average(np.square(self.ratio(ranks)), weights=kept))

    def cost_frac(self, q: np.ndarray) -> float:
        """Pixels trained on per epoch in relation to plain epochs: mean of (1 - drop) ratio^2, for an endless run."""
        return float(np.mean((1 - self.drop(q)) * self.ratio(q) ** 2))


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


def _ascend(values: tuple[float, ...]) -> bool:
    return all(a < b for a, b in zip(values, values[1:], strict=False))


def _check(key: str, got: object, holds: object, expected: str) -> None:
    if not holds:
        raise UserError(f"dance.data.{key}", got=got, expected=expected)
