"""Bilinear resizing."""

import jax
import jax.numpy as jnp

from jaxseg.types import Array


def resize_bilinear(x: Array, size: tuple[int, int]) -> Array:
    """Bilinear resize with half-pixel centres and no antialiasing.

    Equal to torch's `interpolate(mode='bilinear', align_corners=False)`.

    Args:
        x: [B, h, w, C], floating.
        size: (H, W) of the result.

    Returns:
        float32 [B, H, W, C].
    """
    shape = (x.shape[0], *size, x.shape[3])
    return jax.image.resize(x.astype(jnp.float32), shape, "bilinear", antialias=False)
