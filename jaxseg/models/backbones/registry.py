"""Every kind of backbone block, and the specs of a whole backbone."""

from dataclasses import replace

from jaxseg.arch import IMAGE, BackboneArch, BlockSpec, block_name
from jaxseg.errors import UserError, unknown_name
from jaxseg.models.backbones import bisenet, ddrnet, gas, gas_mixed, inverted, itnet, resnet, vgg
from jaxseg.models.block import Tap

KINDS = {
    **resnet.KINDS,
    **inverted.KINDS,
    **vgg.KINDS,
    **itnet.KINDS,
    **bisenet.KINDS,
    **ddrnet.KINDS,
    **gas.KINDS,
    **gas_mixed.KINDS,
}
"""Every kind of backbone block: name -> its spec. A new backbone adds its own here."""

READS = {**bisenet.READS, **ddrnet.READS, **gas.READS, **gas_mixed.READS}
"""Kinds that read several maps, and how many."""


def backbone_blocks(backbone: BackboneArch) -> tuple[BlockSpec, ...]:
    """The spec of every block of `backbone`, for an image of 3 channels.

    Raises:
        UserError: a kind of block or a number of widths that does not exist.
    """
    specs, taps = [], {IMAGE: Tap(3, 1)}
    for i, block in enumerate(backbone.blocks):
        if block.kind not in KINDS:
            raise unknown_name("kind of block", block.kind, KINDS)
        inputs = backbone.reads(i)
        for name in inputs:
            if name not in taps:
                raise unknown_name(f"input of {block_name(i)}", name, taps)
        if len(inputs) != READS.get(block.kind, 1):
            raise UserError(
                f"inputs of {block_name(i)} ({block.kind})",
                got=inputs,
                expected=f"{READS.get(block.kind, 1)} block names",
            )
        if block.repeats > 1 and block.kind not in itnet.LOOPS:
            raise UserError(
                f"repeats of {block_name(i)} ({block.kind})", got=block.repeats, expected=1
            )
        first, *others = (taps[name] for name in inputs)
        spec = replace(KINDS[block.kind](block_name(i), block, *first, *others), inputs=inputs)
        specs.append(spec)
        taps[spec.name] = Tap(spec.out_channels, spec.out_stride)
    return tuple(specs)


def tap_shapes(backbone: BackboneArch) -> dict[str, Tap]:
    """Name -> channels and output stride: the image, then the result of every block in order."""
    taps = {
        spec.name: Tap(spec.out_channels, spec.out_stride) for spec in backbone_blocks(backbone)
    }
    return {IMAGE: Tap(3, 1), **taps}
