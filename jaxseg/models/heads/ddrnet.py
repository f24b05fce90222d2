"""The heads of DDRNet (Hong et al., 2101.06085): norm and ReLU before each of two convolutions.

Order of `HeadArch.widths`: conv.
"""

from jaxseg import flow
from jaxseg.arch import BackboneArch, BlockSpec, HeadArch
from jaxseg.flow import Op
from jaxseg.models.backbones.registry import tap_shapes
from jaxseg.models.block import check_widths, norm_layer, normed_layer, round_width
from jaxseg.models.heads.head import (
    MakeHead,
    Tap,
    check_inputs,
    classifier,
    dropped,
    spec_of,
)

CHANNELS = 64


def ddrnet_head(backbone: BackboneArch, width: float = 1.0, dropout: float = 0.0) -> HeadArch:
    """On the sum of both branches: the last block but two and the last one, resized.

    Args:
        backbone: `ddrnet_23_slim`'s.
        width: multiplies the 64 channels.
        dropout: before the classifier; the authors have none.
    """
    *_, high, _, low = tap_shapes(backbone)
    return HeadArch("ddrnet", (high, low), (round_width(CHANNELS * width),), dropout=dropout)


def ddrnet_aux_head(at: str, width: float = 1.0, dropout: float = 0.0) -> HeadArch:
    """The same on the block `at` alone."""
    return HeadArch("ddrnet", (at,), (round_width(CHANNELS * width),), dropout=dropout)


def _spec(name: str, role: str, head: HeadArch, taps: list[Tap], num_classes: int) -> BlockSpec:
    check_inputs(name, head, 1, 2)
    check_widths(name, head.kind, head.widths, 1)
    (channels, stride), (mid,) = taps[0], head.widths
    layers = (
        norm_layer("norm", channels, stride),
        normed_layer("conv", channels, mid, 3, stride),
        classifier(mid, num_classes, stride),
    )
    ops, start = [], "in_0"
    if len(taps) == 2:
        ops = [Op("up", flow.RESIZE, ("in_1", "in_0")), flow.add("sum", "in_0", "up")]
        start = "sum"
    ops += [*flow.chain(start, "norm", "conv"), dropped("conv"), flow.conv("logits", "dropped")]
    return spec_of(name, role, head, layers, ops, stride)


KINDS: dict[str, MakeHead] = {"ddrnet": _spec}
