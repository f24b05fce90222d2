"""Closed forms of the region losses, ties, and what must not matter."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.objectives import losses, regions
from jaxseg.types import IGNORE_LABEL

ONE = np.ones(1, np.float32)


def certain(prediction, num_classes):
    """Logits whose softmax is exactly 0 or 1 in float32."""
    return 200.0 * np.eye(num_classes, dtype=np.float32)[prediction]


@pytest.fixture
def maps():
    """Labels of four classes, class 3 absent, void here and there, and a prediction with class 3."""
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, (1, 9, 11)).astype(np.uint8)
    label[rng.random(label.shape) < 0.2] = IGNORE_LABEL
    return label, rng.integers(0, 4, label.shape)


def test_on_certain_answers_they_are_set_measures(maps):
    """Lovasz and Tversky(1, 1) are 1 - IoU, Dice is 1 - F1; mean over classes present."""
    label, prediction = maps
    valid = label != IGNORE_LABEL
    counts = []
    for k in range(3):
        is_k, said_k = valid & (label == k), valid & (prediction == k)
        hit = (is_k & said_k).sum()
        counts.append((hit, said_k.sum() - hit, is_k.sum() - hit))
    hit, wrong, missed = np.array(counts, np.float64).T
    logits = certain(prediction, 4)
    for got, index in (
        (regions.lovasz_softmax(logits, label, ONE), hit / (hit + wrong + missed)),
        (regions.dice(logits, label, ONE), 2 * hit / (2 * hit + wrong + missed)),
        (
            regions.tversky(logits, label, ONE, alpha=0.2, beta=2.0),
            hit / (hit + 0.2 * wrong + 2.0 * missed),
        ),
        (regions.tversky(logits, label, ONE, alpha=1.0, beta=1.0), hit / (hit + wrong + missed)),
    ):
        np.testing.assert_allclose(losses.mean(*got), 1 - index.mean(), rtol=1e-6)


def test_lovasz_gradient_with_ties_is_the_mean_over_their_orders():
    """Three classes at p = 1/3 everywhere: all errors of a class tie within true and within false pixels."""
    label = np.array([[[0, 0, 1, 1, 1, IGNORE_LABEL]]], np.uint8)
    logits = jnp.zeros((1, 1, 6, 3))

    def by_orders(k):
        """Weights of the errors, averaged over all orders of equal ones (1 - 1/3 before 1/3)."""
        true = [i for i in range(5) if label[0, 0, i] == k]
        false = [i for i in range(5) if i not in true]
        jaccard = lambda m: len(m) / len(set(true) | m)  # noqa: E731
        weights, orders = np.zeros(6), 0
        for a, b in itertools.product(itertools.permutations(true), itertools.permutations(false)):
            order, orders = a + b, orders + 1
            for n, i in enumerate(order):
                weights[i] += jaccard(set(order[: n + 1])) - jaccard(set(order[:n]))
        return weights / orders

    # d loss / d p_k, then through the softmax: dp_k / dz_j = p_k ((j == k) - p_j).
    slope = np.zeros((6, 3))
    for k in (0, 1):
        slope[:, k] = by_orders(k) * np.where(label[0, 0] == k, -1, 1) / 2
    want = (slope - slope.sum(axis=1, keepdims=True) / 3) / 3
    got = jax.jit(jax.grad(lambda z: regions.lovasz_softmax(z, label, ONE)[0]))(logits)
    np.testing.assert_allclose(got[0, 0], want, atol=1e-7)


def test_lovasz_weights_stay_exact_in_large_images():
    """200,000 pixels, all errors different: 1 - I / U would lose its differences in float32."""
    rng = np.random.default_rng(0)
    n = 200_000
    error = rng.permutation(np.linspace(0, 1, n)).astype(np.float32)
    true = rng.random(n) < 0.01
    steps = jax.jit(regions._jaccard_steps)(error[None], true[None], np.ones((1, n), bool))
    got = np.asarray(steps[0])
    order = np.argsort(-error, kind="stable")
    hit = true.sum() - np.cumsum(true[order])
    union = true.sum() + np.cumsum(~true[order])
    jaccard = 1 - hit / union
    want = np.empty(n)
    want[order] = np.diff(jaccard, prepend=0.0)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize("loss", [regions.dice, regions.lovasz_softmax])
def test_the_worst_answer_costs_one(loss):
    label = np.zeros((1, 3, 4), np.uint8)
    logits = certain(np.ones((1, 3, 4), int), 2)
    np.testing.assert_allclose(losses.mean(*loss(logits, label, ONE)), 1.0, rtol=1e-6)
