"""Heads of early exits (MESS, Kouris et al., 2106.03527, section 3.2 and eq. 1): FCN or DeepLabV3 behind a neck.

The neck: a 1x1 convolution that reduces channels (CRM; bare, neither norm nor activation, as the published
operation counts tell), then residual bottlenecks with a dilation each. Either may be missing.

Order of `HeadArch.widths`, the part in brackets optional, one triple per extra block:
    mess_fcn: [crm], extra_0_conv1, extra_0_conv2, extra_0_conv3, .., conv
    mess_dlb: [crm], extra_0_conv1, .., aspp_0, aspp_1, aspp_2, aspp_3, aspp_pool, project, conv
`HeadArch.rates`: dilation of every extra block; for mess_dlb followed by the three of the ASPP.
"""

from dataclasses import replace

from jaxseg import flow
from jaxseg.arch import BlockSpec, HeadArch, LayerSpec
from jaxseg.errors import UserError
from jaxseg.flow import Op
from jaxseg.models.block import check_widths, normed_layer
from jaxseg.models.heads.aspp import deeplabv3_layers, deeplabv3_ops
from jaxseg.models.heads.fcn import fcn_layers, fcn_ops
from jaxseg.models.heads.head import MakeHead, Tap, check_inputs, spec_of

ASPP_RATES = 3


def _neck(
    name: str, head: HeadArch, tap: Tap, rates: tuple[int, ...], own: int
) -> tuple[list[LayerSpec], list[Op], Tap, tuple[int, ...]]:
    """(layers and operations of the neck, what it gives, widths left); the head behind it has `own` widths."""
    needed = 3 * len(rates) + own
    check_widths(name, head.kind, head.widths, needed, needed + 1)
    channels, stride = tap
    widths, layers, ops = list(head.widths), [], []
    if len(widths) > needed:
        reduced = normed_layer("crm", channels, widths[0], 1, stride, activation="")
        layers.append(replace(reduced, norm=False))
        ops.append(flow.conv("crm", "in_0"))
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
        start = _end(ops)
        ops += flow.chain(start, *(layer.name for layer in layers[-3:]))
        ops.append(flow.add(f"extra_{i}_sum", start, _end(ops), "relu"))
    return layers, ops, Tap(channels, stride), tuple(widths[3 * len(rates) :])


def _fcn_spec(name: str, role: str, head: HeadArch, taps: list[Tap], num_classes: int) -> BlockSpec:
    check_inputs(name, head, 1)
    layers, ops, tap, (mid,) = _neck(name, head, taps[0], head.rates, 1)
    layers += fcn_layers(tap, mid, num_classes)
    ops += fcn_ops(_end(ops))
    return spec_of(name, role, head, layers, ops, tap.stride)


def _dlb_spec(name: str, role: str, head: HeadArch, taps: list[Tap], num_classes: int) -> BlockSpec:
    check_inputs(name, head, 1)
    if len(head.rates) < ASPP_RATES:
        raise UserError(
            f"rates of {name} ({head.kind})",
            got=head.rates,
            expected="one per extra block, and the three of the ASPP",
        )
    rates, aspp = head.rates[:-ASPP_RATES], head.rates[-ASPP_RATES:]
    layers, ops, tap, widths = _neck(name, head, taps[0], rates, ASPP_RATES + 4)
    layers += deeplabv3_layers(aspp, tap, widths, num_classes)
    ops += deeplabv3_ops(_end(ops), len(aspp))
    return spec_of(name, role, head, layers, ops, tap.stride, pool=tuple(tap))


def _end(ops: list[Op]) -> str:
    return ops[-1].name if ops else "in_0"


KINDS: dict[str, MakeHead] = {"mess_fcn": _fcn_spec, "mess_dlb": _dlb_spec}
