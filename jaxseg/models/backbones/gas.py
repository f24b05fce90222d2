"""After GAS (Lin et al., 1909.06793): a stack of cells that all differ, behind a stem of three convolutions.

A cell reads the results of the two cells before it, each made as wide and as large as the cell is by a 1x1 convolution
(i1: the older one, i2: the newer one). Node x1 is the sum over edges from i1 and i2, node x2 over edges from i1, i2 and
x1; what an edge does is one of `CANDIDATES`. The result is both nodes, joined. In a reduction cell edges from i1 and i2
have stride 2. Published: independent cells, reduction cells; recalled: nodes, edges, candidates; ours: the stem's
widths, where cells reduce, convolution - norm - ReLU as the order inside of an operation, strided 1x1 convolutions for
skips of stride 2.

A node all of whose edges are 'zero' is left out; a cell keeps one node at least.

Order of `BlockArch.widths`:
    gas_stem:  conv1, conv2, conv3
    gas_cell:  older, newer (where they are read), then every convolution of the edges in order; of a separable one
               that is the 1x1
    gas_mixed: one, of every candidate (see `backbones.gas_mixed`)
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from jaxseg import flow
from jaxseg.arch import BackboneArch, BlockArch, BlockSpec, LayerSpec, block_name
from jaxseg.errors import UserError, unknown_name
from jaxseg.flow import Op
from jaxseg.models.backbones.trunk import Trunk, check_output_stride, check_width
from jaxseg.models.block import MakeSpec, Tap, check_widths, normed_layer, round_width

OUTPUT_STRIDES = (16,)
CELLS = 14
STEM, WIDTH = 16, 8
"""Channels of the stem, and of a node before the first reduction."""

MAX_POOL, SKIP, CONV, ZERO, SEPARABLE, *DILATED = CANDIDATES = (
    "max_pool",
    "skip",
    "conv",
    "zero",
    "separable",
    "separable_2",
    "separable_4",
    "separable_8",
)
"""What an edge can be, in the paper's order (recalled)."""

SEPARABLES = {SEPARABLE: 1, "separable_2": 2, "separable_4": 4, "separable_8": 8}
"""Name -> dilation."""

OLDER, NEWER, X1, X2 = "older", "newer", "x1", "x2"
EDGES = ((OLDER, X1), (NEWER, X1), (OLDER, X2), (NEWER, X2), (X1, X2))
"""(what it reads, to which node), of every cell."""

CELL, MIXED = "gas_cell", "gas_mixed"

BY_HAND = (
    (SKIP, CONV, ZERO, SKIP, SEPARABLE),
    (MAX_POOL, "separable_2", SKIP, ZERO, CONV),
    (SKIP, SEPARABLE, "separable_4", SKIP, SKIP),
    (ZERO, CONV, SKIP, "separable_8", MAX_POOL),
)
"""Cells of a network that nobody searched, over and over."""

GRAPH, LINK, IDENTITY, NONE = GUIDES = ("graph", "link", "identity", "none")
"""How cells are told of the ones before them in a search: the graph-guided module; one dense layer from all parameters
to all; a graph whose nodes are single parameters; not at all. The last three are the paper's ablations."""

OWN, SHARED = SHARING = ("own", "shared")
"""Whether cells have parameters of their own in a search, or all normal and all reduction cells the same."""

Genotype = tuple[tuple[str, ...], ...]
"""For every cell the candidate on each of `EDGES`."""


def reductions(cells: int) -> tuple[int, int]:
    """The cells with stride 2, counted from 0 (as in DARTS and SNAS)."""
    return cells // 3, 2 * cells // 3


