"""The Flax module of every backbone block and head, made from a `BlockSpec`; and what their specs have in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxseg import flow
from jaxseg.arch import BlockSpec, LayerSpec
from jaxseg.errors import UserError
from jaxseg.flow import Op
from jaxseg.layers.codes import CodeOp
from jaxseg.layers.conv import ACTIVATIONS, Conv, ConvOp, conv2d, on_grid, op_grid
from jaxseg.layers.pool import average, average_pool, halved, max_pool
from jaxseg.layers.resize import resize_bilinear, upsample_nearest
from jaxseg.numbers import FIXED, NumbersArch
from jaxseg.quant.scaling import RESIZE_BITS
from jaxseg.types import Array

SEEN = "seen"
"""The collection in which whoever asks finds the results of operations, see `results`."""

RESULTS = "results"


def results(found: Mapping[str, Any], block: str, op: str) -> Array:
    """What an operation gave, from the second result of `apply(.., mutable=[SEEN])`; in a loop every pass's."""
    return found[SEEN][block][RESULTS][0][op]


class Block(nn.Module):
    """A backbone block or a head: the operations of its spec, one after the other.

    Its layers are submodules named as in the spec; the other operations have no variables.

    spec:      what to compute.
    numbers:   dtype of the computation, constants of batch norm, integer grids; int8 networks run on codes.
    conv_op:   the convolution, see `layers.conv.ConvOp`.
    axis_name: axis of devices that share batch statistics, or None.
    """

    spec: BlockSpec
    numbers: NumbersArch
    conv_op: ConvOp = conv2d
    axis_name: str | None = None

    @nn.compact
    def __call__(self, *inputs: Array, train: bool = False) -> Array:
        """The maps that the block reads, [B, h, w, C] each, to its result. Dropout draws from the stream 'dropout'."""
        return self.run(inputs, train)

    def run(self, inputs: Sequence[Array], train: bool) -> Array:
        maps = {flow.entry(i): x for i, x in enumerate(inputs)}
        for op in self.spec.ops:
            maps[op.name] = self._done(op, [maps[name] for name in op.reads], train)
        if not self.is_initializing():  # where everything is asked for
            self.sow(SEEN, RESULTS, maps)  # does nothing, unless asked for with `mutable`
        return maps[self.spec.ops[-1].name]

    def part(self, op: Op) -> nn.Module:
        """The submodule of an operation that has variables."""
        return self.made(op, op.name)

    def made(self, op: Op, own: str | None) -> nn.Module:
        """A layer with its bias, norm and activation; of an int8 network any operation. `own`: its name, if given."""
        if self.numbers.in_codes:
            return CodeOp(self.spec, op, self.numbers, name=own)
        grids = self.numbers.integer.at(f"{self.spec.name}/{op.name}")
        spec = self.spec.layer(op.name)
        bits = self.numbers.bits.at(self.spec.name, op.name)
        return Conv(spec, self.numbers, self.conv_op, self.axis_name, grids, bits, name=own)

    def _done(self, op: Op, maps: list[Array], train: bool) -> Array:
        if self.numbers.in_codes:
            return self.part(op)(*maps)
        if op.kind == flow.CONV:
            return self.part(op)(maps[0], train)
        y = self._value(op, maps, train)
        # What only picks, repeats or puts side by side is on a grid already.
        if op.kind in flow.PICKING or y is maps[0]:
            return y
        grids = self.numbers.integer.at(f"{self.spec.name}/")
        return on_grid(y, op_grid(op, grids), grids.errors, self.axis_name, train)

    def _value(self, op: Op, maps: list[Array], train: bool) -> Array:
        if op.kind == flow.DROPOUT:
            return nn.Dropout(self.spec.dropout, deterministic=not train)(*maps)
        if op.kind != flow.RESIZE:
            return OPERATIONS[op.kind](op, *maps)
        x, like = maps
        # Where maps are on fixed grids, weights are those of `quant.codes.resize`.
        grid = getattr(self.numbers.integer, op.path)
        bits = RESIZE_BITS if not grid.off and grid.rule == FIXED else None
        y = resize_bilinear(x, like.shape[1:3], align_corners=op.corners, weight_bits=bits)
        return y.astype(x.dtype)


OPERATIONS: dict[str, Callable[..., Array]] = {
    flow.ADD: lambda op, x, y: ACTIVATIONS[op.activation](x + y),
    flow.MULTIPLY: lambda op, x, y: x * y,
    flow.RELU: lambda op, x: ACTIVATIONS["relu"](x),
    flow.SIGMOID: lambda op, x: ACTIVATIONS["sigmoid"](x),
    flow.JOIN: lambda op, *maps: jnp.concatenate(maps, axis=-1),
    flow.NEAREST: lambda op, x, like: upsample_nearest(x, like.shape[1:3]),
    flow.MAX_POOL: lambda op, x: max_pool(x, op.window, op.stride),
    flow.AVERAGE_POOL: lambda op, x: average_pool(x, op.window, op.stride),
    flow.AVERAGE: lambda op, x: average(x, op.bins),
    flow.HALVE: lambda op, x: halved(x),
    flow.SPREAD: lambda op, x, like: jnp.broadcast_to(x, (*like.shape[:3], x.shape[-1])),
}
"""Kind of `flow.Op` -> (op, maps) -> map; without what has variables, chance or grids inside."""


class Tap(NamedTuple):
    """The shape of a map: what a block or head is told of those it reads."""

    channels: int
    stride: int


MakeSpec = Callable[..., BlockSpec]
"""A kind of backbone block: (name, its `BlockArch`, in_channels, in_stride, the `Tap` of each further map) -> its spec;
raises a UserError if impossible.
"""


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


def norm_layer(name: str, channels: int, stride: int, *, activation: str = "relu") -> LayerSpec:
    """A batch norm that no convolution comes before: behind a 1x1 one of every channel alone.

    The same function; one number per channel more than a norm has, which the norm takes away again.
    """
    layer = normed_layer(name, channels, channels, 1, stride, activation=activation)
    return replace(layer, groups=channels)


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
