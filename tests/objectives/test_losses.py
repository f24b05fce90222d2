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
