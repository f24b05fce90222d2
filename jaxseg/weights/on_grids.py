"""Weights from elsewhere brought into the bounds of an integer network's grids."""

import math

import numpy as np

from jaxseg.arch import Arch, LayerSpec
from jaxseg.layers.conv import kernel_reach
from jaxseg.models import zoo
from jaxseg.numbers import FIXED, Grid


def within_reach(
    arch: Arch, filled: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The same network with smaller kernels, where a norm makes that possible; the rest is told.

    What a norm follows may be multiplied by 2^-k: the norm divides by it again (up to its epsilon).

    Args:
        arch: of the network; without integer grids nothing changes.
        filled: flat path -> array, of what was loaded.

    Returns:
        (filled, notes on what lies beyond its grid all the same and will be clipped).
    """
    filled, clipped = dict(filled), {}
    for block in zoo.blocks(arch):
        for layer in block.layers:
            name = f"{block.name}/{layer.name}"
            grids = arch.numbers.integer.at(name)
            if grids.off or f"params/{name}/kernel" not in filled:
                continue
            if layer.norm:
                _shrink(filled, name, kernel_reach(layer, grids.weights))
            for part, grid in _grids(layer, grids).items():
                value = filled.get(f"params/{name}/{part}")
                if value is None or grid.off or grid.rule != FIXED:
                    continue
                if share := float(np.mean(np.abs(value) > grid.reach)):
                    clipped[f"{name}/{part}"] = share
    if not clipped:
        return filled, ()
    worst = max(clipped, key=clipped.get)
    return filled, (
        f"{len(clipped)} arrays reach beyond their grids and will be clipped, most of all {worst} "
        f"({100 * clipped[worst]:.1f} % of it)",
    )


def _grids(layer: LayerSpec, grids) -> dict[str, Grid]:
    """Path below the layer -> the grid that its values are used on."""
    kernel = Grid(grids.weights.bits, grids.weights.rule, kernel_reach(layer, grids.weights))
    found = {"kernel": kernel, "bias": grids.biases}
    return found | {f"norm/{part}": grids.norm_params for part in ("scale", "bias")}


def _shrink(filled: dict[str, np.ndarray], name: str, reach: float) -> None:
    """Divides kernel, bias and running statistics by the power of two that brings the kernel within `reach`."""
    most = float(np.abs(filled[f"params/{name}/kernel"]).max())
    if most <= reach:
        return
    factor = 2.0 ** -math.ceil(math.log2(most / reach))
    paths = [f"params/{name}/{part}" for part in ("kernel", "bias")]
    paths += [f"batch_stats/{name}/norm/{part}" for part in ("mean", "deviation")]
    for path in paths:
        if path in filled:
            filled[path] = filled[path] * np.float32(factor)
    variance = f"batch_stats/{name}/norm/var"
    if variance in filled:
        filled[variance] = filled[variance] * np.float32(factor**2)
