"""The smallest head: a classifier on one map. `HeadArch.widths` is empty."""

import flax.linen as nn

from jaxseg.arch import BackboneArch, BlockSpec, HeadArch
from jaxseg.errors import UserError
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
    return spec_of(name, role, head, layers, taps[0].stride)


class Linear(Head):
    """Dropout, classifier."""

    @nn.compact
    def __call__(self, taps: tuple[Array], train: bool = False) -> Array:
        return self.conv("logits")(self.dropped(taps[0], train), train)


KINDS = {"linear": HeadKind(_spec, Linear)}
