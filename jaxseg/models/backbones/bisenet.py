"""BiSeNetV2 (Yu et al., 2004.02147): a wide, shallow branch for detail and a narrow, deep one for meaning.

Both read the image and meet in the guided aggregation, the last block. Layer table after the public implementations of
CoinCheung and of mmsegmentation (recalled): a ReLU behind depthwise convolutions of gather-and-expansion layers and
behind the aggregation, which the paper does not show; bilinear upsampling in the aggregation, as in the second.

Order of `BlockArch.widths`:
    conv_stage:    conv1 (strided), conv2, ..
    bisenet_stem:  conv, narrow, left, fuse
    gather_expand: conv1, expand (a multiple of it), project
    context:       mean, conv
    guided:        detail, detail_down, semantic, semantic_gate, conv
"""

from dataclasses import replace

from jaxseg import flow
from jaxseg.arch import IMAGE, BackboneArch, BlockArch, BlockSpec, LayerSpec, block_name
from jaxseg.errors import UserError
from jaxseg.flow import Op
from jaxseg.models.backbones.trunk import Trunk, check_output_stride, check_width
from jaxseg.models.block import (
    MakeSpec,
    Tap,
    check_widths,
    norm_layer,
    normed_layer,
    round_width,
)

OUTPUT_STRIDES = (8,)
DETAIL = ((64, 64), (64, 64, 64), (128, 128, 128))
SEMANTIC = ((32, 2), (64, 2), (128, 4))
"""Channels and layers of each stage behind the stem."""

STEM, EXPANSION = 16, 6


def bisenetv2(output_stride: int = 8, width: float = 1.0) -> Trunk:
    """Both branches and their aggregation; levels are the stages of the semantic branch, from stride 4 on.

    Args:
        output_stride: 8, that of the detail branch and of the result.
        width: multiplies all widths, rounded to multiples of 8, at least 8.

    Raises:
        UserError: a value that is not one of those.
    """
    check_output_stride(output_stride, OUTPUT_STRIDES)
    check_width(width)

    def scaled(*widths: float) -> tuple[int, ...]:
        return tuple(round_width(w * width) for w in widths)

    blocks = [BlockArch("conv_stage", scaled(*widths), stride=2) for widths in DETAIL]
    detail = block_name(len(blocks) - 1)
    (before,) = scaled(STEM)
    stem = (before, *scaled(STEM / 2), before, before)
    blocks.append(BlockArch("bisenet_stem", stem, stride=4, inputs=(IMAGE,)))
    levels = {4: block_name(len(blocks) - 1)}
    for i, (channels, repeats) in enumerate(SEMANTIC):
        (out,) = scaled(channels)
        for stride in (2, *(1,) * (repeats - 1)):
            blocks.append(
                BlockArch("gather_expand", (before, EXPANSION * before, out), stride=stride)
            )
            before = out
        levels[8 * 2**i] = block_name(len(blocks) - 1)
    blocks.append(BlockArch("context", (before, before)))
    semantic = block_name(len(blocks) - 1)
    blocks.append(BlockArch("guided", scaled(*(128,) * 5), inputs=(detail, semantic)))
    return Trunk(BackboneArch("bisenetv2", tuple(blocks)), levels)


# --- Specs ---


def _depthwise(
    name: str, channels: int, out: int, stride_in: int, *, stride: int = 1, activation: str = ""
) -> LayerSpec:
    """3x3 of every channel by itself, to one or more."""
    layer = normed_layer(name, channels, out, 3, stride_in, stride=stride, activation=activation)
    return replace(layer, groups=channels)


def _bare(layer: LayerSpec) -> LayerSpec:
    return replace(layer, norm=False)


def _stage_spec(name: str, block: BlockArch, in_channels: int, in_stride: int) -> BlockSpec:
    layers, stride = [], in_stride
    for i, width in enumerate(block.widths, start=1):
        step = block.stride if i == 1 else 1
        layers.append(
            normed_layer(f"conv{i}", in_channels, width, block.kernel, stride, stride=step)
        )
        in_channels, stride = width, stride * step
    ops = flow.chain("in_0", *(layer.name for layer in layers))
    return BlockSpec(name, "backbone", block.kind, tuple(layers), ops, in_channels, stride)


def _stem_spec(name: str, block: BlockArch, in_channels: int, in_stride: int) -> BlockSpec:
    check_widths(name, block.kind, block.widths, 4)
    _check_stride(name, block, 4)
    conv, narrow, left, fuse = block.widths
    half, quarter = 2 * in_stride, 4 * in_stride
    layers = (
        normed_layer("conv", in_channels, conv, 3, in_stride, stride=2),
        normed_layer("narrow", conv, narrow, 1, half),
        normed_layer("left", narrow, left, 3, half, stride=2),
        normed_layer("fuse", left + conv, fuse, 3, quarter),
    )
    ops = (
        *flow.chain("in_0", "conv", "narrow", "left"),
        Op("right", flow.MAX_POOL, ("conv",), window=3, stride=2),
        flow.join("joined", "left", "right"),
        flow.conv("fuse", "joined"),
    )
    return BlockSpec(name, "backbone", block.kind, layers, ops, fuse, quarter)


def _check_stride(name: str, block: BlockArch, *expected: int) -> None:
    if block.stride not in expected:
        raise UserError(
            f"stride of {name} ({block.kind})",
            got=block.stride,
            expected=" or ".join(map(str, expected)),
        )


