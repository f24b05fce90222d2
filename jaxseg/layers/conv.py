"""Convolution: NHWC maps and HWIO kernels, torch's or TensorFlow's padding, and an exchangeable operation."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.arch import LayerSpec, NumbersArch
from jaxseg.layers.depthwise import depthwise_conv2d
from jaxseg.layers.norm import batch_norm
from jaxseg.layers.padding import pad_widths
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

_small_fan_in = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "normal")


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
        return _pointwise(x, kernel, stride)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=pad_widths(x.shape[1:3], kernel.shape[:2], stride, dilation, padding),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _pointwise(x: Array, kernel: Array, stride: int) -> Array:
    """A 1x1 convolution is a product of matrices, and as such its gradient is quick on CPU.

    Gradient of the kernel, [8, 96, 128, 16] to 96 channels, 2 CPU cores: 12 ms so, 178 ms by XLA's convolution;
    [8, 48, 64, 304] to 256: 38 ms and 628 ms. Forward and the other gradient are no slower.
    """
    return jax.lax.dot_general(x[:, ::stride, ::stride], kernel[0, 0], (((3,), (0,)), ((), ())))


class Conv(nn.Module):
    """One `LayerSpec`: convolution, then bias, batch norm and activation where the spec has them.

    Variables: params kernel (float32 HWIO), bias, norm/{scale, bias}; batch_stats norm/{mean, var}.

    spec:      the layer.
    numbers:   dtype of the computation, constants of the norm.
    conv_op:   the convolution; integer arithmetic and own gradients enter here.
    axis_name: pmap axis over which batch norm shares its statistics, or None.
    """

    spec: LayerSpec
    numbers: NumbersArch
    conv_op: ConvOp = conv2d
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), D] in the compute dtype."""
        spec, dtype = self.spec, jnp.dtype(self.numbers.compute)
        # Where nothing rescales or clips the output (logits), He's gain would start far from uniform
        # classes; there the standard deviation is that of torch's default.
        scores = spec.bias and not (spec.norm or spec.activation)
        # He's fan out is that of one group: the others do not see this kernel's outputs.
        he = nn.initializers.variance_scaling(2.0 * spec.groups, "fan_out", "normal")
        init = _small_fan_in if scores else he
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
