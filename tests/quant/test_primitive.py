"""`quantize` as a JAX primitive: every transformation sees it, keeps its name, and gives what NumPy gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from jaxseg.errors import UserError
from jaxseg.quant.primitive import FORMS, STOCHASTIC, quantize

X = np.random.default_rng(0).normal(0, 0.7, (4, 6, 5)).astype(np.float32)
U = np.random.default_rng(1).random((4, 6, 5)).astype(np.float32)
BITS = 5


def expected(x, scale, noise, form, bits=BITS):
    """By its definition, float64."""
    levels = 2.0 ** (bits - 1)
    n = np.float64(x) / np.float64(scale) * levels
    if form == "stochastic":
        n = np.sign(n) * (np.floor(abs(n)) + (abs(n) - np.floor(abs(n)) > noise))
    elif form == "flag":
        n = np.where(abs(n) >= 1, np.round(n), np.round(n * levels) / levels)
    else:
        n = np.round(n)
    if form != "open":
        n = np.clip(n, 1 - levels, levels - 1)
    return n / levels * scale


def operands(form):
    return (X, np.float32(1.0), *([U] if form == STOCHASTIC else []))


@pytest.mark.parametrize("form", FORMS)
def test_is_its_definition_with_and_without_jit(form):
    f = functools.partial(quantize, form=form, bits=BITS)
    for one in (f, jax.jit(f)):
        np.testing.assert_array_equal(one(*operands(form)), expected(X, 1.0, U, form))


@pytest.mark.parametrize("form", FORMS)
def test_nan_stays_where_it_is(form):
    bad = X.copy()
    bad[0, 0, 0] = np.nan
    x, scale, *noise = operands(form)
    found = np.array(quantize(bad, scale, *noise, form=form, bits=BITS))
    assert np.isnan(found[0, 0, 0]) and np.isnan(found).sum() == 1


@pytest.mark.parametrize("form", FORMS)
def test_named_in_the_jaxpr_with_form_and_bits(form):
    jaxpr = jax.make_jaxpr(lambda *a: quantize(*a, form=form, bits=BITS))(*operands(form)).jaxpr
    (eqn,) = [e for e in jaxpr.eqns if e.primitive.name == "quantize"]
    assert eqn.params == {"form": form, "bits": BITS}
    assert len(eqn.invars) == 2 + (form == STOCHASTIC)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_is_straight_through_even_where_clipped(form):
    weights = np.random.default_rng(2).normal(size=X.shape).astype(np.float32)

    def loss(x, scale, *noise):
        return jnp.sum(weights * quantize(3 * x, scale, *noise, form=form, bits=BITS))

    x, scale, *noise = operands(form)
    dx, dscale = jax.grad(loss, (0, 1))(x, scale, *noise)
    np.testing.assert_allclose(dx, 3 * weights, rtol=1e-6)
    assert float(dscale) == 0
    _, tangent = jax.jvp(
        lambda x: quantize(x, scale, *noise, form=form, bits=BITS), (x,), (weights,)
    )
    np.testing.assert_array_equal(tangent, weights)


@pytest.mark.parametrize("form", FORMS)
def test_vmap_with_a_scale_of_each_and_a_shared_one(form):
    scales = np.array([0.5, 1.0, 2.0, 0.25], np.float32)
    noise = [U] if form == STOCHASTIC else []
    f = functools.partial(quantize, form=form, bits=BITS)
    each = jax.vmap(f)(X, scales, *noise)
    shared = jax.vmap(f, in_axes=(0, None, *[0] * len(noise)))(X, np.float32(0.5), *noise)
    one_map = jax.vmap(f, in_axes=(None, 0, *[None] * len(noise)))(
        X[0], scales, *(n[0] for n in noise)
    )
    swapped = jax.vmap(f, in_axes=(2, None, *[2] * len(noise)), out_axes=2)(
        X, np.float32(1), *noise
    )
    for i, s in enumerate(scales):
        np.testing.assert_array_equal(each[i], expected(X[i], s, U[i], form))
        np.testing.assert_array_equal(shared[i], expected(X[i], 0.5, U[i], form))
        np.testing.assert_array_equal(one_map[i], expected(X[0], s, U[0], form))
    np.testing.assert_array_equal(swapped, expected(X, 1.0, U, form))
    sides = np.float32([0.5, 1, 2, 1, 0.25]).reshape(1, 1, 5)
    np.testing.assert_array_equal(f(X, sides, *noise), expected(X, sides, U, form))
    twice = jax.vmap(
        jax.vmap(f, in_axes=(0, None, *[0] * len(noise))), in_axes=(0, 0, *[0] * len(noise))
    )
    np.testing.assert_array_equal(twice(X, scales, *noise), each)


def test_scan_cond_remat():
    f = functools.partial(quantize, scale=np.float32(1.0), form="clipped", bits=BITS)
    want = expected(X, 1.0, None, "clipped")
    _, scanned = lax.scan(lambda c, x: (c, f(x)), 0, X)
    np.testing.assert_array_equal(scanned, want)
    picked = jax.jit(lambda p, x: lax.cond(p, f, lambda x: x, x))
    np.testing.assert_array_equal(picked(True, X), want)
    np.testing.assert_array_equal(picked(False, X), X)

    @jax.checkpoint
    def body(x):
        return jnp.sum(f(x) ** 2)

    np.testing.assert_allclose(jax.jit(jax.grad(body))(X), 2 * want, rtol=1e-6)
    grown = jax.grad(lambda x: jnp.sum(lax.scan(lambda c, v: (c + f(v), None), X[0], x)[0]))(X)
    np.testing.assert_array_equal(grown, np.ones_like(X))


def devices_mesh():
    return jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])


def test_pmap_and_sharded_jit():
    f = functools.partial(quantize, scale=np.float32(1.0), form="clipped", bits=BITS)
    want = expected(X, 1.0, None, "clipped")
    np.testing.assert_array_equal(jax.pmap(f)(X[:2]), want[:2])
    sharding = jax.sharding.NamedSharding(devices_mesh(), PartitionSpec("data"))
    y = jax.jit(f)(jax.device_put(X, sharding))
    np.testing.assert_array_equal(y, want)
    assert y.sharding.is_equivalent_to(sharding, y.ndim)


def test_shard_map_follows_what_varies_and_refuses_wrong_out_specs():
    cut, whole = PartitionSpec("data"), PartitionSpec()
    f = functools.partial(quantize, scale=np.float32(1.0), form="clipped", bits=BITS)
    mapped = functools.partial(jax.shard_map, f, mesh=devices_mesh(), in_specs=cut)
    np.testing.assert_array_equal(mapped(out_specs=cut)(X), expected(X, 1.0, None, "clipped"))
    with pytest.raises(ValueError, match="out_specs"):
        mapped(out_specs=whole)(X)
    grads = jax.grad(lambda x: jnp.sum(mapped(out_specs=cut)(x) * X))(X)
    np.testing.assert_array_equal(grads, X)


def test_export_for_all_platforms():
    f = jax.jit(functools.partial(quantize, scale=np.float32(1.0), form="flag", bits=BITS))
    shape = jax.ShapeDtypeStruct(X.shape, np.float32)
    exported = jax.export.export(f, platforms=("cpu", "cuda", "tpu"))(shape)
    again = jax.export.deserialize(exported.serialize())
    np.testing.assert_array_equal(again.call(X), expected(X, 1.0, None, "flag"))


def test_misuse_is_refused():
    with pytest.raises(UserError, match="clipped"):
        quantize(X, 1.0, form="cliped", bits=8)
    with pytest.raises(ValueError, match="noise"):
        quantize(X, 1.0, form="stochastic", bits=8)
    with pytest.raises(ValueError, match="noise"):
        quantize(X, 1.0, U, form="open", bits=8)
    with pytest.raises(ValueError, match="scale of shape"):
        quantize(X, np.ones(5, np.float32), form="open", bits=8)
