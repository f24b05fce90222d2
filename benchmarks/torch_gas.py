"""The cells of `jaxseg.models.backbones.gas` in plain torch, written from the papers' words, and the names of modules.

Here a node is a list of (source, operation), as in the papers; ours are edges in a row.
"""

import torch
from torch import Tensor, nn

from benchmarks.torch_real_time import Layer, Names, pair, up
from jaxseg.arch import Arch

NODES = (("older", "newer"), ("older", "newer", "node1"))
"""What each node sums over; in this order the edges are counted."""


class Separable(nn.Sequential):
    """Depthwise 3x3 and norm '0', pointwise, norm and ReLU '1'."""

    def __init__(self, channels: int, stride: int, rate: int):
        depthwise = Layer(channels, channels, 3, stride, channels, relu=False)
        depthwise[0].dilation = depthwise[0].padding = (rate, rate)
        super().__init__(depthwise, Layer(channels, channels, 1))


def operation(name: str, channels: int, stride: int) -> nn.Module:
    if name == "max_pool":
        return nn.MaxPool2d(3, stride, 1)
    if name == "skip":
        return nn.Identity() if stride == 1 else Layer(channels, channels, 1, stride, relu=False)
    if name == "conv":
        return Layer(channels, channels, 3, stride)
    return Separable(channels, stride, int(name.removeprefix("separable").strip("_") or 1))


class Cell(nn.Module):
    """`steps`: stride of the older map and of the newer one; `choices`: of all five edges."""

    def __init__(self, older: int, newer: int, channels: int, steps: tuple[int, int], choices):
        super().__init__()
        self.older = Layer(older, channels, 1, steps[0])
        self.newer = Layer(newer, channels, 1)
        edges = iter(choices)
        self.nodes = nn.ModuleList()
        for reads in NODES:
            node = nn.ModuleDict()
            for source in reads:
                name, stride = next(edges), 1 if source == "node1" else steps[1]
                if name != "zero":
                    node[source] = operation(name, channels, stride)
            self.nodes.append(node)

    def forward(self, older: Tensor, newer: Tensor) -> Tensor:
        maps = {"older": self.older(older), "newer": self.newer(newer)}
        for i, node in enumerate(self.nodes, start=1):
            maps[f"node{i}"] = sum(op(maps[source]) for source, op in node.items())
        return torch.cat([maps["node1"], maps["node2"]], 1)


class Pyramid(nn.Module):
    """The ASPP of DeepLabV3 (Chen et al., 1706.05587) and its classifier."""

    def __init__(self, inp: int, mid: int, classes: int):
        super().__init__()
        self.one, self.project = Layer(inp, mid, 1), Layer(5 * mid, mid, 1)
        self.rates = nn.ModuleList(Layer(inp, mid) for _ in range(3))
        for rate, layer in zip((6, 12, 18), self.rates, strict=True):
            layer[0].dilation = layer[0].padding = (rate, rate)
        self.mean, self.conv = Layer(inp, mid, 1), Layer(mid, mid)
        self.logits = nn.Conv2d(mid, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.one(x), *(layer(x) for layer in self.rates)]
        maps.append(up(self.mean(x.mean((2, 3), keepdim=True)), x))
        return self.logits(self.conv(self.project(torch.cat(maps, 1))))


class Cells(nn.Module):
    """Stem, cells, pyramid."""

    def __init__(self, arch: Arch):
        super().__init__()
        stem, *cells = arch.backbone.blocks
        w = stem.widths
        self.stem = nn.Sequential(Layer(3, w[0], 3, 2), Layer(w[0], w[1], 3, 2), Layer(w[1], w[2]))
        self.cells = nn.ModuleList()
        older = newer = (
            w[2],
            1,
        )  # channels, and by how much the map is larger than the next cell's inputs
        for block in cells:
            channels, stride = block.widths[0], block.stride
            steps = older[1], stride
            self.cells.append(Cell(older[0], newer[0], channels, steps, block.choices))
            older, newer = (newer[0], newer[1] * stride), (2 * channels, 1)
        self.head = Pyramid(newer[0], arch.head.widths[0], arch.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        older = newer = self.stem(x)
        for cell in self.cells:
            older, newer = newer, cell(older, newer)
        return self.head(newer)


def names(arch: Arch) -> Names:
    """Our layers -> modules of `Cells`."""
    found = {f"block_00/conv{i + 1}": pair(f"stem.{i}") for i in range(3)}
    sources = [(node, source) for node, reads in enumerate(NODES) for source in reads]
    for k, block in enumerate(arch.backbone.blocks[1:]):
        ours, theirs = f"block_{k + 1:02d}", f"cells.{k}"
        found |= {f"{ours}/{name}": pair(f"{theirs}.{name}") for name in ("older", "newer")}
        for e, (choice, (node, source)) in enumerate(zip(block.choices, sources, strict=True)):
            layer, module = f"{ours}/edge{e}_{choice}", f"{theirs}.nodes.{node}.{source}"
            if choice.startswith("separable"):
                found[f"{layer}_depthwise"] = pair(f"{module}.0")
                module = f"{module}.1"
            found[layer] = pair(module)
    head = {"aspp_0": "one", "aspp_pool": "mean", "project": "project", "conv": "conv"}
    head |= {f"aspp_{i + 1}": f"rates.{i}" for i in range(3)}
    found |= {f"head/{layer}": pair(f"head.{module}") for layer, module in head.items()}
    return found | {"head/logits": ("head.logits", "")}
