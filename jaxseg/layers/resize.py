"""Bilinear resizing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.types import Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _resize(x: Array, size: tuple[int, int]) -> Array:
    """Two gathers and a blend per axis, width first, while the map is still small."""
    for axis, length in ((2, size[1]), (1, size[0])):
        low, high, frac = _sources(x.shape[axis], length)
        frac = jnp.asarray(frac, jnp.float32).reshape(*(-1 if i == axis else 1 for i in range(4)))
        x = jnp.take(x, low, axis) * (1.0 - frac) + jnp.take(x, high, axis) * frac
    return x


@_resize.defjvp
def _resize_jvp(size, primals, tangents):
    """The same linear map as two products with [out, in] matrices.

    Its transpose is two products again; that of the gathers would be two scatters. Forward and
    backward in float32 on 2 CPU cores, ms, [4, 90, 120, 11] to 360 x 480: 25 so, 75 with gathers
    both ways, 33-49 with products both ways, 50-53 with jax.image.resize.
    """
    (x,), (dx,) = primals, tangents
    rows, columns = (_matrix(n, length) for n, length in zip(x.shape[1:3], size, strict=True))
    # Full float32: the default would be TF32 or bfloat16 on accelerators.
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    dy = product("Ww,bHwc->bHWc", columns, product("Hh,bhwc->bHwc", rows, dx))
    return _resize(x, size), dy


def _sources(n: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per output cell of an axis: the two input cells, and the weight of the second."""
    centre = np.maximum((np.arange(length) + 0.5) * n / length - 0.5, 0.0)
    low = np.minimum(centre.astype(np.int32), n - 1)
    return low, np.minimum(low + 1, n - 1), centre - low


def _matrix(n: int, length: int) -> Array:
    """float32 [length, n] with which one axis is resized."""
    low, high, frac = _sources(n, length)
    matrix, cells = np.zeros((length, n)), np.arange(length)
    matrix[cells, low] += 1.0 - frac
    matrix[cells, high] += frac
    return jnp.asarray(matrix, jnp.float32)


def resize_bilinear(x: Array, size: tuple[int, int]) -> Array:
    """Bilinear resize with half-pixel centres and no antialiasing, also when shrinking.

    Equal to torch's `interpolate(mode='bilinear', align_corners=False)`.

    Args:
        x: [B, h, w, C], floating.
        size: (H, W) of the result.

    Returns:
        float32 [B, H, W, C].
    """
    x = x.astype(jnp.float32)
    size = (int(size[0]), int(size[1]))
    return x if x.shape[1:3] == size else _resize(x, size)
