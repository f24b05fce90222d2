"""Families of networks: from an `Arch` to specs, module and variables."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.arch import ALL, Arch, BlockSpec
from jaxseg.errors import UserError, unknown_name
from jaxseg.layers import codes
from jaxseg.layers.conv import initial
from jaxseg.models import gas, itnet, segmenter
from jaxseg.models.networks import NAMES as NAMES
from jaxseg.models.networks import OPTIONS as OPTIONS
from jaxseg.models.networks import named as named


class Family(NamedTuple):
    """What a family of networks exports.

    blocks: the specs of an architecture, backbone first.
    module: constructed as module(arch=.., conv_op=.., axis_name=.., frozen=..), the last three
        optional, with the methods of `segmenter.Segmenter`. The carry between blocks is a pytree of
        the family's own; only the carry of block 0, the normalised image, is common to all.
    others: (arch, key) -> random parameters that belong to no block or head, name -> tree.
    """

    blocks: Callable[[Arch], tuple[BlockSpec, ...]]
    module: type[nn.Module]
    others: Callable[[Arch, jax.Array], dict[str, Any]] = lambda arch, key: {}


FAMILIES: dict[str, Family] = {
    "segmenter": Family(segmenter.blocks, segmenter.Segmenter),
    "itnet": Family(itnet.blocks, itnet.ItNet),
    gas.FAMILY: Family(
        gas.blocks, gas.SuperNet, lambda arch, key: {gas.SEARCH: gas.initial(arch, key)}
    ),
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


def init(arch: Arch, key: jax.Array) -> dict[str, Any]:
    """Random float32 variables {'params', 'batch_stats'}, with one entry per block and head that has any.

    All kernels are cut from one long draw: a sampler for each would take seconds to compile.

    Raises:
        UserError: an int8 network, which is made from a trained one and not trained itself.
    """
    if arch.numbers.in_codes:
        raise UserError("an int8 network", expected="one to train", do="make it with `deploy`")
    return _initialiser(arch)(key)


def template(arch: Arch) -> dict[str, Any]:
    """Shapes and dtypes of all variables, as `jax.ShapeDtypeStruct`s; of int8 networks too."""
    if not arch.numbers.in_codes:
        return dict(jax.eval_shape(lambda: init(arch, jax.random.PRNGKey(0))))
    found: dict[str, Any] = {}
    for block in blocks(arch):
        for kind, parts in codes.variables(block, arch.numbers).items():
            made = {
                name: {leaf: jax.ShapeDtypeStruct(*of) for leaf, of in leaves.items()}
                for name, leaves in parts.items()
            }
            if made:
                found.setdefault(kind, {})[block.name] = made
    return found


@functools.lru_cache(maxsize=8)
def _initialiser(arch: Arch) -> Callable[[jax.Array], Any]:
    layers = [(spec.name, layer) for spec in blocks(arch) for layer in spec.layers]
    shapes = [(layer.copies,) * (layer.own == ALL) + layer.kernel_shape for _, layer in layers]
    ends = np.cumsum([math.prod(shape) for shape in shapes])

    @jax.jit
    def variables(key: jax.Array) -> dict[str, Any]:
        made: dict[str, Any] = {"params": {}, "batch_stats": {}}
        parts = jnp.split(jax.random.normal(key, (ends[-1],)), ends[:-1])
        for (block, layer), shape, part in zip(layers, shapes, parts, strict=True):
            for kind, value in zip(
                made, initial(layer, part.reshape(shape), arch.numbers), strict=True
            ):
                if value:
                    made[kind].setdefault(block, {})[layer.name] = value
        made["params"] |= family(arch).others(arch, jax.random.fold_in(key, 1))
        return made

    return variables
