"""Batch norm by mean absolute deviation, without squares and roots (Yang et al., 2011.14504; L1BN, 1802.09769).

    m = mean(x)    s = mean|x - m|    n = (x - m) / (s + eps)    y = scale n + bias

Every step can be rounded onto a grid (`numbers.IntegerArch`). For normal x, n has a standard deviation of
sqrt(pi / 2) = 1.25 and not 1.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.numbers import FIXED, FLOAT, OPEN, Grid, IntegerArch
from jaxseg.quant.primitive import quantize
from jaxseg.quant.rounding import largest, onto, power_of_two
from jaxseg.types import Array

AXES = (0, 1, 2)

SCALE = math.sqrt(2 / math.pi)
"""Mean absolute deviation of normal values, in standard deviations; what scales start from. So results have the spread,
and gradients the size, that they have behind batch norm. From 1 each layer would make gradients a quarter larger (in
normal values; 1.25^20 = 87)."""

RUNNING_BITS = 24
"""Of running statistics, where batch statistics are on a grid."""


class DeviationNorm(nn.Module):
    """Over B, H and W of an NHWC map.

    Variables: params scale, bias; batch_stats mean, deviation, all float32 [C].

    momentum:  share of the old running statistics that a training step keeps.
    eps:       added to the deviation.
    grids:     of everything inside.
    axis_name: axis of devices to average statistics over, or None.
    """

    momentum: float
    eps: float
    grids: IntegerArch = IntegerArch()
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, use_running_average: bool) -> Array:
        """[B, H, W, C] -> the same shape; training also moves the running statistics."""
        channels = (x.shape[-1],)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        deviation = self.variable("batch_stats", "deviation", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", nn.initializers.constant(SCALE), channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        if use_running_average:
            centre = onto(mean.value, self.grids.norm_stats)
            over = reciprocal(deviation.value, self.eps, self.grids)
            normal = onto((x - _row(centre)) * _row(over), self.grids.normalised, each=True)
            scale, bias = (onto(v, self.grids.norm_params) for v in (scale, bias))
            return normal * _row(scale) + _row(bias)
        y, now = normalised(x, scale, bias, self.eps, self.grids, self.axis_name)
        if not self.is_initializing():
            for running, value in zip((mean, deviation), now, strict=True):
                moved = running.value + (1 - self.momentum) * (value - running.value)
                running.value = onto(moved, running_grid(self.grids))
        return y


def running_grid(grids: IntegerArch) -> Grid:
    """Of running statistics as they are stored."""
    stats = grids.norm_stats
    return Grid() if stats.off else Grid(RUNNING_BITS, OPEN, stats.reach)


def reciprocal(deviation: Array, eps: float, grids: IntegerArch) -> Array:
    """1 / (deviation + eps) per channel, both on their grids; float [C]."""
    stats = grids.norm_stats
    divisor = onto(deviation + eps, stats)
    if not stats.off and stats.rule in (FIXED, OPEN):
        divisor = jnp.maximum(divisor, stats.reach * 2.0 ** (1 - stats.bits))  # one step, and not 0
    over = 1 / divisor
    if grids.reciprocal_bits == FLOAT:
        return over
    # Open: the nearest power of two can be below it.
    return quantize(over, power_of_two(over), form=OPEN, bits=grids.reciprocal_bits)


def _row(v: Array) -> Array:
    """[C] -> [1, 1, 1, C]"""
    return v.reshape(1, 1, 1, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def normalised(x, scale, bias, eps, grids, axis_name):
    """(x by its own statistics, (mean, deviation)); the statistics have no gradient of their own.

    With g = scale dy and t = sign(n), both means over B, H, W of all devices, the gradient is
        dx = (g - mean(g) - (t - mean(t)) mean(g n)) / (s + eps),
    so that nothing but n has to be kept. sign(0) is 0. On a grid n is the rounded one: what is rounded to the mean has
    no sign (the authors' code lets autodiff take sign(x - m)).
    """
    return _forward(x, scale, bias, eps, grids, axis_name)[0]


def _mean(x: Array, axis_name: str | None) -> Array:
    mean = jnp.mean(x, AXES)
    return jax.lax.pmean(mean, axis_name) if axis_name else mean


def _forward(x, scale, bias, eps, grids, axis_name):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = onto(_mean(wide, axis_name), grids.norm_stats)
    centred = wide - _row(mean)
    deviation = _mean(jnp.abs(centred), axis_name)
    over = reciprocal(deviation, eps, grids)
    normal = onto(centred * _row(over), grids.normalised, axis_name)
    gain, shift = (onto(v, grids.norm_params) for v in (scale, bias))
    y = normal * _row(gain) + _row(shift)
    return (y.astype(x.dtype), (mean, deviation)), (normal, over, gain)


def _backward(eps, grids, axis_name, saved, cotangents):
    normal, over, gain = saved
    dy, _ = cotangents
    dy = dy.astype(normal.dtype)
    g, sign = dy * _row(gain), jnp.sign(normal)
    means = _mean(g, axis_name), _mean(g * normal, axis_name)
    errors = grids.norm_errors
    if not errors.off:
        # By the scale of g, so that integers can subtract them without numbers of their own for every channel.
        scale = power_of_two(largest(g, axis_name))
        means = tuple(quantize(m, scale, form=OPEN, bits=errors.bits) for m in means)
    a, b = map(_row, means)
    inner = g - a - (sign - _row(_mean(sign, axis_name))) * b
    dx = onto(inner, errors, axis_name) * _row(over)
    return dx, jnp.sum(dy * normal, AXES), jnp.sum(dy, AXES)


normalised.defvjp(_forward, _backward)
