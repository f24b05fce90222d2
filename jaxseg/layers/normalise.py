"""Images travel as uint8; this is what turns them into a network's input, on the device."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxseg.types import Array


def normalise(
    image: Array, mean: Sequence[float], std: Sequence[float], dtype: DTypeLike = jnp.float32
) -> Array:
    """(image / 255 - mean) / std, computed in float32.

    Args:
        image: uint8 [B, H, W, 3].
        mean, std: 3 numbers each, of images scaled to [0, 1].
        dtype: of the result.

    Returns:
        [B, H, W, 3] of `dtype`.
    """
    mean, std = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, -1) for v in (mean, std))
    return ((image.astype(jnp.float32) / 255.0 - mean) / std).astype(dtype)
