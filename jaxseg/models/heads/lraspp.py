"""LR-ASPP (Howard et al., MobileNetV3, 1905.02244), as in torchvision.

Order of `HeadArch.widths`: conv (and the gate, which multiplies it).
"""

from dataclasses import replace

import flax.linen as nn

from jaxseg.arch import BackboneArch, BlockSpec, HeadArch
from jaxseg.layers.pool import global_average
from jaxseg.layers.resize import resize_bilinear
from jaxseg.models.block import check_widths, normed_layer, round_width
from jaxseg.models.heads.head import (
    Head,
    HeadKind,
    Tap,
    check_inputs,
    classifier,
    spec_of,
    tap_shapes,
)
from jaxseg.types import Array


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
    return spec_of(name, role, head, layers, low.stride, pool=tuple(high))


class LRASPP(Head):
    """1x1 convolution times its gate, classifier, upsampled; plus the classifier of the finer map."""

    @nn.compact
    def __call__(self, taps: tuple[Array, Array], train: bool = False) -> Array:
        high, low = taps
        pooled = self.on_grid(global_average(high), train)
        y = self.conv("conv")(high, train) * self.conv("gate")(pooled, train)
        y = self.on_grid(y, train)
        scores = self.conv("logits")(self.dropped(y, train), train)
        fine = self.conv("logits_low")(low, train)
        scores = resize_bilinear(scores, fine.shape[1:3]).astype(fine.dtype) + fine
        return self.on_grid(scores, train, "logits")


KINDS = {"lraspp": HeadKind(_spec, LRASPP)}
