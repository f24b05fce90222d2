"""After ItNet (Pfeil, 2101.08685): a data block that runs once, and one block that runs again and again.

The paper's contract is what is known: one block in a loop, so that the stored graph stays small while the network
becomes deep, and an answer after every pass. What is inside is our own design. One pass:

    x_0 = fuse(d, h)               1x1 convolution of both maps side by side, ReLU6
    x_s = average of x_(s-1)       over 2x2 cells
    y_s = relu(x_s + bottleneck_s(x_s))
    h'  = y_0 + up(y_1 + up(y_2))  nearest

d is the data block's result, h the last pass's, 0 before the first. Since the fused map lies in [0, 6], h' is bounded
by the weights whatever h was: any number of passes stays finite.

Order of the loop's `BlockArch.widths`: fuse, then per scale conv1, conv2, conv3 of the bottleneck.
"""

from dataclasses import replace

import flax.linen as nn
import jax.numpy as jnp

from jaxseg import flow
from jaxseg.arch import ALL, NOTHING, STATISTICS, BackboneArch, BlockArch, BlockSpec, block_name
from jaxseg.errors import UserError, unknown_name
from jaxseg.flow import Op
from jaxseg.layers.codes import SCALES
from jaxseg.models.backbones.trunk import Trunk, check_output_stride, check_width
from jaxseg.models.block import SEEN, Block, MakeSpec, check_widths, normed_layer, round_width
from jaxseg.types import Array

OUTPUT_STRIDES = (8, 4)
DATA_WIDTHS = (16, 32, 64)
CHANNELS = DATA_WIDTHS[-1]

LOOPS = {"loop": STATISTICS, "loop_one_norm": NOTHING, "loop_unshared": ALL}
"""Kind of block -> what each pass has for itself."""

OWN_KINDS = {
    NOTHING: (),
    STATISTICS: ("batch_stats", SCALES),
    ALL: ("params", "batch_stats", SCALES),
}
"""What each pass has for itself -> the collections of variables with an axis of passes."""

SHARING = {"weights": "loop", "everything": "loop_one_norm", "nothing": "loop_unshared"}
"""What the passes share -> kind of block."""


def itnet(
    output_stride: int = 8,
    width: float = 1.0,
    *,
    iterations: int = 8,
    sharing: str = "weights",
    scales: int = 3,
    reduction: int = 4,
) -> Trunk:
    """Strided 3x3 convolutions (16, 32, 64 channels), then the loop.

    Args:
        output_stride: 8 (three convolutions) or 4 (the last two of them).
        width: multiplies all widths, rounded to multiples of 8, at least 8.
        iterations: N, the passes through the loop.
        sharing: what they share: 'weights' (each pass has its own running statistics), 'everything', 'nothing'.
        scales: maps inside the loop, each half the size of the one before.
        reduction: divides the channels inside the bottlenecks.

    Raises:
        UserError: a value that cannot be.
    """
    check_output_stride(output_stride, OUTPUT_STRIDES)
    check_width(width)
    if sharing not in SHARING:
        raise unknown_name("itnet.sharing", sharing, SHARING)
    for name, value, most in (
        ("itnet.iterations", iterations, 1000),
        ("itnet.scales", scales, 5),
        ("itnet.reduction", reduction, 64),
    ):
        if not 1 <= value <= most:
            raise UserError(name, got=value, expected=f"1 to {most}")
    data = [round_width(channels * width) for channels in DATA_WIDTHS]
    data = data[len(data) - (2 if output_stride == 4 else 3) :]
    inside = round_width(data[-1] / reduction)
    widths = (data[-1], *(inside, inside, data[-1]) * scales)
    blocks = [BlockArch("conv_stem", (channels,), stride=2) for channels in data]
    blocks.append(BlockArch(SHARING[sharing], widths, repeats=iterations))
    # An auxiliary head belongs to the data block: the loop's result has a head already.
    last = block_name(len(data) - 1)
    return Trunk(BackboneArch("itnet", tuple(blocks)), {16: last, output_stride: last})


