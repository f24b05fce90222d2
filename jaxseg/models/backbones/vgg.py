"""VGG-16 (Simonyan & Zisserman, 1409.1556), plain or with batch norm, as in torchvision.

A block is one 3x3 convolution with bias and ReLU; the last of a stage ends in a 2x2 maximum. Where the
map has an odd size, the maximum covers the last row and column too (Caffe's rule, in which FCN was
written; torchvision drops them).
"""

from dataclasses import replace

from jaxseg import flow
from jaxseg.arch import BackboneArch, BlockArch, BlockSpec, block_name
from jaxseg.errors import UserError
from jaxseg.flow import Op
from jaxseg.models.backbones.trunk import Trunk, check_width
from jaxseg.models.block import MakeSpec, check_widths, normed_layer, round_width

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each stage."""

OUTPUT_STRIDES = (32,)


def vgg16(width: float = 1.0, *, norm: bool = False) -> Trunk:
    """The thirteen convolutions of VGG-16; level s is the map after the maximum that reaches stride s.

    Args:
        width: multiplies all widths, rounded to multiples of 8, at least 8.
        norm: batch norm after every convolution (its bias stays, redundant, as in torchvision).

    Raises:
        UserError: a width that is not positive.
    """
    check_width(width)
    kind, blocks, levels = "vgg_bn" if norm else "vgg", [], {}
    for i, (channels, convolutions) in enumerate(STAGES):
        widths = (round_width(channels * width),)
        blocks += [BlockArch(kind, widths)] * (convolutions - 1) + [
            BlockArch(kind, widths, stride=2)
        ]
        levels[2 ** (i + 1)] = block_name(len(blocks) - 1)
    return Trunk(BackboneArch("vgg16_bn" if norm else "vgg16", tuple(blocks)), levels)


def _spec(name: str, block: BlockArch, in_channels: int, in_stride: int) -> BlockSpec:
    check_widths(name, block.kind, block.widths, 1)
    if block.stride not in (1, 2):
        raise UserError(f"stride of {name} ({block.kind})", got=block.stride, expected="1 or 2")
    conv = normed_layer(
        "conv", in_channels, block.widths[0], block.kernel, in_stride, dilation=block.dilation
    )
    conv = replace(conv, bias=True, norm=block.kind == "vgg_bn")
    ops = flow.chain("in_0", "conv")
    if block.stride == 2:
        ops += (Op("pool", flow.MAX_POOL, ("conv",), window=2, stride=2),)
    return BlockSpec(
        name, "backbone", block.kind, (conv,), ops, block.widths[0], in_stride * block.stride
    )


KINDS: dict[str, MakeSpec] = {"vgg": _spec, "vgg_bn": _spec}
