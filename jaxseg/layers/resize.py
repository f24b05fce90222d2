"""Resizing of maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.quant.scaling import sources
from jaxseg.types import Array

PLANES = 32
"""Channels up to which a map is resized plane by plane. Losses and arg-max look at planes too, so that nothing is
turned in between: scores [4, 12, 15, 11] to 360 x 480, cross-entropy, counts and gradient in 31 ms, 93 ms with channels
last (2 CPU cores)."""


# A function of its own in the traced program too: by convention resizes are free, and whoever counts must know them.
@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _resize_planes(x: Array, size: tuple[int, int], corners: bool, bits: int | None) -> Array:
    """[B, C, h, w] to [B, C, H, W] as a product for each axis, the gradient too."""
    rows, columns = (_matrix(n, to, corners, bits) for n, to in zip(x.shape[2:], size, strict=True))
    # Full float32: the default would be TF32 or bfloat16 on accelerators.
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    return product(product(rows[None, None], x), columns.T[None, None])


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _resize(x: Array, size: tuple[int, int], corners: bool, bits: int | None) -> Array:
    """Two gathers and a blend per axis, width first, while the map is still small."""
    for axis, length in ((2, size[1]), (1, size[0])):
        low, high, frac = _sources(x.shape[axis], length, corners, bits)
        frac = jnp.asarray(frac, jnp.float32).reshape(*(-1 if i == axis else 1 for i in range(4)))
        x = jnp.take(x, low, axis) * (1.0 - frac) + jnp.take(x, high, axis) * frac
    return x


@_resize.defjvp
def _resize_jvp(size, corners, bits, primals, tangents):
    """The same linear map as two products with [out, in] matrices.

    Its transpose is two products again; that of the gathers would be two scatters. Forward and
    backward in float32 on 2 CPU cores, ms, [4, 90, 120, 11] to 360 x 480: 25 so, 75 with gathers
    both ways, 33-49 with products both ways, 50-53 with jax.image.resize.
    """
    (x,), (dx,) = primals, tangents
    rows, columns = (
        _matrix(n, to, corners, bits) for n, to in zip(x.shape[1:3], size, strict=True)
    )
    # Full float32: the default would be TF32 or bfloat16 on accelerators.
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    dy = product("Ww,bHwc->bHWc", columns, product("Hh,bhwc->bHwc", rows, dx))
    return _resize(x, size, corners, bits), dy


def _sources(
    n: int, length: int, corners: bool, bits: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per output cell of an axis: the two input cells, and the weight of the second."""
    low, high, frac = sources(n, length, corners)
    return low, high, frac if bits is None else np.rint(frac * 2**bits) / 2**bits


def _matrix(n: int, length: int, corners: bool, bits: int | None) -> Array:
    """float32 [length, n] with which one axis is resized."""
    low, high, frac = _sources(n, length, corners, bits)
    matrix, cells = np.zeros((length, n)), np.arange(length)
    matrix[cells, low] += 1.0 - frac
    matrix[cells, high] += frac
    return jnp.asarray(matrix, jnp.float32)


def resize_bilinear(
    x: Array,
    size: tuple[int, int],
    *,
    align_corners: bool = False,
    weight_bits: int | None = None,
) -> Array:
    """Bilinear resize without antialiasing, also when shrinking.

    Equal to torch's `interpolate(mode='bilinear', align_corners=...)`.

    Args:
        x: [B, h, w, C], floating.
        size: (H, W) of the result.
        align_corners: the centres of the corner cells lie on each other; otherwise the corners of the
            maps do (half-pixel centres).
        weight_bits: weights are rounded to so many binary digits per axis, for maps on grids; None = they are not.

    Returns:
        float32 [B, H, W, C].
    """
    x = x.astype(jnp.float32)
    size = (int(size[0]), int(size[1]))
    if x.shape[1:3] == size:
        return x
    if x.shape[-1] <= PLANES:
        return jnp.moveaxis(
            _resize_planes(jnp.moveaxis(x, -1, 1), size, align_corners, weight_bits), 1, -1
        )
    return _resize(x, size, align_corners, weight_bits)


def upsample_nearest(x: Array, size: tuple[int, int]) -> Array:
    """Every cell twice along both axes, cut to `size`: torch's nearest `interpolate` from half the size.

    Args:
        x: [B, h, w, C].
        size: (H, W) with h = ceil(H / 2), w = ceil(W / 2).

    Returns:
        [B, H, W, C], same dtype.
    """
    batch, height, width, channels = x.shape
    if (height, width) != (-(-size[0] // 2), -(-size[1] // 2)):
        raise ValueError(f"{x.shape[1:3]} is not half of {size}")
    # A broadcast: its gradient is a sum over the copies, that of a gather would be a scatter.
    y = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return y.reshape(batch, 2 * height, 2 * width, channels)[:, : size[0], : size[1]]
