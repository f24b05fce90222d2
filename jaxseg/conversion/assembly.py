"""Variables of an int8 network from the steps of its values; what exact and calibrated conversion have in common."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxseg import flow
from jaxseg.arch import Arch, BlockSpec, LayerSpec
from jaxseg.conversion.steps import THE_IMAGE, Steps, Value, Values, deployed_blocks
from jaxseg.errors import UserError
from jaxseg.layers.codes import SCALES, kernel_of, scales_of
from jaxseg.numbers import INT8, CodesArch, NumbersArch
from jaxseg.quant import scaling

Leaves = dict[str, np.ndarray]
MakeLayer = Callable[[BlockSpec, LayerSpec, float, float], tuple[np.ndarray, Leaves]]
"""(block, layer, step of what it reads, step of its result) -> (kernel of codes, leaves of its scales)."""

MOST_SUM = 2**31 - 1


def assembled(arch: Arch, steps: Steps, layer: MakeLayer, norm: str) -> tuple[Arch, dict[str, Any]]:
    """The int8 network.

    Args:
        arch: of the trained network.
        steps: of all values.
        layer: makes the variables of a convolution; OverflowError where numbers are out of bounds.
        norm: 'folded', or 'deviation' where norms keep a rounding of their own.

    Returns:
        (arch, {'params', 'scales'} as numpy arrays).

    Raises:
        UserError: a layer, by name, that 32 bits cannot hold.
    """
    blocks = deployed_blocks(arch)
    scores = (blocks[-1].name, blocks[-1].ops[-1].name)
    numbers = NumbersArch(
        compute=INT8, norm=norm, codes=CodesArch(float(steps[THE_IMAGE]), float(steps[scores]))
    )
    arch = replace(arch, aux=(), numbers=numbers)
    values, made = Values(blocks), {"params": {}, SCALES: {}}
    for block, new in zip(blocks, deployed_blocks(arch), strict=True):
        for op in block.ops:
            try:
                kernel, leaves = _variables(block, op, values, steps, layer)
            except OverflowError as error:
                raise UserError(
                    f"{block.name}/{op.name} as an int8 operation",
                    got=error,
                    expected="numbers that 32 bits hold",
                ) from error
            if kernel is not None:
                shape, dtype = kernel_of(new.layer(op.name))
                kernels = made["params"].setdefault(block.name, {})
                kernels[op.name] = {"kernel": kernel.astype(dtype).reshape(shape)}
            if wanted := scales_of(new, op, numbers):
                made[SCALES].setdefault(block.name, {})[op.name] = {
                    name: np.broadcast_to(leaves[name], shape).astype(dtype)
                    for name, (shape, dtype) in wanted.items()
                }
    return arch, made


def _variables(
    block: BlockSpec, op: flow.Op, values: Values, steps: Steps, layer: MakeLayer
) -> tuple[np.ndarray | None, Leaves]:
    result: Value = (block.name, op.name)
    reads = [steps[value] for value in values.reads(block, op)]
    if op.kind == flow.CONV:
        kernel, leaves = layer(block, block.layer(op.name), reads[0], steps[result])
        per_channel = np.abs(kernel.astype(np.int64)).sum(axis=(-4, -3, -2)) * 128
        if per_channel.max(initial=0) > MOST_SUM:
            raise OverflowError(f"sums up to {per_channel.max():.3g}")
        return kernel, leaves
    if op.kind == flow.SIGMOID:
        return None, {"thresholds": scaling.sigmoid_thresholds(reads[0])}
    if op.kind in (flow.ADD, flow.MULTIPLY, flow.AVERAGE_POOL, flow.AVERAGE):
        ratios = [step / steps[result] for step in reads]
        if op.kind == flow.MULTIPLY:
            ratios = [reads[0] * reads[1] / steps[result]]
        found = scaling.sums(ratios)
        multiplier = found.multiplier if op.kind == flow.ADD else found.multiplier[0]
        return None, {"multiplier": multiplier, "shift": found.shift}
    return None, {}


def affine_leaves(found: scaling.Affine, ending: str = "") -> Leaves:
    """As `layers.codes.scales_of` calls them."""
    return {f"{name}{ending}": value for name, value in found._asdict().items()}


def bounds(layer: LayerSpec, step: float) -> Leaves:
    """What the activation of a layer needs besides."""
    if layer.activation == "relu6":
        return {"top": np.int8(min(127, round(6 / step)))}
    return {}


def layer_variables(variables: Mapping[str, Any], block: str, layer: str) -> tuple[Any, Any]:
    """(parameters, running statistics or {}) of one layer."""
    stats = variables.get("batch_stats", {}).get(block, {}).get(layer, {})
    return variables["params"][block][layer], stats
