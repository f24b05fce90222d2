"""A network with fewer channels: another `Arch`, and everything that has its parameters' shapes cut to it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.arch import Arch, BlockArch, BlockSpec, HeadArch, LayerSpec
from jaxseg.conversion.channels import Channels, Space
from jaxseg.errors import UserError
from jaxseg.models import zoo

Keep = Mapping[Space, np.ndarray]
"""Space -> indices of the channels that stay, rising; spaces that are not named stay whole."""

SHARING = ("downsample", "gate")
"""Layers that have the width of another one, and none of their own in `widths`."""


class OtherStructure(ValueError):
    """A block that would do something else with fewer channels."""

    def __init__(self, block: BlockSpec):
        super().__init__(f"{block.name} would be another block")
        self.block = block


# --- Which channels matter least ---


def importance(
    channels: Channels, params: Mapping[str, Any], spaces: Sequence[Space]
) -> dict[Space, np.ndarray]:
    """Space -> [C], the mean over its layers of the absolute scale of their norms.

    Raises:
        UserError: a space none of whose layers has a norm.
    """
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), dict(params))
    return mean_scales(channels, wide, spaces, xp=np)


def mean_scales(
    channels: Channels, params: Mapping[str, Any], spaces: Sequence[Space], xp: Any = jnp
) -> dict[Space, Any]:
    """As `importance`, by the operations of `xp`: inside of a step those of JAX, in the parameters' own dtype."""
    found = {}
    for space in spaces:
        scales = [
            xp.abs(params[block.name][layer.name]["norm"]["scale"])
            for block, layer in channels.layers(space)
            if layer.norm and block.name in params
        ]
        if not scales:
            raise UserError(
                "/".join(space), expected="a layer with a norm, by which channels are judged"
            )
        each = [s.reshape(-1, s.shape[-1]).mean(axis=0) for s in scales]
        found[space] = sum(each[1:], each[0]) / len(each)
    return found


def keep_largest(
    scores: Mapping[Space, np.ndarray], remove: int, multiple: int = 1
) -> dict[Space, np.ndarray]:
    """What stays when `remove` channels go: the least of all spaces together, ties by order.

    Args:
        scores: of each channel.
        remove: how many go; exactly so many where `multiple` is 1, else to half of it.
        multiple: channels of a space go in groups, its least first, so that what it keeps is a multiple of this; a
            group is worth the mean of its channels. Devices calculate by 8 or 16 channels at a time, and odd numbers
            can take longer than the larger number that they came from.

    A space keeps one channel, or group, at the least; then fewer than asked go.
    """
    groups = []
    for space, values in scores.items():
        order = np.argsort(values, kind="stable")
        cuts = range(len(order) % multiple or multiple, len(order), multiple)
        groups += [(space, group) for group in np.split(order, cuts)[:-1]]
    groups.sort(key=lambda x: float(scores[x[0]][x[1]].mean()))
    gone: dict[Space, set[int]] = {space: set() for space in scores}
    for space, group in groups:
        if len(group) > 2 * remove:
            break
        gone[space] |= set(group.tolist())
        remove -= len(group)
    return {s: np.array([c for c in range(len(v)) if c not in gone[s]]) for s, v in scores.items()}


def prunable(channels: Channels) -> tuple[Space, ...]:
    """Spaces that can be made smaller by the scales of norms: not the image, not scores, a norm somewhere."""
    return tuple(
        space
        for space in channels.spaces
        if space not in channels.fixed and any(layer.norm for _, layer in channels.layers(space))
    )


# --- The smaller network ---


