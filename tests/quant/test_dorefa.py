"""Few bits after DoReFa-Net: golden values, levels, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.quant import dorefa

W = jnp.array([-0.8, -0.3, -0.05, 0.0, 0.1, 0.4, 0.9])
A = jnp.array([-0.2, 0.1, 0.16, 0.17, 0.4, 0.5, 0.6, 0.9, 1.4])


def test_golden_weights():
    """B3: of the authors' code."""
    third = 1 / 3
    expected = [-1, -third, -third, third, third, third, 1]
    np.testing.assert_allclose(dorefa.weights(W, 2), expected, atol=1e-6)
    signs = np.array([-1, -1, -1, 0, 1, 1, 1])
    np.testing.assert_allclose(dorefa.weights(W, 1, zero=0.0), 0.364286 * signs, atol=1e-6)
    signs[3] = 1  # ours: a bit has no third value
    np.testing.assert_allclose(dorefa.weights(W, 1), 0.364286 * signs, atol=1e-6)


@pytest.mark.parametrize(
    "bits, codes",
    [
        (1, [0, 0, 0, 0, 0, 0, 1, 1, 1]),
        (2, [0, 0, 0, 1, 1, 2, 2, 3, 3]),
        (3, [0, 1, 1, 1, 3, 4, 4, 6, 7]),
    ],
)
def test_golden_activations(bits, codes):
    """B3."""
    expected = np.array(codes) / (2**bits - 1)
    np.testing.assert_allclose(dorefa.activations(A, bits), expected, atol=1e-6)
    np.testing.assert_allclose(dorefa.activations(4 * A, bits, 4.0), 4 * expected, atol=1e-6)


@pytest.mark.parametrize("bits", range(1, 9))
def test_there_are_so_many_levels(bits):
    """B1, B2."""
    w = jnp.asarray(np.random.default_rng(0).normal(size=40_000), jnp.float32)
    assert len(np.unique(np.round(dorefa.activations(w, bits), 5))) == 2**bits
    found = np.asarray(dorefa.weights(w, bits))
    assert len(np.unique(np.round(found, 5))) == 2**bits
    if bits == 1:
        assert np.abs(found).mean() == pytest.approx(float(jnp.abs(w).mean()), rel=1e-5)
    else:
        rescaled = dorefa.weights(w, bits, rescaled=True)
        np.testing.assert_allclose(rescaled, found * np.tanh(np.abs(w)).max(), rtol=1e-5)


def test_gradients():
    """B7."""
    np.testing.assert_array_equal(jax.grad(lambda w: dorefa.weights(w, 1).sum())(W), 1)
    inside = (A > 0) & (A < 1)
    found = jax.grad(lambda a: dorefa.activations(a, 2).sum())(A)
    np.testing.assert_array_equal(found, inside.astype(np.float32))
    found = jax.grad(lambda a: dorefa.activations(a, 2, 4.0).sum())(4 * A)
    np.testing.assert_allclose(found, inside.astype(np.float32))

    def without_rounding(w):
        bent = jnp.tanh(w)
        return (2 * (bent / (2 * jnp.max(jnp.abs(bent))) + 0.5) - 1).sum()

    found = jax.grad(lambda w: dorefa.weights(w, 2).sum())(W)
    np.testing.assert_allclose(found, jax.grad(without_rounding)(W), rtol=1e-6)
    np.testing.assert_array_equal(dorefa.weights(W, 32), W)
    assert np.isfinite(jax.grad(lambda w: dorefa.weights(w, 2).sum())(jnp.zeros(4))).all()
