"""Pooling against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.layers.pool import global_average, max_pool


@pytest.mark.parametrize("window, before", [(3, 1), (2, 0)])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 2)])
def test_max_pool(size, window, before):
    # All negative: zero padding would win everywhere at the border.
    x = -1.0 - np.random.default_rng(0).random((2, *size, 3), np.float32)
    width = ((0, 0), (before, 1), (before, 1), (0, 0))
    padded = np.pad(x, width, constant_values=-np.inf)
    rows, columns = (-(-n // 2) for n in size)
    cells = np.zeros((2, rows, columns, 3), np.float32)
    for i, j in np.ndindex(rows, columns):
        cells[:, i, j] = padded[:, 2 * i : 2 * i + window, 2 * j : 2 * j + window].max((1, 2))
    np.testing.assert_array_equal(jax.jit(lambda x: max_pool(x, window))(x), cells)


@pytest.mark.parametrize("window", [2, 3])
def test_max_pool_gradient_goes_to_the_maximum(window):
    x = np.random.default_rng(0).permutation(7 * 9).reshape(1, 7, 9, 1).astype(np.float32)
    grad = jax.jit(jax.grad(lambda x: jnp.sum(max_pool(x, window))))(x)
    values, counts = np.unique(np.asarray(max_pool(x, window)), return_counts=True)
    expected = np.zeros(x.size, np.float32)
    expected[values.astype(int)] = counts
    np.testing.assert_array_equal(grad, expected[x.astype(int)])


def test_global_average_adds_up_in_float32():
    x = jnp.ones((2, 100, 100, 3), jnp.bfloat16).at[1].set(2.0)
    y = global_average(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, np.stack([np.ones((1, 1, 3)), 2 * np.ones((1, 1, 3))]))
