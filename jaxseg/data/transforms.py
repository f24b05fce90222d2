"""Random changes of a training image with its label: uint8 in, uint8 out, on the host.

Pure: all randomness comes from the `rng` passed in, and every call draws the same number of values, so that
switching one change on or off leaves the others as they were.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from jaxseg.errors import UserError
from jaxseg.types import IGNORE_LABEL

IMAGENET_MEAN = (124, 116, 104)
LUMA = np.array([0.299, 0.587, 0.114])
BLUR_SIGMA_PX = (0.3, 1.5)


@dataclass(frozen=True)
class Augment:
    """Random scale, crop, flip, colour and blur.

    scale_min, scale_max: factor of the picture before the crop, uniform in between.
    flip_prob:    of mirroring left and right.
    color_jitter: strength 0..1; brightness, contrast and saturation are each multiplied by a factor that is
                  uniform in [1 - strength, 1 + strength].
    blur_prob:    of a Gaussian blur, sigma uniform in BLUR_SIGMA_PX.
    fill:         colour (red, green, blue) where the crop reaches beyond the picture.
    """

    scale_min: float = 1.0
    scale_max: float = 1.0
    flip_prob: float = 0.0
    color_jitter: float = 0.0
    blur_prob: float = 0.0
    fill: tuple[int, int, int] = IMAGENET_MEAN

    def __post_init__(self) -> None:
        if not 0 < self.scale_min <= self.scale_max:
            raise UserError(
                "augment scale_min, scale_max",
                got=(self.scale_min, self.scale_max),
                expected="0 < scale_min <= scale_max",
            )
        for name in ("flip_prob", "color_jitter", "blur_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augment {name}", got=getattr(self, name), expected="0 to 1")

    def __call__(
        self,
        image: np.ndarray,
        label: np.ndarray,
        *,
        size_px: tuple[int, int],
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A random view of an example. The inputs are not changed.

        Args:
            image: uint8 [H, W, 3] RGB. label: uint8 [H, W].
            size_px: (h, w) of the result.
            rng: used for this example only.

        Returns:
            uint8 [h, w, 3] and uint8 [h, w]; beyond the picture `fill` and IGNORE_LABEL.
        """
        scale, where_y, where_x, flip, brightness, contrast, saturation, blur, sigma = rng.random(9)
        factor = self.scale_min + scale * (self.scale_max - self.scale_min)
        y = _window(image.shape[0], size_px[0], factor, where_y)
        x = _window(image.shape[1], size_px[1], factor, where_x)
        # The part that will be seen is cut out first, so that resizing and colours touch little.
        image, label = resize(
            image[y.source, x.source], label[y.source, x.source], (y.size, x.size)
        )
        if flip < self.flip_prob:
            image, label = image[:, ::-1], label[:, ::-1]
        if self.color_jitter:
            gains = 1 + self.color_jitter * (2 * np.array([brightness, contrast, saturation]) - 1)
            image = jitter(image, *gains)
        if blur < self.blur_prob:
            low, high = BLUR_SIGMA_PX
            image = cv2.GaussianBlur(
                np.ascontiguousarray(image), (0, 0), low + sigma * (high - low)
            )
        return pad(image, label, size_px, self.fill, at=(y.start, x.start))


def resize(
    image: np.ndarray, label: np.ndarray, size_px: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear for the image, nearest for the label, both about pixel centres; views where the size is right."""
    if image.shape[:2] == tuple(size_px):
        return image, label
    width_height = (size_px[1], size_px[0])
    image = cv2.resize(image, width_height, interpolation=cv2.INTER_LINEAR)
    # Not INTER_NEAREST, which is off by half a source pixel.
    return image, cv2.resize(label, width_height, interpolation=cv2.INTER_NEAREST_EXACT)


def shrink(
    image: np.ndarray, label: np.ndarray, factors: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """An example made smaller: area means for the image, nearest for the label, so that void stays void.

    Args:
        image: uint8 [H, W, 3]. label: uint8 [H, W].
        factors: along height and width, in (0, 1]; (1, 1) gives the arguments themselves.
    """
    height, width = (max(1, round(s * f)) for s, f in zip(label.shape, factors, strict=True))
    if (height, width) == label.shape:
        return image, label
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return image, cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def pad(
    image: np.ndarray,
    label: np.ndarray,
    size_px: tuple[int, int],
    fill: tuple[int, int, int],
    *,
    at: tuple[int, int] = (0, 0),
) -> tuple[np.ndarray, np.ndarray]:
    """Copies an example into a larger canvas of `fill` and IGNORE_LABEL, its corner `at` (y, x)."""
    height, width = label.shape
    if (height, width) == tuple(size_px):
        return np.ascontiguousarray(image), np.ascontiguousarray(label)
    canvas = np.empty((*size_px, 3), np.uint8)
    canvas[:] = fill
    labels = np.full(size_px, IGNORE_LABEL, np.uint8)
    inside = np.s_[at[0] : at[0] + height, at[1] : at[1] + width]
    canvas[inside], labels[inside] = image, label
    return canvas, labels


def jitter(image: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Saturation about each pixel's luma, contrast about the mean luma, brightness about black.

    All three are affine in RGB, so they are one 3x4 matrix and one pass; clipped to uint8, and within 1 of the
    exact value (OpenCV's fixed point).
    """
    luma_mean = float(image.reshape(-1, 3).mean(axis=0) @ LUMA)
    matrix = np.empty((3, 4))
    matrix[:, :3] = saturation * np.eye(3) + (1 - saturation) * LUMA
    matrix[:, :3] *= brightness * contrast
    matrix[:, 3] = brightness * (1 - contrast) * luma_mean
    return cv2.transform(np.ascontiguousarray(image), matrix)


@dataclass(frozen=True)
class _Window:
    """Along one axis: which source pixels, how many output pixels they become, and where these begin."""

    source: slice
    size: int
    start: int


def _window(length: int, out: int, factor: float, where: float) -> _Window:
    """A window of `out` pixels of an axis of `length` pixels scaled by `factor`; `where` in [0, 1) places it."""
    wanted = max(1, round(out / factor))
    if wanted <= length:
        first = int(where * (length - wanted + 1))
        return _Window(slice(first, first + wanted), out, 0)
    # The whole axis fits in: it becomes fewer pixels than `out`, and is placed among padding.
    size = min(out, max(1, round(length * out / wanted)))
    return _Window(slice(0, length), size, int(where * (out - size + 1)))
