"""What each candidate on each edge of a network to be searched costs: measured on this device, or reckoned.

A measured table is a file: times by operation, channels, size of the map and stride, and where they were measured. It
is good for networks whose edges are among those and, unless one is told otherwise, on that device only.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import outside
from jaxseg.arch import Arch, BlockSpec, Counts, cells_at, layer_counts
from jaxseg.errors import UserError, short
from jaxseg.layers.conv import conv2d
from jaxseg.models.backbones import gas as cells
from jaxseg.models.backbones.registry import backbone_blocks
from jaxseg.models.block import Block, Tap
from jaxseg.numbers import NumbersArch
from jaxseg.types import Array

SCHEMA = 1
KIND = "latency of candidate operations"
COPIES = 8
"""An operation is timed so many times one after the other in one program: calls cost more than small operations do."""

LEAST_MS = 1e-4


class Edge(NamedTuple):
    """A candidate on a map: its name, channels, rows and columns of the map, stride."""

    choice: str
    channels: int
    height: int
    width: int
    stride: int

    @property
    def key(self) -> str:
        """'conv 8 48x64 /1'."""
        return f"{self.choice} {self.channels} {self.height}x{self.width} /{self.stride}"


def edges(arch: Arch, size_px: tuple[int, int]) -> list[list[list[Edge]]]:
    """[K][P][Q]: every candidate on every edge of a network to be searched, for images of `size_px`."""
    found = []
    before = {spec.name: spec.out_stride for spec in backbone_blocks(arch.backbone)}
    for i, block in enumerate(arch.backbone.blocks):
        if block.kind != cells.MIXED:
            continue
        entered = before[arch.backbone.reads(i)[0]]
        rows = []
        for source, _ in cells.EDGES:
            inner = source == cells.X1
            stride = entered * block.stride if inner else entered
            height, width = (-(-n // stride) for n in size_px)
            step = 1 if inner else block.stride
            rows.append([Edge(c, block.widths[0], height, width, step) for c in cells.CANDIDATES])
        found.append(rows)
    return found


def _spec(edge: Edge) -> BlockSpec | None:
    """A block that is nothing but the candidate, norms folded; None where it costs nothing."""
    if edge.choice == cells.ZERO or (edge.choice == cells.SKIP and edge.stride == 1):
        return None
    widths: Iterator[int] = iter((edge.channels,) * 2)
    tap = Tap(edge.stride, 1)
    layers, ops, _ = cells.part("edge", edge.choice, "in_0", edge.channels, widths, tap)
    spec = BlockSpec("block_00", "backbone", "edge", layers, ops, edge.channels, edge.stride)
    return spec.folded()


# --- Reckoned ---


def reckoned(arch: Arch, size_px: tuple[int, int]) -> np.ndarray:
    """MACs of every candidate and the numbers that it reads and writes, [K, P, Q]: a stand-in for latency."""

    def cost(edge: Edge) -> float:
        spec = _spec(edge)
        if spec is None:
            return 0.0
        px = edge.height, edge.width
        total = sum((layer_counts(x, x.cells(*px)) for x in spec.layers), Counts())
        moved = cells_at(1, *px) + cells_at(edge.stride, *px)
        return float(total.macs + moved * edge.channels)

    return np.array([[[cost(e) for e in row] for row in cell] for cell in edges(arch, size_px)])


# --- Measured ---


def measure(
    arch: Arch, size_px: tuple[int, int], *, rounds: int = 100, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Milliseconds of every different candidate at batch 1: minima of `rounds`, all in turn.

    Each is timed `COPIES` times in a row inside one program, less the same program without it.

    Returns:
        'entries' by `Edge.key`, size of the image, dtype; where that was belongs to it, see `read_table`.
    """
    wanted = {e for cell in edges(arch, size_px) for row in cell for e in row}
    timed = {e: spec for e in sorted(wanted) if (spec := _spec(e)) is not None}
    programs: dict[Edge, Callable[[], Any]] = {}
    idle: dict[tuple[int, int, int], Callable[[], Any]] = {}
    for edge, spec in timed.items():
        programs[edge] = _program(edge, spec, arch.numbers)
        shape = edge.height, edge.width, edge.channels
        if shape not in idle:
            idle[shape] = _program(edge, None, arch.numbers)
    say(f"{len(programs)} operations, {rounds} rounds")
    best: dict[Any, float] = dict.fromkeys([*programs, *idle], np.inf)
    for turn in range(rounds + 1):
        for name, run in [*programs.items(), *idle.items()]:
            begin_s = time.perf_counter()
            run()
            if turn:
                best[name] = min(best[name], 1e3 * (time.perf_counter() - begin_s))
    entries = {e.key: 0.0 for e in sorted(wanted)}
    for edge in programs:
        spent = best[edge] - best[edge.height, edge.width, edge.channels]
        entries[edge.key] = max(spent / COPIES, LEAST_MS)
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "size_px": list(size_px),
        "dtype": arch.numbers.compute,
        "unit": "ms",
        "rounds": rounds,
        "entries": entries,
    }


