"""Depthwise convolution against XLA's grouped one, and against the definition in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.layers.depthwise import SEGMENT, depthwise_conv2d
from jaxseg.padding import pad_widths

SIZES = [(7, 9), (8, 2 * SEGMENT + 2), (5, SEGMENT)]


def grouped(x, kernel, stride, dilation, padding):
    """XLA's own."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pad_widths(x.shape[1:3], kernel.shape[:2], stride, dilation, padding),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(
    "kernel, stride, dilation",
    list(itertools.product(((3, 3), (5, 5), (1, 3), (5, 1), (3, 5)), (1, 2), (1, 2))),
)
@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients_equal_xlas(size, kernel, stride, dilation, padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 5)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(*kernel, 1, 5)), jnp.float32)

    @jax.jit
    def both(x, w):
        y, back = jax.vjp(lambda x, w: grouped(x, w, stride, dilation, padding), x, w)
        mine, my_back = jax.vjp(
            lambda x, w: depthwise_conv2d(x, w, stride=stride, dilation=dilation, padding=padding),
            x,
            w,
        )
        dy = jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return (y, *back(dy)), (mine, *my_back(dy))

    for theirs, mine in zip(*both(x, w), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5 * np.abs(theirs).max())


def test_input_gradient_is_zero_where_no_window_looked():
    """A 1x1 kernel with stride 2 sees every fourth cell."""
    x, w = jnp.ones((1, 6, 6, 2)), jnp.full((1, 1, 1, 2), 3.0)
    grad = jax.grad(lambda x: jnp.sum(depthwise_conv2d(x, w, stride=2)))(x)
    expected = np.zeros((6, 6))
    expected[::2, ::2] = 3
    np.testing.assert_array_equal(grad[0, ..., 1], expected)


def test_bfloat16_adds_up_in_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 8, 4)), jnp.bfloat16)
    w = jnp.asarray(np.random.default_rng(1).normal(size=(5, 5, 1, 4)), jnp.bfloat16)
    y = depthwise_conv2d(x, w)
    assert y.dtype == jnp.bfloat16
    exact = depthwise_conv2d(x.astype(jnp.float32), w.astype(jnp.float32))
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


def test_it_is_lowered_for_every_backend_and_shifts_only_on_cpu():
    x, w = jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32), jnp.ones((3, 3, 1, 4))
    grad = jax.jit(jax.grad(lambda x: jnp.sum(depthwise_conv2d(x, w) ** 2)))
    for platform, convolves in (("cpu", False), ("cuda", True), ("tpu", True)):
        text = jax.export.export(grad, platforms=[platform])(x).mlir_module()
        assert ("stablehlo.convolution" in text) == convolves, platform
