"""Families of networks, and the names under which networks are known."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.arch import Arch, BlockSpec, NumbersArch
from jaxseg.errors import unknown_name
from jaxseg.models import heads, segmenter
from jaxseg.models.resnet import DEPTHS, resnet, stage_end


class Family(NamedTuple):
    """What a family of networks exports.

    blocks: the specs of an architecture, backbone first.
    module: constructed as module(arch=.., conv_op=.., axis_name=.., frozen=..), the last three
        optional, with the methods of `segmenter.Segmenter`. The carry between blocks is a pytree of
        the family's own; only the carry of block 0, the normalised image, is common to all.
    """

    blocks: Callable[[Arch], tuple[BlockSpec, ...]]
    module: type[nn.Module]


FAMILIES: dict[str, Family] = {
    "segmenter": Family(segmenter.blocks, segmenter.Segmenter),
}


def family(arch: Arch) -> Family:
    """The family of `arch`; UserError if there is none of that name."""
    if arch.family not in FAMILIES:
        raise unknown_name("family of networks", arch.family, FAMILIES)
    return FAMILIES[arch.family]


def blocks(arch: Arch) -> tuple[BlockSpec, ...]:
    """The spec of every block and head of `arch`; UserError if it is impossible."""
    return family(arch).blocks(arch)


def module(arch: Arch, **attributes: Any) -> nn.Module:
    """The Flax module of `arch`; attributes are conv_op, axis_name and frozen."""
    blocks(arch)  # an impossible architecture is refused here, not in the middle of tracing
    return family(arch).module(arch=arch, **attributes)


def init(arch: Arch, key: jax.Array, height_px: int = 64, width_px: int = 64) -> dict[str, Any]:
    """Random float32 variables {'params', 'batch_stats'}, each with one entry per block and head.

    Args:
        arch: the architecture.
        key: random key.
        height_px, width_px: image that shapes are traced with; variables do not depend on it.
    """
    return _initialiser(arch, height_px, width_px)(key)


# Nearly all of the time is compiling a sampler per kernel, so the program is kept.
@functools.lru_cache(maxsize=8)
def _initialiser(arch: Arch, height_px: int, width_px: int) -> Callable[[jax.Array], Any]:
    net = module(arch)

    @jax.jit  # no result depends on the forward pass, so XLA drops it
    def variables(key: jax.Array) -> dict[str, Any]:
        return net.init(key, jnp.zeros((1, height_px, width_px, 3), jnp.float32))

    return variables


# --- Named networks ---


def _on_resnet(
    num_classes: int,
    width: float = 1.0,
    output_stride: int = 8,
    aux: bool = False,
    compute: str = "float32",
    dropout: float = 0.1,
    *,
    depth: int,
    head: str,
) -> Arch:
    backbone = resnet(depth, output_stride, width)
    main = {
        "fcn": lambda: heads.fcn_head(backbone, dropout=dropout),
        "deeplabv3": lambda: heads.deeplabv3_head(backbone, width, dropout=dropout),
        "deeplabv3plus": lambda: heads.deeplabv3plus_head(backbone, width, dropout=dropout),
    }[head]()
    return Arch(
        num_classes=num_classes,
        backbone=backbone,
        head=main,
        aux=(heads.aux_head(backbone, stage_end(depth, 3), dropout),) if aux else (),
        numbers=NumbersArch(compute=compute),
    )


# Output strides: torchvision's for its two heads, that of the paper's main results for DeepLabV3+.
NAMES: dict[str, Callable[..., Arch]] = {
    f"{head}_resnet{depth}": functools.partial(
        _on_resnet, output_stride=output_stride, depth=depth, head=head
    )
    for head, output_stride in (("fcn", 8), ("deeplabv3", 8), ("deeplabv3plus", 16))
    for depth in DEPTHS
}
"""Name -> (num_classes, width, output_stride, aux, compute, dropout) -> Arch."""

OPTIONS = ("width", "output_stride", "aux", "compute", "dropout")
"""What a named network can be asked for besides its number of classes."""


def named(name: str, num_classes: int, **options: Any) -> Arch:
    """The architecture known as `name`.

    Args:
        name: one of `NAMES`.
        num_classes: K.
        **options: width (1.0, multiplies all widths), output_stride (8, 16 or 32), aux (False, an
            auxiliary head), compute ('float32' or 'bfloat16'), dropout (0.1, of every head; the papers' 0.5
            costs a short training from scratch dearly).

    Raises:
        UserError: unknown name or option, or an impossible value.
    """
    if name not in NAMES:
        raise unknown_name("network", name, NAMES)
    for option in options:
        if option not in OPTIONS:
            raise unknown_name(f"option of the network {name}", option, OPTIONS)
    return NAMES[name](num_classes, **options)
