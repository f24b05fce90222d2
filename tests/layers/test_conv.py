"""Convolution against a float64 reference, and what `Conv` makes of a LayerSpec."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.arch import LayerSpec
from jaxseg.errors import UserError
from jaxseg.layers.conv import ACTIVATIONS, Conv, conv2d, plain_conv2d
from jaxseg.numbers import NumbersArch


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


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (2, 3)])
@pytest.mark.parametrize(
    "kernel, stride, dilation", [(3, 1, 1), (3, 2, 1), (5, 2, 1), (3, 2, 2), (1, 2, 1)]
)
def test_padding_same_is_xlas(size, kernel, stride, dilation):
    """XLA's own 'SAME' was made after TensorFlow's."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 4)).astype(np.float32)
    w = rng.normal(size=(kernel, kernel, 4, 6)).astype(np.float32)
    y = conv2d(x, w, stride=stride, dilation=dilation, padding="same")
    expected = jax.lax.conv_general_dilated(
        x, w, (stride, stride), "SAME", rhs_dilation=(dilation,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )  # fmt: skip
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_unknown_padding_is_named():
    with pytest.raises(UserError, match="symmetric"):
        conv2d(jnp.zeros((1, 4, 4, 1)), jnp.zeros((3, 3, 1, 1)), padding="SAME")


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


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, np.sqrt(2 / (9 * 256))),  # He's, of the outputs
        ({"norm": False, "bias": True, "activation": "relu"}, np.sqrt(2 / (9 * 256))),  # VGG
        ({"norm": False, "bias": True}, np.sqrt(1 / (3 * 9 * 128))),  # scores: torch's default
        ({"out_channels": 128, "groups": 128}, np.sqrt(2 / 9)),  # each kernel has one output
    ],
)
def test_initial_spread(changes, expected):
    layer = Conv(spec(**{"in_channels": 128, "out_channels": 256} | changes), NumbersArch())
    x = jnp.zeros((1, 1, 1, 128))
    kernel = jax.jit(layer.init)(jax.random.PRNGKey(0), x)["params"]["kernel"]
    np.testing.assert_allclose(np.std(kernel), expected, rtol=0.01 if kernel.size > 9999 else 0.05)


def test_activation_comes_last():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 4)) * 9, jnp.float32)
    plain = Conv(spec(), NumbersArch())
    variables = jax.tree.map(lambda v: v + 0.5, plain.init(jax.random.PRNGKey(0), x))
    y = np.asarray(plain.apply(variables, x))
    assert y.min() < 0 and y.max() > 6
    expected = {
        "relu": np.maximum(y, 0),
        "relu6": np.clip(y, 0, 6),
        "sigmoid": 0.5 + 0.5 * np.tanh(y / 2),
    }
    for name, value in expected.items():
        got = Conv(spec(activation=name), NumbersArch()).apply(variables, x)
        np.testing.assert_allclose(got, value, atol=1e-6)
    assert set(expected) | {""} == set(ACTIVATIONS)


def test_conv_op_replaces_the_operation_and_sees_the_compute_dtype():
    seen = []

    def op(x, kernel, **geometry):
        seen.append((x.dtype, kernel.dtype, geometry))
        return conv2d(x, kernel, **geometry)

    layer = spec(stride=2, dilation=3, groups=2, padding="same")
    layer = Conv(layer, NumbersArch("bfloat16"), conv_op=op)
    y, _ = layer.init_with_output(jax.random.PRNGKey(0), jnp.zeros((1, 5, 6, 4)))
    bf16 = jnp.dtype("bfloat16")
    geometry = {"stride": 2, "dilation": 3, "groups": 2, "padding": "same"}
    assert seen == [(bf16, bf16, geometry)]
    chex.assert_shape(y, (1, 3, 3, 8))
    chex.assert_type(y, jnp.bfloat16)


@pytest.mark.parametrize("kernel, stride, dilation", [(1, 2, 1), (3, 1, 4), (3, 2, 1)])
def test_the_plain_one_is_the_same_with_its_gradients(kernel, stride, dilation):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 9, 10, 4)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(kernel, kernel, 4, 6)), jnp.float32)
    found = []
    for op in (conv2d, plain_conv2d):
        y, back = jax.vjp(lambda x, w, op=op: op(x, w, stride=stride, dilation=dilation), x, w)
        found.append((y, *back(jnp.cos(y))))
    for ours, plain in zip(*found, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)


def test_a_norm_without_scale_and_bias_is_refused():
    """Only cells that are searched have them, and they do without `Conv`."""
    spec = LayerSpec("a", 3, 4, (1, 1), 1, 1, 1, False, True, 1, affine=False)
    with pytest.raises(ValueError, match="without scale and bias"):
        Conv(spec, NumbersArch()).init(jax.random.PRNGKey(0), jnp.zeros((1, 2, 2, 3)))
