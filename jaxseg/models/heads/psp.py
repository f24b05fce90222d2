"""PSPNet's pyramid pooling module (Zhao et al., 1612.01105), with its classifier.

The map is averaged over 1x1, 2x2, 3x3 and 6x6 parts; each goes through a 1x1 convolution to a quarter of the channels
and is resized to the map's size, where all lie beside the map; then 3x3 to a quarter of the channels. Resizing aligns
corners, as the authors do (recalled). The ResNet is torchvision's, dilated: theirs has a stem of three convolutions.

Order of `HeadArch.widths`: bin_1, bin_2, bin_3, bin_6, conv.
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

BINS = (1, 2, 3, 6)


def psp_head(backbone: BackboneArch, dropout: float = 0.1) -> HeadArch:
    """Reads the last block; `dropout` comes before the classifier."""
    last, tap = list(tap_shapes(backbone).items())[-1]
    quarter = round_width(tap.channels / 4)
    return HeadArch("psp", (last,), (quarter,) * (len(BINS) + 1), dropout=dropout)


def _spec(name: str, role: str, head: HeadArch, taps: list[Tap], num_classes: int) -> BlockSpec:
    check_inputs(name, head, 1)
    check_widths(name, head.kind, head.widths, len(BINS) + 1)
    (channels, stride), (*branches, mid) = taps[0], head.widths
    layers, ops, maps = [], [], ["in_0"]
    for bins, width in zip(BINS, branches, strict=True):
        layer = normed_layer(f"bin_{bins}", channels, width, 1, stride)
        layers.append(replace(layer, out_stride=0, bins=bins))
        ops += [
            Op(f"pooled_{bins}", flow.AVERAGE, ("in_0",), bins=bins),
            flow.conv(f"bin_{bins}", f"pooled_{bins}"),
            Op(f"up_{bins}", flow.RESIZE, (f"bin_{bins}", "in_0"), corners=True),
        ]
        maps.append(f"up_{bins}")
    layers += [
        normed_layer("conv", channels + sum(branches), mid, 3, stride),
        classifier(mid, num_classes, stride),
    ]
    ops += [
        flow.join("pyramid", *maps),
        flow.conv("conv", "pyramid"),
        dropped("conv"),
        flow.conv("logits", "dropped"),
    ]
    return spec_of(name, role, head, layers, ops, stride, pool=tuple(taps[0]))


KINDS: dict[str, MakeHead] = {"psp": _spec}
