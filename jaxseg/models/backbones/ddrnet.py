"""DDRNet-23-slim (Hong et al., 2101.06085): two branches of residual blocks that exchange their maps twice.

Behind stride 8 a fine branch stays there, a coarse one goes on to stride 64 and ends in the pyramid (DAPPM). Layer
table after the authors' code (recalled). A sum that both a ReLU and another sum read has no ReLU of its own (kinds
'_linear'); whoever needs it rectified does that first (kinds 'relu_').

Order of `BlockArch.widths`:
    ddrnet_stem: conv1, conv2
    ddrnet_down: down1, down2, .. (strided 3x3 convolutions)
    ddrnet_up:   compress
    dappm:       scale0, scale1, process1, .., scale4, process4, compression, shortcut
"""

from dataclasses import replace

from jaxseg import flow
from jaxseg.arch import BackboneArch, BlockArch, BlockSpec, block_name
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
PLANES = 32
SPP_PLANES = 128
POOLS = ((5, 2), (9, 4), (17, 8))
"""Window and stride of each average of the pyramid; the last is over the whole map."""


def ddrnet_23_slim(output_stride: int = 8, width: float = 1.0) -> Trunk:
    """The backbone up to the pyramid, its last block; the block before the last but one is the fine branch's result.

    Args:
        output_stride: 8, that of the fine branch.
        width: multiplies all widths, rounded to multiples of 8, at least 8.

    Raises:
        UserError: a value that is not one of those.
    """
    check_output_stride(output_stride, OUTPUT_STRIDES)
    check_width(width)
    p1, p2, p4, p8, p16 = (round_width(PLANES * width * 2**i) for i in range(5))
    blocks = [BlockArch("ddrnet_stem", (p1, p1), stride=4)]

    def add(kind: str, *widths: int, stride: int = 1, inputs: tuple[str, ...] = ()) -> str:
        blocks.append(BlockArch(kind, widths, stride, inputs=inputs))
        return block_name(len(blocks) - 1)

    def stage(first: str, last: str, width: int, stride: int, *inputs: str) -> str:
        add(first, width, width, stride=stride, inputs=inputs)
        return add(last, width, width)

    stage("basic", "basic", p1, 1)
    eighth = stage("basic", "basic", p2, 2)
    low = stage("basic", "basic_linear", p4, 2)
    high = stage("basic", "basic_linear", p2, 1, eighth)
    coarse = add("ddrnet_down", p4, inputs=(low, high))
    fine = add("ddrnet_up", p2, inputs=(high, low))
    levels = {8: fine, 16: coarse}
    low = stage("basic", "basic_linear", p8, 2, coarse)
    high = stage("relu_basic", "basic_linear", p2, 1, fine)
    coarse = add("ddrnet_down", p4, p8, inputs=(low, high))
    fine = add("ddrnet_up", p2, inputs=(high, low))
    add("relu_bottleneck_linear", p2, p2, p4, inputs=(fine,))
    add("bottleneck_linear", p8, p8, p16, stride=2, inputs=(coarse,))
    spp = round_width(SPP_PLANES * width)
    add("dappm", *(spp,) * (1 + 2 * len(POOLS) + 2), p4, p4)
    return Trunk(BackboneArch("ddrnet_23_slim", tuple(blocks)), levels | {32: coarse})


# --- Specs ---


def _stem_spec(name: str, block: BlockArch, in_channels: int, in_stride: int) -> BlockSpec:
    """Convolutions with a bias, which their norms take away again."""
    check_widths(name, block.kind, block.widths, 2)
    _check_stride(name, block, 4)
    (one, two), k = block.widths, block.kernel
    layers = tuple(
        replace(layer, bias=True)
        for layer in (
            normed_layer("conv1", in_channels, one, k, in_stride, stride=2),
            normed_layer("conv2", one, two, k, 2 * in_stride, stride=2),
        )
    )
    ops = flow.chain("in_0", "conv1", "conv2")
    return BlockSpec(name, "backbone", block.kind, layers, ops, two, 4 * in_stride)


def _check_stride(name: str, block: BlockArch, stride: int) -> None:
    if block.stride != stride:
        raise UserError(f"stride of {name} ({block.kind})", got=block.stride, expected=stride)


