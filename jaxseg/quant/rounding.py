"""The quantisers of integer training as pure functions (WAGEUBN; Yang et al., 2011.14504; formulas from their code).

    Q(x, k)  = round(2^(k-1) x) / 2^(k-1)                       `direct`
    R(x)     = 2^round(log2 max|x|)                             `power_of_two` of `largest`
    SQ(x, k) = R clip(Q(x / R, k), -1 + 2^(1-k), 1 - 2^(1-k))   `shift`
    FLAG     = SQ with a grid 2^(k-1) times as fine below one step                `flag`
    CQ(g)    = clip(stochastic(s g / R), -s + 1, s - 1) / (128 s), s = 2^(k-1)    `constant`

All round halves to even, and pass gradients on as if they were the identity. `error` is the reverse: identity forward,
and what comes back is rounded. A zero tensor gives zeros: R(0) is 1.
"""

import functools
import math

import jax
import jax.numpy as jnp

from jaxseg.numbers import FIXED, FLAG, MAX, OPEN, SHIFT, Grid
from jaxseg.quant import primitive
from jaxseg.quant.primitive import quantize
from jaxseg.types import Array


def power_of_two(x: Array) -> Array:
    """2^round(log2 |x|) of every element, by its bits; 1 where x is 0, x itself where that is no number.

    So 1.4 gives 1 and 1.42 gives 2: rounding turns at sqrt(2), which no format holds, so there are no ties.
    """
    x = jnp.abs(jnp.asarray(x))
    whole, digits = (jnp.int64, 52) if x.dtype == jnp.float64 else (jnp.int32, 23)
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.promote_types(x.dtype, jnp.float32)), whole)
    # The mantissa of the largest number below sqrt(2); a carry into the exponent says that x was above.
    below = math.isqrt(2 << (2 * digits)) - (1 << digits)
    bits = (bits + ((1 << digits) - 1 - below)) & ~((1 << digits) - 1)
    wide = jnp.float64 if digits == 52 else jnp.float32
    found = jax.lax.bitcast_convert_type(bits, wide).astype(x.dtype)
    return jnp.where(
        x == 0, jnp.ones_like(x), jnp.where(jnp.isfinite(x) & jnp.isfinite(found), found, x)
    )


def largest(x: Array, axis_name: str | None = None) -> Array:
    """max|x| over the whole tensor, on all devices along `axis_name`; a scalar without gradient."""
    found = jnp.max(jnp.abs(jax.lax.stop_gradient(x)))
    return jax.lax.pmax(found, axis_name) if axis_name else found


def direct(x: Array, bits: int) -> Array:
    """Q(x, bits): the fraction has bits - 1 digits, and nothing is clipped."""
    return quantize(x, jnp.ones((), x.dtype), form=primitive.OPEN, bits=bits)


def shift(x: Array, bits: int, axis_name: str | None = None) -> Array:
    """SQ(x, bits), by one power of two for the whole tensor."""
    return onto(x, Grid(bits, SHIFT), axis_name)


def flag(x: Array, bits: int, axis_name: str | None = None) -> Array:
    """FLAG(x, bits): sign, bits - 1 digits, and the flag that says which of two grids they belong to."""
    return onto(x, Grid(bits, FLAG), axis_name)


def constant(g: Array, noise: Array, *, bits: int = 8) -> Array:
    """CQ(g): gradients of constant magnitude, stochastically rounded; R is discarded.

    Args:
        g: floating.
        noise: uniform in [0, 1), as g.
        bits: kG. The authors' step follows from 8 bits; other widths here have the same bounds in other steps.

    Returns:
        2^-7 n / 2^(bits-1) with whole n, |n| < 2^(bits-1).
    """
    return stochastic(g, power_of_two(largest(g)), noise, bits) / 128


def stochastic(g: Array, scale: Array, noise: Array, bits: int) -> Array:
    """Whole numbers over 2^(bits-1), |.| < 1: g / scale, rounded away from zero where its fraction exceeds `noise`.

    On average that is g / scale, where it is not clipped. (The authors' code rounds g / scale to 32 digits first, more
    than a float has.)
    """
    one = jnp.ones((), g.dtype)
    relative = g / jnp.where(scale == 0, one, scale)
    return quantize(relative, one, noise, form=primitive.STOCHASTIC, bits=bits)


def onto(x: Array, grid: Grid, axis_name: str | None = None, *, each: bool = False) -> Array:
    """A tensor on a grid; straight-through gradient.

    Args:
        x: floating.
        grid: which; reach 0 is not known here.
        axis_name: of the devices whose tensors are parts of one.
        each: for rules that look at the tensor: every image (the first axis) has a scale of its own, so that its answer
            does not depend on its neighbours.
    """
    if grid.off:
        return x
    if grid.rule in (FIXED, OPEN):
        form = primitive.CLIPPED if grid.rule == FIXED else primitive.OPEN
        return quantize(x, jnp.asarray(grid.reach, x.dtype), form=form, bits=grid.bits)
    if each:
        seen = jax.lax.stop_gradient(jnp.abs(x))
        most = jnp.max(seen, axis=tuple(range(1, x.ndim)), keepdims=True)
    else:
        most = largest(x, axis_name)
    scale = jnp.where(most == 0, 1, most) if grid.rule == MAX else power_of_two(most)
    form = primitive.FLAG if grid.rule == FLAG else primitive.CLIPPED
    return quantize(x, scale, form=form, bits=grid.bits)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def error(x: Array, grid: Grid, axis_name: str | None = None) -> Array:
    """The identity, whose gradient is rounded onto `grid`."""
    return x


def _error_forward(x, grid, axis_name):
    return x, None


def _error_backward(grid, axis_name, _, dy):
    return (onto(dy, grid, axis_name),)


error.defvjp(_error_forward, _error_backward)
