"""Updates on grids: rates that are shifts, gradients, momentum, stored weights (T4, T8)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.numbers import FIXED, OPEN, Grid
from jaxseg.training import fixed_point as fp
from jaxseg.training import optim
from jaxseg.training.fixed_point import Updates
from jaxseg.training.optim import Optim

KEY = jax.random.PRNGKey(3)
GRADS = {"block_00": {"conv": {"kernel": jnp.float32([[1.0, -0.5], [0.003, 0.2]])}}}


def rounded(updates, grads=GRADS, key=KEY):
    tx = fp.rounded_gradients(updates)
    return tx.update(grads, tx.init(grads), key=key)[0]["block_00"]["conv"]["kernel"]


@pytest.mark.parametrize(
    "value, near",
    [(0.05, "0.03125 or 0.0625"), (3.0, "2.0 or 4.0"), (0.001, "0.0009765625 or 0.001953125")],
)
def test_a_rate_that_is_no_power_of_two_names_the_two_nearest(value, near):
    with pytest.raises(UserError, match=f"got {value}.*take {near}"):
        Optim(learning_rate=value, schedule="constant", updates=Updates(8))
    for zero in (0.0, -0.5):
        with pytest.raises(UserError, match="power of two|0 or more"):
            Optim(learning_rate=zero, schedule="constant", updates=Updates(8))


def test_rates_stay_powers_of_two():
    settings = Optim(learning_rate=2.0**-4, schedule="halving", halve_at=(0.1, 0.4, 2 / 3))
    rate = optim.learning_rate(settings, 30_000)
    steps = (0, 2_999, 3_000, 11_999, 12_000, 19_999, 20_000, 29_999)
    assert [float(rate(t)) for t in steps] == [2.0**-k for k in (4, 4, 5, 5, 6, 6, 7, 7)]
    assert float(optim.learning_rate(Optim(learning_rate=0.5, schedule="halving"), 9)(8)) == 0.5


def test_gradients_by_rule():
    g = np.asarray(GRADS["block_00"]["conv"]["kernel"])
    for rule, scale in (("max", 1.0), ("shift", 1.0)):
        n = np.asarray(rounded(Updates(8, rule))) / scale * 128
        np.testing.assert_array_equal(n, np.round(n))
        assert np.all(np.abs(n - g * 128) <= 1)
    tripled = jax.tree.map(lambda x: 3 * x, GRADS)
    np.testing.assert_allclose(
        rounded(Updates(8, "max"), tripled), 3 * rounded(Updates(8, "max")), rtol=1e-6
    )
    half = jax.tree.map(lambda x: x / 2, GRADS)
    np.testing.assert_array_equal(
        rounded(Updates(8, "shift"), half), rounded(Updates(8, "shift")) / 2
    )
    # The scale is forgotten.
    np.testing.assert_array_equal(
        rounded(Updates(8, "constant"), half), rounded(Updates(8, "constant"))
    )
    assert np.abs(rounded(Updates(8, "constant"))).max() <= 127 / 16384
    np.testing.assert_allclose(rounded(Updates(8, "max", 0.25)), rounded(Updates(8, "max")) / 4)
    np.testing.assert_array_equal(rounded(Updates(stored_bits=24)), g)
    np.testing.assert_array_equal(rounded(Updates(8, float_layers=("block_00/*",))), g)


def test_noise_differs_by_step_and_by_variable_and_not_by_run():
    shapes = {"b/kernel": (10, 100), "a/kernel": (1000,)}
    drawn, again = fp.noise(KEY, shapes), fp.noise(KEY, dict(sorted(shapes.items())))
    other = fp.noise(jax.random.PRNGKey(4), shapes)
    for path, shape in shapes.items():
        assert drawn[path].shape == shape and drawn[path].dtype == jnp.uint16
        np.testing.assert_array_equal(drawn[path], again[path])
    a = np.ravel(drawn["a/kernel"]).astype(float)
    for b in (drawn["b/kernel"], other["a/kernel"]):
        assert abs(np.corrcoef(a, np.ravel(b))[0, 1]) < 0.15


def test_momentum_and_weights_stay_on_their_grids():
    settings = Optim(
        learning_rate=0.25,
        momentum=0.875,
        weight_decay=0.0,
        schedule="constant",
        updates=Updates(8, "shift", momentum=Grid(13, OPEN, 1.0), stored_bits=24),
    )
    tx = optim.direction(settings)
    params = jax.tree.map(lambda g: 0.9 * jnp.ones_like(g), GRADS)
    stored = {"block_00/conv/kernel": Grid(24, FIXED, 0.5)}
    state = tx.init(params)
    for step in range(5):
        updates, state = tx.update(GRADS, state, params, key=jax.random.fold_in(KEY, step))
        params = optim.apply_direction(settings, params, updates, jnp.float32(0.25), stored)
        v = np.asarray(updates["block_00"]["conv"]["kernel"]) * 2**12
        w = np.asarray(params["block_00"]["conv"]["kernel"], np.float64) * 2**24
        np.testing.assert_array_equal(v, np.round(v))
        np.testing.assert_array_equal(w, np.round(w))
        assert np.abs(w).max() <= 2**23 - 1
    assert np.abs(v).max() > 2**12  # 13 bits are its digits, not its size: more than one step each


def test_float_training_is_as_it_was():
    """Without grids there is no key, no rounding and no other optimiser state."""
    plain = Optim(momentum=0.9)
    tx = optim.direction(plain)
    updates, _ = tx.update(GRADS, tx.init(GRADS), GRADS)
    with_key, _ = tx.update(GRADS, tx.init(GRADS), GRADS, key=KEY)
    np.testing.assert_array_equal(*jax.tree.leaves((updates, with_key)))
