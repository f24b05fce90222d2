"""ResNet backbones (He et al., 1512.03385), torchvision's variant: bottlenecks stride on the 3x3.

Names of layers follow torchvision (conv1, conv2, conv3, downsample), as does dilation, so that its
pretrained weights fit.
"""

import flax.linen as nn
import jax

from jaxseg.arch import BackboneArch, BlockArch, BlockSpec, LayerSpec, block_name
from jaxseg.errors import UserError, unknown_name
from jaxseg.layers.pool import max_pool
from jaxseg.models.block import Kind, SpecModule, check_widths, normed_layer, round_width
from jaxseg.types import Array

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Blocks per stage."""

DILATIONS = ("first_undilated", "uniform")
OUTPUT_STRIDES = (8, 16, 32)


def resnet(
    depth: int, output_stride: int, width: float = 1.0, dilation: str = "first_undilated"
) -> BackboneArch:
    """A ResNet whose last stages are dilated instead of strided.

    Args:
        depth: 18, 34 (basic blocks), 50 or 101 (bottlenecks, expansion 4).
        output_stride: 8, 16 or 32.
        width: multiplies all widths, rounded to multiples of 8, at least 8.
        dilation: 'first_undilated' (torchvision: the first block of a dilated stage keeps the
            dilation of the stage before) or 'uniform' (the whole stage has its own).

    Raises:
        UserError: a value that is not one of those.
    """
    if depth not in DEPTHS:
        raise UserError("ResNet depth", got=depth, expected=f"one of {sorted(DEPTHS)}")
    if output_stride not in OUTPUT_STRIDES:
        raise UserError("output_stride", got=output_stride, expected=f"one of {OUTPUT_STRIDES}")
    if dilation not in DILATIONS:
        raise unknown_name("dilation", dilation, DILATIONS)
    if not width > 0:
        raise UserError("width", got=width, expected="a number above 0")

    blocks = [BlockArch("resnet_stem", (round_width(64 * width),), stride=4)]
    reached, rate = 4, 1
    for stage, repeats in enumerate(DEPTHS[depth]):
        planes = round_width(64 * 2**stage * width)
        kind, widths = (
            ("bottleneck", (planes, planes, 4 * planes))
            if depth >= 50
            else ("basic", (planes,) * 2)
        )
        wished = 1 if stage == 0 else 2
        stride = wished if reached < output_stride else 1
        reached *= stride
        before, rate = rate, rate * (wished // stride)
        first = before if dilation == "first_undilated" else rate
        for i in range(repeats):
            blocks.append(BlockArch(kind, widths, 1 if i else stride, rate if i else first))
    return BackboneArch(f"resnet{depth}", tuple(blocks))


def stage_end(depth: int, stage: int) -> str:
    """Name of the last block of `stage` (1 to 4)."""
    return block_name(sum(DEPTHS[depth][:stage]))


# --- Specs ---


def _stem_spec(name: str, block: BlockArch, in_channels: int, in_stride: int) -> BlockSpec:
    check_widths(name, block.kind, block.widths, 1)
    conv1 = normed_layer("conv1", in_channels, block.widths[0], 7, in_stride, stride=2)
    return BlockSpec(name, "backbone", block.kind, (conv1,), block.widths[0], in_stride * 4)


def _basic_spec(name: str, block: BlockArch, in_channels: int, in_stride: int) -> BlockSpec:
    check_widths(name, block.kind, block.widths, 2)
    (one, two), out_stride = block.widths, in_stride * block.stride
    layers = [
        normed_layer(
            "conv1", in_channels, one, 3, in_stride, stride=block.stride, dilation=block.dilation
        ),
        normed_layer("conv2", one, two, 3, out_stride, dilation=block.dilation),
    ]
    return _residual_spec(name, block, layers, in_channels, in_stride)


def _bottleneck_spec(name: str, block: BlockArch, in_channels: int, in_stride: int) -> BlockSpec:
    check_widths(name, block.kind, block.widths, 3)
    (one, two, three), out_stride = block.widths, in_stride * block.stride
    layers = [
        normed_layer("conv1", in_channels, one, 1, in_stride),
        normed_layer("conv2", one, two, 3, in_stride, stride=block.stride, dilation=block.dilation),
        normed_layer("conv3", two, three, 1, out_stride),
    ]
    return _residual_spec(name, block, layers, in_channels, in_stride)


def _residual_spec(
    name: str, block: BlockArch, layers: list[LayerSpec], in_channels: int, in_stride: int
) -> BlockSpec:
    """Adds the projection shortcut where the identity does not fit."""
    out = block.widths[-1]
    if block.stride != 1 or in_channels != out:
        layers.append(
            normed_layer("downsample", in_channels, out, 1, in_stride, stride=block.stride)
        )
    return BlockSpec(name, "backbone", block.kind, tuple(layers), out, in_stride * block.stride)


# --- Modules ---


class _Residual(SpecModule):
    """A block that adds its input, projected where the spec says so."""

    def shortcut(self, x: Array, train: bool) -> Array:
        return self.conv("downsample")(x, train) if self.spec.has("downsample") else x


class Stem(SpecModule):
    """7x7/2 convolution, batch norm, ReLU, 3x3/2 maximum."""

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        return max_pool(jax.nn.relu(self.conv("conv1")(x, train)))


class Basic(_Residual):
    """Two 3x3 convolutions and a shortcut."""

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        y = jax.nn.relu(self.conv("conv1")(x, train))
        y = self.conv("conv2")(y, train)
        return jax.nn.relu(y + self.shortcut(x, train))


class Bottleneck(_Residual):
    """1x1, 3x3 (strided, dilated), 1x1 convolution and a shortcut."""

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        y = jax.nn.relu(self.conv("conv1")(x, train))
        y = jax.nn.relu(self.conv("conv2")(y, train))
        y = self.conv("conv3")(y, train)
        return jax.nn.relu(y + self.shortcut(x, train))


KINDS = {
    "resnet_stem": Kind(_stem_spec, Stem),
    "basic": Kind(_basic_spec, Basic),
    "bottleneck": Kind(_bottleneck_spec, Bottleneck),
}