def gas(
    output_stride: int = 16,
    width: float = 1.0,
    cells: int = CELLS,
    genotype: Genotype | None = None,
    guide: str = GRAPH,
    sharing: str = OWN,
) -> Trunk:
    """The backbone of stem and cells.

    Args:
        output_stride: 16: 4 by the stem, 2 by each of two reduction cells, which double the channels.
        width: multiplies all widths, rounded to multiples of 8, at least 8.
        cells: K.
        genotype: K cells; empty = all candidates everywhere, to be searched; None = `BY_HAND`.
        guide, sharing: of a search, see `GUIDES` and `SHARING`.

    Raises:
        UserError: a value that cannot be.
    """
    check_output_stride(output_stride, OUTPUT_STRIDES)
    check_width(width)
    if not 3 <= cells <= 60:
        raise UserError("gas.cells", got=cells, expected="3 to 60")
    if genotype is None:
        genotype = tuple(BY_HAND[k % len(BY_HAND)] for k in range(cells))
    if genotype and len(genotype) != cells:
        raise UserError(
            "gas.genotype", got=f"{len(genotype)} cells", expected=f"gas.cells, {cells}"
        )
    for k, choices in enumerate(genotype):
        check_choices(f"cell {k} of the genotype", choices)
    stem, channels = round_width(STEM * width), round_width(WIDTH * width)
    blocks, levels = [BlockArch("gas_stem", (stem,) * 3, stride=4)], {4: block_name(0)}
    stride = 4
    for k in range(cells):
        reduces = k in reductions(cells)
        channels, stride = channels * (1 + reduces), stride * (1 + reduces)
        choices = genotype[k] if genotype else (guide, sharing)
        inputs = (block_name(k), block_name(max(k - 1, 0)))
        kind = CELL if genotype else MIXED
        made = BlockArch(kind, (), 1 + reduces, inputs=inputs, choices=tuple(choices))
        blocks.append(replace(made, widths=(channels,) * num_widths(made)))
        levels[stride] = block_name(k + 1)
    return Trunk(BackboneArch("gas", tuple(blocks)), levels)


def genotype_of(backbone: BackboneArch) -> Genotype:
    """The choices of its cells; empty if it is still to be searched."""
    return tuple(b.choices for b in backbone.blocks if b.kind == CELL)


def check_choices(where: str, choices: Sequence[str]) -> None:
    """Raises a UserError unless there is a candidate for every edge, and one of them is not 'zero'."""
    if len(choices) != len(EDGES):
        raise UserError(
            where, got=f"{len(choices)} operations", expected=f"{len(EDGES)}, one per edge"
        )
    for choice in choices:
        if choice not in CANDIDATES:
            raise unknown_name(f"operation in {where}", str(choice), CANDIDATES)
    if not nodes_of(choices):
        raise UserError(
            where, got="a cell of zeros", expected="an operation on an edge from an input"
        )


def edge_index(op: str) -> int:
    """Of the operation 'edge3': 3."""
    return int(op.removeprefix("edge"))


def nodes_of(choices: Sequence[str]) -> dict[str, list[int]]:
    """Node -> edges that feed it, where there are any; an edge from a node that is none feeds nothing."""
    nodes: dict[str, list[int]] = {}
    for e, ((source, node), choice) in enumerate(zip(EDGES, choices, strict=True)):
        if choice != ZERO and (source in (OLDER, NEWER) or source in nodes):
            nodes.setdefault(node, []).append(e)
    return nodes


# --- Specs ---


class Part(NamedTuple):
    """A candidate on an edge: layers, operations, and the name of its result."""

    layers: tuple[LayerSpec, ...]
    ops: tuple[Op, ...]
    result: str


def part(edge: str, choice: str, reads: str, channels: int, out: Iterator[int], tap: Tap) -> Part:
    """A candidate other than 'zero'.

    Args:
        edge: begins the names of its layers.
        choice: which.
        reads: the map.
        channels: of that map.
        out: gives the output channels of one convolution after the other; those without keep them.
        tap: the cell's stride over that of the map as `channels`, and the stride of the map.
    """
    step, stride = tap
    name = f"{edge}_{choice}"
    if choice == SKIP and step == 1:
        return Part((), (), reads)
    if choice == MAX_POOL:
        return Part((), (Op(name, flow.MAX_POOL, (reads,), window=3, stride=step),), name)
    if choice in SEPARABLES:
        depth = normed_layer(
            f"{name}_depthwise",
            channels,
            channels,
            3,
            stride,
            stride=step,
            dilation=SEPARABLES[choice],
            activation="",
        )
        point = normed_layer(name, channels, next(out), 1, stride * step)
        layers = (replace(depth, groups=channels), point)
        return Part(layers, flow.chain(reads, depth.name, name), name)
    kernel, activation = (1, "") if choice == SKIP else (3, "relu")
    layer = normed_layer(
        name, channels, next(out), kernel, stride, stride=step, activation=activation
    )
    return Part((layer,), (flow.conv(name, reads),), name)


def _convolutions(choice: str, step: int) -> int:
    """Widths that a candidate takes."""
    return int(choice in SEPARABLES or choice == CONV or (choice == SKIP and step > 1))


def _steps(block: BlockArch) -> list[int]:
    """Stride of every edge."""
    return [block.stride if source in (OLDER, NEWER) else 1 for source, _ in EDGES]


def _candidates(block: BlockArch) -> list[tuple[str, ...]]:
    """What there is on every edge."""
    used = {e for edges in nodes_of(block.choices).values() for e in edges}
    return [(c,) if e in used else () for e, c in enumerate(block.choices)]


