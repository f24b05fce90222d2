"""Positive filtering distillation against float64 closed forms, and its limits (M5)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.objectives import losses
from jaxseg.objectives.distillation import distillation, kept_pixels
from jaxseg.types import IGNORE_LABEL

B, H, W, K = 2, 5, 7, 4


def example(seed=0):
    rng = np.random.default_rng(seed)
    logits, teacher = rng.normal(0, 2, (2, B, H, W, K)).astype(np.float32)
    label = rng.integers(0, K, (B, H, W)).astype(np.uint8)
    label[rng.random((B, H, W)) < 0.2] = IGNORE_LABEL
    return logits, teacher, label


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def reference(logits, teacher, label, label_weight, teacher_weight):
    """Pixel by pixel: the two sums and the gradients of each."""
    own, aim = log_softmax(logits), log_softmax(teacher)
    sums, gradients = np.zeros(2), np.zeros((2, *logits.shape))
    for at in np.ndindex(label.shape):
        if label[at] != IGNORE_LABEL:
            sums[0] -= label_weight[at] * own[at][label[at]]
            gradients[0][at] = label_weight[at] * (np.exp(own[at]) - np.eye(K)[label[at]])
        sums[1] += teacher_weight[at] * np.sum(np.exp(aim[at]) * (aim[at] - own[at]))
        gradients[1][at] = teacher_weight[at] * (np.exp(own[at]) - np.exp(aim[at]))
    return sums, gradients


def test_sums_and_gradients_against_float64():
    logits, teacher, label = example()
    rng = np.random.default_rng(1)
    valid = label != IGNORE_LABEL
    weights = [(valid * rng.uniform(0, 2, label.shape)).astype(np.float32) for _ in range(2)]
    weights[1][:, 0] = 0
    sums, gradients = reference(logits, teacher, label, *weights)
    found = distillation(logits, teacher, label, *weights)
    np.testing.assert_allclose(found, sums, rtol=1e-5)
    for mix in ((1.0, 0.0), (0.0, 1.0), (0.3, 0.7)):

        def value(x, t, mix=mix):
            a, b = distillation(x, t, label, *weights)
            return mix[0] * a + mix[1] * b

        of_student, of_teacher = jax.grad(value, argnums=(0, 1))(logits, teacher)
        expected = mix[0] * gradients[0] + mix[1] * gradients[1]
        np.testing.assert_allclose(of_student, expected, atol=2e-6)
        np.testing.assert_array_equal(of_teacher, 0.0)


def test_a_student_like_its_teacher_is_at_rest():
    logits, _, label = example()
    nothing, everything = np.zeros(label.shape, np.float32), np.ones(label.shape, np.float32)
    value, gradient = jax.value_and_grad(
        lambda x: distillation(x, logits, label, nothing, everything)[1]
    )(jnp.asarray(logits))
    np.testing.assert_array_equal(value, 0.0)
    np.testing.assert_array_equal(gradient, 0.0)


def test_where_all_is_kept_it_is_plain_cross_entropy():
    logits, _, label = example()
    weights = (0.5, 1.0, 2.0, 1.5)
    right = 9.0 * np.eye(K, dtype=np.float32)[np.minimum(label, K - 1)]
    kept = kept_pixels(right, label)
    np.testing.assert_array_equal(kept, label != IGNORE_LABEL)
    image_weight = jnp.ones(B)
    by_label = losses.pixel_weights(label, image_weight, weights) * kept
    found = distillation(logits, right, label, by_label, jnp.zeros_like(by_label))
    plain, _ = losses.cross_entropy(logits, label, image_weight, class_weights=weights)
    np.testing.assert_allclose(found[0], plain, rtol=1e-6)
    np.testing.assert_array_equal(found[1], 0.0)


@pytest.mark.parametrize("shift", [1, 2])
def test_where_the_teacher_is_wrong_nothing_is_kept(shift):
    _, _, label = example()
    wrong = np.eye(K, dtype=np.float32)[(label.astype(int) + shift) % K]
    assert not kept_pixels(wrong, label).any()


def test_what_has_no_weight_plays_no_part():
    logits, teacher, label = example()
    valid = (label != IGNORE_LABEL).astype(np.float32)

    def both(logits):
        return sum(distillation(logits, teacher, label, valid, valid))

    broken = np.where(valid[..., None] > 0, logits, np.inf).astype(np.float32)
    np.testing.assert_allclose(both(logits), both(broken), rtol=1e-6)
    gradient = jax.grad(both)(broken)
    np.testing.assert_array_equal(np.asarray(gradient)[valid == 0], 0.0)
    assert np.isfinite(gradient).all()
