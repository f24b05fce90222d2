"""ResNet backbones (He et al., 1512.03385), torchvision's variant: bottlenecks stride on the 3x3.

Names of layers follow torchvision (conv1, conv2, conv3, downsample), as does dilation, so that its
pretrained weights fit.
"""

from jaxseg import flow
from jaxseg.arch import BlockArch, BlockSpec, LayerSpec
from jaxseg.errors import UserError, unknown_name
from jaxseg.flow import Op
from jaxseg.models.backbones.trunk import Stage, Trunk, build, check_output_stride, check_width
from jaxseg.models.block import MakeSpec, check_widths, normed_layer, round_width

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Blocks per stage."""

DILATIONS = ("first_undilated", "uniform")
OUTPUT_STRIDES = (8, 16, 32)

POOLED, RECTIFIED, LINEAR = "pooled_", "relu_", "_linear"
"""Kinds of residual blocks that begin so read the maximum, or the ReLU, of their input; that end so give a bare sum."""


def resnet(
    depth: int,
    output_stride: int,
    width: float = 1.0,
    dilation: str = "first_undilated",
    *,
    fine_stem: bool = False,
) -> Trunk:
    """A ResNet whose last stages are dilated instead of strided.

    Args:
        depth: 18, 34 (basic blocks), 50 or 101 (bottlenecks, expansion 4).
        output_stride: 8, 16 or 32.
        width: multiplies all widths, rounded to multiples of 8, at least 8.
        dilation: 'first_undilated' (torchvision) or 'uniform' (segmentation_models_pytorch), see
            `trunk.build`.
        fine_stem: the stem ends before its max-pooling, which becomes a part of the first residual
            block; so there is a level of stride 2, as U-Net needs it. The function is the same.

    Raises:
        UserError: a value that is not one of those.
    """
    if depth not in DEPTHS:
        raise UserError("ResNet depth", got=depth, expected=f"one of {sorted(DEPTHS)}")
    check_output_stride(output_stride, OUTPUT_STRIDES)
    if dilation not in DILATIONS:
        raise unknown_name("dilation", dilation, DILATIONS)
    check_width(width)
    residual, expansion = ("bottleneck", 4) if depth >= 50 else ("basic", 1)

    def stage(index: int) -> Stage:
        planes = round_width(64 * 2**index * width)
        widths = (planes, planes, expansion * planes) if depth >= 50 else (planes, planes)
        pooled = fine_stem and index == 0

        def block(stride: int, rate: int, i: int) -> BlockArch:
            return BlockArch(
                f"pooled_{residual}" if pooled and not i else residual, widths, stride, rate
            )

        return Stage(DEPTHS[depth][index], 2 if index or pooled else 1, block)

    stem = "resnet_fine_stem" if fine_stem else "resnet_stem"
    return build(
        f"resnet{depth}",
        BlockArch(stem, (round_width(64 * width),), stride=2 if fine_stem else 4),
        [stage(index) for index in range(4)],
        output_stride,
        dilation,
    )


# --- Specs ---


def _stem_spec(name: str, block: BlockArch, in_channels: int, in_stride: int) -> BlockSpec:
    check_widths(name, block.kind, block.widths, 1)
    conv1 = normed_layer("conv1", in_channels, block.widths[0], 7, in_stride, stride=2)
    ops, out_stride = flow.chain("in_0", "conv1"), in_stride * 2
    if block.kind == "resnet_stem":
        ops, out_stride = (*ops, _pool("conv1")), in_stride * 4
    return BlockSpec(name, "backbone", block.kind, (conv1,), ops, block.widths[0], out_stride)


def _pool(reads: str) -> Op:
    return Op("pool", flow.MAX_POOL, (reads,), window=3, stride=2)


def _basic_spec(name: str, block: BlockArch, in_channels: int, in_stride: int) -> BlockSpec:
    check_widths(name, block.kind, block.widths, 2)
    (one, two), (stride, inner) = block.widths, _strides(block, in_stride)
    layers = [
        normed_layer("conv1", in_channels, one, 3, inner, stride=stride, dilation=block.dilation),
        normed_layer("conv2", one, two, 3, inner * stride, dilation=block.dilation, activation=""),
    ]
    return _residual_spec(name, block, layers, in_channels, in_stride)


def _bottleneck_spec(name: str, block: BlockArch, in_channels: int, in_stride: int) -> BlockSpec:
    check_widths(name, block.kind, block.widths, 3)
    (one, two, three), (stride, inner) = block.widths, _strides(block, in_stride)
    layers = [
        normed_layer("conv1", in_channels, one, 1, inner),
        normed_layer("conv2", one, two, 3, inner, stride=stride, dilation=block.dilation),
        normed_layer("conv3", two, three, 1, inner * stride, activation=""),
    ]
    return _residual_spec(name, block, layers, in_channels, in_stride)


def _strides(block: BlockArch, in_stride: int) -> tuple[int, int]:
    """(stride of the convolutions, stride of the grid that they read)."""
    if not block.kind.startswith(POOLED):
        return block.stride, in_stride
    if block.stride != 2:
        raise UserError(f"stride of a {block.kind} block", got=block.stride, expected=2)
    return 1, in_stride * 2


def _residual_spec(
    name: str, block: BlockArch, layers: list[LayerSpec], in_channels: int, in_stride: int
) -> BlockSpec:
    """Adds the shortcut, projected where the identity does not fit."""
    ops = [_pool("in_0")] if block.kind.startswith(POOLED) else []
    if block.kind.startswith(RECTIFIED):
        ops = [Op("rectified", flow.RELU, ("in_0",))]
    start = shortcut = ops[-1].name if ops else "in_0"
    ops += flow.chain(start, *(layer.name for layer in layers))
    last = ops[-1].name
    out, (stride, inner) = block.widths[-1], _strides(block, in_stride)
    if stride != 1 or in_channels != out:
        layers.append(
            normed_layer("downsample", in_channels, out, 1, inner, stride=stride, activation="")
        )
        ops.append(flow.conv("downsample", shortcut))
        shortcut = "downsample"
    ops.append(flow.add("sum", last, shortcut, "" if block.kind.endswith(LINEAR) else "relu"))
    return BlockSpec(
        name, "backbone", block.kind, tuple(layers), tuple(ops), out, in_stride * block.stride
    )


KINDS: dict[str, MakeSpec] = {
    "resnet_stem": _stem_spec,
    "resnet_fine_stem": _stem_spec,
    "basic": _basic_spec,
    "pooled_basic": _basic_spec,
    "bottleneck": _bottleneck_spec,
    "pooled_bottleneck": _bottleneck_spec,
    **dict.fromkeys(("basic_linear", "relu_basic"), _basic_spec),
    **dict.fromkeys(("bottleneck_linear", "relu_bottleneck_linear"), _bottleneck_spec),
}
