"""DeepLabV3 (Chen et al., 1706.05587) as in torchvision, DeepLabV3+ (1802.02611), and its separable form.

Order of `HeadArch.widths`, one branch per rate:
    deeplabv3:               aspp_0 (1x1), aspp_1.., aspp_pool, project, conv
    deeplabv3plus:           aspp_0, aspp_1.., aspp_pool, project, skip (1x1), conv1, conv2
    deeplabv3plus_separable: aspp_0, aspp_1.., aspp_pool, project, conv1, skip, conv2
A separable layer is a depthwise convolution '<name>_depthwise' without norm, and the 1x1 '<name>'.
"""

from collections.abc import Sequence
from dataclasses import replace

from jaxseg import flow
from jaxseg.arch import BackboneArch, BlockSpec, HeadArch, LayerSpec
from jaxseg.flow import Op
from jaxseg.models.backbones.registry import tap_shapes
from jaxseg.models.block import check_widths, normed_layer, round_width
from jaxseg.models.heads.head import (
    MakeHead,
    Tap,
    check_inputs,
    classifier,
    dropped,
    spec_of,
)


def deeplabv3_head(
    backbone: BackboneArch,
    width: float = 1.0,
    rates: Sequence[int] | None = None,
    dropout: float = 0.5,
) -> HeadArch:
    """ASPP on the last block, then 3x3, then the classifier.

    Args:
        backbone: what it is put on.
        width: multiplies the 256 channels of every layer.
        rates: dilations of the 3x3 branches; if None (6, 12, 18) at output stride 16, scaled
            to cover the same pixels at any other: doubled at 8, halved at 32.
        dropout: after the projection of the ASPP.
    """
    last, tap = list(tap_shapes(backbone).items())[-1]
    rates = scaled_rates(rates, tap.stride)
    widths = (round_width(256 * width),) * (len(rates) + 4)
    return HeadArch("deeplabv3", (last,), widths, rates, dropout)


def deeplabv3plus_head(
    backbone: BackboneArch,
    skip: str,
    width: float = 1.0,
    rates: Sequence[int] | None = None,
    dropout: float = 0.5,
    *,
    separable: bool = False,
) -> HeadArch:
    """ASPP on the last block, upsampled and joined with a finer map.

    Args:
        backbone: what it is put on.
        skip: the block of the finer map; in the paper the last one at stride 4.
        width: multiplies the 256 (skip: 48) channels of every layer.
        rates, dropout: as in `deeplabv3_head`.
        separable: 3x3 convolutions are separable ones, arranged as in segmentation_models_pytorch.
    """
    last, tap = list(tap_shapes(backbone).items())[-1]
    rates = scaled_rates(rates, tap.stride)
    wide, narrow = round_width(256 * width), round_width(48 * width)
    rest = (wide, narrow, wide) if separable else (narrow, wide, wide)
    kind = "deeplabv3plus_separable" if separable else "deeplabv3plus"
    return HeadArch(kind, (last, skip), (wide,) * (len(rates) + 3) + rest, rates, dropout)


