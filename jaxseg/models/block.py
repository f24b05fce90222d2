"""What backbone blocks and heads have in common: they are made from a `BlockSpec`."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn

from jaxseg.arch import BlockArch, BlockSpec, LayerSpec
from jaxseg.errors import UserError
from jaxseg.layers.conv import Conv, ConvOp, conv2d, on_grid
from jaxseg.numbers import NumbersArch
from jaxseg.types import Array


class SpecModule(nn.Module):
    """Base of all blocks and heads; its layers are submodules named as in the spec.

    spec:      what to compute.
    numbers:   dtype of the computation, constants of batch norm, integer grids.
    conv_op:   the convolution, see `layers.conv.ConvOp`.
    axis_name: axis of devices that share batch statistics, or None.
    """

    spec: BlockSpec
    numbers: NumbersArch
    conv_op: ConvOp = conv2d
    axis_name: str | None = None

    def conv(self, name: str, in_setup: bool = False) -> Conv:
        """The layer `name` of the spec, with its bias, norm and activation; in `setup` Flax names it itself."""
        spec, grids = self.spec.layer(name), self.numbers.integer.at(f"{self.spec.name}/{name}")
        own = None if in_setup else name
        return Conv(spec, self.numbers, self.conv_op, self.axis_name, grids, name=own)

    def on_grid(self, x: Array, train: bool, path: str = "maps") -> Array:
        """What the block makes of the results of its layers, on the grid of `path`; of float networks `x` itself.

        path: 'activations' behind an activation, 'logits' for scores, 'maps' for everything else.
        """
        grids = self.numbers.integer.at(f"{self.spec.name}/")
        return on_grid(x, getattr(grids, path), grids.errors, self.axis_name, train)


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
