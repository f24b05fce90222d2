"""A backbone together with the levels that heads read."""

from collections.abc import Callable
from typing import NamedTuple

from jaxseg.arch import BackboneArch, BlockArch, block_name
from jaxseg.errors import UserError

LEVELS = (2, 4, 8, 16, 32)
"""Strides of the undilated backbone: one level each."""


class Trunk(NamedTuple):
    """A backbone as the constructors of this folder make it.

    backbone: the architecture.
    levels:   stride -> name of the last block of that level. The stride is that of the backbone without
              dilation, so a level keeps its block whatever `output_stride` is. A level may be missing.
    """

    backbone: BackboneArch
    levels: dict[int, str]


class Stage(NamedTuple):
    """Blocks of one level: the first has `stride`, the others 1. `make` is (stride, dilation, index) -> block."""

    repeats: int
    stride: int
    make: Callable[[int, int, int], BlockArch]


def build(
    name: str,
    stem: BlockArch,
    stages: list[Stage],
    output_stride: int,
    dilation: str = "first_undilated",
) -> Trunk:
    """Stem and stages, the strides beyond `output_stride` turned into dilations.

    Args:
        name: of the backbone.
        stem: its first block.
        stages: the rest.
        output_stride: reached by striding; a later stride of 2 doubles the dilation instead.
        dilation: 'first_undilated' (torchvision, timm: the first block of such a stage keeps the
            dilation before it) or 'uniform' (the whole stage has the new one).
    """
    blocks = [stem]
    nominal = reached = stem.stride
    rate, levels = 1, {nominal: block_name(0)}
    for stage in stages:
        nominal *= stage.stride
        stride = stage.stride if reached < output_stride else 1
        reached *= stride
        before, rate = rate, rate * (stage.stride // stride)
        first = before if dilation == "first_undilated" else rate
        for i in range(stage.repeats):
            blocks.append(stage.make(1 if i else stride, rate if i else first, i))
        levels[nominal] = block_name(len(blocks) - 1)
    return Trunk(BackboneArch(name, tuple(blocks)), levels)


def check_width(width: float) -> None:
    """Raises a UserError unless the multiplier of widths is positive."""
    if not width > 0:
        raise UserError("width", got=width, expected="a number above 0")


def check_output_stride(output_stride: int, allowed: tuple[int, ...]) -> None:
    """Raises a UserError unless `output_stride` is allowed."""
    if output_stride not in allowed:
        raise UserError("output_stride", got=output_stride, expected=f"one of {allowed}")
