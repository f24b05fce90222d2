"""Pooling."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import flow
from jaxseg.types import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: Array, window: int, stride: int = 2) -> Array:
    """Maximum over 3x3 (padding 1 on both sides, as in torch's ResNet) or 2x2 cells.

    3x3: rows, then columns, by XLA's window reduction, which its fusion on CPU leaves alone. Slices are worked out
    again for every tap of a pool that reads them (a cell of pools, 5 channels: 2.7 times as long in float32, 7 times
    in int8). Where slices are quicker, 2x2 and in bfloat16 (three to six times), and where there is a gradient,
    slices: that of the window reduction is a scatter, slow on CPU (2 cores, [4, 180, 240, 64], 3x3, forward and
    backward: 83 ms so, 268 ms with it). Where two cells are equal they share the gradient; torch gives it to the first.

    Args:
        x: [B, H, W, C], floating or whole.
        window: 2 or 3.
        stride: 1 or 2.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), C], same dtype; padding never wins.
    """
    if window == 2 or x.dtype == jnp.bfloat16:
        return _of_slices(x, window, stride)
    for axis in (1, 2):
        windows, strides, padding = [1] * x.ndim, [1] * x.ndim, [(0, 0)] * x.ndim
        windows[axis], strides[axis] = window, stride
        before, size = (window - 1) // 2, -(-x.shape[axis] // stride)
        padding[axis] = (before, max(0, stride * (size - 1) + window - before - x.shape[axis]))
        x = jax.lax.reduce_window(x, _least(x), jax.lax.max, windows, strides, padding)
    return x


def _max_pool_forward(x: Array, window: int, stride: int) -> tuple[Array, Callable]:
    return jax.vjp(functools.partial(_of_slices, window=window, stride=stride), x)


def _max_pool_backward(window: int, stride: int, pull: Callable, dy: Array) -> tuple[Array]:
    del window, stride
    return pull(dy)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _of_slices(x: Array, window: int, stride: int) -> Array:
    return _axis_max(_axis_max(x, 1, window, stride), 2, window, stride)


def _least(x: Array) -> Array:
    """What never wins."""
    whole = jnp.issubdtype(x.dtype, jnp.integer)
    return jnp.asarray(jnp.iinfo(x.dtype).min if whole else -jnp.inf, x.dtype)


def _axis_max(x: Array, axis: int, window: int, stride: int) -> Array:
    size = -(-x.shape[axis] // stride)
    before = (window - 1) // 2
    padding = [(0, 0, 0)] * x.ndim
    # One cell more than the last window needs, so that every slice below has the same length.
    padding[axis] = (before, stride * size + window - stride - before - x.shape[axis], 0)
    x = jax.lax.pad(x, _least(x), padding)
    cells = (
        jax.lax.slice_in_dim(x, i, i + stride * (size - 1) + 1, stride=stride, axis=axis)
        for i in range(window)
    )
    return functools.reduce(jnp.maximum, cells)


def part_sums(x: Array, bins: int) -> tuple[Array, np.ndarray]:
    """(sums over bins x bins parts of a map, see `flow.parts`: [B, bins, bins, C]; how many cells each has)."""
    cells = np.ones((1, 1, 1, 1), np.int32)
    for axis in (1, 2):
        parts = flow.parts(x.shape[axis], bins)
        x = jnp.concatenate(
            [
                jnp.sum(jax.lax.slice_in_dim(x, *part, axis=axis), axis, x.dtype, keepdims=True)
                for part in parts
            ],
            axis,
        )
        sizes = np.array([stop - start for start, stop in parts], np.int32)
        cells = cells * sizes.reshape(*(-1 if i == axis else 1 for i in range(4)))
    return x, cells


def window_sums(x: Array, window: int, stride: int) -> Array:
    """Sums over window x window cells around every stride-th cell: [B, ceil(H / stride), ceil(W / stride), C]."""
    for axis in (1, 2):
        size = -(-x.shape[axis] // stride)
        reach = (size - 1) * stride + 1
        padding = [(0, 0, 0)] * x.ndim
        padding[axis] = (window // 2, reach + window // 2 - x.shape[axis], 0)
        wide = jax.lax.pad(x, jnp.zeros((), x.dtype), padding)
        cells = (jax.lax.slice_in_dim(wide, i, i + reach, stride, axis=axis) for i in range(window))
        x = functools.reduce(jnp.add, cells)
    return x


def average(x: Array, bins: int) -> Array:
    """[B, H, W, C] -> [B, bins, bins, C]: torch's adaptive average pooling, added up in float32, same dtype as x."""
    if bins == 1:
        return global_average(x)
    total, cells = part_sums(x.astype(jnp.float32), bins)
    return _over(total, cells).astype(x.dtype)


def average_pool(x: Array, window: int, stride: int) -> Array:
    """Mean over window x window cells (odd), padding window // 2 of zeros that count: torch's default.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), C], added up in float32, same dtype as x.
    """
    total = window_sums(x.astype(jnp.float32), window, stride)
    return _over(total, np.int32(window**2)).astype(x.dtype)


def _over(total: Array, cells: np.ndarray) -> Array:
    """Total / cells, rounded once: with a constant XLA would multiply by its reciprocal, and miss halves on a grid.

    Barriers do not keep it from that; a divisor that depends on the sums does.
    """
    return total / jnp.where(total == total, jnp.asarray(cells, total.dtype), jnp.nan)


def halved(x: Array) -> Array:
    """Average over 2x2 cells, stride 2; where a side is odd, its last row or column counts twice.

    Args:
        x: [B, H, W, C], floating.

    Returns:
        [B, ceil(H / 2), ceil(W / 2), C], same dtype.
    """
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    cells = x.reshape(batch, -(-height // 2), 2, -(-width // 2), 2, channels)
    return jnp.mean(cells, axis=(2, 4))


def global_average(x: Array) -> Array:
    """[B, H, W, C] -> [B, 1, 1, C]: mean over the map, added up in float32, same dtype as x."""
    total = jnp.sum(x, axis=(1, 2), keepdims=True, dtype=jnp.promote_types(x.dtype, jnp.float32))
    return _over(total, np.int32(x.shape[1] * x.shape[2])).astype(x.dtype)
