"""Ungrouped convolution and its own gradient against XLA's, in and out of a loop."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.layers import dense
from jaxseg.layers.dense import dense_conv2d
from jaxseg.padding import pad_widths


def by_xla(x, kernel, stride, dilation, padding):
    """XLA's own."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pad_widths(x.shape[1:3], kernel.shape[:2], stride, dilation, padding),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def example(size, channels=5, kernel=3, out=7, dtype=np.float32):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, channels)), dtype)
    return x, jnp.asarray(rng.normal(size=(kernel, kernel, channels, out)), dtype)


def assert_equal_to_1e_5(mine, theirs):
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


BLOCKS = {
    "rows": {"FEW": 0, "LEAST": 1, "MOST": 1, "ASIDE": 1},
    "images": {"FEW": 0, "LEAST": 1, "MOST": 1000},
    "blocks": {"FEW": 0, "LEAST": 12, "MOST": 1, "ASIDE": 3},
    "whole": {"FEW": 0},
    "planes": {"FEW": 1000, "PLANE": 1},
    "blocks of planes": {"FEW": 1000},
}
"""How the kernel's gradient is cut."""


@pytest.mark.parametrize("cut", BLOCKS)
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(
    "kernel, stride, dilation", [*itertools.product((3, 5), (1, 2), (1, 2)), (7, 2, 1), (1, 2, 1)]
)
@pytest.mark.parametrize("size", [(7, 9), (8, 12)])
def test_gradients_equal_xlas(size, kernel, stride, dilation, padding, cut, monkeypatch):
    for name, value in BLOCKS[cut].items():
        monkeypatch.setattr(dense, name, value)
    x, w = example(size, kernel=kernel)

    @jax.jit
    def both(x, w):
        y, back = jax.vjp(lambda x, w: by_xla(x, w, stride, dilation, padding), x, w)
        mine, my_back = jax.vjp(
            lambda x, w: dense_conv2d(x, w, stride=stride, dilation=dilation, padding=padding),
            x,
            w,
        )
        dy = jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return (y, *back(dy)), (mine, *my_back(dy))

    theirs, mine = both(x, w)
    assert_equal_to_1e_5(mine, theirs)


def test_gradients_in_a_loop():
    x, w = example((6, 8), out=5)

    def through(conv, w, loop):
        body = lambda x, w: (jnp.tanh(conv(x, w)), None)  # noqa: E731
        ws = jnp.stack([w, 0.5 * w, -w])
        if loop:
            return jnp.sum(jax.lax.scan(body, x, ws)[0] ** 2)
        return jnp.sum(functools.reduce(lambda x, w: body(x, w)[0], ws, x) ** 2)

    plain = functools.partial(by_xla, stride=1, dilation=1, padding="same")
    want = jax.grad(functools.partial(through, plain), argnums=0)(w, False)
    got = jax.grad(functools.partial(through, dense_conv2d), argnums=0)(w, True)
    assert_equal_to_1e_5([got], [want])


def test_bfloat16_gradients_add_up_in_float32():
    x, w = example((24, 40), channels=4, dtype=jnp.bfloat16)
    dy = jnp.asarray(np.random.default_rng(1).normal(size=(2, 24, 40, 7)), jnp.bfloat16)
    dw = jax.vjp(lambda w: dense_conv2d(x, w), w)[1](dy)[0]
    wide = [v.astype(jnp.float32) for v in (x, w, dy)]
    exact = jax.vjp(lambda w: dense_conv2d(wide[0], w), wide[1])[1](wide[2])[0]
    assert dw.dtype == jnp.bfloat16
    np.testing.assert_allclose(dw.astype(jnp.float32), exact, rtol=2**-7, atol=1e-3)


def test_it_is_lowered_for_every_backend_and_has_products_only_on_cpu():
    x, w = jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32), jnp.ones((3, 3, 4, 4))
    grad = jax.jit(jax.grad(lambda w, x: jnp.sum(dense_conv2d(x, w) ** 2)))
    for platform, multiplies in (("cpu", True), ("cuda", False), ("tpu", False)):
        text = jax.export.export(grad, platforms=[platform])(w, x).mlir_module()
        assert ("stablehlo.dot_general" in text) == multiplies, platform
