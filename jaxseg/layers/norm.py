"""Batch norm (Ioffe & Szegedy, 1502.03167) with float32 statistics and its gradient in closed form.

`norm_of` picks the norm of an architecture: this one, the same with every step on a grid (WAGEUBN), or
`layers.deviation`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.layers.deviation import SCALE, DeviationNorm
from jaxseg.numbers import DEVIATION, IntegerArch, NumbersArch
from jaxseg.quant.rounding import onto
from jaxseg.types import Array

AXES = (0, 1, 2)


class BatchNorm(nn.Module):
    """Over B, H and W of an NHWC map.

    Variables: params scale, bias; batch_stats mean, var, all float32 [C]. The running variance is the biased one
    (torch keeps the unbiased one, larger by n / (n - 1)).

    momentum:  share of the old running statistics that a training step keeps.
    eps:       added to the variance.
    dtype:     of the result.
    axis_name: axis of devices to average statistics over, or None. Under jit on a sharded batch they are global
               without it.
    grids:     of an integer network: then mean, root, result, scale and bias are rounded, and eps is added to the root.
    """

    momentum: float
    eps: float
    dtype: str
    axis_name: str | None = None
    grids: IntegerArch = IntegerArch()

    @nn.compact
    def __call__(self, x: Array, use_running_average: bool) -> Array:
        """[B, H, W, C] -> the same shape; training also moves the running statistics."""
        channels = (x.shape[-1],)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        dtype = jnp.dtype(self.dtype)
        rounded = not (self.grids.norm_stats.off and self.grids.normalised.off)
        if use_running_average and rounded:
            y = self._rounded(x, mean.value, var.value, scale, bias, train=False)
            return y.astype(dtype)
        running = mean.value, var.value
        if rounded:
            now = _statistics(x, self.axis_name)
            y = self._rounded(x, *now, scale, bias, train=True)
            moved = _moved(running, jax.lax.stop_gradient(now), self.momentum)
        else:
            y, moved = applied(
                x,
                scale,
                bias,
                running,
                momentum=self.momentum,
                eps=self.eps,
                train=not use_running_average,
                axis_name=self.axis_name,
            )
        if not (self.is_initializing() or use_running_average):
            mean.value, var.value = moved
        return y.astype(dtype)

    def _rounded(self, x, mean, var, scale, bias, train):
        """Every step on its grid, with gradients by autodiff as in the authors' code. Roots and squares stay."""
        grids = self.grids
        # The root of 0 has no gradient.
        root = onto(jnp.sqrt(jnp.maximum(var, jnp.finfo(jnp.float32).tiny)), grids.norm_stats)
        centred = x.astype(jnp.float32) - _row(onto(mean, grids.norm_stats))
        normal = centred / _row(root + self.eps)
        normal = onto(normal, grids.normalised, self.axis_name, each=not train)
        scale, bias = (onto(v, grids.norm_params) for v in (scale, bias))
        return normal * _row(scale) + _row(bias)


def applied(
    x: Array,
    scale: Array,
    bias: Array,
    running: tuple[Array, Array],
    *,
    momentum: float,
    eps: float,
    train: bool,
    axis_name: str | None,
) -> tuple[Array, tuple[Array, Array]]:
    """Batch norm as a function: (float32 [B, H, W, C], running mean and variance [C] after), see `BatchNorm`."""
    if not train:
        return _affine(x, *running, scale, bias, eps), running
    y, now = _normalised(x, scale, bias, eps, axis_name)
    return y, _moved(running, now, momentum)


def _moved(
    running: tuple[Array, Array], now: tuple[Array, Array], keep: float
) -> tuple[Array, Array]:
    mean, var = (keep * old + (1 - keep) * new for old, new in zip(running, now, strict=True))
    return mean, var


def norm_of(
    numbers: NumbersArch, grids: IntegerArch, axis_name: str | None, name: str
) -> nn.Module:
    """The norm of an architecture, on the grids of one layer; `name` is that of the submodule."""
    settings = numbers.norm_momentum, numbers.norm_eps
    if numbers.norm == DEVIATION:
        return DeviationNorm(*settings, grids, axis_name, name=name)
    return BatchNorm(*settings, numbers.compute, axis_name, grids, name=name)


def initial_values(numbers: NumbersArch) -> tuple[dict[str, float], dict[str, float]]:
    """What (parameters, running statistics) start from, as the norm's own variables are called."""
    if numbers.norm == DEVIATION:
        return {"scale": SCALE, "bias": 0.0}, {"mean": 0.0, "deviation": 1.0}
    return {"scale": 1.0, "bias": 0.0}, {"mean": 0.0, "var": 1.0}


def _row(v: Array) -> Array:
    """[C] -> [1, 1, 1, C]"""
    return v.reshape(1, 1, 1, -1)


def _affine(x: Array, mean: Array, var: Array, scale: Array, bias: Array, eps: float) -> Array:
    """(x - mean) / sqrt(var + eps) * scale + bias, float32."""
    gain = scale * jax.lax.rsqrt(var + eps)
    return (x.astype(jnp.float32) - _row(mean)) * _row(gain) + _row(bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalised(x, scale, bias, eps, axis_name):
    """(x by its own statistics, (mean, var)); the statistics have no gradient of their own.

    Left to autodiff, the mean and the centred map become residuals and the gradient takes several passes; so it is
    one pass that adds up and one that writes.
    """
    mean, var = _statistics(x, axis_name)
    return _affine(x, mean, var, scale, bias, eps), (mean, var)


def _statistics(x: Array, axis_name: str | None) -> tuple[Array, Array]:
    x = x.astype(jnp.float32)
    moments = jnp.mean(x, AXES), jnp.mean(x * x, AXES)
    mean, square = jax.lax.pmean(moments, axis_name) if axis_name else moments
    return mean, jnp.maximum(square - mean * mean, 0.0)


def _forward(x, scale, bias, eps, axis_name):
    y, (mean, var) = _normalised(x, scale, bias, eps, axis_name)
    return (y, (mean, var)), (x, mean, var, scale)


def _backward(eps, axis_name, saved, cotangents):
    x, mean, var, scale = saved
    dy, _ = cotangents
    inverse = jax.lax.rsqrt(var + eps)
    centred = x.astype(jnp.float32) - _row(mean)
    dbias = jnp.sum(dy, AXES)
    dscale = jnp.sum(dy * centred, AXES) * inverse
    cells = x.size // x.shape[-1]
    shared = dbias / cells, dscale / cells
    a, b = jax.lax.pmean(shared, axis_name) if axis_name else shared
    dx = _row(scale * inverse) * (dy - _row(a) - centred * _row(b * inverse))
    return dx.astype(x.dtype), dscale, dbias


_normalised.defvjp(_forward, _backward)
