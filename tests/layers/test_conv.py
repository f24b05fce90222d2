"""Convolution against a float64 reference, and what `Conv` makes of a LayerSpec."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.arch import LayerSpec, NumbersArch
from jaxseg.layers.conv import Conv, conv2d


def reference(x, kernel, stride, dilation, groups):
    """Torch-style convolution by loops over the kernel, in float64."""
    kh, kw, fan_in, out = kernel.shape
    ph, pw = dilation * (kh - 1) // 2, dilation * (kw - 1) // 2
    height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    x = np.pad(x.astype(np.float64), ((0, 0), (ph, ph), (pw, pw), (0, 0)))
    y = np.zeros((x.shape[0], height, width, out))
    per = out // groups
    for i, j, g in np.ndindex(kh, kw, groups):
        rows = i * dilation + stride * np.arange(height)
        columns = j * dilation + stride * np.arange(width)
        patch = x[:, rows][:, :, columns][..., g * fan_in : (g + 1) * fan_in]
        mine = slice(g * per, (g + 1) * per)
        y[..., mine] += patch @ kernel[i, j, :, mine].astype(np.float64)
    return y


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (5, 12)])
@pytest.mark.parametrize(
    "kernel, stride, dilation, groups",
    [
        (1, 1, 1, 1),
        (1, 2, 1, 1),
        (3, 1, 1, 1),
        (3, 2, 1, 1),
        (3, 2, 2, 1),
        (3, 1, 3, 6),
        (7, 2, 1, 2),
    ],
)
def test_conv2d_is_torch_style(size, kernel, stride, dilation, groups):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 6)).astype(np.float32)
    w = rng.normal(size=(kernel, kernel, 6 // groups, 12)).astype(np.float32)
    y = jax.jit(lambda x, w: conv2d(x, w, stride=stride, dilation=dilation, groups=groups))(x, w)
    np.testing.assert_allclose(y, reference(x, w, stride, dilation, groups), rtol=1e-4, atol=1e-4)


def spec(**changes) -> LayerSpec:
    given = dict(
        name="conv1",
        in_channels=4,
        out_channels=8,
        kernel=(3, 3),
        stride=1,
        dilation=1,
        groups=1,
        bias=False,
        norm=True,
        out_stride=1,
    )
    return LayerSpec(**(given | changes))


@pytest.mark.parametrize(
    "changes, names",
    [
        ({}, {"kernel", "norm"}),
        ({"norm": False}, {"kernel"}),
        ({"norm": False, "bias": True}, {"kernel", "bias"}),
    ],
)
def test_variables_follow_the_spec(changes, names):
    layer = Conv(spec(**changes), NumbersArch())
    variables = jax.eval_shape(layer.init, jax.random.PRNGKey(0), jnp.zeros((1, 4, 4, 4)))
    assert set(variables["params"]) == names
    assert variables["params"]["kernel"].shape == (3, 3, 4, 8)
    assert ("batch_stats" in variables) == ("norm" in names)


def test_bias_is_added_per_channel():
    layer, x = Conv(spec(norm=False, bias=True), NumbersArch()), jnp.ones((1, 4, 4, 4))
    variables = layer.init(jax.random.PRNGKey(0), x)
    bias = jnp.arange(8, dtype=jnp.float32)
    with_bias = {"params": {**variables["params"], "bias": bias}}
    difference = layer.apply(with_bias, x) - layer.apply(variables, x)
    np.testing.assert_allclose(difference, np.broadcast_to(bias, difference.shape), atol=1e-5)


def test_initial_spread_is_he_fan_out_under_a_norm_and_torchs_default_without():
    for norm, expected in ((True, np.sqrt(2 / (9 * 256))), (False, np.sqrt(1 / (3 * 9 * 128)))):
        layer = Conv(spec(in_channels=128, out_channels=256, norm=norm), NumbersArch())
        x = jnp.zeros((1, 1, 1, 128))
        kernel = jax.jit(layer.init)(jax.random.PRNGKey(0), x)["params"]["kernel"]
        np.testing.assert_allclose(np.std(kernel), expected, rtol=0.01)


def test_conv_op_replaces_the_operation_and_sees_the_compute_dtype():
    seen = []

    def op(x, kernel, *, stride, dilation, groups):
        seen.append((x.dtype, kernel.dtype, stride, dilation, groups))
        return conv2d(x, kernel, stride=stride, dilation=dilation, groups=groups)

    layer = Conv(spec(stride=2, dilation=3, groups=2), NumbersArch("bfloat16"), conv_op=op)
    y, _ = layer.init_with_output(jax.random.PRNGKey(0), jnp.zeros((1, 5, 6, 4)))
    bf16 = jnp.dtype("bfloat16")
    assert seen == [(bf16, bf16, 2, 3, 2)]
    chex.assert_shape(y, (1, 3, 3, 8))
    chex.assert_type(y, jnp.bfloat16)
