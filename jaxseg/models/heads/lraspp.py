"""LR-ASPP (Howard et al., MobileNetV3, 1905.02244), as in torchvision.

Order of `HeadArch.widths`: conv (and the gate, which multiplies it).
"""

from dataclasses import replace

from jaxseg import flow
from jaxseg.arch import BackboneArch, BlockSpec, HeadArch
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


def lraspp_head(
    backbone: BackboneArch, low: str, width: float = 1.0, dropout: float = 0.0
) -> HeadArch:
    """Two 1x1 classifiers: on the last block, gated by its own average, and on a finer one.

    Args:
        backbone: what it is put on.
        low: the finer block, of stride 8 in the paper.
        width: multiplies the 128 channels.
        dropout: before the coarse classifier.
    """
    last = list(tap_shapes(backbone))[-1]
    return HeadArch("lraspp", (last, low), (round_width(128 * width),), dropout=dropout)


def _spec(name: str, role: str, head: HeadArch, taps: list[Tap], num_classes: int) -> BlockSpec:
    check_inputs(name, head, 2)
    check_widths(name, head.kind, head.widths, 1)
    (high, low), (mid,) = taps, head.widths
    gate = normed_layer("gate", high.channels, mid, 1, high.stride, activation="sigmoid")
    layers = (
        normed_layer("conv", high.channels, mid, 1, high.stride),
        replace(gate, norm=False, out_stride=0),
        # On the coarse grid: classifying and resizing commute, and the maps of classes are fewer.
        classifier(mid, num_classes, high.stride),
        classifier(low.channels, num_classes, low.stride, "logits_low"),
    )
    ops = (
        Op("pooled", flow.AVERAGE, ("in_0",)),
        flow.conv("conv", "in_0"),
        flow.conv("gate", "pooled"),
        Op("gated", flow.MULTIPLY, ("conv", "gate")),
        dropped("gated"),
        flow.conv("logits", "dropped"),
        flow.conv("logits_low", "in_1"),
        Op("up", flow.RESIZE, ("logits", "logits_low"), scores=True),
        flow.add("sum", "up", "logits_low", scores=True),
    )
    return spec_of(name, role, head, layers, ops, low.stride, pool=tuple(high))


KINDS: dict[str, MakeHead] = {"lraspp": _spec}
