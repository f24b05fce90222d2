"""Convolution: NHWC maps and HWIO kernels, torch's or TensorFlow's padding, and an exchangeable operation."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.arch import ALL, NOTHING, STATISTICS, LayerSpec, NumbersArch
from jaxseg.layers.dense import dense_conv2d
from jaxseg.layers.depthwise import depthwise_conv2d
from jaxseg.layers.norm import batch_norm
from jaxseg.layers.padding import pad_widths
from jaxseg.layers.pointwise import pointwise_conv2d
from jaxseg.layers.xla import xla_conv
from jaxseg.types import Array

ConvOp = Callable[..., Array]
"""(x, kernel, *, stride, dilation, groups, padding) -> y, shapes as `conv2d`."""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "": lambda x: x,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "sigmoid": jax.nn.sigmoid,
}
"""`arch.ACTIVATIONS`, as functions."""


def conv2d(
    x: Array,
    kernel: Array,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: str = "symmetric",
) -> Array:
    """2-D convolution with zero padding, see `layers.padding`.

    Args:
        x: [B, H, W, C], floating.
        kernel: [kh, kw, C // groups, D], odd kh and kw, same dtype.
        stride, dilation, groups: as in torch's conv2d; the same for both axes.
        padding: 'symmetric' (torch's dilation * (k - 1) // 2) or 'same' (TensorFlow's).

    Returns:
        [B, ceil(H / stride), ceil(W / stride), D], same dtype.
    """
    if groups == x.shape[-1] == kernel.shape[-1] > 1:
        return depthwise_conv2d(x, kernel, stride=stride, dilation=dilation, padding=padding)
    if groups == 1 and kernel.shape[:2] == (1, 1):
        return pointwise_conv2d(x[:, ::stride, ::stride], kernel)
    if groups == 1:
        return dense_conv2d(x, kernel, stride=stride, dilation=dilation, padding=padding)
    pads = pad_widths(x.shape[1:3], kernel.shape[:2], stride, dilation, padding)
    return xla_conv(x, kernel, stride, dilation, pads, groups)


def kernel_std(spec: LayerSpec) -> float:
    """Standard deviation of the initial kernel.

    He's by fan out (1502.01852), of one group, since the others do not see this kernel's outputs. Where nothing
    rescales or clips the output (scores), that would start far from uniform classes; there it is torch's default.
    """
    height, width, inputs, outputs = spec.kernel_shape
    if spec.bias and not (spec.norm or spec.activation):
        return (3.0 * height * width * inputs) ** -0.5
    return (2.0 * spec.groups / (height * width * outputs)) ** 0.5


def initial(spec: LayerSpec, normal: Array) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables with which a `Conv` starts: (params, batch_stats), as its own `init` names them.

    Args:
        spec: the layer.
        normal: standard normal numbers in the shape of the kernel, after an axis of passes if each has its own.
    """
    if spec.own == ALL:
        return jax.vmap(lambda one: initial(replace(spec, own=NOTHING), one))(normal)
    outputs = (spec.out_channels,)
    params = {"kernel": normal * kernel_std(spec)}
    if spec.bias:
        params["bias"] = jnp.zeros(outputs)
    if not spec.norm:
        return params, {}
    params["norm"] = {"scale": jnp.ones(outputs), "bias": jnp.zeros(outputs)}
    if spec.own == STATISTICS:
        outputs = (spec.repeats, *outputs)
    return params, {"norm": {"mean": jnp.zeros(outputs), "var": jnp.ones(outputs)}}


class Conv(nn.Module):
    """One `LayerSpec`: convolution, then bias, batch norm and activation where the spec has them.

    Variables: params kernel (float32 HWIO), bias, norm/{scale, bias}; batch_stats norm/{mean, var}.

    spec:      the layer.
    numbers:   dtype of the computation, constants of the norm.
    conv_op:   the convolution; integer arithmetic and own gradients enter here.
    axis_name: axis of devices over which batch norm shares its statistics, or None.
    """

    spec: LayerSpec
    numbers: NumbersArch
    conv_op: ConvOp = conv2d
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), D] in the compute dtype."""
        spec, dtype = self.spec, jnp.dtype(self.numbers.compute)
        init = nn.initializers.normal(kernel_std(spec))
        kernel = self.param("kernel", init, spec.kernel_shape, jnp.float32)
        y = self.conv_op(
            x.astype(dtype),
            kernel.astype(dtype),
            stride=spec.stride,
            dilation=spec.dilation,
            groups=spec.groups,
            padding=spec.padding,
        )
        if spec.bias:
            bias = self.param("bias", nn.initializers.zeros, (spec.out_channels,), jnp.float32)
            y = y + bias.astype(y.dtype).reshape(1, 1, 1, -1)
        if spec.norm:
            norm = batch_norm(self.numbers, self.axis_name, name="norm")
            y = norm(y, use_running_average=not train)
        return ACTIVATIONS[spec.activation](y)
