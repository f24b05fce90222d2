"""Heads of early exits (MESS, Kouris et al., 2106.03527, section 3.2 and eq. 1): FCN or DeepLabV3 behind a neck.

The neck: a 1x1 convolution that reduces channels (CRM; bare, neither norm nor activation, as the published
operation counts tell), then residual bottlenecks with a dilation each. Either may be missing.

Order of `HeadArch.widths`, the part in brackets optional, one triple per extra block:
    mess_fcn: [crm], extra_0_conv1, extra_0_conv2, extra_0_conv3, .., conv
    mess_dlb: [crm], extra_0_conv1, .., aspp_0, aspp_1, aspp_2, aspp_3, aspp_pool, project, conv
`HeadArch.rates`: dilation of every extra block; for mess_dlb followed by the three of the ASPP.
"""

from dataclasses import replace

import flax.linen as nn
import jax

from jaxseg.arch import BlockSpec, HeadArch, LayerSpec
from jaxseg.errors import UserError
from jaxseg.models.block import SpecModule, check_widths, normed_layer
from jaxseg.models.heads.aspp import DeepLabV3, deeplabv3_layers
from jaxseg.models.heads.fcn import FCN, fcn_layers
from jaxseg.models.heads.head import HeadKind, Tap, check_inputs, spec_of
from jaxseg.types import Array

ASPP_RATES = 3


def _neck(
    name: str, head: HeadArch, tap: Tap, rates: tuple[int, ...], own: int
) -> tuple[list[LayerSpec], Tap, tuple[int, ...]]:
    """(layers of the neck, what it gives, the widths that are left); the head behind it has `own` widths."""
    needed = 3 * len(rates) + own
    check_widths(name, head.kind, head.widths, needed, needed + 1)
    channels, stride = tap
    widths, layers = list(head.widths), []
    if len(widths) > needed:
        reduced = normed_layer("crm", channels, widths[0], 1, stride, activation="")
        layers.append(replace(reduced, norm=False))
        channels = widths.pop(0)
    for i, rate in enumerate(rates):
        one, two, three = widths[3 * i : 3 * i + 3]
        if three != channels:
            raise UserError(
                f"widths of {name} ({head.kind})",
                got=head.widths,
                expected=f"extra block {i} to give the {channels} channels that it reads",
            )
        layers += [
            normed_layer(f"extra_{i}_conv1", channels, one, 1, stride),
            normed_layer(f"extra_{i}_conv2", one, two, 3, stride, dilation=rate),
            normed_layer(f"extra_{i}_conv3", two, three, 1, stride, activation=""),
        ]
    return layers, Tap(channels, stride), tuple(widths[3 * len(rates) :])


def _fcn_spec(name: str, role: str, head: HeadArch, taps: list[Tap], num_classes: int) -> BlockSpec:
    check_inputs(name, head, 1)
    layers, tap, (mid,) = _neck(name, head, taps[0], head.rates, 1)
    return spec_of(name, role, head, (*layers, *fcn_layers(tap, mid, num_classes)), tap.stride)


def _dlb_spec(name: str, role: str, head: HeadArch, taps: list[Tap], num_classes: int) -> BlockSpec:
    check_inputs(name, head, 1)
    if len(head.rates) < ASPP_RATES:
        raise UserError(
            f"rates of {name} ({head.kind})",
            got=head.rates,
            expected="one per extra block, and the three of the ASPP",
        )
    rates, aspp = head.rates[:-ASPP_RATES], head.rates[-ASPP_RATES:]
    layers, tap, widths = _neck(name, head, taps[0], rates, ASPP_RATES + 4)
    layers += deeplabv3_layers(aspp, tap, widths, num_classes)
    return spec_of(name, role, head, tuple(layers), tap.stride, pool=tuple(tap))


# --- Modules ---


def _through_neck(head: SpecModule, x: Array, train: bool) -> Array:
    """The neck that the spec of `head` lists: [B, h, w, C] -> [B, h, w, D]."""
    if head.spec.has("crm"):
        x = head.conv("crm")(x, train)
    extra = sum(layer.name.startswith("extra_") for layer in head.spec.layers) // 3
    for i in range(extra):
        y = x
        for j in (1, 2, 3):
            y = head.conv(f"extra_{i}_conv{j}")(y, train)
        x = head.on_grid(jax.nn.relu(x + y), train, "activations")
    return x


class MessFCN(FCN):
    """Neck, 3x3 convolution, dropout, classifier."""

    @nn.compact
    def __call__(self, taps: tuple[Array], train: bool = False) -> Array:
        return self.classified(_through_neck(self, taps[0], train), train)


class MessDLB(DeepLabV3):
    """Neck, ASPP, 3x3 convolution, classifier."""

    @nn.compact
    def __call__(self, taps: tuple[Array], train: bool = False) -> Array:
        return self.classified(_through_neck(self, taps[0], train), train)


KINDS = {"mess_fcn": HeadKind(_fcn_spec, MessFCN), "mess_dlb": HeadKind(_dlb_spec, MessDLB)}
