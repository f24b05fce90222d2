"""A cell after GAS with all candidates on each edge, while it is searched: its layers, joined.

Everything of one kind that reads one map is one layer, with the channels of edge after edge; else a network to be
searched has hundreds of layers, each with programs of its own for gradient, update and statistics, and takes XLA on
CPU longer to compile than to search. Per map (i1, i2, x1) with E edges and C channels:

    {map}_conv       3x3, C to E C
    {map}_skip       1x1, C to E C, where edges have stride 2; else there is none
    {map}_depthwise  3x3, a channel to 4 E: all dilations of all edges. Its dilation is only that of its first quarter;
                     `models.mixed_cell` gives each quarter its own
    {map}_point      1x1, in 4 E groups of C

Channels of the result lie as [dilation, edge, C]. Norms have no scale and bias (SNAS code). Maxima have no layer,
'zero' adds nothing.
"""

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxseg import flow
from jaxseg.arch import BlockArch, BlockSpec, LayerSpec
from jaxseg.errors import UserError
from jaxseg.flow import Op
from jaxseg.models.backbones import gas
from jaxseg.models.backbones.gas import (
    CONV,
    EDGES,
    GUIDES,
    MAX_POOL,
    MIXED,
    NEWER,
    OLDER,
    SEPARABLES,
    SHARING,
    SKIP,
    X1,
    X2,
)
from jaxseg.models.block import MakeSpec, Tap, check_widths, normed_layer

SOURCES = (OLDER, NEWER, X1)


def edges_from(source: str) -> tuple[int, ...]:
    """The edges that read a map, in the order in which its layers hold them."""
    return tuple(e for e, (reads, _) in enumerate(EDGES) if reads == source)


def _spec(name: str, block: BlockArch, in_channels: int, in_stride: int, older: Tap) -> BlockSpec:
    guide_and_sharing = len(block.choices) == 2 and (
        block.choices[0] in GUIDES and block.choices[1] in SHARING
    )
    if not guide_and_sharing:
        raise UserError(
            f"choices of {name} ({block.kind})", got=block.choices, expected="(guide, sharing)"
        )
    gas.check_strides(name, block, in_stride, older)
    check_widths(name, block.kind, block.widths, gas.num_widths(block))
    channels, stride = block.widths[0], in_stride * block.stride
    layers: list[LayerSpec] = []
    ops: list[Op] = []
    for source, entry, tap in gas.entries(Tap(in_channels, in_stride), older):
        layers.append(gas.entry_layer(source, tap, channels, in_stride))
        ops.append(flow.conv(source, entry))
    terms: dict[str, list[str]] = {X1: [], X2: []}
    for source in SOURCES:
        if source == X1:
            ops.append(Op(X1, flow.MIX, tuple(terms[X1])))
        inner = source == X1
        at, step = (stride, 1) if inner else (in_stride, block.stride)
        made, done = _candidates(source, channels, Tap(step, at))
        layers += made
        ops += done
        for node in dict.fromkeys(EDGES[e][1] for e in edges_from(source)):
            terms[node] += [op.name for op in done if not op.name.endswith("_depthwise")]
            terms[node] += [source] * (step == 1)
    ops += [Op(X2, flow.MIX, tuple(terms[X2])), flow.join("joined", X1, X2)]
    fixed = tuple(replace(layer, affine=False) for layer in layers)
    return BlockSpec(name, "backbone", MIXED, fixed, tuple(ops), 2 * channels, stride)


def _candidates(source: str, channels: int, tap: Tap) -> tuple[list[LayerSpec], list[Op]]:
    """Of all edges that read a map; `tap` is the cell's stride over that of the map as `channels`, and its stride."""
    step, stride = tap
    wide = channels * len(edges_from(source))
    all_wide = wide * len(SEPARABLES)
    names = {kind: f"{source}_{kind}" for kind in ("conv", "skip", "depthwise", "point")}
    layers = [normed_layer(names["conv"], channels, wide, 3, stride, stride=step)]
    ops = [flow.conv(names["conv"], source)]
    if step > 1:
        layers.append(
            normed_layer(names["skip"], channels, wide, 1, stride, stride=step, activation="")
        )
        ops.append(flow.conv(names["skip"], source))
    depth = normed_layer(
        names["depthwise"], channels, all_wide, 3, stride, stride=step, activation=""
    )
    point = normed_layer(names["point"], all_wide, all_wide, 1, stride * step)
    layers += [replace(depth, groups=channels), replace(point, groups=all_wide // channels)]
    ops += flow.chain(source, names["depthwise"], names["point"])
    pool = Op(f"{source}_{MAX_POOL}", flow.MAX_POOL, (source,), window=3, stride=step)
    return layers, [*ops, pool]


KINDS: dict[str, MakeSpec] = {MIXED: _spec}

READS = {MIXED: 2}


def variables_of(spec: BlockSpec, variables: dict[str, Any]) -> dict[str, Any]:
    """Of a derived cell, out of those of the mixed one: either of their two collections. Other blocks keep theirs.

    Scale and bias of the derived cell's norms are 1 and 0.
    """
    if spec.kind != gas.CELL:
        return variables
    found = {}
    for layer in spec.layers:
        joined, place = _where(layer.name)
        channels = slice(place * layer.out_channels, (place + 1) * layer.out_channels)
        own = jax.tree.map(lambda v, at=channels: v[..., at], variables[joined])
        if "kernel" in own:
            ones = np.ones(layer.out_channels, np.float32)
            own["norm"] = {"scale": ones, "bias": 0 * ones}
        found[layer.name] = own
    return found


def _where(layer: str) -> tuple[str, int]:
    """Of a derived cell's layer: the joined one that holds it, and after how many like it."""
    if layer in (OLDER, NEWER):
        return layer, 0
    edge, choice = layer.split("_", 1)
    e = gas.edge_index(edge)
    source = EDGES[e][0]
    own = edges_from(source)
    if choice in (CONV, SKIP):
        return f"{source}_{choice}", own.index(e)
    rate = list(SEPARABLES).index(choice.removesuffix("_depthwise"))
    kind = "depthwise" if choice.endswith("_depthwise") else "point"
    return f"{source}_{kind}", rate * len(own) + own.index(e)
