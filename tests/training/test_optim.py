"""Schedules in closed form; directions against numpy; what decays and what is scaled."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.training import optim
from jaxseg.training.optim import Optim


def test_poly_with_warm_up():
    rate = optim.learning_rate(Optim(learning_rate=0.1, power=0.9, warm_up_steps=4), 20)
    np.testing.assert_allclose([rate(t) for t in range(4)], [0.025, 0.05, 0.075, 0.1], rtol=1e-6)
    np.testing.assert_allclose(rate(4), 0.1, rtol=1e-6)
    np.testing.assert_allclose(rate(12), 0.1 * 0.5**0.9, rtol=1e-6)
    assert float(rate(20)) == 0.0


def test_cosine_ends_where_told():
    rate = optim.learning_rate(Optim(learning_rate=2.0, schedule="cosine", end_frac=0.1), 10)
    np.testing.assert_allclose([rate(0), rate(5), rate(10)], [2.0, 2.0 * 0.55, 0.2], rtol=1e-6)


def test_constant_stays():
    rate = optim.learning_rate(Optim(learning_rate=0.3, schedule="constant", end_frac=0.0), 10)
    np.testing.assert_allclose([rate(0), rate(10), rate(99)], [0.3] * 3, rtol=1e-6)


def params():
    return {
        "block_00": {"kernel": jnp.ones((1, 1, 2, 2)), "scale": jnp.ones(2)},
        "head": {"kernel": jnp.ones((1, 1, 2, 2)), "bias": jnp.ones(2)},
    }


def test_decay_spares_norms_and_biases_and_the_backbone_has_its_own_rate():
    settings = Optim(weight_decay=0.5, momentum=0.0, backbone_multiplier=0.1)
    tx = optim.direction(settings)
    zero = {k: {n: jnp.zeros_like(x) for n, x in v.items()} for k, v in params().items()}
    updates, _ = tx.update(zero, tx.init(params()), params())
    moved = optim.apply_direction(settings, params(), updates, jnp.float32(0.2))
    np.testing.assert_allclose(moved["head"]["kernel"], 1 - 0.2 * 0.5)
    np.testing.assert_allclose(moved["block_00"]["kernel"], 1 - 0.2 * 0.1 * 0.5)
    np.testing.assert_array_equal(moved["head"]["bias"], 1.0)
    np.testing.assert_array_equal(moved["block_00"]["scale"], 1.0)


def test_sgd_with_momentum_is_that_of_torch():
    """V = m v + (g + wd p); p -= lr v, three steps in float64."""
    settings = Optim(weight_decay=0.1, momentum=0.9)
    tx = optim.direction(settings)
    grads = np.random.default_rng(0).normal(size=(3, 1, 1, 2, 2))
    p, v = np.ones((1, 1, 2, 2)), np.zeros((1, 1, 2, 2))
    tree = {"head": {"kernel": jnp.ones((1, 1, 2, 2))}}
    state = tx.init(tree)
    for g in grads:
        v = 0.9 * v + g + 0.1 * p
        p = p - 0.05 * v
        updates, state = tx.update({"head": {"kernel": jnp.float32(g)}}, state, tree)
        tree = optim.apply_direction(settings, tree, updates, jnp.float32(0.05))
    np.testing.assert_allclose(tree["head"]["kernel"], p, rtol=1e-5)


def test_adamw_is_that_of_torch():
    settings = Optim(name="adamw", weight_decay=0.1, momentum=0.9, beta2=0.99)
    tx = optim.direction(settings)
    grads = np.random.default_rng(1).normal(size=(4, 1, 1, 2, 2))
    p, m, v = np.ones((1, 1, 2, 2)), 0.0, 0.0
    tree = {"head": {"kernel": jnp.ones((1, 1, 2, 2))}}
    state = tx.init(tree)
    for t, g in enumerate(grads, 1):
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
        p = p - 0.05 * (step + 0.1 * p)
        updates, state = tx.update({"head": {"kernel": jnp.float32(g)}}, state, tree)
        tree = optim.apply_direction(settings, tree, updates, jnp.float32(0.05))
    np.testing.assert_allclose(tree["head"]["kernel"], p, rtol=1e-4)


def test_clipping_scales_the_global_norm():
    settings = Optim(weight_decay=0.0, momentum=0.0, clip_norm=1.0)
    tx = optim.direction(settings)
    tree = {"head": {"kernel": jnp.full((1, 1, 2, 2), 3.0)}}
    updates, _ = tx.update(tree, tx.init(tree), tree)
    np.testing.assert_allclose(np.linalg.norm(updates["head"]["kernel"].ravel()), 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "sdg"},
        {"schedule": "ploy"},
        {"learning_rate": -1.0},
    ],
)
def test_mistakes_are_named(change):
    with pytest.raises(UserError, match=str(next(iter(change.values())))):
        Optim(**change)


def test_warm_up_longer_than_the_phase_is_refused():
    with pytest.raises(UserError, match="fewer than the 10 steps"):
        optim.learning_rate(Optim(warm_up_steps=10), 10)