def shrunk(arch: Arch, keep: Keep) -> Arch:
    """The architecture with only those channels.

    Raises:
        OtherStructure: two maps have come to the same number of channels; see `separated`.
    """
    before = zoo.blocks(arch)
    channels = Channels(before)
    sizes = {
        (block.name, layer.name): sum(
            len(keep[s]) if s in keep else channels.size(s)
            for s in channels.of((block.name, layer.name))
        )
        for block in before
        for layer in block.layers
    }
    specs = {block.name: block for block in before}

    def narrow(record: BlockArch | HeadArch, name: str) -> Any:
        own = [layer for layer in specs[name].layers if has_width(layer)]
        return replace(record, widths=tuple(sizes[name, layer.name] for layer in own))

    backbone = [b.name for b in before if b.role == "backbone"]
    blocks = tuple(narrow(b, n) for b, n in zip(arch.backbone.blocks, backbone, strict=True))
    small = replace(
        arch,
        backbone=replace(arch.backbone, blocks=blocks),
        head=narrow(arch.head, "head"),
        aux=tuple(narrow(head, f"aux_{i}") for i, head in enumerate(arch.aux)),
        exits=tuple(narrow(head, f"exit_{i}") for i, head in enumerate(arch.exits)),
    )
    for old, new in zip(before, zoo.blocks(small), strict=True):
        if old.ops != new.ops or [x.name for x in old.layers] != [x.name for x in new.layers]:
            raise OtherStructure(old)
    return small


def has_width(layer: LayerSpec) -> bool:
    """Whether an entry of `widths` is a layer's own."""
    return not (layer.depthwise or layer.name in SHARING or layer.name.startswith("logits"))


def separated(
    arch: Arch, keep: Keep, scores: Mapping[Space, np.ndarray], multiple: int = 1
) -> dict[Space, np.ndarray]:
    """`keep` with as few channels more as it takes for the structure to stay.

    Where a block has a projection (or no shortcut) because it reads and gives other numbers of channels, they must not
    become equal; `multiple` of its result's channels, the most important that were to go, stay.
    """
    keep = dict(keep)
    channels = Channels(zoo.blocks(arch))
    for _ in range(1 + len(channels.blocks)):
        try:
            shrunk(arch, keep)
            return keep
        except OtherStructure as error:
            block = error.block
        spaces = [
            *channels.of((block.name, block.ops[-1].name)),
            *channels.of(channels.values.source(block, "in_0")),
        ]
        for space in spaces:
            gone = [
                c for c in range(channels.size(space)) if space in keep and c not in keep[space]
            ]
            if gone:
                back = sorted(gone, key=lambda c: -scores[space][c])[:multiple]
                keep[space] = np.sort(np.append(keep[space], back))
                break
    raise UserError("slimming", got=block.name, expected="a network of the same structure")


# --- What has its shapes ---


def cut(arch: Arch, keep: Keep, tree: Any) -> Any:
    """A tree with only those channels: parameters, statistics, averages, moments of an optimiser.

    Args:
        arch: of the whole network.
        keep: what stays.
        tree: any; leaves below [block][layer] are cut, wherever in the tree that is, all others stay.
    """
    blocks = {block.name: block for block in zoo.blocks(arch)}
    channels = Channels(tuple(blocks.values()))

    def leaf(path: tuple[Any, ...], value: Any) -> Any:
        names = [getattr(key, "key", getattr(key, "name", None)) for key in path]
        for name, layer in zip(names, names[1:], strict=False):
            if name in blocks and blocks[name].has(layer):
                return _leaf(
                    channels, keep, blocks[name], blocks[name].layer(layer), names[-1], value
                )
        return value

    return jax.tree_util.tree_map_with_path(leaf, tree)


def _leaf(
    channels: Channels, keep: Keep, block: BlockSpec, layer: LayerSpec, name: str, value: Any
) -> Any:
    out = _indices(channels, keep, channels.of((block.name, layer.name)))
    value = value[..., out]
    if name == "kernel" and layer.groups == 1:
        value = value[..., _indices(channels, keep, channels.read(block, layer)), :]
    return value


def _indices(channels: Channels, keep: Keep, spaces: tuple[Space, ...]) -> np.ndarray:
    """Of the channels that lie in these spaces, one after the other."""
    found, start = [], 0
    for space in spaces:
        size = channels.size(space)
        found.append(start + (keep[space] if space in keep else np.arange(size)))
        start += size
    return np.concatenate(found).astype(int)
