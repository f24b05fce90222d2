"""The smallest head: a classifier on one map. `HeadArch.widths` is empty."""

from jaxseg import flow
from jaxseg.arch import BackboneArch, BlockSpec, HeadArch
from jaxseg.errors import UserError
from jaxseg.models.backbones.registry import tap_shapes
from jaxseg.models.heads.head import (
    MakeHead,
    Tap,
    check_inputs,
    classifier,
    dropped,
    spec_of,
)


def linear_head(backbone: BackboneArch, dropout: float = 0.1) -> HeadArch:
    """Reads the last block; `dropout` comes before the classifier."""
    return HeadArch("linear", (list(tap_shapes(backbone))[-1],), (), dropout=dropout)


def _spec(name: str, role: str, head: HeadArch, taps: list[Tap], num_classes: int) -> BlockSpec:
    check_inputs(name, head, 1)
    if head.widths or head.rates:
        raise UserError(
            f"widths and rates of {name} ({head.kind})",
            got=(head.widths, head.rates),
            expected="none",
        )
    layers = (classifier(taps[0].channels, num_classes, taps[0].stride),)
    ops = (dropped("in_0"), flow.conv("logits", "dropped"))
    return spec_of(name, role, head, layers, ops, taps[0].stride)


KINDS: dict[str, MakeHead] = {"linear": _spec}
