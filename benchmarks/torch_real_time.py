"""DDRNet-23-slim, BiSeNetV2, PSPNet in plain torch, written from the public implementations' layer tables (recalled).

Each comes with the names of its modules for our layers. One thing is as we have it: a norm that no convolution comes
before has a 1x1 convolution of every channel alone in front (`Norm`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from jaxseg.arch import Arch

Names = dict[str, tuple[str, str]]


def up(x: Tensor, like: Tensor, corners: bool = False) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=corners)


class Layer(nn.Sequential):
    """Convolution '0', norm '1', ReLU."""

    def __init__(self, inp, out, kernel=3, stride=1, groups=1, *, relu=True, bias=False):
        conv = nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=bias)
        super().__init__(conv, nn.BatchNorm2d(out), *[nn.ReLU()] * relu)


class Norm(Layer):
    """Norm and ReLU alone."""

    def __init__(self, channels, *, relu=True):
        super().__init__(channels, channels, 1, groups=channels, relu=relu)


def bare(inp: int, out: int, kernel: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inp, out, kernel, padding=kernel // 2, bias=False)


# --- DDRNet ---


class Residual(nn.Module):
    """Basic block, or bottleneck where there are three widths; without ReLU at its end if `linear`."""

    def __init__(self, inp, *widths, stride=1, linear=False):
        super().__init__()
        kernels = (3, 3) if len(widths) == 2 else (1, 3, 1)
        ins, strides = (inp, *widths[:-1]), [1] * len(widths)
        strides[len(widths) - 2] = stride
        last = len(widths) - 1
        self.layers = nn.ModuleList(
            Layer(i, o, k, s, relu=n < last)
            for n, (i, o, k, s) in enumerate(zip(ins, widths, kernels, strides, strict=True))
        )
        fits = stride == 1 and inp == widths[-1]
        self.downsample = None if fits else Layer(inp, widths[-1], 1, stride, relu=False)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers:
            y = layer(y)
        y = y + (x if self.downsample is None else self.downsample(x))
        return y if self.linear else F.relu(y)


def stage(inp: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        Residual(inp, out, out, stride=stride), Residual(out, out, out, linear=True)
    )


class Before(nn.Sequential):
    """Norm and ReLU '0', then a bare convolution '1'."""

    def __init__(self, inp, out, kernel=1):
        super().__init__(Norm(inp), bare(inp, out, kernel))


class Pyramid(nn.Module):
    """DAPPM."""

    def __init__(self, inp, mid, out):
        super().__init__()
        self.pools = nn.ModuleList(
            [nn.AvgPool2d(5, 2, 2), nn.AvgPool2d(9, 4, 4), nn.AvgPool2d(17, 8, 8)]
        )
        self.pools.append(nn.AdaptiveAvgPool2d(1))
        self.scale0, self.compression = Before(inp, mid), Before(5 * mid, out)
        self.scales = nn.ModuleList(Before(inp, mid) for _ in range(4))
        self.processes = nn.ModuleList(Before(mid, mid, 3) for _ in range(4))
        self.shortcut = Before(inp, out)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.scale0(x)]
        for pool, scale, process in zip(self.pools, self.scales, self.processes, strict=True):
            maps.append(process(up(scale(pool(x)), x) + maps[-1]))
        return self.compression(torch.cat(maps, 1)) + self.shortcut(x)


class Head(nn.Module):
    def __init__(self, inp, mid, classes):
        super().__init__()
        self.norm, self.conv, self.logits = Norm(inp), Layer(inp, mid), nn.Conv2d(mid, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.conv(self.norm(x)))


class DDRNet(nn.Module):
    def __init__(self, arch: Arch):
        super().__init__()
        p = arch.backbone.blocks[0].widths[0]
        spp, mid = arch.backbone.blocks[-1].widths[0], arch.head.widths[0]
        self.stem = nn.Sequential(Layer(3, p, 3, 2, bias=True), Layer(p, p, 3, 2, bias=True))
        self.layer1, self.layer2 = stage(p, p), stage(p, 2 * p, 2)
        self.layer3, self.layer4 = stage(2 * p, 4 * p, 2), stage(4 * p, 8 * p, 2)
        self.layer3_, self.layer4_ = stage(2 * p, 2 * p), stage(2 * p, 2 * p)
        self.layer5_ = Residual(2 * p, 2 * p, 2 * p, 4 * p, linear=True)
        self.layer5 = Residual(8 * p, 8 * p, 8 * p, 16 * p, stride=2, linear=True)
        self.down3 = Layer(2 * p, 4 * p, 3, 2, relu=False)
        self.down4 = nn.Sequential(Layer(2 * p, 4 * p, 3, 2), Layer(4 * p, 8 * p, 3, 2, relu=False))
        self.compression3 = Layer(4 * p, 2 * p, 1, relu=False)
        self.compression4 = Layer(8 * p, 2 * p, 1, relu=False)
        self.spp = Pyramid(16 * p, spp, 4 * p)
        self.final, self.extra = (Head(c * p, mid, arch.num_classes) for c in (4, 2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.layer2(F.relu(self.layer1(self.stem(x)))))
        low, high = self.layer3(x), self.layer3_(x)
        low, high = (
            low + self.down3(F.relu(high)),
            high + up(self.compression3(F.relu(low)), high),
        )
        aux = self.extra(high)
        low, high = self.layer4(F.relu(low)), self.layer4_(F.relu(high))
        low, high = (
            low + self.down4(F.relu(high)),
            high + up(self.compression4(F.relu(low)), high),
        )
        high = self.layer5_(F.relu(high))
        low = up(self.spp(self.layer5(F.relu(low))), high)
        return {"out": self.final(high + low), "aux": aux}


def pair(prefix: str) -> tuple[str, str]:
    return f"{prefix}.0", f"{prefix}.1"


def ddrnet_names(arch: Arch) -> Names:
    """Our layers -> modules of `DDRNet`."""
    names = {f"block_00/conv{i + 1}": pair(f"stem.{i}") for i in range(2)}

    def residual(block: int, module: str, depth: int = 2) -> None:
        for i in range(depth):
            names[f"block_{block:02d}/conv{i + 1}"] = pair(f"{module}.layers.{i}")
        names[f"block_{block:02d}/downsample"] = pair(f"{module}.downsample")

    stages = {1: "layer1", 3: "layer2", 5: "layer3", 7: "layer3_", 11: "layer4", 13: "layer4_"}
    for first, module in stages.items():
        for i in range(2):
            residual(first + i, f"{module}.{i}")
    residual(17, "layer5_", 3)
    residual(18, "layer5", 3)
    names["block_09/down1"] = pair("down3")
    names |= {f"block_15/down{i + 1}": pair(f"down4.{i}") for i in range(2)}
    names["block_10/compress"] = pair("compression3")
    names["block_16/compress"] = pair("compression4")

    def before(layer: str, module: str) -> None:
        names[f"block_19/{layer}_norm"] = pair(f"spp.{module}.0")
        names[f"block_19/{layer}"] = (f"spp.{module}.1", "")

    for layer in ("scale0", "compression", "shortcut"):
        before(layer, layer)
    for i in range(4):
        before(f"scale{i + 1}", f"scales.{i}")
        before(f"process{i + 1}", f"processes.{i}")
    for ours, module in (("head", "final"), ("aux_0", "extra")):
        for layer in ("norm", "conv"):
            names[f"{ours}/{layer}"] = pair(f"{module}.{layer}")
        names[f"{ours}/logits"] = (f"{module}.logits", "")
    return names


# --- BiSeNetV2 ---


class Gather(nn.Module):
    def __init__(self, inp, out, stride):
        super().__init__()
        wide = 6 * inp
        self.conv1 = Layer(inp, inp)
        self.expand = Layer(inp, wide, 3, stride, inp, relu=stride == 1)
        self.depthwise = Layer(wide, wide, groups=wide) if stride == 2 else None
        self.project = Layer(wide, out, 1, relu=False)
        self.shortcut = None
        if stride == 2:
            self.shortcut = nn.Sequential(
                Layer(inp, inp, 3, 2, inp, relu=False), Layer(inp, out, 1, relu=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.conv1(x))
        y = self.project(y if self.depthwise is None else self.depthwise(y))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class BiSeNet(nn.Module):
    def __init__(self, arch: Arch):
        super().__init__()
        blocks = arch.backbone.blocks
        detail, inp = [], 3
        for block in blocks[:3]:
            for i, width in enumerate(block.widths):
                detail.append(Layer(inp, width, 3, 1 if i else 2))
                inp = width
        self.detail = nn.Sequential(*detail)
        conv, narrow, left, fuse = blocks[3].widths
        self.stem = Layer(3, conv, 3, 2)
        self.left = nn.Sequential(Layer(conv, narrow, 1), Layer(narrow, left, 3, 2))
        self.fuse = Layer(left + conv, fuse)
        ins = [fuse, *(b.widths[-1] for b in blocks[4:])]
        self.stages = nn.Sequential(
            *(Gather(i, b.widths[-1], b.stride) for i, b in zip(ins, blocks[4:12], strict=False))
        )
        c = blocks[11].widths[-1]
        self.norm, self.mean, self.context = Norm(c, relu=False), Layer(c, c, 1), Layer(c, c)
        d = inp
        self.left1 = nn.Sequential(Layer(d, d, groups=d, relu=False), bare(d, d))
        self.left2 = nn.Sequential(Layer(d, d, 3, 2, relu=False), nn.AvgPool2d(3, 2, 1))
        self.right1 = Layer(c, d, relu=False)
        self.right2 = nn.Sequential(Layer(c, c, groups=c, relu=False), bare(c, d))
        self.conv = Layer(d, d)
        mid = arch.head.widths[0]
        self.head = nn.Sequential(Layer(d, mid), nn.Conv2d(mid, arch.num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        detail, x = self.detail(x), self.stem(x)
        x = self.fuse(torch.cat([self.left(x), F.max_pool2d(x, 3, 2, 1)], 1))
        x = self.stages(x)
        mean = self.mean(self.norm(x.mean((2, 3), keepdim=True)))
        x = self.context(x + mean)
        left = self.left1(detail)
        left = left * torch.sigmoid(up(self.right1(x), left))
        right = self.left2(detail) * torch.sigmoid(self.right2(x))
        return self.head(self.conv(left + up(right, left)))


def bisenet_names(arch: Arch) -> Names:
    """Our layers -> modules of `BiSeNet`."""
    names, at = {}, 0
    for block in range(3):
        for i in range(len(arch.backbone.blocks[block].widths)):
            names[f"block_{block:02d}/conv{i + 1}"] = pair(f"detail.{at}")
            at += 1
    stem = {"conv": "stem", "narrow": "left.0", "left": "left.1", "fuse": "fuse"}
    names |= {f"block_03/{layer}": pair(module) for layer, module in stem.items()}
    for i in range(8):
        for layer in ("conv1", "expand", "depthwise", "project"):
            names[f"block_{i + 4:02d}/{layer}"] = pair(f"stages.{i}.{layer}")
        names[f"block_{i + 4:02d}/downsample_depthwise"] = pair(f"stages.{i}.shortcut.0")
        names[f"block_{i + 4:02d}/downsample"] = pair(f"stages.{i}.shortcut.1")
    context = {"norm": "norm", "mean": "mean", "conv": "context"}
    names |= {f"block_12/{layer}": pair(module) for layer, module in context.items()}
    guided = {"detail_depthwise": "left1.0", "detail_down": "left2.0", "semantic": "right1"}
    guided |= {"semantic_depthwise": "right2.0", "conv": "conv"}
    names |= {f"block_13/{layer}": pair(module) for layer, module in guided.items()}
    names |= {"block_13/detail": ("left1.1", ""), "block_13/semantic_gate": ("right2.1", "")}
    return names | {"head/conv": pair("head.0"), "head/logits": ("head.1", "")}


# --- PSPNet ---


class PSPNet(nn.Module):
    """On torchvision's ResNet-50; the first block of a dilated stage is dilated like the others."""

    def __init__(self, arch: Arch):
        super().__init__()
        net = models.resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
        for layer, rate in ((net.layer3, 2), (net.layer4, 4)):
            layer[0].conv2.dilation = layer[0].conv2.padding = (rate, rate)
        net.fc = nn.Identity()
        self.backbone = net
        inp, mid = 2048, arch.head.widths[0]
        self.bins = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(b), Layer(inp, mid, 1)) for b in (1, 2, 3, 6)
        )
        self.head = nn.Sequential(Layer(2 * inp, mid), nn.Conv2d(mid, arch.num_classes, 1))
        self.aux = nn.Sequential(Layer(1024, 256), nn.Conv2d(256, arch.num_classes, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        net = self.backbone
        x = net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x))))))
        fine = net.layer3(x)
        x = net.layer4(fine)
        pyramid = [x, *(up(pooled(x), x, corners=True) for pooled in self.bins)]
        return {"out": self.head(torch.cat(pyramid, 1)), "aux": self.aux(fine)}


def pspnet_names() -> Names:
    """Our layers of both heads -> modules of `PSPNet`."""
    names = {f"head/bin_{bins}": pair(f"bins.{i}.1") for i, bins in enumerate((1, 2, 3, 6))}
    for ours, module in (("head", "head"), ("aux_0", "aux")):
        names |= {f"{ours}/conv": pair(f"{module}.0"), f"{ours}/logits": (f"{module}.1", "")}
    return names
