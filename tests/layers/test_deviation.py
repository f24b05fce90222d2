"""Batch norm by mean absolute deviation: golden values, its closed form against autodiff, devices, and no squares."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.layers.deviation import DeviationNorm, normalised, reciprocal
from jaxseg.layers.norm import norm_of
from jaxseg.numbers import DEVIATION, FIXED, MAX, OPEN, SHIFT, Grid, IntegerArch, NumbersArch

FLOATING = IntegerArch()
GRIDS = IntegerArch(
    normalised=Grid(8, FIXED, 4.0),
    norm_params=Grid(8, FIXED, 2.0),
    norm_stats=Grid(16, OPEN, 2.0),
    norm_errors=Grid(16, SHIFT),
    reciprocal_bits=8,
)


def example(shape=(4, 5, 6, 3), seed=0):
    rng = np.random.default_rng(seed)
    x = 0.5 + rng.normal(size=shape) * np.arange(1, shape[-1] + 1)
    return tuple(
        np.float32(v) for v in (x, rng.uniform(0.5, 1.5, shape[-1]), rng.normal(size=shape[-1]))
    )


def plain(x, scale, bias, eps):
    """The same by autodiff, where no value equals the mean."""
    mean = jnp.mean(x, (0, 1, 2), keepdims=True)
    deviation = jnp.mean(jnp.abs(x - mean), (0, 1, 2), keepdims=True)
    return (x - mean) / (deviation + eps) * scale.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)


def test_golden_values():
    x = np.float32([0, 2, 5, 9]).reshape(4, 1, 1, 1)
    g = np.float32([1, 0, 0, 0]).reshape(4, 1, 1, 1)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    (y, (mean, deviation)), back = jax.vjp(
        lambda x: normalised(x, one, zero, 0.0, FLOATING, None), x
    )
    assert (float(mean[0]), float(deviation[0])) == (4, 3)
    np.testing.assert_allclose(y.ravel(), [-4 / 3, -2 / 3, 1 / 3, 5 / 3], rtol=1e-6)
    (dx,) = back((g, (zero, zero)))
    np.testing.assert_allclose(dx.ravel(), [0.138889, -0.194444, 0.027778, 0.027778], atol=1e-6)


def test_sign_of_the_mean_itself_is_zero():
    x = np.float32([1, 2, 4, 9]).reshape(4, 1, 1, 1)  # its mean is 4
    g = np.float32([1, 0, 0, 0]).reshape(4, 1, 1, 1)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    _, back = jax.vjp(lambda x: normalised(x, one, zero, 0.0, FLOATING, None)[0], x)
    np.testing.assert_allclose(back(g)[0].ravel(), [0.21, -0.19, -0.07, 0.05], atol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_closed_form_is_autodiff(eps):
    x, scale, bias = example()
    dy = np.random.default_rng(5).normal(size=x.shape).astype(np.float32)
    y, back = jax.vjp(lambda *a: normalised(*a, eps, FLOATING, None)[0], x, scale, bias)
    expected, reference = jax.vjp(lambda *a: plain(*a, eps), x, scale, bias)
    np.testing.assert_allclose(y, expected, atol=2e-6)
    for got, want in zip(back(dy), reference(dy), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
    dx = np.asarray(back(dy)[0], np.float64)
    np.testing.assert_allclose(dx.sum((0, 1, 2)), 0, atol=1e-4)
    # <dx, x - mean> is 0, and with eps N eps mean(g n) / (s + eps).
    centred = x - x.mean((0, 1, 2))
    s, cells = np.abs(centred).mean((0, 1, 2)), x[..., 0].size
    normal, g = centred / (s + eps), dy * scale
    np.testing.assert_allclose(
        (dx * centred).sum((0, 1, 2)),
        cells * eps * (g * normal).mean((0, 1, 2)) / (s + eps),
        atol=2e-3,
    )


def test_mean_absolute_value_is_one_and_of_normal_values_the_spread_is_that_of_theory():
    x = np.random.default_rng(0).normal(3, 7, (64, 32, 32, 2)).astype(np.float32)
    y, _ = normalised(x, np.ones(2, np.float32), np.zeros(2, np.float32), 0.0, FLOATING, None)
    np.testing.assert_allclose(np.abs(y).mean((0, 1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(np.std(y, (0, 1, 2)), np.sqrt(np.pi / 2), rtol=0.01)


@pytest.mark.parametrize("grids", [FLOATING, GRIDS], ids=["floating", "grids"])
def test_two_devices_are_one(grids):
    x, scale, bias = example()
    dy = np.random.default_rng(5).normal(size=x.shape).astype(np.float32)

    def run(axis_name, x, dy):
        y, back = jax.vjp(lambda *a: normalised(*a, 2.0**-10, grids, axis_name)[0], x, scale, bias)
        dx, *rest = back(dy)
        return y, dx, *(jax.lax.psum(r, axis_name) if axis_name else r for r in rest)

    one = run(None, x, dy)
    halves = x.reshape(2, 2, *x.shape[1:]), dy.reshape(2, 2, *x.shape[1:])
    two = jax.pmap(functools.partial(run, "data"), axis_name="data")(*halves)
    for i, (a, b) in enumerate(zip(one, two, strict=True)):
        b = np.asarray(b).reshape(a.shape) if i < 2 else b[0]
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def program(norm, train):
    """The lowered StableHLO of forward (and backward) pass."""
    x, *_ = example()
    variables = norm.init(jax.random.PRNGKey(0), x, True)

    def loss(params, x):
        y, _ = norm.apply({**variables, "params": params}, x, not train, mutable=["batch_stats"])
        return jnp.sum(y)

    f = jax.grad(loss, (0, 1)) if train else loss
    return jax.jit(f).lower(variables["params"], x).as_text()


def squares_and_roots(text):
    """Operations that the paper does without."""
    found = re.findall(r"stablehlo\.(?:sqrt|rsqrt|power|cbrt|exponential|log)\b.*", text)
    products = re.findall(r"stablehlo\.(?:multiply|dot_general) (%\w+), (%\w+)\b", text)
    return found + [pair for pair in products if pair[0] == pair[1]]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("grids", [FLOATING, GRIDS], ids=["floating", "grids"])
def test_no_square_and_no_root(grids, train):
    assert not squares_and_roots(program(DeviationNorm(0.9, 1e-3, grids), train))
    usual = norm_of(NumbersArch(), FLOATING, None, None)
    assert squares_and_roots(program(usual, train)), "or the search finds nothing at all"


def test_on_grids_every_value_is_on_its_own():
    x, scale, bias = example()
    y, (mean, _) = normalised(x, scale, bias, 2.0**-10, GRIDS, None)
    assert np.all(np.asarray(mean) * 2**14 % 1 == 0)
    codes = np.asarray(y) * 2**11  # 2^-5 times 2^-6
    np.testing.assert_array_equal(codes, np.round(codes))
    over = np.asarray(reciprocal(jnp.float32([0.01, 0.3, 1.0, 5.0]), 2.0**-10, GRIDS))
    mantissa, _ = np.frexp(over)
    np.testing.assert_array_equal(mantissa * 2**9 % 1, 0)
    np.testing.assert_allclose(over, 1 / (np.float32([0.01, 0.3, 1, 5]) + 2.0**-10), rtol=2**-7)


def test_a_deviation_of_zero_divides_by_a_step():
    assert np.isfinite(reciprocal(jnp.zeros(1), 0.0, GRIDS)).all()


def test_running_statistics_move_and_answer_alone():
    x, *_ = example()
    norm = norm_of(NumbersArch(norm=DEVIATION, norm_momentum=0.75), GRIDS, None, "n")
    variables = norm.init(jax.random.PRNGKey(0), x, True)
    assert set(variables["batch_stats"]) == {"mean", "deviation"}
    y, updated = norm.apply(variables, x, False, mutable=["batch_stats"])
    mean = x.mean((0, 1, 2))
    deviation = np.abs(x - mean).mean((0, 1, 2))
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.25 * mean, atol=1e-4)
    np.testing.assert_allclose(
        updated["batch_stats"]["deviation"], 0.75 + 0.25 * deviation, atol=1e-4
    )
    variables = {**variables, **updated}
    whole = norm.apply(variables, x, True)
    for i in range(len(x)):
        np.testing.assert_array_equal(norm.apply(variables, x[i : i + 1], True), whole[i : i + 1])


def test_the_rule_by_the_largest_value_has_one_scale_in_training_and_one_per_image_after():
    grids = IntegerArch(normalised=Grid(8, MAX))
    x, scale, bias = example()
    y, _ = normalised(x, np.ones(3, np.float32), np.zeros(3, np.float32), 1e-3, grids, None)
    codes = np.asarray(y) / np.abs(np.asarray(y)).max() * 127
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)
    for kind in (NumbersArch(norm=DEVIATION), NumbersArch()):
        norm = norm_of(kind, grids, None, "n")
        variables = norm.init(jax.random.PRNGKey(0), x, True)
        whole = np.asarray(norm.apply(variables, x, True))
        for i in range(len(x)):
            alone = norm.apply(variables, x[i : i + 1], True)
            np.testing.assert_array_equal(alone, whole[i : i + 1])
            assert np.abs(np.asarray(alone)).max() <= np.abs(x[i]).max() * 1.01


def test_norm_of_the_parent_method_by_its_formula():
    """WAGEUBN: mean and root on 16 bits, eps added to the root, result, scale and bias on 8, nothing clipped."""
    x, scale, bias = example()
    grids = IntegerArch(
        normalised=Grid(8, OPEN), norm_params=Grid(8, OPEN), norm_stats=Grid(16, OPEN)
    )
    norm = norm_of(NumbersArch(norm_eps=2.0**-15), grids, None, "n")
    params = {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}
    stats = {"mean": jnp.zeros(3), "var": jnp.ones(3)}
    y, updated = norm.apply(
        {"params": params, "batch_stats": stats}, x, False, mutable=["batch_stats"]
    )
    q = lambda v, bits: np.rint(v * 2.0 ** (bits - 1)) / 2.0 ** (bits - 1)  # noqa: E731
    wide = np.float64(x)
    root = q(np.sqrt(wide.var((0, 1, 2))), 16) + 2.0**-15
    normal = q((wide - q(wide.mean((0, 1, 2)), 16)) / root, 8)
    expected = normal * q(scale, 8) + q(bias, 8)
    close = np.abs(np.asarray(y) - expected) < 1e-6
    assert close.mean() > 0.995  # float32 rounds a few to the other side
    assert np.abs(np.asarray(y) - expected).max() < 2.0**-6
    np.testing.assert_allclose(
        updated["batch_stats"]["var"], 0.9 + 0.1 * wide.var((0, 1, 2)), rtol=1e-4
    )
