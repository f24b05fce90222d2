"""After ItNet (Pfeil, 2101.08685): the family of networks whose last block is a loop with an answer after every pass.

A network of N passes and one of n < N give the same answers up to n: what is deployed for fewer (or more) passes is
another value of `Arch` (`with_iterations`). Passes are counted from 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxseg.arch import Arch, BlockSpec, block_name, count
from jaxseg.errors import UserError
from jaxseg.models import segmenter
from jaxseg.models.backbones.itnet import LOOPS, OWN_KINDS
from jaxseg.types import Array


def is_looped(arch: Arch) -> bool:
    """Whether `arch` is a network of this family."""
    return arch.family == "itnet"


def blocks(arch: Arch) -> tuple[BlockSpec, ...]:
    """As `segmenter.blocks`.

    Raises:
        UserError: the last block, and no other, must be a loop, and the head must read it alone.
    """
    specs = segmenter.blocks(arch)
    kinds = [block.kind in LOOPS for block in arch.backbone.blocks]
    last = loop_name(arch)
    if kinds != [False] * (len(kinds) - 1) + [True] or arch.head.inputs != (last,):
        raise UserError(
            "blocks of an itnet",
            got=f"{', '.join(b.kind for b in arch.backbone.blocks)}; a head on {arch.head.inputs}",
            expected=f"one loop, the last block, and a head on {last} alone",
        )
    return specs


def loop_name(arch: Arch) -> str:
    """The loop's block."""
    return block_name(len(arch.backbone.blocks) - 1)


def num_iterations(arch: Arch) -> int:
    """N."""
    return arch.backbone.blocks[-1].repeats


def check_iterations(what: str, chosen: Sequence[int], most: int) -> None:
    """Raises a UserError unless the passes `chosen` are from 1 to `most`, each once, in order."""
    if list(chosen) != sorted(set(chosen)) or not all(1 <= n <= most for n in chosen):
        raise UserError(what, got=tuple(chosen), expected=f"1 to {most}, each once, in order")


class ItNet(segmenter.Segmenter):
    """A `Segmenter` that can also answer after every pass, or run one pass at a time."""

    def answers(
        self, image: Array, iterations: Sequence[int], train: bool = False
    ) -> tuple[Array, dict[str, Array]]:
        """The answers after some passes, all from one run.

        Args:
            image: [B, H, W, 3], normalised.
            iterations: passes, in order; the loop runs to its end whatever they are.
            train: as in `__call__`.

        Returns:
            (float32 [E, B, h, w, K], the auxiliary heads' answers, empty unless training).
        """
        last, total = loop_name(self.arch), num_iterations(self.arch)
        d, taps = self.run(image, 0, len(self.arch.backbone.blocks) - 1, train)
        loop, learns = getattr(self, last), train and last not in self.frozen
        if tuple(iterations) == (total,):
            states = loop(d, learns)[None]
        else:
            states = loop.states(d, learns)
            if len(iterations) < total:
                states = states[jnp.asarray(iterations) - 1]
        # The head sees all of them as one batch; images stay together, so that a cut along B stays one.
        passes, batch, *rest = states.shape
        together = jnp.swapaxes(states, 0, 1).reshape(batch * passes, *rest)
        logits = self.score("head", {last: together}, train)
        logits = jnp.swapaxes(logits.reshape(batch, passes, *logits.shape[1:]), 0, 1)
        names = [f"aux_{i}" for i in range(len(self.arch.aux))] if train else []
        taps = taps | {last: states[-1]}
        return logits, {name: self.score(name, taps, train) for name in names}

    def data(self, image: Array) -> Array:
        """The map [B, h, w, C] of what runs once, from a normalised image [B, H, W, 3]; in eval mode."""
        return self.run(image, 0, len(self.arch.backbone.blocks) - 1)[0]

    def once(self, d: Array, h: Array) -> Array:
        """One pass in eval mode, with the variables that `of_pass` picks."""
        return getattr(self, loop_name(self.arch)).once(d, h)


# --- Variables ---


def of_pass(arch: Arch, variables: dict[str, Any], n: Array | int) -> dict[str, Any]:
    """The variables of pass n, from 0, which may be traced; those of the last one from there on."""
    index = jnp.minimum(n, num_iterations(arch) - 1)
    pick = lambda x: jax.lax.dynamic_index_in_dim(jnp.asarray(x), index, keepdims=False)  # noqa: E731
    return _each(arch, variables, pick)


def with_iterations(arch: Arch, variables: dict[str, Any], n: int) -> tuple[Arch, dict[str, Any]]:
    """The same network with n passes: the first n, or all and the last one again and again.

    Raises:
        UserError: an impossible n.
    """
    have, loop = num_iterations(arch), arch.backbone.blocks[-1]
    front = arch.backbone.blocks[:-1]
    arch_n = replace(
        arch, backbone=replace(arch.backbone, blocks=(*front, replace(loop, repeats=n)))
    )
    rows = [min(i, have - 1) for i in range(n)]
    return arch_n, _each(arch, variables, lambda x: x[jnp.asarray(rows)])


def _each(
    arch: Arch, variables: dict[str, Any], change: Callable[[Array], Array]
) -> dict[str, Any]:
    """`variables` with what passes have for themselves changed, leaf by leaf."""
    name, own = loop_name(arch), LOOPS[arch.backbone.blocks[-1].kind]
    changed = dict(variables)
    for kind in OWN_KINDS[own]:
        if name in variables.get(kind, {}):
            changed[kind] = {**variables[kind], name: jax.tree.map(change, variables[kind][name])}
    return changed


# --- What it costs ---


class Account(NamedTuple):
    """What an answer after pass `iteration` costs; of a network of that many passes, deployed.

    macs:   of one image: the data block, `iteration` passes, one answer (1 MAC = 1, convolutions).
    params: of the network; without sharing they grow with the passes.
    nodes, edges: of the stored graph, batch norm folded: values that convolutions give, and MACs of one pass through
            everything that is stored; pooling, resizing and adding are free, as for `macs`.
    depth:  convolutions one after another; the scales of a pass lie side by side.
    """

    iteration: int
    macs: int
    params: int
    nodes: int
    edges: int
    depth: int


def account(arch: Arch, size_px: tuple[int, int], n: int) -> Account:
    """The account of an answer after n passes on one image of size_px = (H, W)."""
    loop = replace(arch.backbone.blocks[-1], repeats=n)
    front = arch.backbone.blocks[:-1]
    arch = replace(arch, backbone=replace(arch.backbone, blocks=(*front, loop)))
    specs = [spec for spec in blocks(arch) if spec.role in ("backbone", "head")]
    total = count(specs, *size_px)
    nodes = edges = 0
    for layer in (layer for spec in specs for layer in spec.layers):
        nodes += layer.out_channels * layer.cells(*size_px) * layer.copies
        stored = replace(layer, repeats=layer.copies)
        edges += count([replace(specs[0], layers=(stored,))], *size_px).macs
    *data, looped, head = specs
    one_pass = 1 + sum(layer.name.startswith("scale_0") for layer in looped.layers)
    depth = sum(len(spec.layers) for spec in data) + n * one_pass + len(head.layers)
    return Account(n, total.macs, total.params, nodes, edges, depth)