def _check_equal(name: str, block: BlockArch, *widths: int) -> None:
    if len(set(widths)) != 1:
        raise UserError(
            f"widths of {name} ({block.kind})",
            got=block.widths,
            expected="equal ones of maps that are added or multiplied",
        )


def _gather_spec(name: str, block: BlockArch, in_channels: int, in_stride: int) -> BlockSpec:
    """3x3, every channel expanded by depthwise kernels (two of them where it strides), 1x1, shortcut."""
    check_widths(name, block.kind, block.widths, 3)
    _check_stride(name, block, 1, 2)
    (one, wide, out), stride = block.widths, block.stride
    if wide % one or (stride == 1 and in_channels != out):
        raise UserError(
            f"widths of {name} ({block.kind})",
            got=block.widths,
            expected=f"the second a multiple of the first; without stride the last {in_channels}",
        )
    coarse = in_stride * stride
    layers = [normed_layer("conv1", in_channels, one, 3, in_stride)]
    if stride == 1:
        layers.append(_depthwise("expand", one, wide, in_stride, activation="relu"))
    else:
        layers.append(_depthwise("expand", one, wide, in_stride, stride=2))
        layers.append(_depthwise("depthwise", wide, wide, coarse, activation="relu"))
    layers.append(normed_layer("project", wide, out, 1, coarse, activation=""))
    ops = list(flow.chain("in_0", *(layer.name for layer in layers)))
    shortcut = "in_0"
    if stride == 2:
        layers += [
            _depthwise("downsample_depthwise", in_channels, in_channels, in_stride, stride=2),
            normed_layer("downsample", in_channels, out, 1, coarse, activation=""),
        ]
        ops += flow.chain("in_0", "downsample_depthwise", "downsample")
        shortcut = "downsample"
    ops.append(flow.add("sum", "project", shortcut, "relu"))
    return BlockSpec(name, "backbone", block.kind, tuple(layers), tuple(ops), out, coarse)


def _context_spec(name: str, block: BlockArch, in_channels: int, in_stride: int) -> BlockSpec:
    """Conv(x + relu(a 1x1 convolution of x's mean))."""
    check_widths(name, block.kind, block.widths, 2)
    _check_stride(name, block, 1)
    mean, out = block.widths
    _check_equal(name, block, mean, in_channels)
    layers = (
        replace(norm_layer("norm", in_channels, in_stride, activation=""), out_stride=0),
        replace(normed_layer("mean", in_channels, mean, 1, in_stride), out_stride=0),
        normed_layer("conv", in_channels, out, 3, in_stride),
    )
    ops = (
        Op("pooled", flow.AVERAGE, ("in_0",)),
        *flow.chain("pooled", "norm", "mean"),
        Op("spread", flow.SPREAD, ("mean", "in_0")),
        flow.add("sum", "in_0", "spread"),
        flow.conv("conv", "sum"),
    )
    pool = (in_channels, in_stride)
    return BlockSpec(name, "backbone", block.kind, layers, ops, out, in_stride, pool=pool)


def _guided_spec(
    name: str, block: BlockArch, in_channels: int, in_stride: int, semantic: Tap
) -> BlockSpec:
    """Each branch gates the other, at the stride of either; the results are added at the finer."""
    check_widths(name, block.kind, block.widths, 5)
    _check_stride(name, block, 1)
    (*inside, out), (coarse_channels, coarse) = block.widths, semantic
    _check_equal(name, block, *inside)
    mid = inside[0]
    if coarse != 4 * in_stride:
        raise UserError(
            f"inputs of {name} ({block.kind}) have the strides",
            got=(in_stride, coarse),
            expected="the second 4 times the first",
        )
    linear = {"activation": ""}
    gate = normed_layer("semantic_gate", coarse_channels, mid, 1, coarse, activation="sigmoid")
    layers = (
        _depthwise("detail_depthwise", in_channels, in_channels, in_stride),
        _bare(normed_layer("detail", in_channels, mid, 1, in_stride, **linear)),
        normed_layer("detail_down", in_channels, mid, 3, in_stride, stride=2, **linear),
        normed_layer("semantic", coarse_channels, mid, 3, coarse, **linear),
        _depthwise("semantic_depthwise", coarse_channels, coarse_channels, coarse),
        _bare(gate),
        normed_layer("conv", mid, out, 3, in_stride),
    )
    ops = (
        *flow.chain("in_0", "detail_depthwise", "detail"),
        flow.conv("detail_down", "in_0"),
        Op("detail_pooled", flow.AVERAGE_POOL, ("detail_down",), window=3, stride=2),
        flow.conv("semantic", "in_1"),
        *flow.chain("in_1", "semantic_depthwise", "semantic_gate"),
        Op("semantic_up", flow.RESIZE, ("semantic", "detail")),
        Op("detail_gate", flow.SIGMOID, ("semantic_up",)),
        Op("fine", flow.MULTIPLY, ("detail", "detail_gate")),
        Op("coarse", flow.MULTIPLY, ("detail_pooled", "semantic_gate")),
        Op("coarse_up", flow.RESIZE, ("coarse", "fine")),
        flow.add("sum", "fine", "coarse_up"),
        flow.conv("conv", "sum"),
    )
    return BlockSpec(name, "backbone", block.kind, layers, ops, out, in_stride)


KINDS: dict[str, MakeSpec] = {
    "conv_stage": _stage_spec,
    "bisenet_stem": _stem_spec,
    "gather_expand": _gather_spec,
    "context": _context_spec,
    "guided": _guided_spec,
}

READS = {"guided": 2}
"""Kinds that read several maps: the detail branch's first."""
