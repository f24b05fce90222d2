"""Which exit answers an image: confidence maps, their smoothing, and the policy as a scan over stacked answers.

MESS (Kouris et al., 2106.03527, section 3.4, eq. 7-9), with two choices of ours where the paper cannot be followed
to the letter (docs/design.md): borders between predicted labels instead of Canny's edges, and a band around them
that is widened instead of eroded. Nothing here knows a network: E answers of any kind (early exits, iterations of
a loop) on one grid, the last of them the final one.

A pixel's smoothed confidence matters only in so far as it reaches a threshold, and the median of an odd number of
values reaches it where most of them do. So the median is a count: a few additions a pixel instead of a sort.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.errors import UserError, unknown_name
from jaxseg.layers.resize import resize_bilinear
from jaxseg.numbers import NumbersArch
from jaxseg.quant.scaling import CONFIDENCE_BITS, exponentials
from jaxseg.types import Array, Outputs

TOP1, ENTROPY = CONFIDENCES = ("top1", "entropy")
PIXELS, MEAN = MEASURES = ("pixels", "mean")
NEVER = 2.0
"""A threshold that no image reaches: shares and mean confidences are at most 1."""


@dataclass(frozen=True)
class Policy:
    """When an exit answers; thresholds per early exit are apart, since they are swept.

    confidence: of a pixel: 'top1', the largest probability, or 'entropy', 1 - H / log K.
    measure:    of an image: 'pixels', the share of pixels whose confidence reaches a threshold (eq. 7), or 'mean',
                the mean confidence (the usual baseline).
    smooth:     whether confidence near borders between labels is replaced by its median (eq. 8, 9); 'pixels' only.
    reach:      cells by which borders are widened; the median is over (4 * reach + 1)^2 cells. 1 on the grid of an
                exit; at the labels' resolution the exit's output stride.
    """

    confidence: str = TOP1
    measure: str = PIXELS
    smooth: bool = True
    reach: int = 1

    def __post_init__(self):
        if self.confidence not in CONFIDENCES:
            raise unknown_name("confidence", self.confidence, CONFIDENCES)
        if self.measure not in MEASURES:
            raise unknown_name("measure of an image", self.measure, MEASURES)
        if self.reach < 1:
            raise UserError("reach of the smoothing", got=self.reach, expected="1 or more cells")


class Thresholds(NamedTuple):
    """Per early exit: float32 [E - 1] each.

    pixel: least confidence of a confident pixel; not used by the measure 'mean'.
    image: least confidence of an image that leaves; 0 = every image, `NEVER` = none.
    """

    pixel: Array
    image: Array


WHOLE = 2**13
"""What int8 networks count confidences of images in: 1 is so much."""


def whole(limits: Thresholds) -> Thresholds:
    """Thresholds for int8 networks, int32: of pixels the largest sum of powers that is confident (see
    `image_confidence`), of images the least confidence in units of 1 / `WHOLE`.
    """
    pixel = np.maximum(np.asarray(limits.pixel, np.float64), 2.0**-15)
    sums = np.floor(2.0**CONFIDENCE_BITS / pixel)
    return Thresholds(
        np.minimum(sums, 2**31 - 1).astype(np.int32),
        np.ceil(np.asarray(limits.image, np.float64) * WHOLE).astype(np.int32),
    )


def limits_for(numbers: NumbersArch, pixel: Sequence[float] | float, image: Sequence[float]):
    """`thresholds` as a network with these numbers takes them."""
    found = thresholds(pixel, image)
    return whole(found) if numbers.in_codes else found


class Routed(NamedTuple):
    """What `route` found out.

    logits: float32 [B, h, w, K], the answer of the exit that each image took.
    taken:  int32 [B], which one; E - 1 is the final answer.
    scores: float32 [E - 1, B], every image's confidence at every early exit, whether it came so far or not.
    """

    logits: Array
    taken: Array
    scores: Array


def thresholds(pixel: Sequence[float] | float, image: Sequence[float]) -> Thresholds:
    """`Thresholds` from numbers: `image` one per early exit, `pixel` likewise or one for all.

    Raises:
        UserError: other lengths, or a pixel threshold outside of [0, 1].
    """
    count = len(image)
    pixel = [pixel] * count if isinstance(pixel, int | float) else list(pixel)
    if len(pixel) != count:
        raise UserError("thresholds of pixels", got=f"{len(pixel)} numbers", expected=count)
    if not all(0 <= x <= 1 for x in pixel):
        raise UserError("thresholds of pixels", got=pixel, expected="numbers in [0, 1]")
    return Thresholds(jnp.asarray(pixel, jnp.float32), jnp.asarray(image, jnp.float32))


def stacked(outputs: Outputs, size: tuple[int, int] | None = None) -> Array:
    """All answers on one grid, float32 [E, B, h, w, K], in the order of exits, the final one last.

    The grid is that of the final answer unless `size` (h, w) says another; exits of another stride are resized
    bilinearly, as they would be on the way to the image.
    """
    size = size or outputs.logits.shape[1:3]
    names = sorted(outputs.exits, key=lambda name: int(name.rsplit("_", 1)[1]))
    maps = [*(outputs.exits[name] for name in names), outputs.logits]
    return jnp.stack([resize_bilinear(logits, size) for logits in maps])


# --- Confidence ---


def confidence(logits: Array, kind: str = TOP1) -> Array:
    """How sure each pixel is: float32 [..., h, w] in [0, 1] from logits [..., h, w, K]."""
    logits = logits.astype(jnp.float32)
    shifted = logits - jnp.max(logits, axis=-1, keepdims=True)
    powers = jnp.exp(shifted)
    total = jnp.sum(powers, axis=-1)
    if kind == TOP1:
        return 1.0 / total
    classes = logits.shape[-1]
    entropy = jnp.log(total) - jnp.sum(powers * shifted, axis=-1) / total
    return jnp.clip(1.0 - entropy / jnp.log(max(classes, 2)), 0.0, 1.0)


def border_band(labels: Array, reach: int = 1) -> Array:
    """Where labels change, widened: bool [B, h, w].

    Stands for eq. 8. A pixel is on a border if one of its four neighbours has another label; the band is every pixel
    within `reach` of one, rows and columns alike. The paper's Canny and erosion of single-pixel lines would be empty.

    Args:
        labels: integer [B, h, w].
        reach: in cells.
    """
    down, right = labels[:, 1:] != labels[:, :-1], labels[:, :, 1:] != labels[:, :, :-1]
    before = lambda x, axis: _padded(x, axis, 0, 1)  # noqa: E731
    after = lambda x, axis: _padded(x, axis, 1, 0)  # noqa: E731
    border = before(down, 1) | after(down, 1) | before(right, 2) | after(right, 2)
    return box_count(border, reach) > 0


def box_count(mask: Array, radius: int, *, edge: bool = False) -> Array:
    """How many of the (2 * radius + 1)^2 cells around each one are set: int32 [B, h, w].

    Args:
        mask: bool [B, h, w].
        radius: in cells.
        edge: whether cells outside repeat the nearest one inside; otherwise they are not set.
    """
    count = mask.astype(jnp.int32)
    mode = "edge" if edge else "constant"
    for axis in (1, 2):
        pads = [(radius, radius) if i == axis else (0, 0) for i in range(3)]
        window = [2 * radius + 1 if i == axis else 1 for i in range(3)]
        count = jnp.pad(count, pads, mode=mode)
        count = jax.lax.reduce_window(count, 0, jax.lax.add, window, (1, 1, 1), "valid")
    return count


def confident(conf: Array, pixel: Array, band: Array | None = None, reach: int = 1) -> Array:
    """Which pixels count as confident: bool [B, h, w].

    Args:
        conf: float32 [B, h, w].
        pixel: threshold, scalar.
        band: bool [B, h, w], where the median of the (4 * reach + 1)^2 confidences around decides (eq. 9); the map's
            rim is repeated outwards. None = nowhere.
        reach: in cells.
    """
    return smoothed(conf >= pixel, band, reach)


def smoothed(sure: Array, band: Array | None, reach: int) -> Array:
    """`sure`, and inside the band what most of the (4 * reach + 1)^2 around are."""
    if band is None:
        return sure
    window = (4 * reach + 1) ** 2
    return jnp.where(band, 2 * box_count(sure, 2 * reach, edge=True) > window, sure)


def image_confidence(
    logits: Array, policy: Policy, pixel: Array, numbers: NumbersArch | None = None
) -> Array:
    """One number in [0, 1] per image: float32 [B] from logits [B, h, w, K].

    Of an int8 network: int32 in units of 1 / `WHOLE`, and `pixel` as `whole` gives it. A pixel's largest probability is
    2^15 over the sum of exp(score - largest score), taken from a table in units of 2^-15.

    Raises:
        UserError: entropy of an int8 network.
    """
    if numbers is not None and numbers.in_codes:
        return _confidence_of_codes(logits, policy, pixel, numbers.codes.score_step)
    conf = confidence(logits, policy.confidence)
    if policy.measure == MEAN:
        return jnp.mean(conf, axis=(1, 2))
    band = None
    if policy.smooth:
        band = border_band(jnp.argmax(logits, axis=-1), policy.reach)
    return jnp.mean(confident(conf, pixel, band, policy.reach), axis=(1, 2), dtype=jnp.float32)


def _confidence_of_codes(codes: Array, policy: Policy, pixel: Array, step: float) -> Array:
    if policy.confidence != TOP1:
        raise UserError(
            "confidence of an int8 network", got=policy.confidence, expected=TOP1, do="needs no log"
        )
    below = jnp.max(codes, axis=-1, keepdims=True).astype(jnp.int32) - codes
    total = jnp.sum(jnp.take(jnp.asarray(exponentials(step)), below), axis=-1)
    cells = total.shape[1] * total.shape[2]
    if policy.measure == MEAN:
        each = jax.lax.div(jnp.full_like(total, WHOLE << CONFIDENCE_BITS), total)
    else:
        sure, band = total <= pixel, None
        if policy.smooth:
            band = border_band(jnp.argmax(codes, axis=-1), policy.reach)
        each = smoothed(sure, band, policy.reach).astype(jnp.int32) * WHOLE
    if cells * WHOLE >= 2**31:
        raise UserError("cells of an answer", got=cells, expected=f"below {2**31 // WHOLE}")
    count = jnp.sum(each, axis=(1, 2))
    return jax.lax.div(count, jnp.full_like(count, cells))


# --- The policy ---


def route(logits: Array, policy: Policy, limits: Thresholds) -> Routed:
    """Every image leaves at its first exit that is confident enough, else at the last: one scan over E.

    All answers are computed already, so this saves nothing: it tells who leaves where (in training, in a search, for
    answers that come anyway). `inference.multi_exit` skips.

    Args:
        logits: float [E, B, h, w, K], on one grid.
        policy: the measure.
        limits: thresholds of the E - 1 early ones.
    """
    early = logits.shape[0] - 1
    if limits.image.shape != (early,):
        raise ValueError(f"{limits.image.shape} thresholds for {early} early exits")

    def visit(state: tuple[Array, Array], exit_: tuple[Array, Array, Array, Array]):
        answer, taken = state
        index, candidate, pixel, image = exit_
        score = image_confidence(candidate, policy, pixel)
        leaves = (taken == early) & (score >= image)
        answer = jnp.where(leaves[:, None, None, None], candidate, answer)
        return (answer, jnp.where(leaves, index, taken)), score

    start = logits[-1], jnp.full(logits.shape[1:2], early, jnp.int32)
    steps = jnp.arange(early, dtype=jnp.int32), logits[:-1], limits.pixel, limits.image
    (answer, taken), scores = jax.lax.scan(visit, start, steps)
    return Routed(answer, taken, scores)


def _padded(mask: Array, axis: int, before: int, after: int) -> Array:
    return jnp.pad(mask, [(before, after) if i == axis else (0, 0) for i in range(mask.ndim)])
