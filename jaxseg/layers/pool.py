"""Pooling."""

import jax
import jax.numpy as jnp

from jaxseg.types import Array


def max_pool(x: Array) -> Array:
    """3x3 maximum with stride 2 and padding 1 on both sides, as in torch's ResNet stem.

    Made of strided slices: the gradient of XLA's window reduction is a scatter, slow on CPU (2
    cores, [4, 180, 240, 64] forward and backward: 83 ms so, 268 ms with it). Where two cells are
    equal they share the gradient; torch gives it to the first.

    Args:
        x: [B, H, W, C], floating.

    Returns:
        [B, ceil(H / 2), ceil(W / 2), C], same dtype; padding never wins.
    """
    return _max_of_three(_max_of_three(x, axis=1), axis=2)


def _max_of_three(x: Array, axis: int) -> Array:
    size = -(-x.shape[axis] // 2)
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (1, 2 * size - x.shape[axis], 0)
    x = jax.lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), padding)
    first, second, third = (
        jax.lax.slice_in_dim(x, i, i + 2 * size - 1, stride=2, axis=axis) for i in range(3)
    )
    return jnp.maximum(jnp.maximum(first, second), third)


def global_average(x: Array) -> Array:
    """[B, H, W, C] -> [B, 1, 1, C]: mean over the map, added up in float32, same dtype as x."""
    return jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
