"""Backbones of inverted residuals: MobileNetV2 (Sandler et al., 1801.04381), EfficientNet-Lite0.

An inverted residual widens (1x1), filters every channel (depthwise k x k), narrows without activation
(1x1), and adds its input where shapes allow. All activations are ReLU6. The last 1x1 convolution of the
classifiers (to 1280 channels) is left out, as is usual for segmentation: the last map has 320 channels.

MobileNetV2 follows torchvision. EfficientNet-Lite0 follows TensorFlow, from whose implementation its
published weights come: padding 'same' (kinds with that ending), batch norm epsilon 1e-3.
"""

import functools
from dataclasses import replace

from jaxseg import flow
from jaxseg.arch import BlockArch, BlockSpec
from jaxseg.errors import UserError
from jaxseg.models.backbones.trunk import Stage, Trunk, build, check_output_stride, check_width
from jaxseg.models.block import MakeSpec, check_widths, normed_layer, round_width

OUTPUT_STRIDES = (8, 16, 32)

# Per stage: expansion, output channels, blocks, first stride, kernel.
MOBILENET_V2 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)
EFFICIENTNET_LITE0 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
STEM_WIDTH = 32


def mobilenet_v2(output_stride: int, width: float = 1.0) -> Trunk:
    """MobileNetV2.

    Args:
        output_stride: 8, 16 or 32; the first block of a dilated stage keeps the dilation before it.
        width: multiplies all widths, rounded to multiples of 8, at least 8.

    Raises:
        UserError: a value that is not one of those.
    """
    return _build("mobilenet_v2", MOBILENET_V2, "", output_stride, width)


def efficientnet_lite0(output_stride: int, width: float = 1.0) -> Trunk:
    """EfficientNet-Lite0: no squeeze-and-excite, ReLU6 for swish. Arguments as `mobilenet_v2`."""
    return _build("efficientnet_lite0", EFFICIENTNET_LITE0, "_same", output_stride, width)


def _build(
    name: str,
    table: tuple[tuple[int, int, int, int, int], ...],
    ending: str,
    output_stride: int,
    width: float,
) -> Trunk:
    check_output_stride(output_stride, OUTPUT_STRIDES)
    check_width(width)
    stem = round_width(STEM_WIDTH * width)
    stages, before = [], stem
    for expansion, channels, repeats, stride, kernel in table:
        out = round_width(channels * width)

        def block(
            stride: int, rate: int, i: int, t=expansion, c=before, out=out, k=kernel
        ) -> BlockArch:
            wide = t * (out if i else c)
            widths = (out,) if t == 1 else (wide, out)
            return BlockArch(f"inverted{ending}", widths, stride, rate, k)

        stages.append(Stage(repeats, stride, block))
        before = out
    return build(name, BlockArch(f"conv_stem{ending}", (stem,), stride=2), stages, output_stride)


# --- Specs ---


def _stem_spec(
    name: str, block: BlockArch, in_channels: int, in_stride: int, padding: str
) -> BlockSpec:
    check_widths(name, block.kind, block.widths, 1)
    conv = normed_layer(
        "conv", in_channels, block.widths[0], block.kernel, in_stride,
        stride=block.stride, activation="relu6", padding=padding,
    )  # fmt: skip
    ops = flow.chain("in_0", "conv")
    return BlockSpec(name, "backbone", block.kind, (conv,), ops, block.widths[0], conv.out_stride)


def _inverted_spec(
    name: str, block: BlockArch, in_channels: int, in_stride: int, padding: str
) -> BlockSpec:
    """Widths (hidden, out), or (out,) for a block that does not widen."""
    check_widths(name, block.kind, block.widths, 1, 2)
    if block.kernel % 2 == 0:
        raise UserError(f"kernel of {name}", got=block.kernel, expected="an odd number")
    *expanded, out = block.widths
    hidden, out_stride = expanded[0] if expanded else in_channels, in_stride * block.stride
    depthwise = normed_layer(
        "depthwise", hidden, hidden, block.kernel, in_stride,
        stride=block.stride, dilation=block.dilation, activation="relu6", padding=padding,
    )  # fmt: skip
    layers = [
        normed_layer("expand", in_channels, hidden, 1, in_stride, activation="relu6"),
        replace(depthwise, groups=hidden),
        normed_layer("project", hidden, out, 1, out_stride, activation=""),
    ]
    layers = tuple(layers[not expanded :])
    ops = flow.chain("in_0", *(layer.name for layer in layers))
    if block.stride == 1 and in_channels == out:
        ops += (flow.add("sum", "in_0", "project"),)
    return BlockSpec(name, "backbone", block.kind, layers, ops, out, out_stride)


KINDS: dict[str, MakeSpec] = {
    f"{kind}{ending}": functools.partial(spec, padding=padding)
    for ending, padding in (("", "symmetric"), ("_same", "same"))
    for kind, spec in (("conv_stem", _stem_spec), ("inverted", _inverted_spec))
}
