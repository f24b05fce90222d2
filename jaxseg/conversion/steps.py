"""Values of a network as a graph: where each comes from, and which of them must have one step.

A value is (block, operation); ('image', 'image') is the normalised image.
"""

from collections.abc import Iterable, Mapping, Sequence

from jaxseg import flow
from jaxseg.arch import IMAGE, Arch, BlockSpec
from jaxseg.models import zoo

Value = tuple[str, str]
Steps = Mapping[Value, float]

THE_IMAGE: Value = (IMAGE, IMAGE)

GATE_STEP = 1 / 128
"""Of what a sigmoid gives."""


def deployed_blocks(arch: Arch) -> tuple[BlockSpec, ...]:
    """All that inference needs: auxiliary heads are left out."""
    return tuple(block for block in zoo.blocks(arch) if block.role != "aux")


class Values:
    """The graph of a network's blocks.

    blocks: as `deployed_blocks` gives them.
    """

    def __init__(self, blocks: Sequence[BlockSpec]):
        self.blocks = tuple(blocks)
        self._results = {block.name: (block.name, block.ops[-1].name) for block in self.blocks}
        self._results[IMAGE] = THE_IMAGE

    def source(self, block: BlockSpec, name: str) -> Value:
        """The value that `name` stands for inside a block."""
        if not name.startswith("in_"):
            return block.name, name
        # What a loop reads beside its inputs is its own last result.
        return self._results[[*block.inputs, block.name][flow.number_of(name)]]

    def reads(self, block: BlockSpec, op: flow.Op) -> list[Value]:
        """What an operation computes with."""
        return [self.source(block, name) for name in op.values]

    def gates(self) -> list[Value]:
        """What sigmoids give; their step is `GATE_STEP`."""
        return [
            (block.name, op.name)
            for block in self.blocks
            for op in block.ops
            if op.kind == flow.SIGMOID
            or (op.kind == flow.CONV and block.layer(op.name).activation == "sigmoid")
        ]

    def groups(self) -> dict[Value, Value]:
        """Value -> the one that stands for all that have its step.

        Of one step are: what an operation of `flow.KEEPING` reads and gives, and all scores, so that answers of all
        heads can be compared.
        """
        parent: dict[Value, Value] = {THE_IMAGE: THE_IMAGE}
        for block in self.blocks:
            parent |= {(block.name, op.name): (block.name, op.name) for op in block.ops}

        def root(value: Value) -> Value:
            while parent[value] != value:
                value = parent[value]
            return value

        def tie(values: Iterable[Value]) -> None:
            first, *others = map(root, values)
            parent.update(dict.fromkeys(others, first))

        scores = []
        for block in self.blocks:
            for op in block.ops:
                if op.kind in flow.KEEPING:
                    tie([(block.name, op.name), *self.reads(block, op)])
                if op.scores:
                    scores.append((block.name, op.name))
        tie(scores)
        return {value: root(value) for value in parent}
