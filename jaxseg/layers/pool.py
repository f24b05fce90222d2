"""Pooling."""

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.types import Array


def max_pool(x: Array) -> Array:
    """3x3 maximum with stride 2 and padding 1 on both sides, as in torch's ResNet stem.

    Args:
        x: [B, H, W, C], floating.

    Returns:
        [B, ceil(H / 2), ceil(W / 2), C], same dtype; padding never wins.
    """
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def global_average(x: Array) -> Array:
    """[B, H, W, C] -> [B, 1, 1, C]: mean over the map, added up in float32, same dtype as x."""
    return jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
