"""Cross-entropy against float64 numpy, void rule, weights, smoothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.objectives import losses
from jaxseg.types import IGNORE_LABEL


def reference(logits, label, image_weight, class_weights, smoothing):
    """Pixel by pixel in float64."""
    total = count = 0.0
    num_classes = logits.shape[-1]
    for b, y, x in np.ndindex(label.shape):
        k = int(label[b, y, x])
        if k == IGNORE_LABEL:
            continue
        z = logits[b, y, x].astype(np.float64)
        log_p = z - z.max() - np.log(np.exp(z - z.max()).sum())
        loss = -(1 - smoothing) * log_p[k] - smoothing * log_p.sum() / num_classes
        weight = float(image_weight[b]) * (class_weights[k] if class_weights else 1.0)
        total, count = total + weight * loss, count + weight
    return total, count


@pytest.fixture
def example():
    rng = np.random.default_rng(3)
    label = rng.integers(0, 5, (2, 6, 7)).astype(np.uint8)
    label[0, :3] = IGNORE_LABEL
    return rng.normal(0, 4, (2, 6, 7, 5)).astype(np.float32), label


@pytest.mark.parametrize("class_weights", [(), (0.5, 1.0, 2.0, 3.0, 0.1)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_matches_float64(example, class_weights, smoothing):
    logits, label = example
    weight = np.array([1.0, 0.25], np.float32)
    got = losses.cross_entropy(
        logits, label, weight, class_weights=class_weights, label_smoothing=smoothing
    )
    want = reference(logits, label, weight, class_weights, smoothing)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_all_void_is_zero_with_zero_gradient(example):
    logits, label = example
    void = np.full_like(label, IGNORE_LABEL)
    ones = np.ones(2, np.float32)

    def mean(z):
        return losses.mean(*losses.cross_entropy(z, void, ones))

    value, grad = jax.value_and_grad(mean)(jnp.asarray(logits))
    assert float(value) == 0.0
    assert not np.any(np.asarray(grad))


def test_void_pixels_do_not_matter_even_when_infinite(example):
    logits, label = example
    ones = np.ones(2, np.float32)
    spoiled = logits.copy()
    spoiled[label == IGNORE_LABEL] = 1e30
    clean = losses.cross_entropy(logits, label, ones)
    np.testing.assert_array_equal(clean, losses.cross_entropy(spoiled, label, ones))


def test_padding_images_do_not_matter(example):
    logits, label = example
    one = losses.cross_entropy(logits[:1], label[:1], np.ones(1, np.float32))
    padded = losses.cross_entropy(logits, label, np.array([1, 0], np.float32))
    np.testing.assert_allclose(one, padded, rtol=1e-6)


def test_smoothing_has_its_closed_form_on_uniform_logits():
    logits, label = np.zeros((1, 2, 2, 4), np.float32), np.ones((1, 2, 2), np.uint8)
    total, count = losses.cross_entropy(logits, label, np.ones(1, np.float32), label_smoothing=0.3)
    np.testing.assert_allclose(total / count, np.log(4.0), rtol=1e-6)


def test_focal_with_gamma_zero_is_cross_entropy(example):
    logits, label = example
    weight = np.array([1.0, 0.25], np.float32)
    got = losses.focal(logits, label, weight, class_weights=(0.5, 1.0, 2.0, 3.0, 0.1), gamma=0.0)
    want = losses.cross_entropy(logits, label, weight, class_weights=(0.5, 1.0, 2.0, 3.0, 0.1))
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_of_a_certain_answer_is_zero_with_zero_gradient(gamma):
    """The slope of x^0.5 at 0 is infinite; that of the loss is not."""
    logits, label = jnp.array([200.0, 0.0, 0.0]).reshape(1, 1, 1, 3), np.zeros((1, 1, 1), np.uint8)
    total = lambda z: losses.focal(z, label, np.ones(1, np.float32), gamma=gamma)[0]  # noqa: E731
    value, grad = jax.jit(jax.value_and_grad(total))(logits)
    assert float(value) == 0.0 and not np.any(np.asarray(grad))


def test_ohem_that_keeps_all_is_cross_entropy(example):
    """Of one image; over several images OHEM is a mean of means."""
    logits, label = example[0][:1], example[1][:1]
    one = np.ones(1, np.float32)
    weights = (0.5, 1.0, 2.0, 3.0, 0.1)
    want = losses.mean(*losses.cross_entropy(logits, label, one, class_weights=weights))
    for options in ({"keep_frac": 1.0, "threshold": 0.0}, {"threshold": 1.0}):
        got = losses.mean(*losses.ohem(logits, label, one, class_weights=weights, **options))
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_ohem_shares_the_last_place_among_equals():
    """Two places for one hard and three equal pixels: each of the three gets a third of the second place."""
    logits = jnp.array([0.0, 3.0, 3.0, 3.0, 9.0, 9.0, 9.0, 9.0])[None, None, :, None]
    logits = jnp.concatenate([logits, jnp.zeros_like(logits)], axis=-1)
    label = np.zeros((1, 1, 8), np.uint8)
    one = np.ones(1, np.float32)
    total = lambda z: losses.ohem(z, label, one, threshold=0.4, keep_frac=0.25)[0]  # noqa: E731
    value, grad = jax.jit(jax.value_and_grad(total))(logits)
    loss = np.log1p(np.exp(-np.array([0.0, 3.0])))
    np.testing.assert_allclose(value, loss.mean(), rtol=1e-6)
    slope = -1 / (1 + np.exp([0.0, 3.0, 3.0, 3.0])) / [2, 6, 6, 6]
    np.testing.assert_allclose(grad[0, 0, :, 0], [*slope, 0, 0, 0, 0], rtol=1e-5)


def test_ohem_cut_is_the_kth_greatest():
    """Bit by bit against a sort, over many magnitudes, zeros and an infinity among them."""
    rng = np.random.default_rng(0)
    loss = np.exp(rng.normal(0, 20, (3, 8, 16))).astype(np.float32)
    loss[0, :4], loss[1, 0, 0] = -0.0, np.inf
    valid = rng.random(loss.shape) < 0.7
    for frac in (0.01, 0.25, 0.5, 1.0):
        share = np.asarray(losses._hard(jnp.asarray(loss), valid, 0.0, frac))
        for b in range(3):
            k = int(np.ceil(np.float32(frac) * np.float32(valid[b].sum())))
            cut = np.sort(np.abs(loss[b][valid[b]]))[-k]
            np.testing.assert_allclose(share[b].sum(), k, rtol=1e-6)
            assert not share[b][~valid[b]].any()
            assert (share[b][valid[b] & (loss[b] > cut)] == 1).all()
            assert not share[b][valid[b] & (loss[b] < cut)].any()
