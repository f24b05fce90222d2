"""Early exits of any backbone (MESS, Kouris et al., 2106.03527): where they are, what they look like, what they cost.

Everything here is a function on values: an `Arch` with exits is an `Arch`, and what is deployed is a smaller one.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxseg.arch import Arch, BackboneArch, Counts, HeadArch, block_name, count
from jaxseg.errors import UserError, unknown_name
from jaxseg.models import zoo
from jaxseg.models.backbones.registry import tap_shapes
from jaxseg.models.block import round_width
from jaxseg.models.heads.aspp import scaled_rates

REDUCTIONS = (1, 2, 4, 8)
EXTRA_BLOCKS = (0, 1, 2, 3)
FCN, DLB = KINDS = ("fcn", "dlb")

DRN50_EXITS = ("block_09", "block_11", "block_13", "block_14", "block_15")
"""Published for the ResNet-50 of stride 8 and N = 6 (Fig. 3); no rule that we know gives this list."""

DLB_CHANNELS = 256


# --- Heads ---


@dataclass(frozen=True, order=True)
class ExitDesign:
    """One point of the space of heads (eq. 1).

    reduction:      divides the channels first (CRM): 1, 2, 4 or 8; 1 = not at all.
    extra_blocks:   residual bottlenecks after it, 0 or more.
    rapid_dilation: their dilation doubles from block to block (RDI); without blocks it means nothing.
    kind:           the head behind them: 'fcn' or 'dlb' (DeepLabV3's).
    """

    reduction: int = 1
    extra_blocks: int = 0
    rapid_dilation: bool = False
    kind: str = FCN

    def __post_init__(self):
        if self.reduction not in REDUCTIONS:
            raise UserError("reduction of an exit", got=self.reduction, expected=REDUCTIONS)
        if self.extra_blocks < 0:
            raise UserError("extra blocks of an exit", got=self.extra_blocks, expected="0 or more")
        if self.kind not in KINDS:
            raise unknown_name("kind of exit", self.kind, KINDS)
        object.__setattr__(self, "rapid_dilation", self.rapid_dilation and self.extra_blocks > 0)

    def __str__(self) -> str:
        rapid = ", rapid dilation" if self.rapid_dilation else ""
        return f"{self.kind} /{self.reduction} + {self.extra_blocks} blocks{rapid}"


def space(
    reductions: Sequence[int] = REDUCTIONS,
    extra_blocks: Sequence[int] = EXTRA_BLOCKS,
    rapid_dilations: Sequence[bool] = (False, True),
    kinds: Sequence[str] = KINDS,
) -> tuple[ExitDesign, ...]:
    """All distinct designs of a product, sorted: 56 of the paper's 64, since RDI needs blocks."""
    product = itertools.product(reductions, extra_blocks, rapid_dilations, kinds)
    return tuple(sorted({ExitDesign(*point) for point in product}))


def exit_head(
    backbone: BackboneArch, at: str, design: ExitDesign, width: float = 1.0, dropout: float = 0.1
) -> HeadArch:
    """The head of `design` behind the block `at`.

    Args:
        backbone: whose channels are read.
        at: name of a block.
        design: of the head.
        width: multiplies the 256 channels of a DLB head; all other widths follow from the backbone's.
        dropout: before the classifier (FCN), after the projection (DLB).
    """
    taps = tap_shapes(backbone)
    if at not in list(taps)[1:]:
        raise unknown_name("block for an exit", at, list(taps)[1:])
    channels, stride = taps[at]
    widths: list[int] = []
    if design.reduction > 1:
        channels = round_width(channels / design.reduction)
        widths.append(channels)
    quarter = round_width(channels / 4)
    widths += [quarter, quarter, channels] * design.extra_blocks
    start = _stage_dilation(backbone, at)
    rates = tuple(
        start * 2**i if design.rapid_dilation else start for i in range(design.extra_blocks)
    )
    if design.kind == FCN:
        return HeadArch("mess_fcn", (at,), (*widths, quarter), rates, dropout)
    aspp = scaled_rates(None, stride)
    wide = (round_width(DLB_CHANNELS * width),) * (len(aspp) + 4)
    return HeadArch("mess_dlb", (at,), (*widths, *wide), (*rates, *aspp), dropout)


def _stage_dilation(backbone: BackboneArch, at: str) -> int:
    """The dilation of the stage of `at`: the largest among its neighbours of the same width."""
    index = [block_name(i) for i in range(len(backbone.blocks))].index(at)
    runs = itertools.groupby(enumerate(backbone.blocks), key=lambda pair: pair[1].widths[-1])
    stages = (list(run) for _, run in runs)
    stage = next(run for run in stages if run[0][0] <= index <= run[-1][0])
    return max(block.dilation for _, block in stage)


# --- Placement ---


def placement(arch: Arch, num_exits: int, size_px: tuple[int, int] = (512, 512)) -> tuple[str, ...]:
    """The blocks of the early exits, about every N-th part of the backbone's operations (section 3.1).

    Exit i follows the block nearest to i/N of the work, the blocks distinct and in order. For the ResNet-50 of
    stride 8 and N = 6 it is the published list, which does not follow from this rule.

    Args:
        arch: any network; its backbone is what is divided.
        num_exits: N, the final answer included.
        size_px: (H, W) at which work is counted.

    Returns:
        N - 1 names.

    Raises:
        UserError: fewer than two exits, or more than blocks.
    """
    work = [c.operations for c in cumulative(arch, size_px)]
    total, last = work[-1], len(work) - 1
    if not 2 <= num_exits <= len(work):
        raise UserError("number of exits", got=num_exits, expected=f"2 to {len(work)}")
    stride = list(tap_shapes(arch.backbone).values())[-1].stride
    if (arch.backbone.name, stride, num_exits) == ("resnet50", 8, 6):
        return DRN50_EXITS
    chosen: list[int] = []
    for i in range(1, num_exits):
        first = chosen[-1] + 1 if chosen else 0
        free = range(first, last - (num_exits - 1 - i))  # leaves a block for each exit to come
        chosen.append(min(free, key=lambda b: abs(work[b] * num_exits - i * total)))
    return tuple(map(block_name, chosen))


def cumulative(arch: Arch, size_px: tuple[int, int]) -> list[Counts]:
    """What one image of size_px = (H, W) has cost after each block of the backbone."""
    backbone = [spec for spec in zoo.blocks(arch) if spec.role == "backbone"]
    parts = (count([spec], *size_px) for spec in backbone)
    return list(itertools.accumulate(parts))


# --- Architectures ---


def with_exits(
    arch: Arch,
    blocks: Sequence[str],
    designs: Sequence[ExitDesign],
    *,
    width: float = 1.0,
    dropout: float = 0.1,
) -> Arch:
    """`arch` with a head of every design behind every block, instead of the exits it has.

    'exit_0' .. lie in the order of blocks, and there in that of designs. The final answer does not change.

    Args:
        arch: any network.
        blocks: names, in the order of the backbone, all before the last block.
        designs: at least one.
        width, dropout: see `exit_head`.

    Raises:
        UserError: no such block, or blocks out of order.
    """
    names = [block_name(i) for i in range(len(arch.backbone.blocks))]
    for name in blocks:
        if name not in names:
            raise unknown_name("block for an exit", name, names)
    ordered = sorted(set(blocks), key=names.index)
    if list(blocks) != ordered or names[-1] in blocks or not blocks or not designs:
        raise UserError(
            "blocks of the exits",
            got=", ".join(blocks) or "none",
            expected=f"each once, in the order of the backbone, before {names[-1]}",
        )
    heads = (exit_head(arch.backbone, at, d, width, dropout) for at in blocks for d in designs)
    return replace(arch, exits=tuple(heads))


def exit_block(arch: Arch, index: int) -> int:
    """The last backbone block that exit `index` reads; the exit can answer once it has run."""
    names = {block_name(i): i for i in range(len(arch.backbone.blocks))}
    return max(names.get(tap, -1) for tap in arch.exits[index].inputs)


def sub_network(
    arch: Arch, variables: dict[str, Any], chosen: Sequence[int], *, final: bool
) -> tuple[Arch, dict[str, Any]]:
    """What is deployed: the chosen exits, the backbone as far as it is needed, and nothing else.

    Args:
        arch: with exits.
        variables: 'params' and 'batch_stats', one entry per block and head.
        chosen: indices of exits, each behind another block, in order.
        final: whether the original final head answers at the end. Without it the last chosen exit does, and the
            blocks behind it are dropped.

    Returns:
        (arch, variables): exits renumbered from 'exit_0', auxiliary heads dropped.

    Raises:
        UserError: an exit that does not exist, exits out of order, or none at all.
    """
    chosen = list(chosen)
    for index in chosen:
        if not 0 <= index < len(arch.exits):
            raise UserError("exit", got=index, expected=f"0 to {len(arch.exits) - 1}")
    at = [exit_block(arch, index) for index in chosen]
    if at != sorted(set(at)) or not (chosen or final):
        raise UserError(
            "exits", got=chosen, expected="at most one behind each block, in order, at least one"
        )
    early = chosen if final else chosen[:-1]
    heads = {f"exit_{new}": f"exit_{old}" for new, old in enumerate(early)}
    heads["head"] = "head" if final else f"exit_{chosen[-1]}"
    blocks = arch.backbone.blocks if final else arch.backbone.blocks[: at[-1] + 1]
    small = replace(
        arch,
        backbone=replace(arch.backbone, blocks=blocks),
        head=arch.head if final else arch.exits[chosen[-1]],
        aux=(),
        exits=tuple(arch.exits[index] for index in early),
    )
    kept = {block_name(i): block_name(i) for i in range(len(blocks))} | heads
    parts = {
        kind: {new: tree[old] for new, old in kept.items() if old in tree}
        for kind, tree in variables.items()
    }
    return small, parts


# --- Costs ---


@dataclass(frozen=True)
class Costs:
    """What each part costs, in one unit (operations, MACs, ms), E = early exits + 1, the final answer last.

    backbone: of all blocks up to each exit, from the image on.
    heads:    of each head.
    """

    backbone: tuple[float, ...]
    heads: tuple[float, ...]

    def final_only(self) -> float:
        """The original network (table 1)."""
        return self.backbone[-1] + self.heads[-1]

    def budgeted(self, n: int) -> float:
        """A sub-model that ends at exit `n`."""
        return self.backbone[n] + self.heads[n]

    def anytime(self, chosen: Sequence[int]) -> float:
        """All of the chosen exits, one after another."""
        return self.backbone[chosen[-1]] + sum(self.heads[n] for n in chosen)

    def paths(self, chosen: Sequence[int]) -> tuple[float, ...]:
        """What an image has cost that left at each of the chosen exits, having tried those before it."""
        heads = itertools.accumulate(self.heads[n] for n in chosen)
        return tuple(self.backbone[n] + spent for n, spent in zip(chosen, heads, strict=True))

    def input_dependent(self, chosen: Sequence[int], past: Sequence[float]) -> float:
        """The mean over images (table 1).

        Args:
            chosen: exits in order.
            past: share of images that go on past each of them; that of the last one plays no part.
        """
        total, before, reached = 0.0, 0.0, 1.0
        for n, go_on in zip(chosen, past, strict=True):
            total += reached * (self.backbone[n] - before + self.heads[n])
            before, reached = self.backbone[n], go_on
        return total


def costs(
    arch: Arch,
    size_px: tuple[int, int],
    unit: Callable[[Counts], float] = lambda counts: counts.macs,
) -> Costs:
    """Analytic costs of a multi-exit network on one image of size_px = (H, W), exits as in `arch.exits`."""
    blocks = cumulative(arch, size_px)
    specs = {spec.name: spec for spec in zoo.blocks(arch)}
    names = [*(f"exit_{i}" for i in range(len(arch.exits))), "head"]
    reached = [*(exit_block(arch, i) for i in range(len(arch.exits))), len(blocks) - 1]
    heads = (count([specs[name]], *size_px, roles=(specs[name].role,)) for name in names)
    return Costs(tuple(unit(blocks[i]) for i in reached), tuple(map(unit, heads)))
