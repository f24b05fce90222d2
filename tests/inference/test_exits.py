"""Exit policies against float64 references by loops (M6, M7)."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.inference import exits
from jaxseg.inference.exits import NEVER, Policy, thresholds
from jaxseg.types import Outputs

E, B, H, W, K = 4, 5, 9, 12, 3


def answers(seed=0, scale=2.0):
    """Logits in patches of one favourite class, so that borders are a part of the map and not all of it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.0, (E, B, H, W, K))
    favourite = rng.integers(0, K, (E, B, 3, 3)).repeat(3, axis=2).repeat(4, axis=3)
    logits += scale * rng.uniform(0.2, 2, (E, B, 1, 1, 1)) * np.eye(K)[favourite]
    return logits.astype(np.float32)


def reference_confidence(logits, kind):
    logits = logits.astype(np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    if kind == "top1":
        return p.max(-1)
    return 1 + (p * np.log(p)).sum(-1) / np.log(logits.shape[-1])


def reference_band(labels, reach):
    """Pixel by pixel: near a pixel that has another label beside it."""
    height, width = labels.shape
    border = np.zeros(labels.shape, bool)
    for r in range(height):
        for c in range(width):
            for dr, dc in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                if 0 <= r + dr < height and 0 <= c + dc < width:
                    border[r, c] |= labels[r, c] != labels[r + dr, c + dc]
    band = np.zeros_like(border)
    for r, c in zip(*np.nonzero(border), strict=True):
        band[max(r - reach, 0) : r + reach + 1, max(c - reach, 0) : c + reach + 1] = True
    return band


def reference_share(logits, kind, pixel, reach):
    """Equations 7 to 9 to the letter: a median of 5 x 5 (reach 1), then the comparison."""
    conf = reference_confidence(logits, kind)
    band = reference_band(logits.argmax(-1), reach)
    wide = np.pad(conf, 2 * reach, mode="edge")
    smoothed = conf.copy()
    for r, c in zip(*np.nonzero(band), strict=True):
        smoothed[r, c] = np.median(wide[r : r + 4 * reach + 1, c : c + 4 * reach + 1])
    return np.mean(smoothed >= pixel)


@pytest.mark.parametrize("kind", exits.CONFIDENCES)
def test_confidence_against_float64(kind):
    logits = answers()
    found = exits.confidence(logits, kind)
    np.testing.assert_allclose(found, reference_confidence(logits, kind), atol=2e-6)
    flat = exits.confidence(jnp.zeros((1, 2, 2, K)), kind)
    np.testing.assert_allclose(flat, 1 / K if kind == "top1" else 0.0, atol=1e-6)
    sure = exits.confidence(jnp.array([1e4, 0.0, 0.0]).reshape(1, 1, 1, K), kind)
    np.testing.assert_array_equal(sure, 1.0)
    assert np.all((found >= 0) & (found <= 1))


@pytest.mark.parametrize("reach", [1, 2])
@pytest.mark.parametrize("kind", exits.CONFIDENCES)
def test_smoothed_share_equals_a_median_by_loops(kind, reach):
    logits = answers()[0]
    for pixel in (0.0, 0.45, 0.6, 0.8, 1.0):
        policy = Policy(kind, smooth=True, reach=reach)
        found = exits.image_confidence(logits, policy, jnp.float32(pixel))
        expected = [reference_share(image, kind, pixel, reach) for image in logits]
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("reach", [1, 2, 3])
def test_border_band_against_loops(reach):
    labels = answers()[0].argmax(-1)
    expected = np.stack([reference_band(label, reach) for label in labels])
    np.testing.assert_array_equal(exits.border_band(labels, reach), expected)
    assert expected.any() and not exits.border_band(np.zeros((1, H, W), np.int32), reach).any()


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("kind", exits.CONFIDENCES)
def test_share_falls_with_the_threshold_from_one(kind, smooth):
    policy = Policy(kind, smooth=smooth)
    shares = [
        exits.image_confidence(answers()[1], policy, jnp.float32(t)) for t in np.linspace(0, 1, 9)
    ]
    shares = np.stack(shares)
    np.testing.assert_array_equal(shares[0], 1.0)
    assert np.all(np.diff(shares, axis=0) <= 0) and shares[-1].max() < 0.5


def test_smoothing_forgives_an_unsure_border():
    """Two sure regions, unsure in the two columns between them: less than half of the window of 5."""
    logits = np.zeros((1, H, W, 2), np.float32)
    logits[:, :, :6, 0] = logits[:, :, 6:, 1] = 8.0
    logits[:, :, 5, 0] = logits[:, :, 6, 1] = 0.1
    rough, smooth = (
        float(exits.image_confidence(logits, Policy(smooth=s), jnp.float32(0.9))[0])
        for s in (False, True)
    )
    assert (rough, smooth) == (pytest.approx(10 / 12), 1.0)
    # A uniform map has no band, and nothing changes.
    uniform = np.abs(answers()[0]) * np.array([1, 0, 0], np.float32)
    for t in (0.4, 0.5, 0.6):
        a, b = (exits.image_confidence(uniform, Policy(smooth=s), t) for s in (False, True))
        np.testing.assert_array_equal(a, b)


def test_mean_confidence_is_the_mean():
    logits = answers()[0]
    found = exits.image_confidence(logits, Policy(measure="mean"), jnp.float32(0.3))
    expected = reference_confidence(logits, "top1").mean((1, 2))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("measure", exits.MEASURES)
def test_route_is_the_first_exit_that_is_sure(measure):
    logits = answers()
    policy = Policy(measure=measure)
    scores = np.stack(
        [exits.image_confidence(x, policy, jnp.float32(0.6)) for x in logits[:-1]]
    )  # [E - 1, B]
    limits = np.quantile(scores, 0.7, axis=1)
    routed = jax.jit(exits.route, static_argnums=1)(logits, policy, thresholds(0.6, limits))
    np.testing.assert_allclose(routed.scores, scores, atol=1e-6)
    for image in range(B):
        sure = np.nonzero(scores[:, image] >= limits.astype(np.float32))[0]
        expected = sure[0] if sure.size else E - 1
        assert routed.taken[image] == expected
        np.testing.assert_array_equal(routed.logits[image], logits[expected, image])
    assert len(set(np.asarray(routed.taken).tolist())) > 1, "the example must tell exits apart"


def test_the_limits_of_the_policy():
    """Threshold 0: all leave at the first exit. Never: all reach the last. A 'never' in between is passed by."""
    logits = answers()
    for image, taken in (((0, 0, 0), 0), ((NEVER,) * 3, E - 1), ((NEVER, 0, 0), 1)):
        routed = exits.route(logits, Policy(), thresholds(0.5, image))
        np.testing.assert_array_equal(routed.taken, taken)
        np.testing.assert_array_equal(routed.logits, logits[taken])


def test_stacked_answers_lie_on_the_final_grid_in_order():
    rng = np.random.default_rng(0)
    maps = {f"exit_{i}": rng.normal(size=(B, 4, 6, K)).astype(np.float32) for i in range(11)}
    final = rng.normal(size=(B, 8, 12, K)).astype(np.float32)
    found = exits.stacked(Outputs(final, {}, maps))
    chex.assert_shape(found, (12, B, 8, 12, K))
    np.testing.assert_array_equal(found[-1], final)
    np.testing.assert_array_equal(found[10], exits.resize_bilinear(maps["exit_10"], (8, 12)))
    coarse = exits.stacked(Outputs(final, {}, maps), (4, 6))
    np.testing.assert_array_equal(coarse[2], maps["exit_2"])


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda: Policy("top2"), "did you mean 'top1'"),
        (lambda: Policy(measure="pixel"), "did you mean 'pixels'"),
        (lambda: Policy(reach=0), "reach of the smoothing: got 0"),
        (lambda: thresholds((0.5, 0.5), (0.1,)), "got 2 numbers; expected 1"),
        (lambda: thresholds(1.5, (0.1,)), r"expected numbers in \[0, 1\]"),
    ],
)
def test_mistakes_are_one_line(act, words):
    with pytest.raises(UserError, match=words):
        act()
