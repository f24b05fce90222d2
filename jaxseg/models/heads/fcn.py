"""FCN heads: torchvision's for dilated backbones, and the skips of the original (Long et al., 1411.4038).

Order of `HeadArch.widths`:
    fcn:       conv
    fcn_skips: fc6 (7x7), fc7 (1x1)
"""

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


def fcn_head(
    backbone: BackboneArch, at: str | None = None, dropout: float = 0.1, channels: int = 0
) -> HeadArch:
    """3x3, then the classifier.

    Args:
        backbone: whose channels (already scaled to its width) are read.
        at: block to read, the last one if None.
        dropout: before the classifier.
        channels: of the 3x3; 0 = a quarter of those that it reads.
    """
    taps = tap_shapes(backbone)
    at = at or list(taps)[-1]
    channels = channels or round_width(taps[at].channels / 4)
    return HeadArch("fcn", (at,), (channels,), dropout=dropout)


def fcn_skips_head(
    backbone: BackboneArch, skips: tuple[str, ...] = (), width: float = 1.0, dropout: float = 0.5
) -> HeadArch:
    """The head of FCN-32s, with one skip of FCN-16s, with two of FCN-8s.

    Args:
        backbone: VGG-16 in the paper.
        skips: blocks at half the stride of the last one, at half of that again.
        width: multiplies the 4096 channels of fc6 and fc7.
        dropout: after fc6 and after fc7.
    """
    last = list(tap_shapes(backbone))[-1]
    return HeadArch("fcn_skips", (last, *skips), (round_width(4096 * width),) * 2, dropout=dropout)


def fcn_layers(tap: Tap, mid: int, num_classes: int) -> tuple[LayerSpec, ...]:
    """3x3 to `mid` channels, then the classifier."""
    return (
        normed_layer("conv", tap.channels, mid, 3, tap.stride),
        classifier(mid, num_classes, tap.stride),
    )


def fcn_ops(start: str) -> tuple[Op, ...]:
    """What `fcn_layers` do, on the map `start`."""
    return (flow.conv("conv", start), dropped("conv"), flow.conv("logits", "dropped"))


def _fcn_spec(name: str, role: str, head: HeadArch, taps: list[Tap], num_classes: int) -> BlockSpec:
    check_inputs(name, head, 1)
    check_widths(name, head.kind, head.widths, 1)
    layers = fcn_layers(taps[0], head.widths[0], num_classes)
    return spec_of(name, role, head, layers, fcn_ops("in_0"), taps[0].stride)


def _fcn_skips_spec(
    name: str, role: str, head: HeadArch, taps: list[Tap], num_classes: int
) -> BlockSpec:
    check_inputs(name, head, 1, 2, 3)
    check_widths(name, head.kind, head.widths, 2)
    (channels, stride), *skips = taps
    fc6, fc7 = head.widths
    layers = [
        normed_layer("fc6", channels, fc6, 7, stride),
        normed_layer("fc7", fc6, fc7, 1, stride),
    ]
    layers = [replace(layer, bias=True, norm=False) for layer in layers]
    layers.append(classifier(fc7, num_classes, stride))
    ops = [
        flow.conv("fc6", "in_0"),
        dropped("fc6", "dropped_6"),
        flow.conv("fc7", "dropped_6"),
        dropped("fc7", "dropped_7"),
        flow.conv("logits", "dropped_7"),
    ]
    # Upsampled bilinearly, with what the paper initialises its transposed convolutions.
    for i, tap in enumerate(skips, start=1):
        layers.append(classifier(tap.channels, num_classes, tap.stride, f"logits_{i}"))
        ops += [
            Op(f"up_{i}", flow.RESIZE, (ops[-1].name, f"in_{i}"), scores=True),
            flow.conv(f"logits_{i}", f"in_{i}"),
            flow.add(f"sum_{i}", f"up_{i}", f"logits_{i}", scores=True),
        ]
    return spec_of(name, role, head, layers, ops, taps[-1].stride)


KINDS: dict[str, MakeHead] = {"fcn": _fcn_spec, "fcn_skips": _fcn_skips_spec}
