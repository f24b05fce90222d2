"""One file that needs no jaxseg: the whole answer, uint8 image to uint8 label map, as serialised StableHLO.

    data = exported(model, 360, 480, PLATFORMS).serialize()
    labels = jax.export.deserialize(data).call(images)            # uint8 [B, 360, 480, 3] -> uint8 [B, 360, 480]

Weights, normalisation, upsampling and arg-max are inside; B is free, the size of the images is not.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax import export

from jaxseg.errors import UserError
from jaxseg.inference.predictor import Model

PLATFORMS = ("cpu", "cuda", "tpu")


def exported(
    model: Model, height_px: int, width_px: int, platforms: Sequence[str] = PLATFORMS
) -> export.Exported:
    """The model as a function of images alone, for each platform; none of them must be here.

    Args:
        model: whose answers, in its own mode (windows, mirror image, scales).
        height_px, width_px: of the images.
        platforms: some of `PLATFORMS`.
    """
    predict, variables = model.deployed
    (batch,) = export.symbolic_shape("batch")
    image = jax.ShapeDtypeStruct((batch, height_px, width_px, 3), np.uint8)
    answer = jax.jit(lambda image: predict(variables, image))
    return export.export(answer, platforms=platforms)(image)


class Agreement(NamedTuple):
    """How a written file answers beside the model that it was made from."""

    images: int
    pixels: int
    different: int


def agreement(data: bytes, model: Model, images: np.ndarray) -> Agreement:
    """Runs the file's bytes and the live model on real images, one by one and all together.

    Args:
        data: what `Exported.serialize` gave.
        model: the live model.
        images: uint8 [B, H, W, 3] of the file's size.

    Raises:
        UserError: the bytes cannot be read.
    """
    try:
        call = export.deserialize(bytearray(data)).call
    except Exception as error:  # flatbuffers raises what it likes
        raise UserError("the exported file cannot be read", got=type(error).__name__) from error
    live = model(images)
    together = np.asarray(call(images))
    alone = np.concatenate([np.asarray(call(image[None])) for image in images])
    different = np.count_nonzero((together != live) | (alone != live))
    return Agreement(len(images), live.size, int(different))
