"""Updates of integer training: gradients, momentum and stored weights on grids (WAGEUBN; Yang et al., 2011.14504).

    g8  = the gradient on 8 bits, stochastically rounded       `rounded_gradients`
    v   = Q(momentum v + g8)                                   `rounded_trace`
    w24 = clip(Q(w24 - Q(rate v)))                             `moved`

Rates are powers of two, so a product with one is a shift.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseg.arch import Arch, LayerSpec
from jaxseg.errors import UserError, unknown_name
from jaxseg.layers.conv import kernel_reach
from jaxseg.models import zoo
from jaxseg.numbers import FIXED, FLOAT, MAX, SHIFT, Grid, is_power_of_two
from jaxseg.quant.rounding import constant, largest, onto, power_of_two, stochastic
from jaxseg.types import Array

CONSTANT = "constant"
GRADIENT_RULES = (MAX, SHIFT, CONSTANT)
NOISE_BITS = 16
"""Of the random numbers that gradients are rounded by."""

NORM_REACH = 2.0
"""Scales and biases of norms are stored below it, at the least."""


@dataclass(frozen=True)
class Updates:
    """How an update is rounded. The default rounds nothing.

    gradient_bits: width of gradients, rounded stochastically.
    gradient_rule: 'max' (by the largest of a variable), 'shift' (by the power of two nearest to it) or 'constant' (the
                   same, and then forgotten: all variables move alike; `quant.rounding.constant`).
    gain:          multiplies gradients; 0.1 in the code of 2011.14504.
    momentum:      grid of the momentum.
    stored_bits:   width of stored weights.
    float_layers:  globs over '<block>/<layer>' whose gradients, momentum and weights are left as they are.
    """

    gradient_bits: int = FLOAT
    gradient_rule: str = SHIFT
    gain: float = 1.0
    momentum: Grid = Grid()
    stored_bits: int = FLOAT
    float_layers: tuple[str, ...] = ()

    def __post_init__(self):
        Grid(self.gradient_bits), Grid(self.stored_bits)
        if self.gradient_rule not in GRADIENT_RULES:
            raise unknown_name("rule of gradients", self.gradient_rule, GRADIENT_RULES)

    @property
    def off(self) -> bool:
        """Whether nothing is rounded."""
        return self.gradient_bits == self.stored_bits == FLOAT and self.momentum.off

    def spares(self, path: str) -> bool:
        """Whether the gradient of the variable '<block>/<layer>/..' is left as it is."""
        return any(fnmatchcase(path, f"{glob}/*") for glob in self.float_layers)


def check_power_of_two(what: str, value: float) -> None:
    """Raises a UserError that names the two nearest powers unless `value` is one."""
    if is_power_of_two(value):
        return
    if not 0 < value < math.inf:
        raise UserError(what, got=value, expected="a power of two")
    below = 2.0 ** math.floor(math.log2(value))
    near = f"take {below!r} or {2 * below!r}" if 2 * below < math.inf else f"take {below!r}"
    raise UserError(
        what,
        got=value,
        expected="a power of two, so that integers can be shifted by it",
        do=near,
    )


def noise(key: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Random numbers of a step for the variables of these paths: uint16, in units of 2^-16.

    Cut from one draw: a generator for each variable takes longer to compile than all else.
    """
    paths = sorted(shapes)
    ends = np.cumsum([math.prod(shapes[path]) for path in paths])
    drawn = jax.random.bits(key, (int(ends[-1]),), jnp.uint16)
    parts = jnp.split(drawn, ends[:-1])
    return {path: part.reshape(shapes[path]) for path, part in zip(paths, parts, strict=True)}


def rounded_gradients(updates: Updates) -> optax.GradientTransformationExtraArgs:
    """Gradients on their grid; `update` takes the keyword `key`, another one for every step."""
    bits, rule = updates.gradient_bits, updates.gradient_rule

    def one(g: Array, drawn: Array) -> Array:
        u = drawn.astype(g.dtype) * 2.0**-NOISE_BITS
        if rule == CONSTANT:
            return constant(g, u, bits=bits)
        most = largest(g)
        scale = most if rule == MAX else power_of_two(most)
        return stochastic(g, scale, u, bits) * scale

    def update(grads, state, params=None, *, key, **_):
        leaves, tree = jax.tree_util.tree_flatten_with_path(grads)
        found = {path_name(path): g for path, g in leaves}
        rounded = [] if bits == FLOAT else [name for name in found if not updates.spares(name)]
        drawn = noise(key, {name: found[name].shape for name in rounded}) if rounded else {}
        made = [one(g, drawn[name]) if name in drawn else g for name, g in found.items()]
        return jax.tree.unflatten(tree, [g * updates.gain for g in made]), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def rounded_trace(momentum: float, updates: Updates) -> optax.GradientTransformationExtraArgs:
    """The momentum v = Q(momentum v + g), which is also the direction."""

    def one(path: Any, g: Array, v: Array) -> Array:
        grid = Grid() if updates.spares(path_name(path)) else updates.momentum
        return onto(momentum * v + g, grid)

    def update(grads, state, params=None, **_):
        trace = jax.tree_util.tree_map_with_path(one, grads, state.trace)
        return trace, optax.TraceState(trace)

    def init(params):
        return optax.TraceState(jax.tree.map(jnp.zeros_like, params))

    return optax.GradientTransformationExtraArgs(init, update)


def path_name(path: Any) -> str:
    """'block_00/conv1/kernel' of a path in a tree of parameters."""
    return "/".join(str(entry.key) for entry in path)


def stored_grids(arch: Arch, updates: Updates) -> dict[str, Grid]:
    """Path of every parameter that is stored on a grid -> that grid."""
    bits = updates.stored_bits
    if bits == FLOAT:
        return {}
    found = {}
    for block in zoo.blocks(arch):
        for layer in block.layers:
            grids = arch.numbers.integer.at(f"{block.name}/{layer.name}")
            for name, reach in _reaches(layer, grids).items():
                path = f"{block.name}/{layer.name}/{name}"
                if not updates.spares(path):
                    found[path] = Grid(bits, FIXED, reach)
    return found


def _reaches(layer: LayerSpec, grids: Any) -> dict[str, float]:
    reaches = {"kernel": kernel_reach(layer, grids.weights)}
    if layer.bias:
        reaches["bias"] = grids.biases.reach
    if layer.norm:
        norm = max(NORM_REACH, grids.norm_params.reach)
        reaches |= {"norm/scale": norm, "norm/bias": norm}
    return reaches


def moved(path: Any, p: Array, step: Array, grids: dict[str, Grid]) -> Array:
    """The parameter less its step, both on its grid."""
    grid = grids.get(path_name(path), Grid())
    return onto(p - onto(step, grid), grid)