def num_widths(block: BlockArch) -> int:
    """Length of a cell's `widths`."""
    if block.kind == MIXED:
        return 1
    there, steps = _candidates(block), _steps(block)
    read = {source for (source, _), choices in zip(EDGES, there, strict=True) if choices}
    edges = zip(there, steps, strict=True)
    return len(read & {OLDER, NEWER}) + sum(_convolutions(c, s) for cs, s in edges for c in cs)


def _stem_spec(name: str, block: BlockArch, in_channels: int, in_stride: int) -> BlockSpec:
    check_widths(name, block.kind, block.widths, 3)
    if block.stride != 4:
        raise UserError(f"stride of {name} ({block.kind})", got=block.stride, expected=4)
    layers, channels, stride = [], in_channels, in_stride
    for i, (width, step) in enumerate(zip(block.widths, (2, 2, 1), strict=True), start=1):
        layers.append(normed_layer(f"conv{i}", channels, width, 3, stride, stride=step))
        channels, stride = width, stride * step
    ops = flow.chain("in_0", *(layer.name for layer in layers))
    return BlockSpec(name, "backbone", block.kind, tuple(layers), ops, channels, stride)


def _cell_spec(
    name: str, block: BlockArch, in_channels: int, in_stride: int, older: Tap
) -> BlockSpec:
    check_choices(f"choices of {name}", block.choices)
    check_strides(name, block, in_stride, older)
    check_widths(name, block.kind, block.widths, num_widths(block))
    widths, there, steps = iter(block.widths), _candidates(block), _steps(block)
    layers: list[LayerSpec] = []
    ops: list[Op] = []
    maps: dict[str, tuple[str, int]] = {}  # i1, i2 and x1 -> (name of the map, channels)
    read = {source for (source, _), choices in zip(EDGES, there, strict=True) if choices}
    for source, entry, tap in entries(Tap(in_channels, in_stride), older):
        if source in read:
            layers.append(entry_layer(source, tap, next(widths), in_stride))
            ops.append(flow.conv(source, entry))
            maps[source] = source, layers[-1].out_channels
    results: list[tuple[str, int]] = []
    for node in (X1, X2):
        terms: list[tuple[str, int]] = []
        for e, (source, to) in enumerate(EDGES):
            if to != node or not there[e]:
                continue
            (reads, wide), step = maps[source], steps[e]
            at = in_stride if source in (OLDER, NEWER) else in_stride * block.stride
            one = part(f"edge{e}", there[e][0], reads, wide, widths, Tap(step, at))
            layers += one.layers
            ops += one.ops
            terms.append((one.result, one.layers[-1].out_channels if one.layers else wide))
        if not terms:
            continue
        (total, channels), *rest = terms
        for i, (term, made) in enumerate(rest, start=1):
            if made != channels:
                raise UserError(
                    f"widths of {name} ({block.kind})",
                    got=[made for _, made in terms],
                    expected="equal ones in a node",
                )
            ops.append(flow.add(f"{node}_{i}", total, term))
            total = f"{node}_{i}"
        maps[node] = total, channels
        results.append((total, channels))
    # Also of one node: an edge may be nothing but a name for another map.
    ops.append(flow.join("joined", *(total for total, _ in results)))
    out_channels = sum(channels for _, channels in results)
    return BlockSpec(
        name,
        "backbone",
        block.kind,
        tuple(layers),
        tuple(ops),
        out_channels,
        in_stride * block.stride,
    )


def check_strides(name: str, block: BlockArch, in_stride: int, older: Tap) -> None:
    """Raises a UserError unless the maps of a cell fit together."""
    if block.stride not in (1, 2) or older.stride not in (in_stride, in_stride // 2):
        raise UserError(
            f"strides of {name} ({block.kind})",
            got=f"{block.stride} on maps of stride {older.stride} and {in_stride}",
            expected="1 or 2, the older map as large as the newer one or twice as large",
        )


def entries(newer: Tap, older: Tap) -> tuple[tuple[str, str, Tap], ...]:
    """(input node, map that it is made from, that map's shape)."""
    return (OLDER, "in_1", older), (NEWER, "in_0", newer)


def entry_layer(source: str, tap: Tap, channels: int, stride: int) -> LayerSpec:
    """The 1x1 convolution that makes an input node out of a map."""
    return normed_layer(source, tap.channels, channels, 1, tap.stride, stride=stride // tap.stride)


KINDS: dict[str, MakeSpec] = {"gas_stem": _stem_spec, CELL: _cell_spec}

READS = {CELL: 2}
"""Kinds that read several maps: the newer cell's first."""
