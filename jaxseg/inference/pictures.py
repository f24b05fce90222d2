"""Label maps as pictures: colours, overlays, contact sheets. numpy and OpenCV only."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from jaxseg.errors import UserError
from jaxseg.outside import write_file
from jaxseg.types import IGNORE_LABEL

VOID_COLOR = (0, 0, 0)


def colorize(label: np.ndarray, colors: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """uint8 [H, W] class ids -> uint8 [H, W, 3] RGB; void is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = np.asarray(colors, np.uint8)
    table[IGNORE_LABEL] = VOID_COLOR
    return table[label]


def overlay(
    image: np.ndarray, label: np.ndarray, colors: Sequence[tuple[int, int, int]], alpha: float = 0.5
) -> np.ndarray:
    """The colours laid over the image (uint8 [H, W, 3]); void pixels show the image alone."""
    mixed = cv2.addWeighted(image, 1.0 - alpha, colorize(label, colors), alpha, 0.0)
    return np.where((label == IGNORE_LABEL)[..., None], image, mixed)


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], gap_px: int = 4) -> np.ndarray:
    """Pictures in rows, all scaled to the first one's size, on white: uint8 [H', W', 3]."""
    height, width = rows[0][0].shape[:2]

    def cell(picture: np.ndarray) -> np.ndarray:
        if picture.shape[:2] != (height, width):
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        return cv2.copyMakeBorder(
            picture, gap_px, gap_px, gap_px, gap_px, cv2.BORDER_CONSTANT, value=(255, 255, 255)
        )

    return np.concatenate([np.concatenate([cell(p) for p in row], axis=1) for row in rows])


def comparison(
    images: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    colors: Sequence[tuple[int, int, int]],
) -> np.ndarray:
    """One row per image: image, truth, prediction over the image."""
    return contact_sheet(
        [
            (image, overlay(image, label, colors), overlay(image, prediction, colors))
            for image, label, prediction in zip(images, labels, predictions, strict=True)
        ]
    )


def write_png(path: Path, picture: np.ndarray) -> None:
    """uint8 [H, W] or RGB [H, W, 3] to a PNG file.

    Raises:
        UserError: the file cannot be written.
    """
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".png", picture)
    if not ok:
        raise UserError("cannot encode picture", got=f"shape {picture.shape}", expected="uint8")
    try:
        write_file(path, data.tobytes())
    except OSError as error:
        raise UserError(f"cannot write {path}", got=error.strerror) from error
