"""Pooling against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.flow import parts
from jaxseg.layers.pool import average, average_pool, global_average, max_pool


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int32"])
@pytest.mark.parametrize("window, before, stride", [(3, 1, 2), (2, 0, 2), (3, 1, 1)])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 2)])
def test_max_pool(size, window, before, stride, dtype):
    # All negative: zero padding would win everywhere at the border.
    x = -np.random.default_rng(0).integers(1, 128, (2, *size, 3)).astype(np.float32)
    width = ((0, 0), (before, 1), (before, 1), (0, 0))
    padded = np.pad(x, width, constant_values=-np.inf)
    rows, columns = (-(-n // stride) for n in size)
    cells = np.zeros((2, rows, columns, 3), np.float32)
    for i, j in np.ndindex(rows, columns):
        y, x0 = stride * i, stride * j
        cells[:, i, j] = padded[:, y : y + window, x0 : x0 + window].max((1, 2))
    pool = lambda x: max_pool(x, window, stride)  # noqa: E731
    found = jax.jit(pool)(jnp.asarray(x, dtype))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.astype(jnp.float32), cells)
    if not dtype.startswith("int"):
        np.testing.assert_array_equal(jax.vjp(pool, jnp.asarray(x, dtype))[0], found)


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


@pytest.mark.parametrize("window, stride", [(3, 2), (5, 2), (9, 4), (17, 8), (3, 1)])
@pytest.mark.parametrize("size", [(16, 24), (7, 9), (1, 2)])
def test_average_pool_counts_zeros_outside(size, window, stride):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    around = window // 2
    padded = np.pad(x, ((0, 0), (around, window), (around, window), (0, 0)))
    rows, columns = (-(-n // stride) for n in size)
    cells = np.zeros((2, rows, columns, 3), np.float32)
    for i, j in np.ndindex(rows, columns):
        top, left = i * stride, j * stride
        cells[:, i, j] = padded[:, top : top + window, left : left + window].mean((1, 2))
    found = jax.jit(lambda x: average_pool(x, window, stride))(x)
    np.testing.assert_allclose(found, cells, atol=1e-6)


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(12, 18), (7, 9), (2, 3)])
def test_average_over_parts(size, bins):
    """Parts of unequal size where the map is no multiple of them; more parts than cells share cells."""
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    rows, columns = (parts(n, bins) for n in size)
    assert rows[0][0] == 0 and rows[-1][1] == size[0]
    assert all(start < stop for start, stop in rows + columns)
    cells = [[x[:, a:b, c:d].mean((1, 2)) for c, d in columns] for a, b in rows]
    expected = np.stack([np.stack(row, 1) for row in cells], 1)
    found = jax.jit(lambda x: average(x, bins))(x)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_means_of_multiples_hit_halves_exactly():
    """On a grid a mean that lies between two codes must be that half: no reciprocal comes in between."""
    x = jnp.full((1, 9, 9, 1), 0.5)
    for window in (3, 5, 9):
        found = jax.jit(lambda x, w=window: average_pool(x, w, 1))(x)
        assert found[0, 4, 4, 0] == 0.5
    ones = jnp.ones((1, 7, 7, 1))
    assert np.all(np.asarray(jax.jit(lambda x: average(x, 3))(ones)) == 1.0)
