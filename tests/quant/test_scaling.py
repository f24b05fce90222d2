"""Whole numbers for rescaling: as near as they promise, within what 32 bits hold, tables as their definitions."""

import math
from fractions import Fraction

import jax
import numpy as np
import pytest

from jaxseg.quant import codes, reference, scaling

LARGEST = 2**31 - 1
CARDS = {
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    "plain": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "bright": ((0.9, 0.95, 1.0), (0.05, 0.1, 0.3)),
    "Cityscapes": ((0.2869, 0.3251, 0.2839), (0.1870, 0.1902, 0.1872)),
}


def draws(n, least, most, seed=0):
    """Numbers of either sign, their sizes evenly spread over powers of two from 2^least to 2^most."""
    rng = np.random.default_rng(seed)
    return 2.0 ** rng.uniform(least, most, n) * rng.choice([-1, 1], n)


# --- Ratios and offsets ---


@pytest.mark.parametrize("most_shift", [scaling.MOST_SHIFT, 18, 9])
def test_affine_is_within_half_a_step_and_no_finer_step_fits(most_shift):
    ratio, offset = draws(3000, -25, 10), draws(3000, -12, 7.5, seed=1)
    found = scaling.affine(ratio, offset, most_shift)
    assert [x.dtype for x in found] == [np.int16, np.int32, np.int8]
    m, c, s = (x.astype(np.int64) for x in found)
    assert scaling.fits(m, c, s).all() and s.min() >= 1 and s.max() <= most_shift
    assert len(set(s.tolist())) > 3
    for exact, whole in ((ratio, m), (offset, c)):
        # Powers of two only: float64 holds both sides exactly.
        assert np.all(np.abs(exact * 2.0**s - whole) <= 0.5)
    finer = s < most_shift
    finer_m, finer_c = (np.rint(x * 2.0 ** (s + 1))[finer] for x in (ratio, offset))
    assert finer.any() and not scaling.fits(finer_m, finer_c, s[finer] + 1).any()


def test_affine_uses_most_of_its_bits_where_offsets_are_small():
    m, _, s = scaling.affine(draws(1000, -7, 6), np.zeros(1000))
    assert np.abs(m.astype(np.int64)).min() >= 2 ** (scaling.MULTIPLIER_BITS - 1) - 1
    assert s.max() == scaling.MOST_SHIFT


@pytest.mark.parametrize(
    "ratio, offset",
    [(2.0**14, 0.0), (-(2.0**15), 0.0), (1.0, 2.0**29), (1.0, -(2.0**30)), (math.inf, 0.0)],
)
def test_affine_says_what_no_numbers_hold(ratio, offset):
    with pytest.raises(
        OverflowError, match=f"ratio {ratio:.3g}, offset {offset:.3g}".replace("+", ".")
    ):
        scaling.affine(np.array([1.0, ratio]), np.array([0.0, offset]))


def triples(n):
    """(ratio, offset, whole numbers from which they come): a few of them beyond every bound."""
    rng = np.random.default_rng(2)
    m = rng.integers(-(2**16), 2**16, n) >> rng.integers(0, 16, n)
    c = rng.integers(-(2**31), 2**31, n) >> rng.integers(0, 31, n)
    s = rng.integers(0, 24, n)
    return [
        (Fraction(*map(int, (a, 2**k))), Fraction(*map(int, (b, 2**k))))
        for a, b, k in zip(m, c, s, strict=True)
    ]


def test_exact_affine_is_exact_or_refuses():
    refused = 0
    for ratio, offset in triples(1500):
        whole = [
            (ratio * 2**s, offset * 2**s, s)
            for s in range(1, scaling.MOST_SHIFT + 1)
            if (ratio * 2**s).denominator == (offset * 2**s).denominator == 1
        ]
        possible = any(scaling.fits(int(m), int(c), s) for m, c, s in whole)
        try:
            m, c, s = scaling.exact_affine(np.array([float(ratio)]), np.array([float(offset)]))
        except OverflowError:
            assert not possible
            refused += 1
            continue
        one = Fraction(1, 2 ** int(s[0]))
        assert (int(m[0]) * one, int(c[0]) * one) == (ratio, offset)
        assert scaling.fits(m, c, s).all()
    assert 100 < refused < 1000


def test_what_is_no_fraction_of_a_power_of_two_has_no_exact_numbers():
    for ratio, offset in ((1 / 3, 0.0), (1.0, 0.1), (2.0**-22, 0.0), (1.0, 2.0**-22)):
        with pytest.raises(OverflowError):
            scaling.exact_affine(np.array([1.0, ratio]), np.array([0.5, offset]))


# --- Bounds ---


def multipliers():
    edges = [n + d for n in 2 ** np.arange(15) for d in (-1, 0, 1)] + [2**15 - 1]
    drawn = np.random.default_rng(3).integers(1, 2**15, 30)
    whole = np.unique(np.array([0, *edges, *drawn]))
    whole = whole[whole < 2**15]
    return np.concatenate([whole, -whole])


