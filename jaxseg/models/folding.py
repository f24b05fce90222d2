"""Batch norm of a trained network written into the convolutions before it: for inference, the same answers for less."""

import dataclasses
from typing import Any

import numpy as np

from jaxseg.arch import Arch
from jaxseg.models import zoo
from jaxseg.numbers import FOLDED


def fold(arch: Arch, variables: dict[str, Any]) -> tuple[Arch, dict[str, Any]]:
    """An architecture without batch norm, and its variables, that answers as `arch` does in eval mode.

    kernel' = kernel g, bias' = (bias - mean) g + norm bias with g = norm scale / sqrt(var + eps), per output channel;
    computed in float64.

    Args:
        arch: any; one that is folded already, on integer grids or of another norm is returned as it is.
        variables: params and batch_stats of its blocks and heads; those of auxiliary heads may be missing.

    Returns:
        (arch, variables) with `arch.numbers.norm == 'folded'`, numpy float32, and no batch_stats, but for loops whose
        passes share kernels and have their own statistics: there nothing changes (see `BlockSpec.folded`).
    """
    if not arch.numbers.foldable:
        return arch, variables
    numbers = dataclasses.replace(arch.numbers, norm=FOLDED)
    folded = dataclasses.replace(arch, numbers=numbers)
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    for block, after in zip(zoo.blocks(arch), zoo.blocks(folded), strict=True):
        for layer in block.layers:
            if layer.name not in variables["params"].get(block.name, {}):
                continue
            ours = dict(variables["params"][block.name][layer.name])
            if layer.norm:
                running = variables["batch_stats"][block.name][layer.name]
                if after.layer(layer.name).norm:
                    stats.setdefault(block.name, {})[layer.name] = running
                else:
                    ours = _folded(ours, running["norm"], arch.numbers.norm_eps)
            params.setdefault(block.name, {})[layer.name] = ours
    return folded, {"params": params, "batch_stats": stats}


def _folded(params: dict[str, Any], running: dict[str, Any], eps: float) -> dict[str, Any]:
    wide = lambda v: np.asarray(v, np.float64)  # noqa: E731
    gain = wide(params["norm"]["scale"]) / np.sqrt(wide(running["var"]) + eps)
    bias = (wide(params.get("bias", 0.0)) - wide(running["mean"])) * gain
    bias = bias + wide(params["norm"]["bias"])
    # [D], or [N, D] where each pass has a kernel of its own.
    kernel = wide(params["kernel"]) * gain[..., None, None, None, :]
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
