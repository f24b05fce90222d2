"""Images travel as uint8; this is what turns them into a network's input, on the device."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxseg.numbers import FIXED, NumbersArch
from jaxseg.quant import codes, scaling
from jaxseg.types import Array


def network_input(
    image: Array, mean: Sequence[float], std: Sequence[float], numbers: NumbersArch
) -> Array:
    """What a network reads of an image: normalised in its compute dtype; codes, or what they stand for.

    On a grid of 8 fixed bits pixels become codes by the same whole numbers in training and in the int8 network.

    Args:
        image, mean, std: as for `normalise`.
        numbers: of the architecture.
    """
    grid = numbers.integer.image
    if numbers.in_codes:
        step = numbers.codes.image_step
        return codes.image_codes(image, *scaling.image_affine(mean, std, step), once=True)
    if grid.bits == 8 and grid.rule == FIXED:
        step = grid.reach / 128
        found = codes.image_codes(image, *scaling.image_affine(mean, std, step))
        return found.astype(jnp.dtype(numbers.compute)) * step
    return normalise(image, mean, std, jnp.dtype(numbers.compute))


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
