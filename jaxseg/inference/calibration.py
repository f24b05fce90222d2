"""What every exit would answer to every image, computed once: enough to score any choice of exits and thresholds.

MESS (Kouris et al., 2106.03527, section 3.5) memoises predictions and metrics on a calibration set. What is kept is
smaller than predictions: per image and head a confusion matrix, and the image's confidence per threshold of pixels.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.arch import Arch
from jaxseg.errors import UserError
from jaxseg.inference.exits import Policy, image_confidence
from jaxseg.inference.labelling import labels_at
from jaxseg.layers.normalise import normalise
from jaxseg.layers.resize import resize_bilinear
from jaxseg.models import zoo
from jaxseg.objectives.metrics import confusion_matrix
from jaxseg.types import Array, Batch

PIXELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Thresholds of pixels that are tried, unless told otherwise (open points of the specification)."""


class Calibration(NamedTuple):
    """N images, E answers: every exit of the network in its order, then the final one.

    confusion:  int64 [N, E, K, K], rows truth.
    confidence: float32 [N, E - 1, P], of each image at each early exit, per threshold of pixels.
    pixels:     those P thresholds.
    """

    confusion: np.ndarray
    confidence: np.ndarray
    pixels: tuple[float, ...]


def calibrate(
    arch: Arch,
    variables: dict[str, Any],
    batches: Iterable[Batch],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    policy: Policy | None = None,
    pixels: Sequence[float] = PIXELS,
) -> Calibration:
    """Runs a network with all its exits over a set once; memory grows with N * E * K^2.

    Args:
        arch, variables: with at least one exit; of any number behind a block.
        batches: padded images have weight 0 and are left out.
        mean, std: per channel, of images scaled to [0, 1].
        policy: how confidence is measured. pixels: thresholds to try.

    Raises:
        UserError: no image in `batches`, or no exit in `arch`.
    """
    policy, pixels = policy or Policy(), tuple(map(float, pixels))
    if not arch.exits:
        raise UserError("calibration", got="a network without early exits", expected="one or more")
    module, names = zoo.module(arch), [f"exit_{i}" for i in range(len(arch.exits))]

    @jax.jit
    def answers(variables: Any, image: Array) -> tuple[Array, Array]:
        """Label maps uint8 [E, B, H, W] and confidences [E - 1, P, B]."""
        outputs = module.apply(variables, normalise(image, mean, std, arch.numbers.compute))
        early, size = [outputs.exits[name] for name in names], image.shape[1:3]
        grid = outputs.logits.shape[1:3]
        # One head after the other: a map per threshold would be larger than all answers.
        scores = [
            jnp.stack([image_confidence(x, policy, jnp.float32(t)) for t in pixels])
            for x in (resize_bilinear(x, grid) for x in early)
        ]
        return jnp.stack([labels_at(x, size) for x in (*early, outputs.logits)]), jnp.stack(scores)

    variables = jax.device_put(variables)
    matrices, confidences = [], []
    for batch in batches:
        maps, scores = jax.device_get(answers(variables, batch["image"]))
        for i in np.nonzero(np.asarray(batch["weight"]) > 0)[0]:
            truth = np.asarray(batch["label"][i])
            matrices.append([confusion_matrix(truth, each[i], arch.num_classes) for each in maps])
            confidences.append(scores[:, :, i])
    if not matrices:
        raise UserError("calibration", got="no image", expected="a split with one or more")
    return Calibration(np.array(matrices), np.array(confidences), pixels)


def take(
    found: Calibration, chosen: Sequence[int], pixel: Sequence[int], image: Sequence[float]
) -> np.ndarray:
    """Which answer each image gets: int [N], a place in `chosen`, the last of which answers to all that come so far.

    Args:
        found: of the set.
        chosen: answers in order; the last may be an exit or the final one (E - 1).
        pixel: for all but the last, index into `found.pixels`. image: likewise, least confidence of a leaver.
    """
    taken = np.full(len(found.confidence), len(chosen) - 1)
    for place in reversed(range(len(chosen) - 1)):
        # As in `exits.route`, in float32.
        sure = found.confidence[:, chosen[place], pixel[place]] >= np.float32(image[place])
        taken[sure] = place
    return taken


def pooled(found: Calibration, chosen: Sequence[int], taken: np.ndarray) -> np.ndarray:
    """The confusion matrix of the whole set, int64 [K, K], each image with the answer that it took."""
    return found.confusion[np.arange(len(taken)), np.asarray(chosen)[taken]].sum(axis=0)
