"""How sums of products become codes again: value = multiplier * sum + offset, over 2^shift, all whole numbers.

    code = clip(round((sum * multiplier + offset) / 2^shift))         halves to even

is the one equation by which int8 networks rescale. Multipliers have at most 15 bits and a sign, shifts are 1 to 21,
and within `fits` the equation holds in 32-bit arithmetic whatever the sum is (`quant.codes.rescaled`). Numpy only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MOST_SHIFT = 21
MULTIPLIER_BITS = 15
WIDE_BITS = 22
"""Of the image's multipliers: pixels have 8 bits, so products have 30."""

RESIZE_BITS = 8
"""Of the weights of a bilinear resize, per axis: sums have 7 + 2 * 8 bits, as float32 has. Exact for whole factors that
are powers of two, to 128."""

CONFIDENCE_BITS = 15
"""Of the powers whose sum is a softmax's denominator."""


class Affine(NamedTuple):
    """Per channel: multiplier int16, offset int32, shift int8."""

    multiplier: np.ndarray
    offset: np.ndarray
    shift: np.ndarray


CODE_STEPS = 129
"""How far sums must be told apart for codes: beyond, they are clipped."""


def fits(
    multiplier: np.ndarray, offset: np.ndarray, shift: np.ndarray, steps: int = CODE_STEPS
) -> np.ndarray:
    """Whether 32 bits hold sum * multiplier + offset for every sum whose code is not clipped. Per channel.

    Sums are clipped first, to the power of two that keeps products below 2^30 (so they reach 2^29). That changes no
    code: what is clipped is beyond `steps`.
    """
    m, c, s = (np.asarray(v, np.int64) for v in (multiplier, offset, shift))
    inside = (np.abs(m) < 2**MULTIPLIER_BITS) & (s >= 1) & (s <= MOST_SHIFT) & (np.abs(c) < 2**30)
    least = (2**30 >> np.frexp(np.abs(m))[1]) * np.abs(m)  # what a clipped sum still gives
    return inside & ((m == 0) | (least - np.abs(c) >= (steps << np.clip(s, 0, MOST_SHIFT))))


def affine(
    ratio: np.ndarray, offset: np.ndarray, most_shift: int = MOST_SHIFT, steps: int = CODE_STEPS
) -> Affine:
    """The finest whole numbers for code = ratio * sum + offset.

    Args:
        ratio: float64 [C], of either sign. offset: float64 [C], in steps of the code.
        most_shift: of the result. steps: see `fits`.

    Raises:
        OverflowError: a ratio or an offset that no such numbers hold.
    """
    ratio, offset = np.broadcast_arrays(np.asarray(ratio, float), np.asarray(offset, float))
    found = np.zeros((3, *ratio.shape), np.int64)
    done = np.zeros(ratio.shape, bool)
    for shift in range(most_shift, 0, -1):
        m, c = np.rint(ratio * 2.0**shift), np.rint(offset * 2.0**shift)
        ok = ~done & (np.abs(m) < 2**MULTIPLIER_BITS) & (np.abs(c) < 2**30)
        m, c = (np.where(ok, v, 0).astype(np.int64) for v in (m, c))
        ok &= fits(m, c, np.full(ratio.shape, shift), steps)
        found[:, ok] = np.stack([m, c, np.full_like(m, shift)])[:, ok]
        done |= ok
    if not done.all():
        raise OverflowError(f"ratio {ratio[~done][0]:.3g}, offset {offset[~done][0]:.3g}")
    return _stored(*found)


def exact_affine(ratio: np.ndarray, offset: np.ndarray, steps: int = CODE_STEPS) -> Affine:
    """Whole numbers that are exactly code = ratio * sum + offset, both multiples of some 2^-k.

    Raises:
        OverflowError: there are none within bounds.
    """
    ratio, offset = np.broadcast_arrays(np.asarray(ratio, float), np.asarray(offset, float))
    found = np.zeros((3, *ratio.shape), np.int64)
    done = np.zeros(ratio.shape, bool)
    for shift in range(1, MOST_SHIFT + 1):
        m, c = ratio * 2.0**shift, offset * 2.0**shift
        ok = ~done & (m == np.rint(m)) & (c == np.rint(c)) & (np.abs(c) < 2**30)
        m, c = (np.where(ok, v, 0).astype(np.int64) for v in (m, c))
        ok &= fits(m, c, np.full(ratio.shape, shift), steps)
        found[:, ok] = np.stack([m, c, np.full_like(m, shift)])[:, ok]
        done |= ok
    if not done.all():
        raise OverflowError(f"ratio {ratio[~done][0]:.3g}, offset {offset[~done][0]:.3g}")
    return _stored(*found)


