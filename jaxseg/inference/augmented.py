"""Test-time augmentation: answers of several views of an image, averaged.

A score function maps images [B, H, W, 3] (values 0..255, uint8 or floating) to class scores float32
[B, H, W, K] at the same size. Scores are logits: their softmax over K is the answer. The functions here take a
score function and give another one, so they nest, and take any network that answers with scores.

What is averaged is always probabilities, at the image's own resolution, and the result is the logarithm of the
mean, again logits. That is how the papers' own code does it: DeepLabv3 (arXiv 1706.05587) over scales and mirror
images, PSPNet (arXiv 1612.01105) over windows as well; MMSegmentation averages the logits of windows instead. A
view that is the image itself is not averaged at all: with nothing switched on the function comes back as it was.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.errors import UserError
from jaxseg.layers.resize import resize_bilinear
from jaxseg.types import Array

ScoreFn = Callable[[Array], Array]
MIN_WINDOW_PX = 32
MAX_SCALE = 16.0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Mode:
    """How an image is answered. The default is plain: the whole image, once.

    window_px:           (height, width) of a sliding window on every (scaled) image; (0, 0) = the whole image.
    window_overlap_frac: of two neighbouring windows, at least, in each direction.
    flip:                mean of the image and its mirror image.
    scales:              of the image; the mean over all of them.

    Raises:
        UserError: a value that cannot be.
    """

    window_px: tuple[int, int] = (0, 0)
    window_overlap_frac: float = 1 / 3
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        window, overlap, scales = self.window_px, self.window_overlap_frac, self.scales
        if (
            not isinstance(window, tuple | list)
            or len(window) != 2
            or not all(type(n) is int for n in window)
            or (tuple(window) != (0, 0) and min(window) < MIN_WINDOW_PX)
        ):
            raise UserError(
                "window_px",
                got=self.window_px,
                expected=f"(height, width), each {MIN_WINDOW_PX} or more; (0, 0) = whole image",
            )
        if not _is_number(overlap) or not 0 <= overlap < 1:
            raise UserError("window_overlap_frac", got=overlap, expected="a number in [0, 1)")
        if not isinstance(self.flip, bool):
            raise UserError("flip", got=repr(self.flip), expected="True or False")
        if (
            not isinstance(scales, tuple | list)
            or not scales
            or not all(_is_number(s) and 1 / MAX_SCALE <= s <= MAX_SCALE for s in scales)
        ):
            expected = f"one or more numbers from 1/{MAX_SCALE:.0f} to {MAX_SCALE:.0f}"
            raise UserError("scales", got=scales, expected=expected)
        object.__setattr__(self, "window_px", tuple(window))
        object.__setattr__(self, "window_overlap_frac", float(overlap))
        object.__setattr__(self, "scales", tuple(float(s) for s in scales))

    def __str__(self) -> str:
        """'whole image, 1 scale, no flip', 'windows of 256x512 px (overlap 0.33), scales 0.75 1 1.25, flip'."""
        height, width = self.window_px
        window = f"windows of {height}x{width} px (overlap {self.window_overlap_frac:.3g})"
        many = "scales " + " ".join(f"{s:g}" for s in self.scales)
        return ", ".join(
            (
                window if height else "whole image",
                "1 scale" if self.scales == (1.0,) else many,
                "flip" if self.flip else "no flip",
            )
        )

    def record(self) -> dict[str, Any]:
        """JSON values; the overlap is null where there are no windows."""
        overlap = self.window_overlap_frac if any(self.window_px) else None
        return {
            "description": str(self),
            **asdict(self),
            "window_overlap_frac": overlap,
        }


PLAIN = Mode()


def augmented(scores: ScoreFn, mode: Mode) -> ScoreFn:
    """The score function that answers in `mode`: windows innermost, then the mirror image, then scales.

    So a window keeps its size at every scale, as it does in training crops. `scores` itself where the mode is plain.
    """
    if any(mode.window_px):
        scores = windowed(scores, mode.window_px, mode.window_overlap_frac)
    if mode.flip:
        scores = flipped(scores)
    return scores if mode.scales == (1.0,) else multi_scale(scores, mode.scales)


def flipped(scores: ScoreFn) -> ScoreFn:
    """Mean over the image and its mirror image (left and right swapped; the answer is swapped back)."""

    def both(image: Array) -> Array:
        # A loop of two: one compiled network, and memory for one view's activations.
        straight, mirrored = jax.lax.map(scores, jnp.stack([image, image[:, :, ::-1]]))
        return _mean(straight, mirrored[:, :, ::-1])

    return both


def multi_scale(scores: ScoreFn, scales: Sequence[float]) -> ScoreFn:
    """Mean over scaled copies of the image.

    Image and scores are resized bilinearly with half-pixel centres and no antialiasing; a side of n px becomes
    round(scale * n) px, at least 1. Scores are resized as logits, as they are for one scale.
    """

    def every_scale(image: Array) -> Array:
        size = image.shape[1:3]
        views = []
        for scale in scales:
            scaled = tuple(max(1, int(scale * n + 0.5)) for n in size)
            view = image if scaled == size else resize_bilinear(image, scaled)
            views.append(resize_bilinear(scores(view), size))
        return _mean(*views)

    return every_scale


def windowed(scores: ScoreFn, window_px: tuple[int, int], overlap_frac: float) -> ScoreFn:
    """Mean, pixel by pixel, over the windows that see it; see `window_starts` for where they lie.

    The windows are a static list: one compiled network goes over them in a loop, each time with the same window of
    all B images, and adds into one sum; memory is that of the sum and of one window. An axis on which the image is
    shorter than the window has one window of the image's length, with nothing padded on (as in MMSegmentation; PSPNet
    pads with the mean colour), so that a window that holds the whole image is the whole image, to the bit.
    """

    def every_window(image: Array) -> Array:
        size = image.shape[1:3]
        starts = [window_starts(n, w, overlap_frac) for n, w in zip(size, window_px, strict=True)]
        window = tuple(min(n, w) for n, w in zip(size, window_px, strict=True))
        corners = np.array([(y, x) for y in starts[0] for x in starts[1]], np.int32)
        if len(corners) == 1:
            return scores(image)
        times = np.zeros(size, np.float32)
        for y, x in corners:
            times[y : y + window[0], x : x + window[1]] += 1.0
        one_window = jax.ShapeDtypeStruct((image.shape[0], *window, image.shape[3]), image.dtype)
        num_classes = jax.eval_shape(scores, one_window).shape[3]

        def add(total: Array, corner: Array) -> tuple[Array, None]:
            corner = (0, corner[0], corner[1], 0)
            crop = jax.lax.dynamic_slice(image, corner, one_window.shape)
            seen = jax.lax.dynamic_slice(total, corner, (*one_window.shape[:3], num_classes))
            # A sum of probabilities in logarithms: nothing underflows, however sure a window is.
            seen = jnp.logaddexp(seen, jax.nn.log_softmax(scores(crop)))
            return jax.lax.dynamic_update_slice(total, seen, corner), None

        nothing = jnp.full((image.shape[0], *size, num_classes), -jnp.inf, jnp.float32)
        total, _ = jax.lax.scan(add, nothing, jnp.asarray(corners))
        return total - jnp.log(times)[None, :, :, None]

    return every_window


def window_starts(length: int, window: int, overlap_frac: float) -> tuple[int, ...]:
    """First pixels of the windows along an axis of `length` px.

    Every round(window * (1 - overlap_frac)) px, at least 1; the last is shifted inwards so that it ends with the
    image. Every pixel is in a window, and no window reaches beyond the image, unless the image is the shorter: (0,).
    """
    if window >= length:
        return (0,)
    stride = max(1, int(window * (1.0 - overlap_frac) + 0.5))
    count = -(-(length - window) // stride) + 1
    return tuple(min(i * stride, length - window) for i in range(count))


def _mean(*scores: Array) -> Array:
    """Logarithm of the mean probability, [B, H, W, K]; `scores` are logits of that shape each."""
    if len(scores) == 1:
        return scores[0]
    total = jax.nn.log_softmax(scores[0])
    for other in scores[1:]:
        total = jnp.logaddexp(total, jax.nn.log_softmax(other))
    return total - math.log(len(scores))
