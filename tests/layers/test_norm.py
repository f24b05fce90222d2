"""Batch norm: formulas, precision of the statistics, and what devices share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.layers.norm import norm_of
from jaxseg.numbers import IntegerArch, NumbersArch

NUMBERS = NumbersArch(norm_eps=1e-3, norm_momentum=0.8)


def data(shape=(4, 5, 6, 3)):
    return np.random.default_rng(0).normal(1.5, 2.0, shape).astype(np.float32)


def run(x, train, numbers=NUMBERS, variables=None, axis_name=None):
    norm = norm_of(numbers, IntegerArch(), axis_name, name=None)
    variables = variables or norm.init(jax.random.PRNGKey(0), x, use_running_average=True)
    return norm.apply(variables, x, use_running_average=not train, mutable=["batch_stats"])


def test_training_normalises_with_biased_batch_statistics():
    x = data()
    y, updated = run(x, train=True)
    mean, var = x.astype(np.float64).mean((0, 1, 2)), x.astype(np.float64).var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-3), atol=1e-5)
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.2 * mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.8 + 0.2 * var, rtol=1e-5)


def test_inference_uses_running_statistics_and_affine_parameters():
    x, vec = data(), lambda *v: np.asarray(v, np.float32)
    params = {"scale": vec(1, 2, 3), "bias": vec(-1, 0, 1)}
    stats = {"mean": vec(0, 1, 2), "var": vec(1, 4, 9)}
    y, updated = run(x, train=False, variables={"params": params, "batch_stats": stats})
    expected = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-3) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, atol=1e-5)
    for name, value in updated["batch_stats"].items():
        np.testing.assert_array_equal(value, stats[name])


def test_statistics_are_float32_under_bfloat16():
    # 60,000 ones with one 3: a bfloat16 sum would stop growing at 256.
    x = jnp.ones((1, 200, 300, 1), jnp.bfloat16).at[0, 0, 0, 0].set(3.0)
    y, updated = run(x, train=True, numbers=NumbersArch("bfloat16", norm_momentum=0.0))
    assert y.dtype == jnp.bfloat16
    mean = updated["batch_stats"]["mean"]
    assert mean.dtype == jnp.float32
    np.testing.assert_allclose(mean, 1.0 + 2.0 / 60000, rtol=1e-6)


@pytest.mark.parametrize("axis_name", ["devices", None])
def test_axis_name_makes_statistics_global_under_pmap(axis_name):
    x = data((2, 2, 5, 6, 3))
    y, _ = jax.pmap(lambda x: run(x, True, axis_name=axis_name), axis_name="devices")(x)
    whole, _ = run(x.reshape(4, 5, 6, 3), train=True)
    same = np.allclose(y.reshape(4, 5, 6, 3), whole, atol=1e-5)
    assert same == (axis_name is not None)


def by_autodiff(x, scale, bias):
    """The definition, left to autodiff."""
    mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
    row = lambda v: v.reshape(1, 1, 1, -1)  # noqa: E731
    return (x - row(mean)) / jnp.sqrt(row(var) + 1e-3) * row(scale) + row(bias)


def ours(x, scale, bias, axis_name=None):
    stats = {"mean": jnp.zeros(3), "var": jnp.ones(3)}
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
    return run(x, True, variables=variables, axis_name=axis_name)[0]


def example():
    rng = np.random.default_rng(3)
    affine = rng.normal(size=(2, 3)).astype(np.float32)
    return data(), *affine, rng.normal(size=(4, 5, 6, 3)).astype(np.float32)


def test_the_gradient_is_that_of_the_definition():
    *inputs, dy = example()
    mine = jax.vjp(ours, *inputs)[1](dy)
    with jax.enable_x64(True):
        wide = [jnp.asarray(v, jnp.float64) for v in (*inputs, dy)]
        exact = jax.vjp(by_autodiff, *wide[:3])[1](wide[3])
    for got, want in zip(mine, exact, strict=True):
        np.testing.assert_allclose(got, want, atol=3e-6 * np.abs(want).max())


def test_the_gradient_is_global_under_pmap():
    """A shared loss has, on n devices, n times the cotangent on each: the mean of gradients is that of the whole."""
    x, scale, bias, dy = example()

    def shard(x, dy, scale, bias):
        loss = lambda *v: jax.lax.psum(jnp.sum(dy * ours(*v, axis_name="d")), "d")  # noqa: E731
        dx, *affine = jax.grad(loss, argnums=(0, 1, 2))(x, scale, bias)
        return dx / 2, *jax.lax.pmean(affine, "d")

    cut = lambda v: v.reshape(2, 2, 5, 6, 3)  # noqa: E731
    parts = jax.pmap(shard, "d", in_axes=(0, 0, None, None))(cut(x), cut(dy), scale, bias)
    whole = jax.vjp(ours, x, scale, bias)[1](dy)
    np.testing.assert_allclose(parts[0].reshape(x.shape), whole[0], atol=1e-5)
    for got, want in zip(parts[1:], whole[1:], strict=True):
        np.testing.assert_allclose(got[0], want, rtol=1e-4)


def test_bfloat16_gradients_have_the_dtype_of_what_they_belong_to():
    x = jnp.asarray(data(), jnp.bfloat16)
    _, back = jax.vjp(lambda *v: ours(*v), x, jnp.ones(3), jnp.zeros(3))
    assert [g.dtype for g in back(jnp.ones(x.shape))] == [jnp.bfloat16, jnp.float32, jnp.float32]