def _down_spec(
    name: str, block: BlockArch, in_channels: int, in_stride: int, fine: Tap
) -> BlockSpec:
    """ReLU(coarse + down(relu(fine)))."""
    layers, (channels, stride) = [], fine
    for i, width in enumerate(block.widths, start=1):
        layers.append(normed_layer(f"down{i}", channels, width, block.kernel, stride, stride=2))
        channels, stride = width, 2 * stride
    layers[-1] = replace(layers[-1], activation="")
    if (channels, stride, block.stride) != (in_channels, in_stride, 1):
        raise UserError(
            f"{name} ({block.kind})",
            got=f"{channels} channels of stride {stride}, and a stride of {block.stride}",
            expected=f"the {in_channels} channels of stride {in_stride} of its first input, and 1",
        )
    ops = (
        Op("rectified", flow.RELU, ("in_1",)),
        *flow.chain("rectified", *(layer.name for layer in layers)),
        flow.add("sum", "in_0", layers[-1].name, "relu"),
    )
    return BlockSpec(name, "backbone", block.kind, tuple(layers), ops, channels, stride)


def _up_spec(
    name: str, block: BlockArch, in_channels: int, in_stride: int, coarse: Tap
) -> BlockSpec:
    """Fine + up(compress(relu(coarse)))."""
    _check_stride(name, block, 1)
    if block.widths != (in_channels,):
        raise UserError(f"widths of {name} ({block.kind})", got=block.widths, expected=in_channels)
    layer = normed_layer("compress", coarse.channels, in_channels, 1, coarse.stride, activation="")
    ops = (
        Op("rectified", flow.RELU, ("in_1",)),
        flow.conv("compress", "rectified"),
        Op("up", flow.RESIZE, ("compress", "in_0")),
        flow.add("sum", "in_0", "up"),
    )
    return BlockSpec(name, "backbone", block.kind, (layer,), ops, in_channels, in_stride)


def _dappm_spec(name: str, block: BlockArch, in_channels: int, in_stride: int) -> BlockSpec:
    """Averages over ever larger windows, each refined with the one before; norm and ReLU come before convolutions."""
    check_widths(name, block.kind, block.widths, 5 + 2 * len(POOLS))
    _check_stride(name, block, 1)
    first, *pairs, out, shortcut = block.widths
    scales, refined = pairs[::2], pairs[1::2]
    if scales != [first, *refined[:-1]] or out != shortcut:
        raise UserError(
            f"widths of {name} ({block.kind})",
            got=block.widths,
            expected="equal ones of maps that are added",
        )
    layers, ops = [], []

    def before(name: str, reads: str, channels: int, out: int, stride: int, kernel: int = 1) -> str:
        """Norm, ReLU, bare convolution."""
        conv = replace(normed_layer(name, channels, out, kernel, stride, activation=""), norm=False)
        layers.extend([norm_layer(f"{name}_norm", channels, stride), conv])
        ops.extend(flow.chain(reads, f"{name}_norm", name))
        return name

    maps = [before("scale0", "in_0", in_channels, first, in_stride)]
    for i, (window, stride) in enumerate((*POOLS, (0, 0)), start=1):
        pooled, up = f"pooled{i}", f"up{i}"
        if window:
            pool = Op(pooled, flow.AVERAGE_POOL, ("in_0",), window=window, stride=stride)
        else:
            pool = Op(pooled, flow.AVERAGE, ("in_0",))
        ops.append(pool)
        mid, done = scales[i - 1], refined[i - 1]
        scale = before(f"scale{i}", pooled, in_channels, mid, in_stride * stride)
        ops += [
            Op(up, flow.RESIZE if window else flow.SPREAD, (scale, "in_0")),
            flow.add(f"sum{i}", up, maps[-1]),
        ]
        maps.append(before(f"process{i}", f"sum{i}", mid, done, in_stride, 3))
    ops.append(flow.join("joined", *maps))
    before("compression", "joined", first + sum(refined), out, in_stride)
    before("shortcut", "in_0", in_channels, out, in_stride)
    ops.append(flow.add("sum", "compression", "shortcut"))
    return BlockSpec(
        name, "backbone", block.kind, tuple(layers), tuple(ops), out, in_stride,
        pool=(in_channels, in_stride),
    )  # fmt: skip


KINDS: dict[str, MakeSpec] = {
    "ddrnet_stem": _stem_spec,
    "ddrnet_down": _down_spec,
    "ddrnet_up": _up_spec,
    "dappm": _dappm_spec,
}

READS = {"ddrnet_down": 2, "ddrnet_up": 2}
"""Kinds that read several maps: the coarse (down) or fine (up) one first."""
