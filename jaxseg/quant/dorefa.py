"""Kernels and activations of 1 to 8 bits with straight-through gradients (DoReFa-Net, Zhou et al., 1606.06160).

What BFCN (1612.00212) trains with, as far as is known; its own text is not available to us. Values stay floating:
levels are multiples of 1 / (2^k - 1). `quant.bit_serial` computes the same with bits.
"""

import jax
import jax.numpy as jnp

from jaxseg.numbers import FLOAT
from jaxseg.types import Array

LEAST = 1e-12
"""Of a largest value: a kernel of zeros stays one, and has a gradient."""


def levels(x: Array, bits: int) -> Array:
    """Values in [0, 1] to the nearest of 2^bits levels, halves to even; the gradient is that of the identity."""
    steps = 2.0**bits - 1
    return _straight(jnp.round(x * steps) / steps, x)


def weights(w: Array, bits: int, *, zero: float = 1.0, rescaled: bool = False) -> Array:
    """A kernel of few bits.

    1 bit:  E sign(w), E the mean of |w|; without a gradient through E, that of w is 1.
    more:   2 levels(tanh(w) / (2 max |tanh(w)|) + 1/2) - 1, within [-1, 1]; gradients through tanh and maximum too.

    Args:
        w: float32, any shape.
        bits: 1 to 8, or 32 = as it is.
        zero: what the sign of 0 is. The authors' code has 0, a third level, which no bit can hold.
        rescaled: of more than 1 bit: times max |tanh(w)|, for layers that no norm follows (ours).
    """
    if bits == FLOAT:
        return w
    if bits == 1:
        mean = jax.lax.stop_gradient(jnp.mean(jnp.abs(w)))
        return _straight(mean * jnp.where(w == 0, zero, jnp.sign(w)), w)
    bent = jnp.tanh(w)
    most = jnp.maximum(jnp.max(jnp.abs(bent)), LEAST)
    found = 2 * levels(bent / (2 * most) + 0.5, bits) - 1
    return found * jax.lax.stop_gradient(most) if rescaled else found


def activations(x: Array, bits: int, reach: float = 1.0) -> Array:
    """Clipped to [0, reach], then of 2^bits levels; the gradient passes inside only. The authors' reach is 1."""
    if bits == FLOAT:
        return x
    return reach * levels(jnp.clip(x / reach, 0.0, 1.0), bits)


def _straight(value: Array, like: Array) -> Array:
    """`value` with the gradient of `like`."""
    return like + jax.lax.stop_gradient(value - like)
