"""The state of training on integer arrays, and the ways between it and that of the simulation."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.arch import Arch
from jaxseg.numbers import Grid
from jaxseg.quant import integers as q
from jaxseg.quant.codes import image_codes
from jaxseg.quant.scaling import image_affine
from jaxseg.training.fixed_point import Updates, path_name, stored_grids
from jaxseg.training.state import TrainState
from jaxseg.types import Array

I32 = jnp.int32
MOMENTUM_BITS, STORED_BITS = 24, 24
RUNNING_STEP = -22
"""log2 of the step of running statistics."""


class IntegerState(NamedTuple):
    """Whole numbers only; `codes_of` and `values_of` go between it and a `TrainState`.

    step:     int32 scalar.
    params:   path -> int32 codes of 24 bits.
    momentum: path -> int32 codes of 24 bits.
    stats:    path -> int32 codes of 24 bits.
    key:      of the run.
    """

    step: Array
    params: dict[str, Array]
    momentum: dict[str, Array]
    stats: dict[str, Array]
    key: Array


def stored_steps(arch: Arch) -> dict[str, int]:
    """Path -> log2 of the step in which a parameter is stored."""
    grids = stored_grids(arch, Updates(stored_bits=STORED_BITS))
    return {path: int(math.log2(grid.reach)) - STORED_BITS + 1 for path, grid in grids.items()}


def flat(tree: dict[str, Any]) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_name(path): leaf for path, leaf in leaves}


def codes_of(arch: Arch, state: TrainState) -> IntegerState:
    """The integer state of a fresh or running simulation; weights that are on no grid yet are rounded."""
    steps = stored_steps(arch)

    def code(value: Array, step: int) -> Array:
        return q.clipped(jnp.round(jnp.ldexp(value, -step)).astype(I32), STORED_BITS)

    params = {path: code(v, steps[path]) for path, v in flat(state.params).items()}
    traces = [part for part in state.opt_state if hasattr(part, "trace")]
    momentum = {path: code(v, 1 - MOMENTUM_BITS) for path, v in flat(traces[0].trace).items()}
    stats = {
        path: jnp.round(jnp.ldexp(v, -RUNNING_STEP)).astype(I32)
        for path, v in flat(state.batch_stats).items()
    }
    return IntegerState(state.step, params, momentum, stats, state.key)


def values_of(arch: Arch, state: IntegerState) -> dict[str, np.ndarray]:
    """Path -> what the codes mean, float64: parameters, then running statistics."""
    steps = stored_steps(arch)
    found = {path: np.ldexp(np.float64(v), steps[path]) for path, v in state.params.items()}
    return found | {p: np.ldexp(np.float64(v), RUNNING_STEP) for p, v in state.stats.items()}


def pixel_codes(mean: tuple[float, ...], std: tuple[float, ...], grid: Grid) -> np.ndarray:
    """int8 [256, 3]: the codes of every pixel value."""
    pixels = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (1, 1, 256, 3))
    affine = image_affine(mean, std, grid.reach * 2.0 ** (1 - grid.bits))
    return np.asarray(image_codes(jnp.asarray(pixels), *affine))[0, 0]
