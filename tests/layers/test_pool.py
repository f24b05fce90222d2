"""Pooling against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.layers.pool import global_average, max_pool


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 2)])
def test_max_pool(size):
    # All negative: zero padding would win everywhere at the border.
    x = -1.0 - np.random.default_rng(0).random((2, *size, 3), np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    height, width = (-(-n // 2) for n in size)
    expected = np.stack(
        [
            [padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for j in range(width)]
            for i in range(height)
        ]
    ).transpose(2, 0, 1, 3)
    np.testing.assert_array_equal(jax.jit(lambda x: max_pool(x, 3))(x), expected)


def test_max_pool_gradient_goes_to_the_maximum():
    x = np.random.default_rng(0).permutation(7 * 9).reshape(1, 7, 9, 1).astype(np.float32)
    grad = jax.jit(jax.grad(lambda x: jnp.sum(max_pool(x, 3))))(x)
    values, counts = np.unique(np.asarray(max_pool(x, 3)), return_counts=True)
    expected = np.zeros(x.size, np.float32)
    expected[values.astype(int)] = counts
    np.testing.assert_array_equal(grad, expected[x.astype(int)])


def test_global_average_adds_up_in_float32():
    x = jnp.ones((2, 100, 100, 3), jnp.bfloat16).at[1].set(2.0)
    y = global_average(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, np.stack([np.ones((1, 1, 3)), 2 * np.ones((1, 1, 3))]))
