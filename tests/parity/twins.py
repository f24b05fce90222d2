"""The torch counterpart of every kind of network: torchvision's, segmentation_models_pytorch's, or plain torch.

`TWINS` names ours, its options, the layout of the state dict and the function that makes the torch network.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models
from torchvision.models import segmentation
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.fcn import FCN, FCNHead
from torchvision.models.segmentation.lraspp import LRASPP

from jaxseg.arch import Arch

K = 5


class Twin(NamedTuple):
    """A pair of equal networks.

    network, options: of ours.
    layout:   names of the torch network's state.
    make:     our architecture -> torch network, [B, 3, H, W] to logits or {'out': logits, 'aux': logits}.
    modules:  our layers that the layout does not know -> (convolution, norm).
    unused:   beginnings of keys that have no counterpart: layers that segmentation does not run.
    sizes_px: of the images: one even, one odd where the torch network can do that.
    """

    network: str
    options: dict[str, Any]
    layout: str
    make: Callable[[Arch], nn.Module]
    modules: dict[str, tuple[str, str]] = {}
    unused: tuple[str, ...] = ()
    sizes_px: tuple[tuple[int, int], ...] = ((64, 96), (65, 97))


def torchvision_segmentation(arch: Arch) -> nn.Module:
    """FCN or DeepLabV3 on a dilated ResNet-50 or -101."""
    make = getattr(segmentation, f"{arch.head.kind}_{arch.backbone.name}")
    return make(weights=None, weights_backbone=None, num_classes=K, aux_loss=True)


def fcn_on_basic_blocks(arch: Arch) -> nn.Module:
    """The FCN of torchvision on a ResNet-18 or -34, which it cannot dilate."""
    trunk = getattr(models, arch.backbone.name)(weights=None)
    taps = IntermediateLayerGetter(trunk, {"layer3": "aux", "layer4": "out"})
    return FCN(taps, FCNHead(512, K), FCNHead(256, K))


TWINS = {
    **{
        f"{head}_resnet{depth}": Twin(
            f"{head}_resnet{depth}", {"aux": True}, "torchvision_segmentation", torchvision_segmentation
        )
        for head in ("fcn", "deeplabv3")
        for depth in (50, 101)
    },
    **{
        f"fcn_resnet{depth}": Twin(
            f"fcn_resnet{depth}",
            {"aux": True, "output_stride": 32},
            "torchvision_segmentation",
            fcn_on_basic_blocks,
        )
        for depth in (18, 34)
    },
}
