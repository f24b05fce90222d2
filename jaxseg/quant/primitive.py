"""`quantize`: rounding onto a grid, element by element, as one JAX primitive.

It stands in a jaxpr under its name, with form and bits beside it, so that whoever reads or rewrites a program finds
every place at which numbers are rounded. Its derivative is that of the identity (straight-through), in scale and noise
0.
"""

import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxseg.errors import unknown_name
from jaxseg.types import Array

CLIPPED, OPEN, FLAG, STOCHASTIC = FORMS = ("clipped", "open", "flag", "stochastic")


def quantize(x: Array, scale: Array, noise: Array | None = None, *, form: str, bits: int) -> Array:
    """Rounds x to multiples of step = 2^(1 - bits) scale, halves to even.

    Args:
        x: floating, any shape.
        scale: what x is compared with, above 0; a scalar, or of as many axes as x with sides of 1 or x's.
        noise: in [0, 1), as x; for 'stochastic' only.
        form: 'clipped':    to at most scale - step in absolute value.
              'open':       not clipped.
              'flag':       clipped; and what is smaller than a step is rounded to multiples of 2^(1 - bits) step.
              'stochastic': clipped; not to the nearest but away from zero where the fraction of a step exceeds `noise`.
        bits: 2 to 32.

    Returns:
        As x, which is exact while `bits` are no more than the mantissa of its dtype.
    """
    if form not in FORMS:
        raise unknown_name("form of quantize", form, FORMS)
    if (noise is not None) != (form == STOCHASTIC):
        raise ValueError(f"noise belongs to {STOCHASTIC!r}, and to no other form")
    scale = jnp.asarray(scale, x.dtype)
    if scale.ndim not in (0, x.ndim):
        raise ValueError(f"scale of shape {scale.shape} for x of shape {x.shape}")
    extra = () if noise is None else (jnp.broadcast_to(noise, x.shape).astype(x.dtype),)
    return quantize_p.bind(x, scale, *extra, form=form, bits=bits)


quantize_p = Primitive("quantize")


def _rounded(x: Array, scale: Array, *noise: Array, form: str, bits: int) -> Array:
    """What the primitive means."""
    levels = 2.0 ** (bits - 1)
    step = scale / levels
    if x.ndim and not scale.ndim:
        step = jnp.broadcast_to(step, (1,) * x.ndim)
    n = x / step
    if form == STOCHASTIC:
        size = jnp.abs(n)
        whole = jnp.floor(size)
        n = jnp.sign(n) * (whole + (size - whole > noise[0]).astype(x.dtype))
    elif form == FLAG:
        fine = jnp.round(n * levels) / levels
        n = jnp.where(jnp.abs(n) >= 1, jnp.round(n), fine)
    else:
        n = jnp.round(n)
    if form != OPEN:
        n = jnp.clip(n, 1 - levels, levels - 1)
    return n * step


def _abstract(x, scale, *noise, form, bits):
    # Not a fresh one: it would lose on which axes of devices x varies, and wrong out_specs would pass.
    return x.update(shape=x.shape, dtype=x.dtype)


def _jvp(primals, tangents, *, form, bits):
    straight = tangents[0]
    y = quantize_p.bind(*primals, form=form, bits=bits)
    return y, ad.Zero.from_primal_value(y) if type(straight) is ad.Zero else straight


def _batch(operands, axes, *, form, bits):
    """All operands with their mapped axis in front; a scale that is shared keeps sides of 1."""
    size = next(x.shape[a] for x, a in zip(operands, axes, strict=True) if a is not None)
    x, scale, *noise = operands
    x_axis, scale_axis, *noise_axis = axes

    def front(v: Array, axis: int | None) -> Array:
        return batching.bdim_at_front(v, axis, size)

    x = front(x, x_axis)
    noise = [front(n, a) for n, a in zip(noise, noise_axis, strict=True)]
    if scale_axis is not None:
        scale = jnp.moveaxis(scale, scale_axis, 0)
        if scale.ndim != x.ndim:
            scale = scale.reshape(size, *(1,) * (x.ndim - 1))
    elif scale.ndim:
        scale = scale[None]
    return quantize_p.bind(x, scale, *noise, form=form, bits=bits), 0


quantize_p.def_impl(_rounded)
quantize_p.def_abstract_eval(_abstract)
ad.primitive_jvps[quantize_p] = _jvp
batching.primitive_batchers[quantize_p] = _batch
mlir.register_lowering(quantize_p, mlir.lower_fun(_rounded, multiple_results=False))
