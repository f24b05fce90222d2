"""Heads: FCN, DeepLabV3 (Chen et al., 1706.05587), DeepLabV3+ (1802.02611), as in torchvision.

The order of `HeadArch.widths`, the output channels of each normed convolution; the classifier
(layer 'logits': 1x1, bias, no norm) comes on top and always has K channels:
    fcn:           conv
    deeplabv3:     aspp_0 (1x1), aspp_1.. (one per rate), aspp_pool, project, conv
    deeplabv3plus: aspp_0, aspp_1.., aspp_pool, project, skip (1x1), conv1, conv2
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.arch import BackboneArch, BlockSpec, HeadArch, LayerSpec, block_name
from jaxseg.errors import UserError, unknown_name
from jaxseg.layers.pool import global_average
from jaxseg.layers.resize import resize_bilinear
from jaxseg.models.block import SpecModule, check_widths, normed_layer, round_width
from jaxseg.types import Array


class Tap(NamedTuple):
    """A feature map that a head may read."""

    channels: int
    stride: int


def tap_shapes(backbone: BackboneArch) -> dict[str, Tap]:
    """Block name -> channels and output stride of its result, in order."""
    taps, stride = {}, 1
    for i, block in enumerate(backbone.blocks):
        stride *= block.stride
        taps[block_name(i)] = Tap(block.widths[-1], stride)
    return taps


# --- Constructors ---


def fcn_head(backbone: BackboneArch, at: str | None = None, dropout: float = 0.1) -> HeadArch:
    """3x3 to a quarter of the channels, then the classifier.

    Args:
        backbone: whose channels (already scaled to its width) are read.
        at: block to read, the last one if None.
        dropout: before the classifier.
    """
    taps = tap_shapes(backbone)
    at = at or list(taps)[-1]
    return HeadArch("fcn", (at,), (round_width(taps[at].channels / 4),), dropout=dropout)


def aux_head(backbone: BackboneArch, at: str, dropout: float = 0.1) -> HeadArch:
    """The auxiliary head of torchvision: an FCN head on `at`, the end of the third stage."""
    return fcn_head(backbone, at, dropout)


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
    rates = _rates(rates, tap.stride)
    widths = (round_width(256 * width),) * (len(rates) + 4)
    return HeadArch("deeplabv3", (last,), widths, rates, dropout)


def deeplabv3plus_head(
    backbone: BackboneArch,
    width: float = 1.0,
    rates: Sequence[int] | None = None,
    dropout: float = 0.5,
) -> HeadArch:
    """ASPP on the last block, upsampled and joined with the last block at output stride 4.

    Args:
        backbone: what it is put on; it must have a block at output stride 4.
        width: multiplies the 256 (skip: 48) channels of every layer.
        rates, dropout: as in `deeplabv3_head`.
    """
    taps = tap_shapes(backbone)
    last, tap = list(taps.items())[-1]
    skips = [name for name, t in taps.items() if t.stride == 4]
    if not skips:
        raise UserError(f"deeplabv3plus needs a block at output stride 4; {backbone.name} has none")
    rates = _rates(rates, tap.stride)
    wide, narrow = round_width(256 * width), round_width(48 * width)
    widths = (wide,) * (len(rates) + 3) + (narrow, wide, wide)
    return HeadArch("deeplabv3plus", (last, skips[-1]), widths, rates, dropout)


def _rates(rates: Sequence[int] | None, stride: int) -> tuple[int, ...]:
    return tuple(rates) if rates is not None else tuple(r * 16 // stride for r in (6, 12, 18))


# --- Specs ---


def head_spec(
    name: str, role: str, head: HeadArch, taps: dict[str, Tap], num_classes: int
) -> BlockSpec:
    """The spec of `head` under the top-level name `name`.

    Raises:
        UserError: a kind, an input or a number of widths that does not exist.
    """
    if head.kind not in KINDS:
        raise unknown_name("kind of head", head.kind, KINDS)
    for tap in head.inputs:
        if tap not in taps:
            raise unknown_name(f"input of {name}", tap, taps)
    return KINDS[head.kind].spec(name, role, head, [taps[t] for t in head.inputs], num_classes)


def _logits(in_channels: int, num_classes: int, stride: int) -> LayerSpec:
    layer = normed_layer("logits", in_channels, num_classes, 1, stride)
    return replace(layer, bias=True, norm=False)


def _check_inputs(name: str, head: HeadArch, expected: int) -> None:
    if len(head.inputs) != expected:
        raise UserError(
            f"inputs of {name} ({head.kind})", got=head.inputs, expected=f"{expected} block names"
        )


def _fcn_spec(name: str, role: str, head: HeadArch, taps: list[Tap], num_classes: int) -> BlockSpec:
    _check_inputs(name, head, 1)
    check_widths(name, head.kind, head.widths, 1)
    ((channels, stride),), (mid,) = taps, head.widths
    layers = (
        normed_layer("conv", channels, mid, 3, stride),
        _logits(mid, num_classes, stride),
    )
    return _head_spec(name, role, head, layers, stride)


def _aspp_layers(
    head: HeadArch, channels: int, stride: int, widths: Sequence[int]
) -> tuple[LayerSpec, ...]:
    """1x1, a dilated 3x3 per rate, image pooling, projection of all; len(rates) + 3 widths."""
    *branches, project = widths
    layers = [normed_layer("aspp_0", channels, branches[0], 1, stride)]
    for i, rate in enumerate(head.rates, start=1):
        layers.append(normed_layer(f"aspp_{i}", channels, branches[i], 3, stride, dilation=rate))
    pooled = normed_layer("aspp_pool", channels, branches[-1], 1, stride)
    layers.append(replace(pooled, out_stride=0))
    layers.append(normed_layer("project", sum(branches), project, 1, stride))
    return tuple(layers)


def _deeplabv3_spec(
    name: str, role: str, head: HeadArch, taps: list[Tap], num_classes: int
) -> BlockSpec:
    _check_inputs(name, head, 1)
    check_widths(name, head.kind, head.widths, len(head.rates) + 4)
    (channels, stride), (*aspp, conv) = taps[0], head.widths
    layers = (
        *_aspp_layers(head, channels, stride, aspp),
        normed_layer("conv", aspp[-1], conv, 3, stride),
        _logits(conv, num_classes, stride),
    )
    return _head_spec(name, role, head, layers, stride, pool=(channels, stride))


def _deeplabv3plus_spec(
    name: str, role: str, head: HeadArch, taps: list[Tap], num_classes: int
) -> BlockSpec:
    _check_inputs(name, head, 2)
    check_widths(name, head.kind, head.widths, len(head.rates) + 6)
    (channels, stride), (skip_channels, fine) = taps
    *aspp, skip, one, two = head.widths
    layers = (
        *_aspp_layers(head, channels, stride, aspp),
        normed_layer("skip", skip_channels, skip, 1, fine),
        normed_layer("conv1", aspp[-1] + skip, one, 3, fine),
        normed_layer("conv2", one, two, 3, fine),
        _logits(two, num_classes, fine),
    )
    return _head_spec(name, role, head, layers, fine, pool=(channels, stride))


def _head_spec(
    name: str,
    role: str,
    head: HeadArch,
    layers: tuple[LayerSpec, ...],
    stride: int,
    pool: tuple[int, int] | None = None,
) -> BlockSpec:
    return BlockSpec(
        name=name,
        role=role,
        kind=head.kind,
        layers=layers,
        out_channels=layers[-1].out_channels,
        out_stride=stride,
        inputs=head.inputs,
        dropout=head.dropout,
        pool=pool,
    )


# --- Modules: (taps, train) -> logits in the compute dtype ---


class _Head(SpecModule):
    """What heads share. Dropout draws from the 'dropout' stream, in training only."""

    def dropped(self, x: Array, train: bool) -> Array:
        return nn.Dropout(self.spec.dropout, deterministic=not train)(x)

    def aspp(self, x: Array, train: bool) -> Array:
        """ASPP with its projection and dropout: [B, h, w, C] -> [B, h, w, D]."""
        dilated = sum(layer.name.startswith("aspp_") for layer in self.spec.layers) - 2
        maps = [jax.nn.relu(self.conv(f"aspp_{i}")(x, train)) for i in range(dilated + 1)]
        pooled = jax.nn.relu(self.conv("aspp_pool")(global_average(x), train))
        # Bilinear resizing of a 1x1 map is a constant map.
        maps.append(jnp.broadcast_to(pooled, (*x.shape[:3], pooled.shape[-1])))
        y = self.conv("project")(jnp.concatenate(maps, axis=-1), train)
        return self.dropped(jax.nn.relu(y), train)


class FCN(_Head):
    """3x3 convolution, dropout, classifier."""

    @nn.compact
    def __call__(self, taps: tuple[Array], train: bool = False) -> Array:
        y = jax.nn.relu(self.conv("conv")(taps[0], train))
        return self.conv("logits")(self.dropped(y, train))


class DeepLabV3(_Head):
    """ASPP, 3x3 convolution, classifier."""

    @nn.compact
    def __call__(self, taps: tuple[Array], train: bool = False) -> Array:
        y = self.aspp(taps[0], train)
        y = jax.nn.relu(self.conv("conv")(y, train))
        return self.conv("logits")(y)


class DeepLabV3Plus(_Head):
    """ASPP, joined with a finer map, two 3x3 convolutions, classifier."""

    @nn.compact
    def __call__(self, taps: tuple[Array, Array], train: bool = False) -> Array:
        coarse, fine = taps
        skip = jax.nn.relu(self.conv("skip")(fine, train))
        y = self.aspp(coarse, train)
        y = resize_bilinear(y, skip.shape[1:3]).astype(skip.dtype)
        y = jnp.concatenate([y, skip], axis=-1)
        y = jax.nn.relu(self.conv("conv1")(y, train))
        y = jax.nn.relu(self.conv("conv2")(y, train))
        return self.conv("logits")(y)


class HeadKind(NamedTuple):
    """A kind of head: (name, role, head, its taps, K) -> spec, and the module made from it."""

    spec: Callable[[str, str, HeadArch, list[Tap], int], BlockSpec]
    module: type[SpecModule]


KINDS = {
    "fcn": HeadKind(_fcn_spec, FCN),
    "deeplabv3": HeadKind(_deeplabv3_spec, DeepLabV3),
    "deeplabv3plus": HeadKind(_deeplabv3plus_spec, DeepLabV3Plus),
}
