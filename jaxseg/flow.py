"""What a block does with its maps, as data: a chain of operations, each with a name and the names of what it reads.

A block's inputs are called 'in_0', 'in_1', ..; its result is that of its last operation. Whatever must understand a
network reads this: the Flax module that runs it, the one that runs it in integers, the interpreter that checks them,
the conversion that follows scales from operation to operation. Imports no JAX.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

CONV, ADD, MIX, MULTIPLY, RELU, SIGMOID, JOIN, RESIZE, NEAREST, *POOLS, SPREAD, DROPOUT = KINDS = (
    "conv",
    "add",
    "mix",
    "multiply",
    "relu",
    "sigmoid",
    "join",
    "resize",
    "nearest",
    "max_pool",
    "average_pool",
    "average",
    "halve",
    "spread",
    "dropout",
)
MAX_POOL, AVERAGE_POOL, AVERAGE, HALVE = POOLS

PICKING = (RELU, JOIN, NEAREST, MAX_POOL, SPREAD)
"""Whose results are values that they read, or 0."""

KEEPING = (*PICKING, RESIZE, HALVE, DROPOUT)
"""Whose results lie between the smallest value that they read, the largest, and 0."""


@dataclass(frozen=True)
class Op:
    """One operation on maps [B, h, w, C].

    name:       unique in its block; that of the layer for a convolution.
    kind:       one of `KINDS`:
                conv      the layer `name` with all that its spec says
                add       sum of two maps, then the activation
                mix       weighted sum of maps while an architecture is searched; weights come from outside
                multiply  of a map with one of its size, or a 1x1 map
                relu, sigmoid  of every value
                join      maps side by side along C
                resize    bilinear, to the size of the second map
                nearest   every cell twice along both axes, cut to the size of the second map
                max_pool  maximum over window x window cells around every stride-th
                average_pool  mean over window x window cells around every stride-th, outside the map zeros
                average   mean over each of bins x bins parts of the map, see `parts`
                halve     mean over 2x2 cells, stride 2
                spread    a 1x1 map over the size of the second map
                dropout   in training; else nothing
    reads:      names of operations before it, or of inputs.
    activation: of an add, '' or 'relu'.
    window:     of a max_pool, 2 (stride 2) or 3; of an average_pool, odd.
    stride:     of a max_pool, 1 or 2; of an average_pool.
    bins:       of an average, 1 for the whole map.
    corners:    of a resize: centres of corner cells lie on each other.
    scores:     whether its result is scores of classes.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    activation: str = ""
    window: int = 0
    stride: int = 1
    bins: int = 1
    corners: bool = False
    scores: bool = False

    @property
    def values(self) -> tuple[str, ...]:
        """Those of its reads whose values count; of the others only the size does."""
        return self.reads[:1] if self.kind in (RESIZE, NEAREST, SPREAD) else self.reads

    @property
    def path(self) -> str:
        """On which of the grids of `numbers.IntegerArch` its result lies; convolutions know better, see their layer."""
        if self.scores:
            return "logits"
        return "activations" if self.activation or self.kind == SIGMOID else "maps"


def conv(name: str, reads: str) -> Op:
    """The layer `name` on one map."""
    return Op(name, CONV, (reads,), scores=name.startswith("logits"))


def chain(start: str, *names: str) -> tuple[Op, ...]:
    """Layers one after the other, the first on `start`."""
    return tuple(conv(name, before) for before, name in zip((start, *names), names, strict=False))


def add(name: str, one: str, other: str, activation: str = "", *, scores: bool = False) -> Op:
    """One + other, then the activation."""
    return Op(name, ADD, (one, other), activation, scores=scores)


def join(name: str, *reads: str) -> Op:
    """Side by side."""
    return Op(name, JOIN, reads)


def parts(n: int, bins: int) -> list[tuple[int, int]]:
    """First cell of each part of an axis of n cells, and the one behind its last: torch's adaptive pooling.

    No part is empty; neighbours share a cell where n is no multiple of their number.
    """
    return [(i * n // bins, -(-(i + 1) * n // bins)) for i in range(bins)]


def entries(ops: Iterable[Op]) -> tuple[str, ...]:
    """The inputs of a block, in order."""
    ops = tuple(ops)
    made = {op.name for op in ops}
    return tuple(sorted({name for op in ops for name in op.reads} - made, key=number_of))


def entry(index: int) -> str:
    """'in_0', 'in_1', ..: the name of an input."""
    return f"in_{index}"


def number_of(name: str) -> int:
    """The inverse of `entry`."""
    return int(name.removeprefix("in_"))


def renamed(ops: Sequence[Op], names: dict[str, str]) -> tuple[Op, ...]:
    """The same operations reading something else: old name -> new name."""
    return tuple(replace(op, reads=tuple(names.get(name, name) for name in op.reads)) for op in ops)
