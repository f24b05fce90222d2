"""What heads have in common: taps of a backbone in, scores of K classes out.

Every layer whose name begins with 'logits' is a classifier: bias, no norm, K channels.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import flax.linen as nn

from jaxseg.arch import IMAGE, BackboneArch, BlockSpec, HeadArch, LayerSpec, block_name
from jaxseg.errors import UserError
from jaxseg.models.block import SpecModule, normed_layer
from jaxseg.types import Array


class Tap(NamedTuple):
    """A feature map that a head may read."""

    channels: int
    stride: int


class HeadKind(NamedTuple):
    """A kind of head.

    spec:   (name, role, head, its taps, K) -> BlockSpec; UserError if impossible.
    module: (taps, train) -> logits in the compute dtype, made from that spec.
    """

    spec: Callable[[str, str, HeadArch, list[Tap], int], BlockSpec]
    module: type[SpecModule]


class Head(SpecModule):
    """Base of all heads. Dropout draws from the 'dropout' stream, in training only."""

    def dropped(self, x: Array, train: bool) -> Array:
        y = nn.Dropout(self.spec.dropout, deterministic=not train)(x)
        return y if y is x else self.on_grid(y, train)


def tap_shapes(backbone: BackboneArch) -> dict[str, Tap]:
    """Name -> channels and output stride: the image, then the result of every block in order."""
    taps, stride = {IMAGE: Tap(3, 1)}, 1
    for i, block in enumerate(backbone.blocks):
        stride *= block.stride
        taps[block_name(i)] = Tap(block.widths[-1], stride)
    return taps


def classifier(
    in_channels: int, num_classes: int, stride: int, name: str = "logits", *, kernel: int = 1
) -> LayerSpec:
    """The layer that scores the classes: bias, no norm, no activation."""
    layer = normed_layer(name, in_channels, num_classes, kernel, stride, activation="")
    return replace(layer, bias=True, norm=False)


def check_inputs(name: str, head: HeadArch, *expected: int) -> None:
    """Raises a UserError unless the number of inputs is among `expected`."""
    if len(head.inputs) not in expected:
        numbers = " or ".join(map(str, expected))
        raise UserError(
            f"inputs of {name} ({head.kind})", got=head.inputs, expected=f"{numbers} block names"
        )


def spec_of(
    name: str,
    role: str,
    head: HeadArch,
    layers: tuple[LayerSpec, ...],
    stride: int,
    pool: tuple[int, int] | None = None,
) -> BlockSpec:
    """The spec of `head` from its layers; `stride` is that of its logits."""
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
