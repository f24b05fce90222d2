"""Resizing against float64 references, gradients against the transpose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.layers.resize import resize_bilinear, upsample_nearest

CASES = [
    ((6, 8), (24, 32)),  # whole factor
    ((5, 7), (33, 50)),  # odd, no whole factor
    ((9, 11), (4, 5)),  # smaller: still no antialiasing
    ((1, 1), (3, 4)),
    ((6, 8), (6, 16)),
    ((6, 8), (6, 8)),
]


def reference(x, size, corners=False):
    """Per output pixel, from the definition: half-pixel centres clamped at the border, or corners aligned."""
    x = x.astype(np.float64)
    (h, w), (height, width) = x.shape[1:3], size
    y = np.zeros((x.shape[0], height, width, x.shape[3]))
    for i, j in np.ndindex(height, width):
        u = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
        v = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
        if corners:
            u = i * (h - 1) / (height - 1) if height > 1 else 0
            v = j * (w - 1) / (width - 1) if width > 1 else 0
        for a, b in np.ndindex(h, w):
            weight = max(0, 1 - abs(u - a)) * max(0, 1 - abs(v - b))
            if weight:
                y[:, i, j] += weight * x[:, a, b]
    return y


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("small, large", [*CASES, ((3, 4), (1, 1))])
def test_equals_the_definition(small, large, corners):
    x = np.random.default_rng(0).normal(size=(2, *small, 3)).astype(np.float32)
    y = jax.jit(lambda x: resize_bilinear(x, large, align_corners=corners))(x)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, reference(x, large, corners), atol=2e-6)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("small, large", CASES)
def test_gradient_is_the_transpose(small, large, corners):
    rng = np.random.default_rng(0)
    x, t = (rng.normal(size=(2, *s, 3)).astype(np.float32) for s in (small, large))
    grad = jax.jit(
        jax.grad(lambda x: jnp.sum(resize_bilinear(x, large, align_corners=corners) * t))
    )(x)
    # <resize(basis vector), t> for every input cell of one channel of one image
    basis = np.eye(small[0] * small[1], dtype=np.float32).reshape(-1, *small, 1)
    expected = np.tensordot(reference(basis, large, corners)[..., 0], t[1, ..., 2], 2).reshape(
        small
    )
    np.testing.assert_allclose(grad[1, ..., 2], expected, atol=1e-4)


def test_forward_mode_agrees_with_the_map_itself():
    rng = np.random.default_rng(0)
    x, dx = (rng.normal(size=(1, 5, 7, 2)).astype(np.float32) for _ in range(2))
    y, dy = jax.jvp(lambda x: resize_bilinear(x, (12, 9)), (x,), (dx,))
    np.testing.assert_array_equal(y, resize_bilinear(x, (12, 9)))
    np.testing.assert_allclose(dy, resize_bilinear(dx, (12, 9)), atol=1e-6)


def test_bfloat16_is_resized_in_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 1)), jnp.bfloat16)
    y = resize_bilinear(x, (9, 9))
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, reference(np.asarray(x, np.float32), (9, 9)), atol=2e-6)


@pytest.mark.parametrize("size", [(6, 8), (5, 8), (7, 3), (1, 2)])
def test_nearest_upsampling_takes_the_cell_at_half_the_place(size):
    small = tuple(-(-n // 2) for n in size)
    x = np.random.default_rng(0).normal(size=(2, *small, 3)).astype(np.float32)
    expected = x[:, np.arange(size[0]) // 2][:, :, np.arange(size[1]) // 2]
    np.testing.assert_array_equal(upsample_nearest(x, size), expected)
    # Every cell receives the gradients of its copies.
    grad = jax.grad(lambda x: jnp.sum(upsample_nearest(x, size)))(x)
    copies = [np.bincount(np.arange(n) // 2) for n in size]
    np.testing.assert_array_equal(grad[0, ..., 0], np.outer(*copies))


def test_nearest_upsampling_refuses_another_factor():
    with pytest.raises(ValueError, match="not half"):
        upsample_nearest(jnp.zeros((1, 4, 4, 1)), (12, 8))
