"""The family 'segmenter': blocks one after the other, each on maps that earlier ones made, with heads on some maps."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.arch import IMAGE, Arch, BlockSpec, block_name
from jaxseg.layers.conv import ConvOp, conv2d
from jaxseg.models.backbones import itnet
from jaxseg.models.backbones.registry import backbone_blocks
from jaxseg.models.block import Block, Tap
from jaxseg.models.heads import registry as heads
from jaxseg.numbers import FOLDED
from jaxseg.quant.rounding import onto
from jaxseg.types import Array, Outputs

Carry = Array | dict[str, Array]
"""What blocks still to come read: the map of the block before them if it is all, else name -> map."""


def blocks(arch: Arch) -> tuple[BlockSpec, ...]:
    """Specs in the order of variables: block_00 .., head, aux_0 .., exit_0 ...

    Raises:
        UserError: something in `arch` that does not exist or does not fit.
    """
    backbone = backbone_blocks(arch.backbone)
    taps = {IMAGE: Tap(3, 1)}
    taps |= {spec.name: Tap(spec.out_channels, spec.out_stride) for spec in backbone}
    named = [("head", "head", arch.head)]
    named += [(f"aux_{i}", "aux", head) for i, head in enumerate(arch.aux)]
    named += [(f"exit_{i}", "exit", head) for i, head in enumerate(arch.exits)]
    specs = backbone + tuple(
        heads.head_spec(name, role, head, taps, arch.num_classes) for name, role, head in named
    )
    return tuple(s.folded() for s in specs) if arch.numbers.norm == FOLDED else specs


def _before(index: int) -> str:
    return block_name(index - 1) if index else IMAGE


class Segmenter(nn.Module):
    """Normalised image [B, H, W, 3] -> Outputs.

    Variables are flat: one top-level entry per spec, 'block_00' .. 'head', 'aux_0', 'exit_0'. The
    carry of block 0 is the image.

    arch:      the architecture.
    conv_op:   the convolution of every layer, see `layers.conv.ConvOp`.
    axis_name: axis of devices that share batch statistics, or None.
    frozen:    top-level names that always run in eval mode.
    """

    arch: Arch
    conv_op: ConvOp = conv2d
    axis_name: str | None = None
    frozen: tuple[str, ...] = ()

    def setup(self):
        # setattr names a submodule; it makes its variables on first use, so a run over some of the
        # blocks needs the variables of those only.
        for spec in blocks(self.arch):
            module = itnet.Loop if spec.kind in itnet.LOOPS else Block
            setattr(self, spec.name, module(spec, self.arch.numbers, self.conv_op, self.axis_name))

    def run(
        self, carry: Carry, start: int, stop: int, train: bool = False
    ) -> tuple[Carry, dict[str, Array]]:
        """Blocks start .. stop - 1.

        Args:
            carry: that of the blocks before `start`, or the normalised image for start = 0.
            start, stop: a range of backbone blocks.
            train: batch norm uses and updates batch statistics.

        Returns:
            (carry, taps): what blocks from `stop` on read, after the last one its result; name -> feature
            map [B, h, w, C] in the compute dtype, for the blocks of the range that any head, auxiliary head
            or exit reads; and 'image', if one reads it and the range begins at 0.
        """
        arch = self.arch
        if start == 0:
            carry = onto(carry, arch.numbers.integer.image)
        wanted = {t for head in (arch.head, *arch.aux, *arch.exits) for t in head.inputs}
        taps = {IMAGE: carry} if start == 0 and IMAGE in wanted else {}
        maps = carry if isinstance(carry, dict) else {_before(start): carry}
        for i, name in enumerate(map(block_name, range(start, stop)), start):
            inputs = (maps[read] for read in arch.backbone.reads(i))
            maps = maps | {name: self._one(name, tuple(inputs), train and name not in self.frozen)}
            if name in wanted:
                taps[name] = maps[name]
        alive = arch.backbone.alive(stop)
        one = alive == (_before(stop),)
        return maps[alive[0]] if one else {name: maps[name] for name in alive}, taps

    def _one(self, name: str, inputs: tuple[Array, ...], train: bool) -> Array:
        return getattr(self, name)(*inputs, train=train)

    def score(self, name: str, taps: Mapping[str, Array], train: bool = False) -> Array:
        """[B, h, w, K]: the scores of one head ('head', 'aux_0', 'exit_0', ..), float32 or int8 codes."""
        head = getattr(self, name)
        inputs = (taps[t] for t in head.spec.inputs)
        scores = head(*inputs, train=train and name not in self.frozen)
        return scores if self.arch.numbers.in_codes else scores.astype(jnp.float32)

    def answer(self, taps: Mapping[str, Array], train: bool = False) -> Outputs:
        """All heads on the taps of a whole run; auxiliary ones in training only."""
        arch = self.arch
        # Initialising makes the variables of everything, whatever the mode.
        num_aux = len(arch.aux) if train or self.is_initializing() else 0
        return Outputs(
            logits=self.score("head", taps, train),
            aux={n: self.score(n, taps, train) for n in map("aux_{}".format, range(num_aux))},
            exits={
                n: self.score(n, taps, train) for n in map("exit_{}".format, range(len(arch.exits)))
            },
        )

    def __call__(self, image: Array, train: bool = False) -> Outputs:
        """[B, H, W, 3], normalised, any float dtype, or int8 codes -> Outputs.

        With `train` pass mutable=['batch_stats'] and rngs={'dropout': key}.
        """
        _, taps = self.run(image, 0, len(self.arch.backbone.blocks), train)
        return self.answer(taps, train)
