"""Any trained network on codes: steps by how large its values are on some images, weights by themselves."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxseg.arch import Arch, BlockSpec, LayerSpec
from jaxseg.conversion import ranges
from jaxseg.conversion.assembly import affine_leaves, assembled, bounds, layer_variables
from jaxseg.conversion.exact import GATE_SHIFT
from jaxseg.conversion.steps import Steps
from jaxseg.errors import UserError
from jaxseg.layers.conv import kernel_reach
from jaxseg.models.folding import fold
from jaxseg.numbers import DEVIATION, FOLDED
from jaxseg.quant import scaling
from jaxseg.quant.rounding import onto

GATE_UNIT = 2.0**-8
"""Step of what a sigmoid reads."""


def calibrated(
    arch: Arch,
    variables: dict[str, Any],
    mean: Sequence[float],
    std: Sequence[float],
    batches: Callable[[], Iterable[np.ndarray]],
    *,
    method: str = "mse",
) -> tuple[Arch, dict[str, Any]]:
    """The int8 network nearest to a trained one.

    Args:
        arch, variables: of a network in float32 or on grids; batch norms are folded first.
        mean, std: of images scaled to [0, 1].
        batches: called several times, gives the same uint8 images [B, H, W, 3] every time.
        method: see `ranges.Histogram.range`.

    Raises:
        UserError: a layer, by name, whose numbers 32 bits cannot hold; a network of few bits.
    """
    if not arch.numbers.bits.off:
        raise UserError(
            "a network of few bits (bfcn) as int8",
            got=f"{arch.numbers.bits.weights}/{arch.numbers.bits.activations} bits",
            expected="one of floats or of integer.preset",
            do="deploy it as it is",
        )
    arch = replace(arch, aux=(), numbers=replace(arch.numbers, compute="float32"))
    arch, variables = fold(arch, variables)
    found = ranges.observe(arch, variables, mean, std, batches)
    return with_steps(arch, variables, ranges.steps(arch, found, mean, std, method))


def with_steps(arch: Arch, variables: dict[str, Any], steps: Steps) -> tuple[Arch, dict[str, Any]]:
    """The int8 network whose values have these steps; every channel of a kernel has a step of its own."""

    def layer(block: BlockSpec, spec: LayerSpec, read: float, result: float):
        kernel, gain, offset = linear(arch, variables, block, spec)
        most = np.abs(kernel).max(axis=(-4, -3, -2))
        step = np.where(most > 0, most, 1.0) / 127
        codes = np.rint(kernel / step[..., None, None, None, :])
        product = step * read * gain
        if spec.activation == "sigmoid":
            thresholds = scaling.sigmoid_thresholds(GATE_UNIT)
            steps = scaling.gate_steps(thresholds)
            made = scaling.affine(product / GATE_UNIT, offset / GATE_UNIT, GATE_SHIFT, steps)
            return codes, affine_leaves(made) | {"thresholds": thresholds}
        made = scaling.affine(product / result, offset / result)
        return codes, affine_leaves(made) | bounds(spec, result)

    return assembled(arch, steps, layer, FOLDED)


def linear(
    arch: Arch, variables: dict[str, Any], block: BlockSpec, spec: LayerSpec
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A layer up to its activation as gain * conv(x, kernel) + offset: float64 (HWIO, [D], [D]).

    Passes of a loop come first where they have something of their own.
    """
    wide = lambda v: np.asarray(v, np.float64)  # noqa: E731
    params, stats = layer_variables(variables, block.name, spec.name)
    grids = arch.numbers.integer.at(f"{block.name}/{spec.name}")
    weights = replace(grids.weights, reach=kernel_reach(spec, grids.weights))
    kernel = wide(onto(np.asarray(params["kernel"], np.float32), weights))
    bias = wide(params["bias"]) if "bias" in params else np.zeros(spec.out_channels)
    if "norm" not in params:
        return kernel, np.ones_like(bias), bias
    norm, running = params["norm"], stats["norm"]
    eps = arch.numbers.norm_eps
    if arch.numbers.norm == DEVIATION:
        spread = wide(running["deviation"]) + eps
    elif grids.norm_stats.off:
        spread = np.sqrt(wide(running["var"]) + eps)
    else:  # WAGEUBN's adds it to the root
        spread = np.sqrt(wide(running["var"])) + eps
    gain = wide(norm["scale"]) / spread
    return kernel, gain, (bias - wide(running["mean"])) * gain + wide(norm["bias"])
