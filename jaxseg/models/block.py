"""What backbone blocks and heads have in common: they are made from a `BlockSpec`."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn

from jaxseg.arch import BlockArch, BlockSpec, LayerSpec, NumbersArch
from jaxseg.errors import UserError
from jaxseg.layers.conv import Conv, ConvOp, conv2d


class SpecModule(nn.Module):
    """Base of all blocks and heads; its layers are submodules named as in the spec.

    spec:      what to compute.
    numbers:   dtype of the computation, constants of batch norm.
    conv_op:   the convolution, see `layers.conv.ConvOp`.
    axis_name: axis of devices that share batch statistics, or None.
    """

    spec: BlockSpec
    numbers: NumbersArch
    conv_op: ConvOp = conv2d
    axis_name: str | None = None

    def conv(self, name: str) -> Conv:
        """The layer `name` of the spec, with its bias, norm and activation."""
        return Conv(self.spec.layer(name), self.numbers, self.conv_op, self.axis_name, name=name)


class Kind(NamedTuple):
    """A kind of backbone block.

    spec:   (name, block, in_channels, in_stride) -> BlockSpec; UserError if impossible.
    module: (x, train) -> y, made from that spec.
    """

    spec: Callable[[str, BlockArch, int, int], BlockSpec]
    module: type[SpecModule]


def normed_layer(
    name: str,
    in_channels: int,
    out_channels: int,
    kernel: int,
    in_stride: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    activation: str = "relu",
    padding: str = "symmetric",
) -> LayerSpec:
    """The usual layer: square kernel, one group, batch norm and therefore no bias, ReLU."""
    return LayerSpec(
        name=name,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel=(kernel, kernel),
        stride=stride,
        dilation=dilation,
        groups=1,
        bias=False,
        norm=True,
        out_stride=in_stride * stride,
        activation=activation,
        padding=padding,
    )


def check_widths(what: str, kind: str, widths: tuple[int, ...], *expected: int) -> None:
    """Raises a UserError unless the number of widths is among `expected`, and all are positive."""
    if len(widths) not in expected or min(widths, default=0) < 1:
        numbers = " or ".join(map(str, expected))
        raise UserError(
            f"widths of {what} ({kind})", got=widths, expected=f"{numbers} numbers above 0"
        )


def round_width(channels: float) -> int:
    """The nearest multiple of 8, at least 8."""
    return max(8, int(channels + 4) // 8 * 8)
