"""Pooling."""

import functools

import jax
import jax.numpy as jnp

from jaxseg.types import Array


def max_pool(x: Array, window: int) -> Array:
    """Maximum over 3x3 (padding 1 on both sides, as in torch's ResNet) or 2x2 cells, stride 2.

    Made of strided slices: the gradient of XLA's window reduction is a scatter, slow on CPU (2
    cores, [4, 180, 240, 64], 3x3, forward and backward: 83 ms so, 268 ms with it). Where two cells are
    equal they share the gradient; torch gives it to the first.

    Args:
        x: [B, H, W, C], floating or whole.
        window: 2 or 3.

    Returns:
        [B, ceil(H / 2), ceil(W / 2), C], same dtype; padding never wins.
    """
    return _axis_max(_axis_max(x, 1, window), 2, window)


def _axis_max(x: Array, axis: int, window: int) -> Array:
    size = -(-x.shape[axis] // 2)
    before = (window - 1) // 2
    padding = [(0, 0, 0)] * x.ndim
    # One cell more than the last window needs, so that every slice below has the same length.
    padding[axis] = (before, 2 * size + window - 2 - before - x.shape[axis], 0)
    whole = jnp.issubdtype(x.dtype, jnp.integer)
    least = jnp.iinfo(x.dtype).min if whole else -jnp.inf
    x = jax.lax.pad(x, jnp.asarray(least, x.dtype), padding)
    cells = (
        jax.lax.slice_in_dim(x, i, i + 2 * size - 1, stride=2, axis=axis) for i in range(window)
    )
    return functools.reduce(jnp.maximum, cells)


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
    return jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
