"""Which channels of a network are one and the same, so that they can only be removed together.

Every convolution but a depthwise one opens a space of channels. Sums make two spaces one, depthwise convolutions and
whatever keeps a map's channels pass them on, joined maps have the spaces of their parts one after the other. So the
table of groups follows from the operations of a network, and there is none to be written for a family.
"""

from collections.abc import Sequence

from jaxseg import flow
from jaxseg.arch import BlockSpec, LayerSpec
from jaxseg.conversion.steps import THE_IMAGE, Value, Values

Space = Value
"""Called by the convolution that opened it; of several that became one, by the first."""


class Channels:
    """The spaces of a network.

    blocks: all of it, or all that inference needs.
    """

    def __init__(self, blocks: Sequence[BlockSpec]):
        self.values = Values(blocks)
        self.blocks = self.values.blocks
        self._parent: dict[Space, Space] = {}
        self._size: dict[Space, int] = {}
        self._parts: dict[Value, tuple[Space, ...]] = {THE_IMAGE: (self._open(THE_IMAGE, 3),)}
        for block in self.blocks:
            for op in block.ops:
                self._parts[block.name, op.name] = self._given(block, op)
            # What a loop read of its own last result is that result; and it is as wide as what comes in.
            early = self._parts.get((block.name, "in_1"))
            if early:
                result = self._parts[block.name, block.ops[-1].name]
                self._one(early, result)
                self._one(self._spaces(block, "in_0"), result)

    def of(self, value: Value) -> tuple[Space, ...]:
        """The spaces of a value's channels, in order."""
        return tuple(map(self._root, self._parts[value]))

    def size(self, space: Space) -> int:
        """How many channels it has."""
        return self._size[self._root(space)]

    @property
    def spaces(self) -> tuple[Space, ...]:
        """All of them, in the order of the network."""
        return tuple(dict.fromkeys(map(self._root, self._parent)))

    def read(self, block: BlockSpec, layer: LayerSpec) -> tuple[Space, ...]:
        """The spaces that a layer reads."""
        op = next(op for op in block.ops if op.name == layer.name)
        return tuple(map(self._root, self._spaces(block, op.reads[0])))

    def layers(self, space: Space) -> list[tuple[BlockSpec, LayerSpec]]:
        """The layers that give its channels, and nothing else: convolutions, and depthwise ones on it alone."""
        return [
            (block, layer)
            for block in self.blocks
            for layer in block.layers
            if self.of((block.name, layer.name)) == (self._root(space),)
        ]

    @property
    def fixed(self) -> frozenset[Space]:
        """The image, scores (one channel per class), and what grouped convolutions read and give."""
        scores = [
            space
            for block in self.blocks
            for op in block.ops
            if op.scores
            for space in self.of((block.name, op.name))
        ]
        grouped = [
            space
            for block in self.blocks
            for layer in block.layers
            if layer.groups > 1 and not layer.depthwise
            for space in (*self.read(block, layer), *self.of((block.name, layer.name)))
        ]
        return frozenset([self._root(THE_IMAGE), *scores, *grouped])

    def _given(self, block: BlockSpec, op: flow.Op) -> tuple[Space, ...]:
        reads = [self._spaces(block, name) for name in op.values]
        if op.kind == flow.CONV and not block.layer(op.name).depthwise:
            return (self._open((block.name, op.name), block.layer(op.name).out_channels),)
        if op.kind == flow.JOIN:
            return tuple(space for parts in reads for space in parts)
        for other in reads[1:]:
            self._one(reads[0], other)
        return reads[0]

    def _spaces(self, block: BlockSpec, name: str) -> tuple[Space, ...]:
        value = self.values.source(block, name)
        if value in self._parts:
            return self._parts[value]
        # A loop's last result, which is not known yet.
        early = (block.name, name)
        if early not in self._parts:
            self._parts[early] = (self._open(early, block.out_channels),)
        return self._parts[early]

    def _open(self, space: Space, size: int) -> Space:
        self._parent[space], self._size[space] = space, size
        return space

    def _root(self, space: Space) -> Space:
        while self._parent[space] != space:
            space = self._parent[space]
        return space

    def _one(self, some: tuple[Space, ...], others: tuple[Space, ...]) -> None:
        for a, b in zip(some, others, strict=True):
            a, b = self._root(a), self._root(b)
            if self._size[a] != self._size[b]:
                raise ValueError(f"{a} has {self._size[a]} channels, {b} {self._size[b]}")
            # The first that was opened stands for both.
            order = list(self._parent)
            first, second = sorted((a, b), key=order.index)
            self._parent[second] = first