def scaled_rates(rates: Sequence[int] | None, stride: int) -> tuple[int, ...]:
    """`rates`, or if None those of output stride 16 scaled to cover the same pixels at `stride`."""
    return tuple(rates) if rates is not None else tuple(r * 16 // stride for r in (6, 12, 18))


# --- Specs ---


def _conv3x3(
    name: str, in_channels: int, out_channels: int, stride: int, rate: int, separable: bool
) -> list[LayerSpec]:
    if not separable:
        return [normed_layer(name, in_channels, out_channels, 3, stride, dilation=rate)]
    depthwise = normed_layer(
        f"{name}_depthwise", in_channels, in_channels, 3, stride, dilation=rate, activation=""
    )
    return [
        replace(depthwise, groups=in_channels, norm=False),
        normed_layer(name, in_channels, out_channels, 1, stride),
    ]


def _aspp_layers(
    rates: Sequence[int], tap: Tap, widths: Sequence[int], separable: bool = False
) -> list[LayerSpec]:
    """1x1, a dilated 3x3 per rate, image pooling, projection of all; len(rates) + 3 widths."""
    (channels, stride), (*branches, project) = tap, widths
    layers = [normed_layer("aspp_0", channels, branches[0], 1, stride)]
    for i, rate in enumerate(rates, start=1):
        layers += _conv3x3(f"aspp_{i}", channels, branches[i], stride, rate, separable)
    pooled = normed_layer("aspp_pool", channels, branches[-1], 1, stride)
    layers.append(replace(pooled, out_stride=0))
    layers.append(normed_layer("project", sum(branches), project, 1, stride))
    return layers


def deeplabv3_layers(
    rates: Sequence[int], tap: Tap, widths: Sequence[int], num_classes: int
) -> tuple[LayerSpec, ...]:
    """ASPP, 3x3, classifier; len(rates) + 4 widths."""
    *aspp, conv = widths
    return (
        *_aspp_layers(rates, tap, aspp),
        normed_layer("conv", aspp[-1], conv, 3, tap.stride),
        classifier(conv, num_classes, tap.stride),
    )


def _conv3x3_ops(name: str, reads: str, separable: bool) -> tuple[Op, ...]:
    """What the layers of `_conv3x3` do."""
    return flow.chain(reads, *([f"{name}_depthwise"] if separable else []), name)


def _aspp_ops(start: str, rates: int, separable: bool = False) -> list[Op]:
    """What the layers of `_aspp_layers` do, with the dropout behind them."""
    ops, maps = [flow.conv("aspp_0", start)], ["aspp_0"]
    for i in range(1, rates + 1):
        ops += _conv3x3_ops(f"aspp_{i}", start, separable)
        maps.append(f"aspp_{i}")
    return [
        *ops,
        Op("pooled", flow.AVERAGE, (start,)),
        flow.conv("aspp_pool", "pooled"),
        # Bilinear resizing of a 1x1 map is a constant map.
        Op("spread", flow.SPREAD, ("aspp_pool", start)),
        flow.join("branches", *maps, "spread"),
        flow.conv("project", "branches"),
        dropped("project"),
    ]


def deeplabv3_ops(start: str, rates: int) -> tuple[Op, ...]:
    """What `deeplabv3_layers` do, on the map `start`."""
    return (*_aspp_ops(start, rates), *flow.chain("dropped", "conv", "logits"))


def _deeplabv3_spec(
    name: str, role: str, head: HeadArch, taps: list[Tap], num_classes: int
) -> BlockSpec:
    check_inputs(name, head, 1)
    check_widths(name, head.kind, head.widths, len(head.rates) + 4)
    tap = taps[0]
    layers = deeplabv3_layers(head.rates, tap, head.widths, num_classes)
    ops = deeplabv3_ops("in_0", len(head.rates))
    return spec_of(name, role, head, layers, ops, tap.stride, pool=tuple(tap))


def _deeplabv3plus_spec(
    name: str, role: str, head: HeadArch, taps: list[Tap], num_classes: int
) -> BlockSpec:
    check_inputs(name, head, 2)
    check_widths(name, head.kind, head.widths, len(head.rates) + 6)
    tap, (skip_channels, fine) = taps
    *aspp, skip, one, two = head.widths
    layers = (
        *_aspp_layers(head.rates, tap, aspp),
        normed_layer("skip", skip_channels, skip, 1, fine),
        normed_layer("conv1", aspp[-1] + skip, one, 3, fine),
        normed_layer("conv2", one, two, 3, fine),
        classifier(two, num_classes, fine),
    )
    ops = (
        *_aspp_ops("in_0", len(head.rates)),
        flow.conv("skip", "in_1"),
        Op("up", flow.RESIZE, ("dropped", "skip")),
        flow.join("joined", "up", "skip"),
        *flow.chain("joined", "conv1", "conv2", "logits"),
    )
    return spec_of(name, role, head, layers, ops, fine, pool=tuple(tap))


def _separable_spec(
    name: str, role: str, head: HeadArch, taps: list[Tap], num_classes: int
) -> BlockSpec:
    check_inputs(name, head, 2)
    check_widths(name, head.kind, head.widths, len(head.rates) + 6)
    tap, (skip_channels, fine) = taps
    *aspp, one, skip, two = head.widths
    layers = (
        *_aspp_layers(head.rates, tap, aspp, separable=True),
        *_conv3x3("conv1", aspp[-1], one, tap.stride, 1, separable=True),
        normed_layer("skip", skip_channels, skip, 1, fine),
        *_conv3x3("conv2", one + skip, two, fine, 1, separable=True),
        classifier(two, num_classes, fine),
    )
    ops = (
        *_aspp_ops("in_0", len(head.rates), separable=True),
        *_conv3x3_ops("conv1", "dropped", separable=True),
        flow.conv("skip", "in_1"),
        # Aligned corners, as segmentation_models_pytorch has them, so that its weights fit.
        Op("up", flow.RESIZE, ("conv1", "skip"), corners=True),
        flow.join("joined", "up", "skip"),
        *_conv3x3_ops("conv2", "joined", separable=True),
        flow.conv("logits", "conv2"),
    )
    return spec_of(name, role, head, layers, ops, fine, pool=tuple(tap))


KINDS: dict[str, MakeHead] = {
    "deeplabv3": _deeplabv3_spec,
    "deeplabv3plus": _deeplabv3plus_spec,
    "deeplabv3plus_separable": _separable_spec,
}
