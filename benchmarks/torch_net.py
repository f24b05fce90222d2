"""Our deeplabv3plus_resnet18 written in plain torch, and the way of our values into it.

No library has it: torchvision does not dilate a ResNet-18, and its DeepLabV3 has no decoder.
"""

from typing import Any

import jax
import torch
import torch.nn.functional as F
from flax.traverse_util import flatten_dict
from torch import Tensor, nn

from jaxseg.arch import Arch
from jaxseg.weights import torch_names


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 1512.03385)."""

    def __init__(self, inputs: int, width: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        projected = stride != 1 or inputs != width
        self.downsample = nn.Sequential(
            *([nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)] * projected)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet18(nn.Module):
    """Output stride 16, the first block of the last stage undilated; answers (last map, map at stride 4)."""

    def __init__(self, widths: tuple[int, int, int, int]):
        super().__init__()
        a, b, c, d = widths
        self.conv1, self.bn1 = nn.Conv2d(3, a, 7, 2, 3, bias=False), nn.BatchNorm2d(a)
        self.layer1 = nn.Sequential(Basic(a, a), Basic(a, a))
        self.layer2 = nn.Sequential(Basic(a, b, stride=2), Basic(b, b))
        self.layer3 = nn.Sequential(Basic(b, c, stride=2), Basic(c, c))
        self.layer4 = nn.Sequential(Basic(c, d), Basic(d, d, dilation=2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        fine = self.layer1(x)
        return self.layer4(self.layer3(self.layer2(fine))), fine


def _normed(inputs: int, width: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel - 1) // 2
    conv = nn.Conv2d(inputs, width, kernel, 1, padding, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


class DeepLabV3Plus(nn.Module):
    """ASPP, joined with the fine map, two 3x3 convolutions, classifier (Chen et al., 1802.02611)."""

    def __init__(self, classes: int, widths: tuple[int, int, int, int], wide: int, narrow: int):
        super().__init__()
        self.backbone = ResNet18(widths)
        last = widths[-1]
        self.aspp_0 = _normed(last, wide)
        self.aspp_1, self.aspp_2, self.aspp_3 = (
            _normed(last, wide, 3, rate) for rate in (6, 12, 18)
        )
        self.aspp_pool = _normed(last, wide)
        self.project = _normed(5 * wide, wide)
        self.skip = _normed(widths[0], narrow)
        self.conv1 = _normed(wide + narrow, wide, 3)
        self.conv2 = _normed(wide, wide, 3)
        self.logits = nn.Conv2d(wide, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        coarse, fine = self.backbone(x)
        branches = [self.aspp_0, self.aspp_1, self.aspp_2, self.aspp_3]
        maps = [branch(coarse) for branch in branches]
        pooled = self.aspp_pool(coarse.mean((2, 3), keepdim=True))
        y = self.project(torch.cat([*maps, pooled.expand_as(maps[0])], dim=1))
        y = F.interpolate(y, fine.shape[2:], mode="bilinear", align_corners=False)
        y = self.conv2(self.conv1(torch.cat([y, self.skip(fine)], dim=1)))
        return self.logits(y)


HEAD_MODULES: dict[str, tuple[str, str]] = {
    f"head/{name}": (f"{name}.0", f"{name}.1")
    for name in (
        *(f"aspp_{i}" for i in (0, 1, 2, 3, "pool")),
        "project",
        "skip",
        "conv1",
        "conv2",
    )
} | {"head/logits": ("logits", "")}
"""Our layers of the head -> convolution and norm of `DeepLabV3Plus`; those of the backbone follow torchvision."""


def make(arch: Arch) -> DeepLabV3Plus:
    """The torch counterpart of our deeplabv3plus_resnet18 at output stride 16, of any width; random weights."""
    widths = tuple(block.widths[-1] for block in arch.backbone.blocks[2::2])
    wide, narrow = arch.head.widths[0], arch.head.widths[-3]
    return DeepLabV3Plus(arch.num_classes, widths, wide, narrow)


def load(net: nn.Module, arch: Arch, variables: Any) -> None:
    """Copies our {'params', 'batch_stats'} into the torch network."""
    flat = flatten_dict(jax.device_get(variables), sep="/")
    keys = torch_names.torch_keys(arch, "torchvision_segmentation", HEAD_MODULES)
    theirs, copied = net.state_dict(), {}
    for path, value in flat.items():
        shape = tuple(theirs[keys[path]].shape)
        copied[keys[path]] = torch.tensor(torch_names.to_torch(path, value, shape))
    counters = {key: value for key, value in theirs.items() if key.endswith("num_batches_tracked")}
    net.load_state_dict(copied | counters)
