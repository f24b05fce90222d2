"""A network that was trained on fixed grids (preset 'integer_only') as the same network on codes, bit for bit.

Every map of such a network is a multiple of a power of two within bounds, so nothing has to be looked at: multipliers,
offsets and shifts are those numbers themselves. Where a norm rounds inside, it still does.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from jaxseg import flow
from jaxseg.arch import Arch, BlockSpec, LayerSpec
from jaxseg.conversion.assembly import affine_leaves, assembled, bounds, layer_variables
from jaxseg.conversion.steps import GATE_STEP, THE_IMAGE, Value, Values, deployed_blocks
from jaxseg.layers.conv import kernel_reach, op_grid, result_grid
from jaxseg.layers.deviation import reciprocal
from jaxseg.numbers import DEVIATION, FIXED, FLOAT, Grid
from jaxseg.quant import scaling
from jaxseg.quant.rounding import onto

CODE_PATHS = ("image", "activations", "maps", "logits")
INNER_PATHS = ("weights", "biases", "normalised", "norm_params")

GATE_SHIFT = 18
"""Sums before a sigmoid must keep more than 8 bits."""


def is_exact(arch: Arch) -> bool:
    """Whether `exact` applies: every map on 8 fixed bits, everything inside layers on fixed grids."""
    grids = arch.numbers.integer
    if grids.off or arch.numbers.norm != DEVIATION or grids.reciprocal_bits == FLOAT:
        return False
    return all(
        getattr(here, path).rule == FIXED
        and (getattr(here, path).bits == 8 if path in CODE_PATHS else not getattr(here, path).off)
        and (path != "weights" or here.weights.bits <= 8)
        for block in deployed_blocks(arch)
        for layer in block.layers
        for here in (grids.at(f"{block.name}/{layer.name}"), grids.at(f"{block.name}/"))
        for path in (*CODE_PATHS, *INNER_PATHS)
    ) and _steps_agree(arch)


def exact(arch: Arch, variables: dict[str, Any]) -> tuple[Arch, dict[str, Any]]:
    """The int8 network that answers as `arch` does in eval mode, code for code.

    Args:
        arch: one for which `is_exact` holds.
        variables: its own; those of auxiliary heads are left out.

    Raises:
        UserError: a layer, by name, whose numbers 32 bits cannot hold.
    """

    def layer(block: BlockSpec, spec: LayerSpec, read: float, result: float):
        grids = arch.numbers.integer.at(f"{block.name}/{spec.name}")
        params, stats = layer_variables(variables, block.name, spec.name)
        weights = replace(grids.weights, reach=kernel_reach(spec, grids.weights))
        product = read * _step(weights)
        kernel = np.rint(_on(params["kernel"], weights) / _step(weights)).astype(np.int8)
        bias = _on(params["bias"], grids.biases) if spec.bias else 0.0
        if spec.activation == "sigmoid":
            unit = min(product, _step(grids.biases))
            ratio, offset = np.broadcast_arrays(product / unit, bias / unit)
            thresholds = scaling.sigmoid_thresholds(unit)
            made = scaling.exact_affine(ratio, offset, scaling.gate_steps(thresholds))
            leaves = affine_leaves(made) | {"thresholds": thresholds}
        elif spec.norm:
            over = np.asarray(reciprocal(stats["norm"]["deviation"], arch.numbers.norm_eps, grids))
            over = over.astype(np.float64)
            mean = _on(stats["norm"]["mean"], grids.norm_stats)
            gain, shift = (_on(params["norm"][k], grids.norm_params) for k in ("scale", "bias"))
            normal = _step(grids.normalised)
            first = scaling.exact_affine(product * over / normal, (bias - mean) * over / normal)
            last = scaling.exact_affine(normal * gain / result, shift / result)
            leaves = affine_leaves(first, "_norm") | affine_leaves(last)
        else:
            ratio = np.full(spec.out_channels, product / result)
            leaves = affine_leaves(scaling.exact_affine(ratio, bias / result))
        return kernel, leaves | bounds(spec, result)

    return assembled(arch, _steps(arch), layer, DEVIATION)


def _steps(arch: Arch) -> dict[Value, float]:
    grids = arch.numbers.integer
    steps: dict[Value, float] = {THE_IMAGE: _step(grids.image)}
    values = Values(deployed_blocks(arch))
    for block in values.blocks:
        for op in block.ops:
            if op.kind == flow.CONV:
                here = grids.at(f"{block.name}/{op.name}")
                step = _step(result_grid(block.layer(op.name), here))
            elif op.kind in flow.KEEPING:
                step = steps[values.reads(block, op)[0]]
            else:
                step = _step(op_grid(op, grids.at(f"{block.name}/")))
            steps[block.name, op.name] = step
    return steps


def _steps_agree(arch: Arch) -> bool:
    """Whether values that must have one step do, and gates have theirs."""
    steps, values = _steps(arch), Values(deployed_blocks(arch))
    tied = all(steps[value] == steps[root] for value, root in values.groups().items())
    return tied and all(steps[value] == GATE_STEP for value in values.gates())


def _step(grid: Grid) -> float:
    return grid.reach * 2.0 ** (1 - grid.bits)


def _on(value: Any, grid: Grid) -> np.ndarray:
    return np.asarray(onto(np.asarray(value, np.float32), grid)).astype(np.float64)
