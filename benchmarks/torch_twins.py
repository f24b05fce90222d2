"""The torch counterparts of our networks: torchvision's, segmentation_models_pytorch's, timm's, or plain torch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import benchmarks.torch_libraries  # noqa: F401  # isort: skip  (before torchvision)
import segmentation_models_pytorch as smp
import timm
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models import segmentation
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.fcn import FCN, FCNHead
from torchvision.models.segmentation.lraspp import LRASPP

from benchmarks import torch_gas, torch_net, torch_real_time
from jaxseg.arch import Arch
from jaxseg.models import zoo


class Twin(NamedTuple):
    """A pair of equal networks.

    network, options: ours, see `zoo.named`.
    layout:  how the torch network names its values; '' where `modules` names all.
    make:    our architecture -> torch network: [B, 3, H, W] to logits, or to {'out': logits, 'aux': logits}.
    modules: our layers that the layout does not know -> their convolution and norm.
    sizes_px: an even and an odd size, where the torch network takes one.
    """

    network: str
    options: dict[str, Any]
    layout: str
    make: Callable[[Arch], nn.Module]
    modules: dict[str, tuple[str, str]] = {}
    sizes_px: tuple[tuple[int, int], ...] = ((64, 96), (33, 49))


# --- torchvision ---


def dilated_resnet(arch: Arch) -> nn.Module:
    """FCN or DeepLabV3 on ResNet-50 or -101, as published."""
    make = getattr(segmentation, f"{arch.head.kind}_{arch.backbone.name}")
    return make(weights=None, weights_backbone=None, num_classes=arch.num_classes, aux_loss=True)


def fcn_on_basic_blocks(arch: Arch) -> nn.Module:
    """FCN on ResNet-18 or -34, which torchvision does not dilate."""
    trunk = getattr(models, arch.backbone.name)(weights=None)
    taps = IntermediateLayerGetter(trunk, {"layer3": "aux", "layer4": "out"})
    return FCN(taps, FCNHead(512, arch.num_classes), FCNHead(256, arch.num_classes))


def fcn_on_mobilenet(arch: Arch) -> nn.Module:
    """FCN on the last inverted residual."""
    features = models.mobilenet_v2(weights=None, width_mult=0.5).features
    return FCN(IntermediateLayerGetter(features, {"17": "out"}), FCNHead(160, arch.num_classes))


def lraspp_on_mobilenet(arch: Arch) -> nn.Module:
    """LR-ASPP on the last inverted residual and the last one of stride 8."""
    features = models.mobilenet_v2(weights=None, width_mult=0.5).features
    taps = IntermediateLayerGetter(features, {"6": "low", "17": "high"})
    return LRASPP(taps, 16, 160, arch.num_classes, inter_channels=64)


# --- segmentation_models_pytorch ---


def smp_unet(arch: Arch) -> nn.Module:
    """U-Net; it refuses odd sizes out of prudence only."""
    net = smp.Unet(_ENCODERS[arch.backbone.name], encoder_weights=None, classes=arch.num_classes)
    net.requires_divisible_input_shape = False
    return _with_our_eps(net, arch)


def smp_deeplabv3plus(arch: Arch) -> nn.Module:
    """DeepLabV3+ up to its logits; it upsamples by a factor, not to a size, so sizes must be multiples of 16.

    Its very last resizing, to the size of the image, aligns corners; ours never does, so it is left out here.
    """
    net = smp.DeepLabV3Plus(
        _ENCODERS[arch.backbone.name],
        encoder_weights=None,
        encoder_output_stride=16,
        decoder_atrous_rates=arch.head.rates,
        classes=arch.num_classes,
    )
    net.segmentation_head[1] = nn.Identity()
    return _with_our_eps(net, arch)


_ENCODERS = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "mobilenet_v2": "tu-mobilenetv2_100",
    "efficientnet_lite0": "tu-tf_efficientnet_lite0",
}


def _with_our_eps(net: nn.Module, arch: Arch) -> nn.Module:
    """One epsilon for all norms, as we have it; the encoder must have it by itself."""
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d) and not name.startswith("encoder."):
            module.eps = arch.numbers.norm_eps
    return net


# --- timm ---


class FCNOnLite(nn.Module):
    """The FCN head of torchvision on a dilated EfficientNet-Lite0 of timm."""

    def __init__(self, arch: Arch):
        super().__init__()
        net = timm.create_model("tf_efficientnet_lite0", pretrained=False, output_stride=16)
        self.conv_stem, self.bn1, self.blocks = net.conv_stem, net.bn1, net.blocks
        self.head = FCNHead(320, arch.num_classes)
        self.head[1].eps = arch.numbers.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.bn1(self.conv_stem(x))))


# --- Plain torch ---


class FCNOnVGG(nn.Module):
    """FCN-32s, -16s or -8s (Long et al., 1411.4038) on the VGG-16 of torchvision at a quarter of its width.

    Maxima have Caffe's ceiling, and scores are upsampled bilinearly.
    """

    def __init__(self, arch: Arch):
        super().__init__()
        norm, skips = arch.backbone.name == "vgg16_bn", len(arch.head.inputs) - 1
        plan = [w if w == "M" else w // 4 for w in models.vgg.cfgs["D"]]
        self.features = models.vgg.make_layers(plan, batch_norm=norm)
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True
        fc6, fc7 = nn.Conv2d(128, 1024, 7, padding=3), nn.Conv2d(1024, 1024, 1)
        drop = nn.Dropout()
        self.classifier = nn.Sequential(fc6, nn.ReLU(), drop, fc7, nn.ReLU(), drop)
        channels = (1024, 128, 64)[: skips + 1]
        self.scores = nn.ModuleList(nn.Conv2d(c, arch.num_classes, 1) for c in channels)

    def forward(self, x: Tensor) -> Tensor:
        pooled = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                pooled.append(x)
        y = self.scores[0](self.classifier(x))
        for score, skip in zip(self.scores[1:], pooled[-2::-1], strict=False):
            y = F.interpolate(y, skip.shape[2:], mode="bilinear", align_corners=False)
            y = y + score(skip)
        return y


def _vgg(network: str) -> Twin:
    scores = {"head/logits": 0, "head/logits_1": 1, "head/logits_2": 2}
    modules = {layer: (f"scores.{i}", "") for layer, i in scores.items()}
    return Twin(network, {"width": 0.25}, "torchvision", FCNOnVGG, modules)


# --- Written for the comparison ---


def _whole(network: str, make: Callable[[Arch], nn.Module], names: Callable, **options) -> Twin:
    modules = names(zoo.named(network, 2, **options))
    return Twin(network, options, "", make, modules)


# --- All ---

_AUX = {"aux": True}
_HALF = {"output_stride": 32, "width": 0.5}
_TORCHVISION = "torchvision_segmentation"

_ALL = (
    Twin("fcn_resnet50", _AUX, _TORCHVISION, dilated_resnet),
    Twin("fcn_resnet101", _AUX, _TORCHVISION, dilated_resnet),
    Twin("deeplabv3_resnet50", _AUX, _TORCHVISION, dilated_resnet),
    Twin("deeplabv3_resnet101", _AUX, _TORCHVISION, dilated_resnet),
    Twin("fcn_resnet18", _AUX | {"output_stride": 32}, _TORCHVISION, fcn_on_basic_blocks),
    Twin("fcn_resnet34", _AUX | {"output_stride": 32}, _TORCHVISION, fcn_on_basic_blocks),
    Twin("fcn_mobilenet_v2", _HALF, _TORCHVISION, fcn_on_mobilenet),
    Twin("lraspp_mobilenet_v2", _HALF, _TORCHVISION, lraspp_on_mobilenet),
    Twin("unet_resnet18", {}, "smp", smp_unet),
    Twin("unet_resnet50", {}, "smp", smp_unet),
    Twin("unet_efficientnet_lite0", {}, "smp", smp_unet),
    Twin(
        "deeplabv3plus_separable_resnet18",
        {},
        "smp",
        smp_deeplabv3plus,
        sizes_px=((64, 96), (48, 80)),
    ),
    Twin(
        "deeplabv3plus_separable_efficientnet_lite0",
        {},
        "smp",
        smp_deeplabv3plus,
        sizes_px=((64, 96), (48, 80)),
    ),
    Twin(
        "fcn_efficientnet_lite0",
        {"output_stride": 16},
        "timm",
        FCNOnLite,
        {"head/conv": ("head.0", "head.1"), "head/logits": ("head.4", "")},
    ),
    _vgg("fcn32s_vgg16"),
    _vgg("fcn16s_vgg16_bn"),
    _vgg("fcn8s_vgg16"),
    Twin(
        "deeplabv3plus_resnet18",
        {"width": 0.25},
        _TORCHVISION,
        torch_net.make,
        torch_net.HEAD_MODULES,
    ),
    Twin(
        "pspnet_resnet50",
        _AUX,
        _TORCHVISION,
        torch_real_time.PSPNet,
        torch_real_time.pspnet_names(),
    ),
    _whole(
        "ddrnet_23_slim",
        torch_real_time.DDRNet,
        torch_real_time.ddrnet_names,
        aux=True,
        width=0.5,
    ),
    _whole("bisenetv2", torch_real_time.BiSeNet, torch_real_time.bisenet_names, width=0.5),
    _whole("gas", torch_gas.Cells, torch_gas.names, cells=6),
)

TWINS = {twin.network: twin for twin in _ALL}
"""By the name of our network."""
