"""Arithmetic of integer training on integer arrays: shifts that round, ranges, convolutions and their gradients, norms.

A tensor is (codes, exponent): int8 or int32 codes times 2^exponent, the exponent an int32 scalar or one per channel.
Every function here is what its namesake in `quant.rounding` or `layers.deviation` is on grids of floats, to the last
bit as long as no sum exceeds 32 bits; nothing here is floating (tested on the jaxpr).
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxseg.types import Array

I32 = jnp.int32


class Fixed(NamedTuple):
    """codes * 2^exponent. codes: int8 or int32; exponent: a scalar, or one per channel (the last axis of codes)."""

    codes: Array
    exponent: Array | int

    def down_to(self, exponent: Array) -> Array:
        """By how many digits codes are shifted down to become multiples of 2^exponent."""
        down = jnp.asarray(exponent - self.exponent, I32)
        return down.reshape(*(1,) * (self.codes.ndim - 1), -1) if down.ndim else down


def scaled(x: Array, down: Array | int, beside: Array | int = 0) -> Array:
    """Codes over 2^down in int32; `down` below 0 multiplies. Halves to where the sum with `beside` is even."""
    x, down = x.astype(I32), jnp.asarray(down, I32)
    right, left = jnp.clip(down, 0, 31), jnp.clip(-down, 0, 31)
    whole = x >> right
    rest = x - (whole << right)
    half = jnp.where(right > 0, I32(1) << jnp.maximum(right - 1, 0), 0)
    up = (rest > half) | ((rest == half) & ((whole + beside) & 1 == 1))
    return jnp.where(right > 0, whole + up.astype(I32), x << left)


def clipped(x: Array, bits: int) -> Array:
    """Codes kept within those of `bits` bits, the lowest left out: -(2^(bits-1) - 1) .. 2^(bits-1) - 1."""
    most = 2 ** (bits - 1) - 1
    return jnp.clip(x, -most, most)


def kept(x: Array) -> Array:
    """Codes as int8, in memory.

    Behind a condition, which is always true: else XLA on CPU keeps the 32 bits that they come from and rounds again
    wherever codes are read, and barriers do not keep it from that.
    """
    always = x[(0,) * x.ndim] < 2**30
    return lax.cond(always, lambda x: x.astype(jnp.int8), lambda x: jnp.zeros(x.shape, jnp.int8), x)


def log2_nearest(x: Array) -> Array:
    """round(log2 x) of whole numbers x > 0, int32; 0 for 0."""
    x = x.astype(I32)
    floor = 31 - lax.clz(jnp.maximum(x, 1))
    # x > sqrt(2) 2^floor, both brought to 31 bits.
    above = (jnp.maximum(x, 1) << (30 - floor)) > math.isqrt(2 << 60)
    return floor + above.astype(I32)


def largest(x: Fixed) -> Array:
    """log2 of the power of two nearest to the largest absolute value, int32 scalar."""
    size = jnp.abs(x.codes.astype(I32))
    most = (
        jnp.max(size, axis=tuple(range(size.ndim - 1))) if jnp.ndim(x.exponent) else jnp.max(size)
    )
    found = jnp.where(most > 0, log2_nearest(most) + x.exponent, jnp.iinfo(I32).min)
    found = jnp.max(found)
    # A zero tensor has the range 1.
    return jnp.where(found == jnp.iinfo(I32).min, 0, found)


def shift(x: Fixed, bits: int) -> Fixed:
    """`rounding.shift`: codes of `bits` bits, one power of two for the whole tensor."""
    exponent = largest(x) - (bits - 1)
    return Fixed(clipped(scaled(x.codes, x.down_to(exponent)), bits), exponent)


class Flagged(NamedTuple):
    """(coarse * 128 + fine) * 2^exponent: `rounding.flag` of 8 bits, at every place one of both int8 codes is 0."""

    coarse: Array
    fine: Array
    exponent: Array


def flag(x: Fixed) -> Flagged:
    """`rounding.flag` with 8 bits."""
    step = largest(x) - 7
    down = x.down_to(step)
    coarse, fine = clipped(scaled(x.codes, down), 8), scaled(x.codes, down - 7)
    # |x| < step in codes of x; where the step is not above 1 there, only 0 is.
    small = jnp.abs(x.codes.astype(I32)) < (I32(1) << jnp.clip(down, 0, 30))
    carried = jnp.abs(fine) == 128  # rounded up to a whole step
    coarse = jnp.where(small, jnp.where(carried, jnp.sign(fine), 0), coarse)
    fine = jnp.where(small & ~carried, fine, 0)
    return Flagged(coarse.astype(jnp.int8), fine.astype(jnp.int8), step - 7)


def constant(x: Fixed, noise: Array) -> Array:
    """`rounding.constant` with 8 bits: int32 multiples of 2^-14, below 2^7; noise: uint16, in units of 2^-16."""
    top = largest(x)
    down = top - 7 - x.exponent
    size, right = jnp.abs(x.codes), jnp.clip(down, 0, 30)
    whole = size >> right
    rest = size - (whole << right)
    u = noise.astype(I32)
    # rest / 2^right > u / 2^16, without losing a digit of either.
    few = (rest << jnp.clip(16 - right, 0, 16)) > (u << jnp.clip(right - 16, 0, 14))
    n = jnp.where(down > 0, whole + few.astype(I32), size << jnp.clip(-down, 0, 30))
    return jnp.sign(x.codes) * jnp.minimum(n, 127)


# --- Convolution, stride 1, symmetric padding ---


def convolution(x: Array, kernel: Array) -> Array:
    """int8 [B, H, W, C] and int8 [k, k, C, D] to int32 [B, H, W, D]."""
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(pad, pad)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=I32,
    )


def input_gradient(kernel: Array, error: Array) -> Array:
    """int8 [k, k, C, D] and int8 [B, H, W, D] to int32 [B, H, W, C]."""
    return convolution(error, kernel[::-1, ::-1].swapaxes(2, 3))


def kernel_gradient(x: Array, error: Array, size: int) -> Array:
    """int8 [B, H, W, C] and int8 [B, H, W, D] to int32 [size, size, C, D]: one product for each cell of the kernel.

    One after the other: XLA on CPU widens what it multiplies, and would keep all of them.
    """
    batch, height, width, channels = x.shape
    pad = size // 2
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    error = error.reshape(-1, error.shape[-1])

    def product(cell: Array) -> Array:
        none = jnp.zeros((), I32)
        start = (none, cell // size, cell % size, none)
        seen = lax.dynamic_slice(x, start, (batch, height, width, channels))
        return lax.dot_general(
            seen.reshape(-1, channels),
            error,
            (((0,), (0,)), ((), ())),
            preferred_element_type=I32,
        )

    cells = lax.map(product, jnp.arange(size * size, dtype=I32))
    return cells.reshape(size, size, channels, -1)


# --- Norm by mean absolute deviation: grids of `integer_only` ---

AXES = (0, 1, 2)
STEP = -14
"""log2 of the step of mean and deviation: 16 bits, reach 2."""


def _sum(x: Array) -> Array:
    return jnp.sum(x, AXES, dtype=I32)


def reciprocal(divisor: Array) -> Fixed:
    """`deviation.reciprocal` of whole multiples of 2^STEP: 8 bits, an exponent per channel."""
    divisor = jnp.maximum(divisor, 1)
    near = log2_nearest(divisor)
    top = I32(1) << (near + 7)
    whole = lax.div(top, divisor)
    rest = 2 * (top - whole * divisor)
    up = (rest > divisor) | ((rest == divisor) & (whole & 1 == 1))
    # 2^-STEP / divisor = (2^(near + 7) / divisor) 2^(-STEP - near - 7)
    return Fixed(whole + up.astype(I32), -STEP - near - 7)


class Normal(NamedTuple):
    """What the gradient of the norm needs: normalised values int8, one over the deviation, and what moves on.

    mean: whole multiples of 2^STEP. deviation: codes of 2^deviation_exponent, not rounded.
    """

    normal: Array
    over: Fixed
    mean: Array
    deviation: Fixed


def normalised(x: Fixed, log2_cells: int, log2_eps: int) -> Normal:
    """Values by their own mean and deviation over B, H, W, in steps of 1/32 up to 4.

    Args:
        x: int32 codes [B, H, W, C], exponent a Python int.
        log2_cells: B H W = 2^log2_cells.
        log2_eps: of the epsilon.
    """
    exponent = x.exponent
    mean = scaled(_sum(x.codes), STEP - exponent + log2_cells)
    fine = min(exponent, STEP)
    centred = (x.codes << (exponent - fine)) - (mean << (STEP - fine)).reshape(1, 1, 1, -1)
    total = _sum(jnp.abs(centred))  # of 2^(fine - log2_cells)
    epsilon = I32(1) << (log2_eps - fine + log2_cells)
    over = reciprocal(scaled(total + epsilon, STEP - fine + log2_cells))
    row = lambda v: v.reshape(1, 1, 1, -1)  # noqa: E731
    product = Fixed(centred * row(over.codes), fine + over.exponent)
    normal = scaled(product.codes, product.down_to(-5))
    deviation = Fixed(total, fine - log2_cells)
    return Normal(kept(clipped(normal, 8)), over, mean, deviation)


def norm_gradient(saved: Normal, gain: Array, dy: Fixed, log2_cells: int) -> Fixed:
    """The gradient of what was normalised: int32 codes [B, H, W, C], an exponent per channel.

    Args:
        saved: of the forward pass.
        gain: scale of the norm, int32 [C] in steps of 2^-6.
        dy: int8 codes [B, H, W, C] of the result's gradient.
        log2_cells: B H W = 2^log2_cells.
    """
    row = lambda v: v.reshape(1, 1, 1, -1)  # noqa: E731
    n, cells = saved.normal.astype(I32), I32(1) << log2_cells
    g = dy.codes.astype(I32) * row(gain)  # of 2^(dy.exponent - 6)
    top = largest(Fixed(g, I32(0)))
    # Both means in units of 2^(top - 15), of which g has a whole number as |gain| and |dy| are below 2^7.
    a = scaled(_sum(g), top - 15 + log2_cells)
    b = scaled(_sum(g * n), top - 15 + log2_cells + 5)
    sign = jnp.sign(n)
    inner = ((g << (15 - top)) - row(a)) << log2_cells
    inner = inner - (sign * cells - row(_sum(sign))) * row(b)
    unit = dy.exponent - 6 + top - 15 - log2_cells
    inner = shift(Fixed(inner, unit), 16)
    over = saved.over
    return Fixed(inner.codes * row(over.codes), inner.exponent + over.exponent)
