"""Families of networks: from an `Arch` to specs, module and variables."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.arch import Arch, BlockSpec
from jaxseg.errors import unknown_name
from jaxseg.models import segmenter
from jaxseg.models.networks import NAMES as NAMES
from jaxseg.models.networks import OPTIONS as OPTIONS
from jaxseg.models.networks import named as named


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
    """Random float32 variables {'params', 'batch_stats'}, with one entry per block and head that has any.

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
        made = net.init(key, jnp.zeros((1, height_px, width_px, 3), jnp.float32))
        return {"params": made["params"], "batch_stats": made.get("batch_stats", {})}

    return variables