def _program(edge: Edge, spec: BlockSpec | None, numbers: NumbersArch) -> Callable[[], Any]:
    """The operation again and again on a map, each time after the one before; without `spec` only what binds them."""
    dtype = jnp.dtype(numbers.compute)
    x = jnp.asarray(np.random.default_rng(0).random((1, *edge[2:4], edge.channels)), dtype)
    variables: Any = {}
    block = None
    if spec is not None:
        block = Block(spec, numbers, conv2d)
        variables = block.init(jax.random.PRNGKey(0), x)

    def run(variables: Any, x: Array) -> Array:
        def again(_: Array, x: Array) -> Array:
            y = x if block is None else block.apply(variables, x)
            # Nothing that a compiler could leave out, and next to no work.
            return x + y[0, 0, 0, 0] * jnp.asarray(1e-20, dtype)

        # A loop holds what is handed on in memory, as a network does between its operations; unrolled, the sum above
        # would be worked out again for each of the nine cells that a maximum looks at.
        return jax.lax.fori_loop(0, COPIES, again, x)

    compiled = jax.jit(run).lower(variables, x).compile()
    return lambda: jax.block_until_ready(compiled(variables, x))


def read_table(path: Path, arch: Arch, here: dict[str, Any] | None) -> np.ndarray:
    """Milliseconds of every candidate on every edge, [K, P, Q], from a file.

    Args:
        path: what `measure` gave, with what is said of this machine beside it.
        arch: to be searched.
        here: what must be said there, such as {'device': .., 'cpu': ..}; None = wherever it is from.

    Raises:
        UserError: no such file, not a table, of another device, dtype or other edges.
    """
    try:
        record = outside.read_object(path, max_bytes=outside.MAX_JSON_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {path}", got=error.strerror) from error
    entries = record.get("entries")
    if record.get("schema") != SCHEMA or record.get("kind") != KIND or type(entries) is not dict:
        raise UserError(f"{path} is not a table of latencies", got=short(record.get("kind")))
    again = "measure one with `python -m jaxseg.bench --config=.. --table=FILE`"
    there = {k: record.get(k) for k in here or {}}
    if here and here != there:
        raise UserError(
            f"{path} was measured elsewhere",
            got=short(there),
            expected=short(here),
            do=f"{again}, or give --config.gas.any_device=True",
        )
    mine, size_px = arch.numbers.compute, record.get("size_px")
    if record.get("dtype") != mine:
        raise UserError(f"{path} dtype", got=short(record.get("dtype")), expected=mine, do=again)
    whole = type(size_px) is list and [type(n) for n in size_px] == [int, int]
    if not whole or not all(1 <= n <= 2**16 for n in size_px):
        raise UserError(f"{path} size_px", got=short(size_px), expected="rows and columns")

    def value(edge: Edge) -> float:
        ms = entries.get(edge.key)
        if type(ms) not in (int, float) or not 0 <= ms < float("inf"):
            raise UserError(f"{path} has no time of {edge.key}", got=short(ms), do=again)
        return float(ms)

    return np.array(
        [[[value(e) for e in row] for row in cell] for cell in edges(arch, tuple(size_px))]
    )


def latency_of(arch: Arch, table: np.ndarray) -> float:
    """Sum of a derived network's choices in a table of the network that it came from."""
    chosen = [
        [cells.CANDIDATES.index(c) for c in cell] for cell in cells.genotype_of(arch.backbone)
    ]
    return float(np.take_along_axis(table, np.array(chosen)[..., None], axis=-1).sum())