def _spec(name: str, block: BlockArch, in_channels: int, in_stride: int) -> BlockSpec:
    scales = max((len(block.widths) - 1) // 3, 1)
    check_widths(name, block.kind, block.widths, 3 * scales + 1)
    fuse, *inside = block.widths
    if block.stride != 1 or {fuse, *inside[2::3]} != {in_channels}:
        raise UserError(
            f"widths and stride of {name} ({block.kind})",
            got=(block.widths, block.stride),
            expected=f"stride 1, and a result of the {in_channels} channels that it reads",
        )
    layers = [normed_layer("fuse", 2 * in_channels, fuse, 1, in_stride, activation="relu6")]
    for i in range(scales):
        one, two, three = inside[3 * i : 3 * i + 3]
        stride = in_stride * 2**i
        layers += [
            normed_layer(f"scale_{i}_conv1", fuse, one, 1, stride),
            normed_layer(
                f"scale_{i}_conv2", one, two, block.kernel, stride, dilation=block.dilation
            ),
            normed_layer(f"scale_{i}_conv3", two, three, 1, stride, activation=""),
        ]
    own = LOOPS[block.kind]
    looped = (replace(layer, repeats=block.repeats, own=own) for layer in layers)
    ops = _one_pass(scales)
    return BlockSpec(name, "backbone", block.kind, tuple(looped), ops, fuse, in_stride)


def _one_pass(scales: int) -> tuple[Op, ...]:
    """What one pass does; in_0 is the data block's result, in_1 the last pass's."""
    ops = [flow.join("joined", "in_0", "in_1"), flow.conv("fuse", "joined")]
    maps = ["fuse"]
    for i in range(1, scales):
        ops.append(Op(f"half_{i}", flow.HALVE, (maps[-1],)))
        maps.append(f"half_{i}")
    result = ""
    for i, x in reversed(list(enumerate(maps))):
        ops += flow.chain(x, *(f"scale_{i}_conv{j}" for j in (1, 2, 3)))
        ops.append(flow.add(f"scale_{i}_sum", x, f"scale_{i}_conv3", "relu"))
        if result:
            ops.append(Op(f"up_{i}", flow.NEAREST, (result, f"scale_{i}_sum")))
            ops.append(flow.add(f"scale_{i}_all", f"scale_{i}_sum", f"up_{i}"))
        result = ops[-1].name
    return tuple(ops)


class Loop(Block):
    """The loop: [B, h, w, C] -> [B, h, w, C] after all passes; `states` gives what lies between.

    Variables that passes do not share have a first axis of passes.

    rematerialise: whether training works a pass out again on the way back instead of keeping its maps. Then memory
                   grows by one map per pass where only the last one answers, by about six where all do.
    """

    rematerialise: bool = True

    def setup(self):
        for op in self.spec.ops:
            if op.kind == flow.CONV or self.numbers.in_codes:
                setattr(self, op.name, self.made(op, None))

    def part(self, op: Op) -> nn.Module:
        """One that `setup` made: passes share it."""
        return getattr(self, op.name)

    def __call__(self, d: Array, train: bool = False) -> Array:
        return self._passes(d, train, every=False)[0]

    def states(self, d: Array, train: bool = False) -> Array:
        """[N, B, h, w, C]: the result of every pass."""
        return self._passes(d, train, every=True)[1]

    def once(self, d: Array, h: Array, train: bool = False) -> Array:
        """One pass, with variables that have no axis of passes.

        Args:
            d: [B, h, w, C], the data block's result.
            h: the same shape, the last pass's result.
            train: as for every block.
        """
        return self.run((d, h), train)

    def _passes(self, d: Array, train: bool, every: bool) -> tuple[Array, Array | None]:
        """(result of the last pass, of every pass or None)."""

        def visit(loop: "Loop", h: Array, d: Array) -> tuple[Array, Array | None]:
            h = loop.once(d, h, train)
            return h, h if every else None

        if train and self.rematerialise:
            # Inside a loop nothing could be merged with its copy, so no barrier is needed.
            visit = nn.remat(visit, prevent_cse=False)
        first = self.spec.layers[0]
        own = OWN_KINDS[first.own]
        shared = [kind for kind in OWN_KINDS[ALL] if kind not in own]
        # One set of statistics for all passes moves on from pass to pass.
        moving = train and "batch_stats" in shared and self.is_mutable_collection("batch_stats")
        scanned = nn.scan(
            visit,
            variable_axes=dict.fromkeys((*own, SEEN), 0),
            variable_broadcast=[kind for kind in shared if not (moving and kind == "batch_stats")],
            variable_carry="batch_stats" if moving else False,
            split_rngs={"params": first.own == ALL},
            in_axes=nn.broadcast,
            length=first.repeats,
        )
        return scanned(self, jnp.zeros_like(d), d)


KINDS: dict[str, MakeSpec] = dict.fromkeys(LOOPS, _spec)
