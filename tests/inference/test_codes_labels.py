"""Labels and confidences of scores that are int8 codes: in whole numbers, to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.inference import exits, labelling
from jaxseg.inference.exits import NEVER, WHOLE, Policy, image_confidence, limits_for
from jaxseg.inference.labelling import labels_at
from jaxseg.numbers import CodesArch, NumbersArch
from jaxseg.quant import reference, scaling
from tests.inference.test_exits import reference_band


def drawn(*shape, most=127, seed=0):
    rng = np.random.default_rng((seed, *shape))
    return rng.integers(-most, most + 1, shape).astype(np.int8)


# --- Labels ---


@pytest.mark.parametrize("large", [False, True], ids=["all tiles", "tiles on borders"])
@pytest.mark.parametrize("scale", [2, 3, 4, 8, 9, 16])
def test_labels_at_whole_factors(monkeypatch, scale, large):
    """Up to 8 mixtures fit into 16 bits. Few codes, so that many scores are equal: the first has it."""
    monkeypatch.setattr(labelling, "LARGE", 0 if large else 2**40)
    monkeypatch.setattr(labelling, "TILES", 32)
    size = (7 * scale, 5 * scale)
    for most, classes in ((1, 4), (127, 3), (2, labelling.UNROLLED + 2)):
        scores = drawn(2, 7, 5, classes, most=most)
        if most == 127:
            scores[0] = np.where(scores[0] > 0, 127, -127)
        found = np.asarray(jax.jit(lambda x: labels_at(x, size))(scores))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, reference.labels(scores, size))


@pytest.mark.parametrize(
    "size, to",
    [
        *(((7, 5), (20, 31)), ((7, 5), (7, 5)), ((7, 5), (4, 3)), ((7, 5), (14, 20))),
        *(((1, 1), (9, 4)), ((5, 8), (39, 63)), ((1, 6), (13, 6))),
    ],
    ids=str,
)
def test_labels_at_other_sizes(size, to):
    for most, classes in ((1, 4), (127, 3), (2, labelling.UNROLLED + 2)):
        scores = drawn(2, *size, classes, most=most)
        found = jax.jit(lambda x: labels_at(x, to))(scores)
        np.testing.assert_array_equal(found, reference.labels(scores, to))


def test_of_equals_the_first():
    """Halfway between 10 and 20, 20 and 10, in both forms."""
    scores = np.int8([[[[10, 20], [20, 10]]]])
    np.testing.assert_array_equal(labels_at(jnp.asarray(scores), (1, 3)), [[[1, 0, 0]]])
    np.testing.assert_array_equal(labels_at(jnp.asarray(scores[..., ::-1]), (1, 3)), [[[0, 0, 1]]])
    found = labels_at(jnp.zeros((1, 3, 4, 5), jnp.int8), (9, 12))
    assert not np.any(found)


def test_sizes_whose_mixtures_32_bits_do_not_hold_are_one_line():
    scores = jax.ShapeDtypeStruct((1, 32, 32, 4), np.int8)
    jax.eval_shape(lambda x: labels_at(x, (2055, 2055)), scores)
    with pytest.raises(UserError, match="multiples of the network's stride") as error:
        jax.eval_shape(lambda x: labels_at(x, (2063, 2063)), scores)
    assert "\n" not in str(error.value)


# --- Confidences ---


def numbers(step):
    return NumbersArch(compute="int8", norm="folded", codes=CodesArch(1.0, step))


def probabilities(codes, step):
    """The largest softmax probability in float64."""
    scores = codes.astype(np.float64) * step
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return 1 / powers.sum(-1)


@pytest.mark.parametrize("classes, step", [(2, 0.03), (5, 0.05), (21, 0.04), (150, 2.0**-4)])
def test_confident_pixels_are_those_of_a_softmax(classes, step):
    """Every pixel is an image of its own; all but one in a thousand are decided as float64 does."""
    rng = np.random.default_rng(0)
    spread = rng.uniform(5, 60, (20_000, 1, 1, 1))
    codes = np.clip(np.rint(rng.normal(0, spread, (20_000, 1, 1, classes))), -127, 127)
    codes = codes.astype(np.int8)
    sure = probabilities(codes, step)[:, 0, 0]
    for pixel in (0.3, 0.5, 0.8, 0.9, 0.99):
        limits = limits_for(numbers(step), pixel, (0.5,))
        found = image_confidence(codes, Policy(smooth=False), limits.pixel[0], numbers(step))
        assert found.dtype == jnp.int32 and set(np.unique(found)) <= {0, WHOLE}
        assert np.mean((np.asarray(found) == WHOLE) == (sure >= pixel)) >= 0.999
        # In whole numbers they are the same to the last one.
        total = reference.total_powers(codes, scaling.exponentials(step))[:, 0, 0]
        np.testing.assert_array_equal(
            np.asarray(found) == WHOLE, total <= int(2**15 / np.float32(pixel))
        )
    mean = image_confidence(codes, Policy(measure="mean"), limits.pixel[0], numbers(step))
    np.testing.assert_allclose(np.asarray(mean) / WHOLE, sure, atol=0.004)


@pytest.mark.parametrize("reach", [1, 2])
def test_smoothing_of_codes_equals_loops(reach):
    """Shares of confident pixels, near borders decided by most of those around; rounded down to 1 / 8192."""
    rng = np.random.default_rng(1)
    favourite = rng.integers(0, 3, (4, 3, 4)).repeat(4, 1).repeat(4, 2)
    codes = rng.normal(0, 20, (4, 12, 16, 3)) + 60 * np.eye(3)[favourite] * rng.uniform(
        0, 2, (4, 1, 1, 1)
    )
    codes = np.clip(codes, -127, 127).astype(np.int8)
    total = reference.total_powers(codes, scaling.exponentials(0.02))
    for pixel in (0.5, 0.6, 0.8):
        limit = limits_for(numbers(0.02), pixel, (0.5,)).pixel[0]
        sure = total <= limit
        wide = np.pad(sure, ((0, 0), *((2 * reach,) * 2,) * 2), mode="edge")
        expected = sure.copy()
        for i, image in enumerate(codes):
            for r, c in zip(*np.nonzero(reference_band(image.argmax(-1), reach)), strict=True):
                window = wide[i, r : r + 4 * reach + 1, c : c + 4 * reach + 1]
                expected[i, r, c] = 2 * window.sum() > window.size
        assert np.any(expected != sure) and np.any(expected) and not np.all(expected)
        found = image_confidence(codes, Policy(reach=reach), limit, numbers(0.02))
        np.testing.assert_array_equal(found, WHOLE * expected.sum((1, 2)) // (12 * 16))


def test_thresholds_in_whole_numbers():
    found = limits_for(numbers(0.1), (0.5, 1.0, 0.0), (0.0, 1.0, NEVER))
    assert {x.dtype for x in found} == {np.dtype(np.int32)}
    assert found.pixel.tolist() == [2**16, 2**15, 2**30]
    assert found.image.tolist() == [0, WHOLE, 2 * WHOLE]
    rounded_up = limits_for(numbers(0.1), 0.5, (0.3, 1 / WHOLE)).image
    assert rounded_up.tolist() == [2458, 1]  # 0.3 of 8192 are 2457.6: so many do not reach it
    floats = limits_for(NumbersArch(), 0.5, (0.25,))
    assert [float(x[0]) for x in floats] == [0.5, 0.25]
    # Where all but the best are too small to count, an image is wholly sure, and else not.
    codes = np.int8([[[[127, -127]]], [[[127, 126]]]])
    sure = image_confidence(codes, Policy(smooth=False), found.pixel[1], numbers(0.1))
    assert sure.tolist() == [WHOLE, 0]
    assert image_confidence(codes, Policy(), found.pixel[2], numbers(0.1)).tolist() == [WHOLE] * 2


def test_entropy_is_refused_in_one_line():
    for measure in exits.MEASURES:
        policy = Policy("entropy", measure)
        with pytest.raises(UserError, match="confidence of an int8 network: got entropy") as error:
            image_confidence(drawn(1, 2, 2, 3), policy, np.int32(9), numbers(0.1))
        assert "\n" not in str(error.value) and "top1" in str(error.value)
