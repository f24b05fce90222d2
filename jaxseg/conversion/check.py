"""Whether 32 bits hold everything that an int8 network computes: what a folder from anywhere must pass."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg import flow
from jaxseg.arch import Arch
from jaxseg.conversion.exact import GATE_SHIFT
from jaxseg.errors import UserError
from jaxseg.layers.codes import SCALES
from jaxseg.models import zoo
from jaxseg.quant import scaling


def check(arch: Arch, variables: Mapping[str, Any], mean: Sequence[float], std: Sequence[float]):
    """Within these bounds `quant.codes` and the 64-bit reference agree on every image.

    Args:
        arch: of an int8 network.
        variables: as numpy arrays, names, shapes and dtypes already compared with `zoo.template`.
        mean, std: of the folder's card.

    Raises:
        UserError: a number that cannot be, by the name of its operation.
    """
    try:
        scaling.image_affine(mean, std, arch.numbers.codes.image_step)
    except OverflowError as error:
        raise UserError("mean and std of an int8 network", got=error) from error
    for block in zoo.blocks(arch):
        for op in block.ops:
            leaves = variables.get(SCALES, {}).get(block.name, {}).get(op.name)
            if leaves is None:
                continue
            if op.kind != flow.CONV:
                problem = _thresholds(leaves) if op.kind == flow.SIGMOID else _other(leaves)
            else:
                problem = _layer(variables["params"][block.name][op.name]["kernel"], leaves)
                if not problem and block.layer(op.name).activation == "sigmoid":
                    problem = _gate(leaves)
            if problem:
                raise UserError(f"{block.name}/{op.name} of an int8 network", got=problem)


def _layer(kernel: np.ndarray, leaves: Mapping[str, np.ndarray]) -> str:
    if kernel.min(initial=0) < -127:
        return "a weight of -128"
    sums = np.abs(kernel.astype(np.int64)).sum(axis=(-4, -3, -2)) * 128
    if sums.max(initial=0) >= 2**31:
        return f"sums up to {sums.max():.4g}"
    for ending in ("_norm", ""):
        parts = [leaves.get(f"{name}{ending}") for name in scaling.Affine._fields]
        if parts[0] is not None and not scaling.fits(*parts).all():
            return f"multiplier{ending}, offset{ending} and shift{ending} that 32 bits do not hold"
    if np.min(leaves.get("top", 0)) < 0:
        return "an upper bound below 0"
    return ""


def _gate(leaves: Mapping[str, np.ndarray]) -> str:
    if leaves["shift"].max(initial=0) > GATE_SHIFT:
        return f"a shift above {GATE_SHIFT}"
    if problem := _thresholds(leaves):
        return problem
    own = (leaves[name] for name in scaling.Affine._fields)
    if not scaling.fits(*own, scaling.gate_steps(leaves["thresholds"])).all():
        return "multiplier, offset and shift that leave no room for its thresholds"
    return ""


def _thresholds(leaves: Mapping[str, np.ndarray]) -> str:
    return "" if (np.diff(leaves["thresholds"]) >= 0).all() else "thresholds out of order"


def _other(leaves: Mapping[str, np.ndarray]) -> str:
    shift = leaves["shift"]
    if shift.min(initial=1) < 1 or shift.max(initial=1) > scaling.MULTIPLIER_BITS:
        return f"a shift beyond 1 to {scaling.MULTIPLIER_BITS}"
    return "" if np.min(leaves["multiplier"]) >= 0 else "a multiplier below 0"
