"""What heads have in common: taps of a backbone in, scores of K classes out.

Every layer whose name begins with 'logits' is a classifier: bias, no norm, K channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from jaxseg import flow
from jaxseg.arch import BlockSpec, HeadArch, LayerSpec
from jaxseg.errors import UserError
from jaxseg.flow import Op
from jaxseg.models.block import Tap as Tap
from jaxseg.models.block import normed_layer

MakeHead = Callable[[str, str, HeadArch, list[Tap], int], BlockSpec]
"""A kind of head: (name, role, head, its taps, K) -> its spec; UserError if impossible."""


def classifier(
    in_channels: int, num_classes: int, stride: int, name: str = "logits", *, kernel: int = 1
) -> LayerSpec:
    """The layer that scores the classes: bias, no norm, no activation."""
    layer = normed_layer(name, in_channels, num_classes, kernel, stride, activation="")
    return replace(layer, bias=True, norm=False)


def dropped(reads: str, name: str = "dropped") -> Op:
    """Dropout of what `reads` names."""
    return Op(name, flow.DROPOUT, (reads,))


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
    layers: Sequence[LayerSpec],
    ops: Sequence[Op],
    stride: int,
    pool: tuple[int, int] | None = None,
) -> BlockSpec:
    """The spec of `head` from its layers and operations; `stride` is that of its logits."""
    return BlockSpec(
        name=name,
        role=role,
        kind=head.kind,
        layers=tuple(layers),
        ops=tuple(ops),
        out_channels=layers[-1].out_channels,
        out_stride=stride,
        inputs=head.inputs,
        dropout=head.dropout,
        pool=pool,
    )