def most_offset(m, s):
    """The largest offset that fits, or -1 if none does."""
    low, high = -1, 2**30
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if scaling.fits(m, middle, s) else (low, middle)
    return low


def at_the_limits():
    """Triples that just fit, and those one beyond them."""
    inside, beyond = [], []
    for s in (*range(1, 22, 4), 20, 21):
        for m in multipliers():
            c = most_offset(m, s)
            if c >= 0:
                inside += [(m, sign * b, s) for sign in (1, -1) for b in {c, c // 2, min(c, 1)}]
            beyond += [(m, c + 1, s), (m, -c - 1, s)]
    return np.array(inside), np.array(beyond)


def hard_sums(m, c, s):
    """Sums [N, C]: at the ends, where products are clipped, and where codes turn."""
    m, c, s = (np.asarray(x, np.int64) for x in (m, c, s))
    most = 2**30 >> np.frexp(np.abs(m))[1].astype(np.int64)
    rows = [np.zeros_like(m), np.full_like(m, LARGEST), most]
    divisor = np.where(m == 0, 1, m)
    for code in (0, 1, 2, 63, 126, 127, 128, 129, 130):
        for sign in (1, -1):
            # Halfway between two codes.
            rows.append(((2 * sign * code + 1) * 2 ** (s - 1) - c) // divisor)
    drawn = np.random.default_rng(4).integers(-LARGEST, LARGEST + 1, (12, len(m)))
    rows += list(drawn >> np.arange(0, 24, 2)[:, None])
    rows = np.stack([sign * row + d for row in rows for sign in (1, -1) for d in (-1, 0, 1)])
    return np.clip(rows, -LARGEST, LARGEST)


rescaled = jax.jit(codes.rescaled)


def test_what_fits_is_right_for_every_sum():
    """32 bits against 64, at the largest offsets that `fits` allows."""
    inside, _ = at_the_limits()
    m, c, s = inside.T
    assert scaling.fits(m, c, s).all() and len(inside) > 1000
    assert np.abs(c).max() > 2**29 and np.abs(m).max() == 2**15 - 1
    totals = hard_sums(m, c, s)
    expected = reference.rescale(totals, m, c, s)
    for low, high in ((-127, 127), (0, 127), (0, 90), (-128, 127)):
        found = rescaled(
            totals.astype(np.int32),
            m.astype(np.int16),
            c.astype(np.int32),
            s.astype(np.int8),
            low,
            high,
        )
        assert found.dtype == np.int8
        np.testing.assert_array_equal(found, np.clip(expected, low, high))
    clipped = np.clip(expected, -127, 127)
    assert len(np.unique(clipped)) == 255


def test_numbers_as_conversion_finds_them_are_right_for_every_sum():
    ratio, offset = draws(4000, -25, 10), draws(4000, -12, 7.5, seed=1)
    found = scaling.affine(ratio, offset)
    totals = hard_sums(*found)
    expected = np.clip(reference.rescale(totals, *found), -127, 127)
    np.testing.assert_array_equal(rescaled(totals.astype(np.int32), *found, -127, 127), expected)


def test_what_does_not_fit_is_refused_and_would_go_wrong():
    _, beyond = at_the_limits()
    assert not scaling.fits(*beyond.T).any()
    for m, c, s in (
        (2**15, 0, 9),
        (-(2**15), 0, 9),
        (1, 0, 0),
        (1, 0, 22),
        (1, 0, -1),
        (0, 2**30, 9),
    ):
        assert not scaling.fits(m, c, s)
    assert not scaling.fits(np.int16(-(2**15)), np.int32(0), np.int8(9))
    assert not scaling.fits(np.int16(1), np.int32(-(2**31)), np.int8(9))
    # One that would be wrong: its sum is clipped where the code is not.
    m, c, s, total = 2**14, -(2**29), 10, 2**20
    assert not scaling.fits(m, c, s)
    found = rescaled(*(np.int32([[x]]) for x in (total,)), *map(np.int32, (m, c, s)), -127, 127)
    assert int(found[0, 0]) != np.clip(reference.rescale(total, m, c, s), -127, 127)


# --- Sums of maps ---


def test_weights_of_sums_are_within_half_a_step():
    rng = np.random.default_rng(5)
    for _ in range(500):
        ratios = np.abs(draws(rng.integers(1, 4), -10, 13.5, seed=rng.integers(2**30)))
        found = scaling.sums(ratios.tolist())
        m, shift = found.multiplier.astype(np.int64), int(found.shift)
        assert found.multiplier.dtype == np.int16 and found.shift.dtype == np.int8
        assert found.offset == 0 and 1 <= shift <= scaling.MULTIPLIER_BITS
        assert np.all(np.abs(ratios * 2.0**shift - m) <= 0.5) and m.max() < 2**15
        finer = np.rint(ratios * 2.0 ** (shift + 1)).max() >= 2**15
        assert finer or shift == scaling.MULTIPLIER_BITS


def test_weights_of_sums_are_exact_where_they_can_be():
    for ratios in ((1.0, 1.0), (0.5, 2.0), (2.0**-10, 1.0), (0.75, 0.25), (2.0**13, 0.5)):
        found = scaling.sums(ratios)
        assert tuple(found.multiplier * 2.0 ** -int(found.shift)) == ratios
    with pytest.raises(OverflowError, match="16384"):
        scaling.sums((16384.0, 1.0))


# --- Images ---


def pixels():
    """Every value in every channel, uint8 [1, 16, 16, 3]."""
    return np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)


def image_steps(mean, std):
    """Of calibrated networks, of those trained on grids, and a coarse one."""
    reach = max(max(m, 1 - m) / s for m, s in zip(mean, std, strict=True))
    return reach / 127, 2.0 ** math.ceil(math.log2(reach)) / 128, reach / 5


@pytest.mark.parametrize("name", CARDS)
def test_every_pixel_is_the_nearest_code_of_its_normalised_value(name):
    mean, std = CARDS[name]
    for step in image_steps(mean, std):
        m, c, shift = scaling.image_affine(mean, std, step)
        assert (m.dtype, c.dtype) == (np.int32, np.int32) and m.shape == c.shape == (3,)
        found = reference.image_codes(pixels(), m, c, shift)
        np.testing.assert_array_equal(codes.image_codes(pixels(), m, c, shift), found)
        value = (pixels() / 255 - np.array(mean)) / np.array(std) / step
        nearest = np.clip(np.rint(value), -127, 127)
        tie = np.abs(np.abs(value - np.floor(value)) - 0.5) < 1e-3
        np.testing.assert_array_equal(found[~tie], nearest[~tie])
        assert np.abs(found - nearest).max() <= 1
        assert len(np.unique(found)) >= 4


def test_a_normalisation_that_32_bits_cannot_hold_is_refused():
    for mean, std, step in (
        ((0.5,) * 3, (1e-6,) * 3, 2.0**-10),
        ((1e6,) * 3, (1.0,) * 3, 2.0**-20),
        ((0.5, 0.5, 1e6), (1.0,) * 3, 2.0**-13),
        ((-1e6, 0, 0), (1.0,) * 3, 2.0**-13),
    ):
        with pytest.raises(OverflowError, match="mean"):
            scaling.image_affine(mean, std, step)


# --- Resizing ---


def matrix(n, length, low, high, weight, one):
    """Int64 [length, n] of one axis, times `one`."""
    found, rows = np.zeros((length, n), np.int64), np.arange(length)
    np.add.at(found, (rows, low), one - weight)
    np.add.at(found, (rows, high), weight)
    return found


LENGTHS = (*range(1, 70), 97, 128, 129, 257, 513, 1025, 1537)


@pytest.mark.parametrize("corners", [False, True], ids=["centres", "corners"])
def test_weights_of_a_resize_are_those_of_the_reference(corners):
    for n in (*range(1, 34), 56, 60):
        for length in LENGTHS:
            found = matrix(n, length, *scaling.resize_weights(n, length, corners), 256)
            expected = matrix(n, length, *reference.resize_line(n, length, corners))
            np.testing.assert_array_equal(found, expected, err_msg=f"{n} to {length}")


def centre(i, n, length):
    return max(Fraction(2 * i + 1, 2) * Fraction(n, length) - Fraction(1, 2), Fraction(0))


def test_exact_weights_are_fractions():
    for n in (1, 2, 3, 5, 7, 8, 12, 33):
        for length in (*range(1, 41), 64, 97, 360):
            low, high, weight, one = scaling.exact_weights(n, length)
            assert low.min() >= 0 and high.max() < n and weight.min() >= 0 and weight.max() <= one
            assert math.gcd(one, *map(int, weight)) == 1 and weight.dtype == np.int32
            for i in range(length):
                at = min(centre(i, n, length), Fraction(n - 1))
                place = int(low[i]) + (int(high[i]) - int(low[i])) * Fraction(int(weight[i]), one)
                assert place == at, (n, length, i)


# --- Tables ---


@pytest.mark.parametrize("step", [2.0**-20, 1 / 128, 1 / 16, 0.1, 1.0, 2.0**20])
def test_exponentials(step):
    table = scaling.exponentials(step)
    assert table.shape == (256,) and table.dtype == np.int32 and table[0] == 2**15
    expected = [round(2**15 * math.exp(-step * d)) for d in range(256)]
    np.testing.assert_array_equal(table, expected)
    assert np.all(np.diff(table) <= 0) and table.min() >= 0


@pytest.mark.parametrize("step", [2.0**-8, 2.0**-12, 0.01, 0.3])
def test_thresholds_count_like_a_rounded_sigmoid(step):
    thresholds = scaling.sigmoid_thresholds(step)
    assert thresholds.shape == (127,) and thresholds.dtype == np.int32
    assert np.all(np.diff(thresholds) >= 0)
    u = np.arange(-int(9 / step), int(9 / step) + 1)
    direct = np.minimum(np.rint(128 / (1 + np.exp(-step * u))), 127)
    np.testing.assert_array_equal(np.searchsorted(thresholds, u, side="right"), direct)
    assert direct.min() == 0 and direct.max() == 127
