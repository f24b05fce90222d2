"""Convolution: NHWC maps and HWIO kernels, torch's or TensorFlow's padding, and an exchangeable operation."""

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg import flow
from jaxseg.arch import ALL, IMAGE_CHANNELS, NOTHING, STATISTICS, LayerSpec
from jaxseg.flow import Op
from jaxseg.layers.dense import dense_conv2d
from jaxseg.layers.depthwise import depthwise_conv2d
from jaxseg.layers.norm import initial_values, norm_of
from jaxseg.layers.pointwise import pointwise_conv2d
from jaxseg.layers.xla import xla_conv
from jaxseg.numbers import BitsArch, Grid, IntegerArch, NumbersArch
from jaxseg.padding import pad_widths
from jaxseg.quant import dorefa
from jaxseg.quant.rounding import error, onto
from jaxseg.types import Array

ConvOp = Callable[..., Array]
"""(x, kernel, *, stride, dilation, groups, padding) -> y, shapes as `conv2d`."""


def relu6(x: Array) -> Array:
    """min(max(x, 0), 6) with gradient 0 at both ends, as in torch; on grids many values lie there."""
    return jnp.where(x < 6, jax.nn.relu(x), jnp.full_like(x, 6))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "": lambda x: x,
    "relu": jax.nn.relu,
    "relu6": relu6,
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
    own_gradients: bool = True,
) -> Array:
    """2-D convolution with zero padding, see `padding`.

    Args:
        x: [B, H, W, C], floating.
        kernel: [kh, kw, C // groups, D], odd kh and kw, same dtype.
        stride, dilation, groups: as in torch's conv2d; the same for both axes.
        padding: 'symmetric' (torch's dilation * (k - 1) // 2) or 'same' (TensorFlow's).
        own_gradients: see `plain_conv2d`.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), D], same dtype.
    """
    if groups == x.shape[-1] > 1:
        x = repeated(x, kernel.shape[-1] // groups)
        return depthwise_conv2d(x, kernel, stride=stride, dilation=dilation, padding=padding)
    if groups == 1 and kernel.shape[:2] == (1, 1):
        return pointwise_conv2d(x[:, ::stride, ::stride], kernel)
    if groups == 1 and own_gradients:
        return dense_conv2d(x, kernel, stride=stride, dilation=dilation, padding=padding)
    pads = pad_widths(x.shape[1:3], kernel.shape[:2], stride, dilation, padding)
    return xla_conv(x, kernel, stride, dilation, pads, groups)


plain_conv2d: ConvOp = functools.partial(conv2d, own_gradients=False)
"""The same with XLA's own gradients for kernels larger than 1x1 of one group.

They compile in a tenth of the time, and on small maps are as fast: for networks of hundreds of convolutions. Both
gradients of four of them on CPU: [8, 24, 32, 8] to 16 in 3.2 ms instead of 3.7, [8, 6, 8, 32] to 64 in 0.8 instead of
1.4; compiled in 0.13 s instead of 1.4 to 3.4.
"""


def repeated(x: Array, times: int) -> Array:
    """[B, H, W, C] -> [B, H, W, C * times], every channel `times` times: what depthwise kernels that widen read."""
    if times == 1:
        return x
    # A broadcast: its gradient is a sum over the copies.
    shape = (*x.shape[:3], x.shape[3] * times)
    return jnp.broadcast_to(x[..., None], (*x.shape, times)).reshape(shape)


def kernel_std(spec: LayerSpec) -> float:
    """Standard deviation of the initial kernel.

    He's by fan out (1502.01852), of one group, since the others do not see this kernel's outputs. Where nothing
    rescales or clips the output (scores), that would start far from uniform classes; there it is torch's default.
    """
    height, width, inputs, outputs = spec.kernel_shape
    if spec.bias and not (spec.norm or spec.activation):
        return (3.0 * height * width * inputs) ** -0.5
    return (2.0 * spec.groups / (height * width * outputs)) ** 0.5


KERNEL_SPREAD = 6
"""Standard deviations of a random kernel that the reach of its grid holds, at the least."""


def kernel_reach(spec: LayerSpec, grid: Grid) -> float:
    """The reach of the kernel's grid: where it has none of its own, by how the kernel starts; at most 1."""
    return grid.reach or min(2.0 ** math.ceil(math.log2(KERNEL_SPREAD * kernel_std(spec))), 1.0)


def initial(
    spec: LayerSpec, normal: Array, numbers: NumbersArch
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables with which a `Conv` starts: (params, batch_stats), as its own `init` names them.

    Args:
        spec: the layer.
        normal: standard normal numbers in the shape of the kernel, after an axis of passes if each has its own.
        numbers: of the architecture; its norm decides which statistics there are.
    """
    if spec.own == ALL:
        return jax.vmap(lambda one: initial(replace(spec, own=NOTHING), one, numbers))(normal)
    outputs = (spec.out_channels,)
    params = {"kernel": normal * kernel_std(spec)}
    if spec.bias:
        params["bias"] = jnp.zeros(outputs)
    if not spec.norm:
        return params, {}
    start, statistics = initial_values(numbers)
    start = start if spec.affine else {}
    # With their type: arrays of a mere Python number have a weak one, and the second step would compile again.
    full = lambda value, shape: jnp.full(shape, value, jnp.float32)  # noqa: E731
    if start:
        params["norm"] = {name: full(value, outputs) for name, value in start.items()}
    if spec.own == STATISTICS:
        outputs = (spec.repeats, *outputs)
    return params, {"norm": {name: full(value, outputs) for name, value in statistics.items()}}


class Conv(nn.Module):
    """One `LayerSpec`: convolution, then bias, batch norm and activation where the spec has them.

    On grids kernel and bias are rounded before they are used, the result before it is handed on, and on the way back
    the gradients of both results. What it reads is on a grid already.

    Variables: params kernel (float32 HWIO), bias, norm/{scale, bias}; batch_stats norm/{mean, var or deviation}.

    spec:      the layer.
    numbers:   dtype of the computation, constants of the norm.
    conv_op:   the convolution; integer arithmetic and own gradients enter here.
    axis_name: axis of devices over which batch norm shares its statistics, or None.
    grids:     of this layer.
    bits:      of kernel and activations, see `quant.dorefa`.
    """

    spec: LayerSpec
    numbers: NumbersArch
    conv_op: ConvOp = conv2d
    axis_name: str | None = None
    grids: IntegerArch = IntegerArch()
    bits: BitsArch = BitsArch()

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), D] in the compute dtype."""
        spec, dtype, grids = self.spec, jnp.dtype(self.numbers.compute), self.grids
        init = nn.initializers.normal(kernel_std(spec))
        kernel = self.param("kernel", init, spec.kernel_shape, jnp.float32)
        if not self.bits.off:
            kernel = dorefa.weights(kernel, self.bits.weights, rescaled=not spec.norm)
            # What reads the image, of 3 channels and any sign, reads it as it is.
            if spec.in_channels != IMAGE_CHANNELS:
                x = dorefa.activations(x, self.bits.activations, self.bits.reach)
        y = self.conv_op(
            x.astype(dtype),
            onto(
                kernel.astype(dtype),
                replace(grids.weights, reach=kernel_reach(spec, grids.weights)),
            ),
            stride=spec.stride,
            dilation=spec.dilation,
            groups=spec.groups,
            padding=spec.padding,
        )
        if not grids.conv_errors.off:
            y = error(y, grids.conv_errors, self.axis_name)
        if spec.bias:
            bias = self.param("bias", nn.initializers.zeros, (spec.out_channels,), jnp.float32)
            y = y + onto(bias, grids.biases).astype(y.dtype).reshape(1, 1, 1, -1)
        if spec.norm:
            if not spec.affine:
                raise ValueError(
                    f"{spec.name}: a norm without scale and bias is not for this module"
                )
            norm = norm_of(self.numbers, grids, self.axis_name, name="norm")
            y = norm(y, use_running_average=not train)
        y = ACTIVATIONS[spec.activation](y)
        return on_grid(y, result_grid(spec, grids), grids.errors, self.axis_name, train)


def result_grid(spec: LayerSpec, grids: IntegerArch) -> Grid:
    """Onto which the result of a layer is rounded."""
    if spec.name.startswith("logits"):
        return grids.logits
    if spec.activation == "sigmoid":  # at most 1
        return replace(grids.activations, reach=min(grids.activations.reach, 1.0))
    return grids.activations if spec.activation else grids.maps


def op_grid(op: Op, grids: IntegerArch) -> Grid:
    """Onto which the result of an operation that is no layer is rounded."""
    grid = getattr(grids, op.path)
    return replace(grid, reach=min(grid.reach, 1.0)) if op.kind == flow.SIGMOID else grid


def on_grid(x: Array, grid: Grid, errors: Grid, axis_name: str | None, train: bool) -> Array:
    """`x` on `grid`, and its gradient on `errors`; where `grid` is off both are left as they are.

    In training the tensor is that of all devices. In inference every image is on its own, since its answer must not
    depend on its neighbours.
    """
    if grid.off:
        return x
    if not train:
        return onto(x, grid, each=True)
    return error(onto(x, grid, axis_name), errors, axis_name)
