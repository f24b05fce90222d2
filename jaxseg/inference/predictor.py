"""From uint8 images to uint8 label maps: `model = jaxseg.load(folder); labels = model(image)`."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg.arch import Arch
from jaxseg.errors import UserError
from jaxseg.inference.artifact import Card, load_model
from jaxseg.inference.augmented import PLAIN, Mode, augmented
from jaxseg.inference.labelling import as_real, labels_at
from jaxseg.layers.normalise import network_input
from jaxseg.layers.resize import resize_bilinear
from jaxseg.models import zoo
from jaxseg.models.folding import fold
from jaxseg.objectives import losses
from jaxseg.types import Array, Batch

Predict = Callable[[Any, Array], Array]
Score = Callable[[Any, Batch], tuple[Array, Array, Array]]


def make_predict(
    arch: Arch, mean: Sequence[float], std: Sequence[float], mode: Mode = PLAIN
) -> Predict:
    """Compiled (variables, image uint8 [B, H, W, 3]) -> label map uint8 [B, H, W].

    Normalisation, upsampling, averaging over what `mode` asks for and arg-max are inside, so that only bytes cross to
    the device and back. Of an int8 network nothing in it floats, unless `mode` asks for averages. One compilation per
    shape.
    """
    coarse, fine = _scores(arch, mean, std, mode)
    # Averages are over the upsampled scores; without any, most pixels need none.
    scores = coarse if mode == PLAIN else fine
    return jax.jit(lambda variables, image: labels_at(scores(variables, image), image.shape[1:3]))


def make_resized(
    arch: Arch, mean: Sequence[float], std: Sequence[float]
) -> Callable[[Any, Array, tuple[int, int]], Array]:
    """As `make_predict`, for images that were made smaller: (variables, image, (H, W)) -> label map uint8 [B, H, W]."""
    coarse, _ = _scores(arch, mean, std, PLAIN)
    return jax.jit(
        lambda variables, image, size: labels_at(coarse(variables, image), size), static_argnums=2
    )


def make_score(
    arch: Arch, mean: Sequence[float], std: Sequence[float], mode: Mode = PLAIN
) -> Score:
    """Compiled (variables, batch) -> (label map uint8 [B, H, W], cross-entropy sum, pixel count)."""
    coarse, fine = _scores(arch, mean, std, mode)
    from_codes = arch.numbers.in_codes and mode == PLAIN

    def score(variables: Any, batch: Batch) -> tuple[Array, Array, Array]:
        image, label = batch["image"], batch["label"]
        size = image.shape[1:3]
        answer = coarse(variables, image) if from_codes else fine(variables, image)
        scores = resize_bilinear(as_real(answer, arch.numbers), size) if from_codes else answer
        total, count = losses.cross_entropy(scores, label, batch["weight"])
        return labels_at(answer, size), total, count

    return jax.jit(score)


def labels_only(answer: Callable[[np.ndarray], np.ndarray]) -> Score:
    """For `evaluation.evaluate`: label maps, and no loss, since there are no later scores. Padding is not run.

    Args:
        answer: images uint8 [B, H, W, 3] -> label maps.
    """

    def score(variables: Any, batch: Batch) -> tuple[np.ndarray, float, float]:
        image, real = np.asarray(batch["image"]), np.asarray(batch["weight"]) > 0
        labels = np.zeros(image.shape[:3], np.uint8)
        labels[real] = answer(image[real])
        return labels, 0.0, 0.0

    return score


def _scores(
    arch: Arch, mean: Sequence[float], std: Sequence[float], mode: Mode
) -> tuple[Predict, Predict]:
    """(variables, image) -> logits at the network's own resolution; and what `mode` makes of them at the image's."""
    module = zoo.module(arch)

    def coarse(variables: Any, image: Array) -> Array:
        x = network_input(image, mean, std, arch.numbers)
        return module.apply(variables, x).logits

    def fine(variables: Any, image: Array) -> Array:
        def plain(image: Array) -> Array:
            scores = as_real(coarse(variables, image), arch.numbers)
            return resize_bilinear(scores, image.shape[1:3])

        return augmented(plain, mode)(image)

    return coarse, fine


@dataclass(frozen=True)
class Model:
    """A loaded model; call it on images.

    arch, variables, card: what the folder holds (see `artifact`).
    mode: how it answers: whole image or windows, mirror image, scales.
    """

    arch: Arch
    variables: dict[str, Any]
    card: Card
    mode: Mode = PLAIN

    @classmethod
    def load(cls, folder: str | Path, checkpoint: str = "last", mode: Mode = PLAIN) -> "Model":
        """Reads a deployed folder, or the folder that training wrote inside its own.

        Args:
            folder: either of them. checkpoint: 'last' or 'best', see `model_folder`. mode: how it answers.

        Raises:
            UserError: neither, or damaged.
        """
        return cls(*load_model(model_folder(Path(folder), checkpoint)), mode)

    @cached_property
    def deployed(self) -> tuple[Predict, Any]:
        """(predict, its variables on the device), batch norm folded."""
        arch, variables = fold(self.arch, self.variables)
        predict = make_predict(arch, self.card.mean, self.card.std, self.mode)
        return predict, jax.device_put(variables)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Label map(s) at the image's own resolution.

        Args:
            image: uint8 RGB, [H, W, 3] or [B, H, W, 3]. Every new shape compiles once.

        Returns:
            uint8 [H, W] or [B, H, W], ids into `card.class_names`.

        Raises:
            UserError: another dtype or shape.
        """
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] != 3:
            raise UserError(
                "image",
                got=f"{image.dtype}{list(image.shape)}",
                expected="uint8 [H, W, 3] or [B, H, W, 3], RGB",
            )
        batch = image if image.ndim == 4 else image[None]
        predict, variables = self.deployed
        labels = np.asarray(predict(variables, batch))
        return labels if image.ndim == 4 else labels[0]


def model_folder(folder: Path, checkpoint: str = "last") -> Path:
    """The model's folder: `folder` itself if deployed, else the one that training wrote inside it.

    Args:
        folder: a deployed folder or a training folder.
        checkpoint: 'last' or 'best' (by val mIoU); a deployed folder has only one.
    """
    if not folder.is_dir():
        raise UserError(
            "no such folder", got=repr(str(folder)), do="give --workdir of a training run"
        )
    if os.path.lexists(folder / "arch.json"):
        return folder
    return folder / ("model_best" if checkpoint == "best" else "model")