def sums(ratios: Sequence[float]) -> Affine:
    """For code = ratios[0] * x + ratios[1] * y + ..: multipliers int16 [n], no offset, one shift.

    Exact where the ratios allow it.
    """
    for shift in range(MULTIPLIER_BITS, 0, -1):
        m = np.rint(np.asarray(ratios) * 2.0**shift)
        if np.abs(m).max() < 2**MULTIPLIER_BITS:
            return Affine(m.astype(np.int16), np.int32(0), np.int8(shift))
    raise OverflowError(f"ratios {ratios}")


@np.errstate(all="ignore")  # what is infinite is refused
def image_affine(
    mean: Sequence[float], std: Sequence[float], step: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """(multipliers int32 [3], offsets int32 [3], shift) from a pixel, 0..255, to (pixel / 255 - mean) / std in steps.

    Raises:
        OverflowError: a normalisation that 32 bits cannot hold.
    """
    mean, std = np.asarray(mean, float), np.asarray(std, float)
    ratio, offset = 1 / (255 * std * step), -mean / (std * step)
    for shift in range(30, 0, -1):
        m, c = np.rint(ratio * 2.0**shift), np.rint(offset * 2.0**shift)
        ends = np.abs([c, 255 * m + c]).max() + 2**shift
        if m.max() < 2**WIDE_BITS and ends < 2**31:
            return m.astype(np.int32), c.astype(np.int32), shift
    raise OverflowError(f"mean {mean}, std {std}")


def resize_weights(n: int, length: int, corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per cell of the result along one axis: the two cells it lies between, and the weight of the second, of 2^8."""
    low, high, frac = sources(n, length, corners)
    return low, high, np.rint(frac * 2**RESIZE_BITS).astype(np.int32)


def sources(n: int, length: int, corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bilinear resizing of an axis from n to `length` cells: per result two cells, and the weight of the second."""
    if corners:
        centre = np.arange(length) * (n - 1) / max(length - 1, 1)
    else:
        centre = np.maximum((np.arange(length) + 0.5) * n / length - 0.5, 0.0)
    low = np.minimum(centre.astype(np.int32), n - 1)
    return low, np.minimum(low + 1, n - 1), centre - low


def exact_weights(n: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """As `sources` without corners, in whole numbers: (low, high, weight of the second, what it is a part of)."""
    low, high, _ = sources(n, length, False)
    twice = np.maximum((2 * np.arange(length) + 1) * n - length, 0)  # centre times 2 length
    part = twice - 2 * length * low.astype(np.int64)
    part = np.where(high == low, 0, part)
    divisor = int(np.gcd.reduce(np.append(part, 2 * length)))
    return low, high, (part // divisor).astype(np.int32), 2 * length // divisor


def exponentials(step: float) -> np.ndarray:
    """int32 [256]: exp(-step * d) of 2^15, for differences d of codes, 0 to 255."""
    return np.rint(np.exp(-step * np.arange(256)) * 2**CONFIDENCE_BITS).astype(np.int32)


def gate_steps(thresholds: np.ndarray) -> int:
    """How far sums must be told apart in front of a gate."""
    return int(np.abs(thresholds.astype(np.int64)).max()) + 2


def sigmoid_thresholds(step: float) -> np.ndarray:
    """int32 [127]: from which whole number u on sigmoid(step * u) rounds to k/128, k = 1..127."""
    k = (np.arange(1, 128) - 0.5) / 128
    return np.ceil(np.log(k / (1 - k)) / step).astype(np.int32)


def _stored(multiplier: np.ndarray, offset: np.ndarray, shift: np.ndarray) -> Affine:
    return Affine(multiplier.astype(np.int16), offset.astype(np.int32), shift.astype(np.int8))
