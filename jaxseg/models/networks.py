"""The names under which networks are known: '<head>_<backbone>', such as 'lraspp_mobilenet_v2', or one of `WHOLE`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxseg.arch import Arch, HeadArch
from jaxseg.errors import UserError, unknown_name
from jaxseg.models.backbones.bisenet import bisenetv2
from jaxseg.models.backbones.ddrnet import ddrnet_23_slim
from jaxseg.models.backbones.gas import gas, genotype_of
from jaxseg.models.backbones.inverted import efficientnet_lite0, mobilenet_v2
from jaxseg.models.backbones.itnet import itnet
from jaxseg.models.backbones.resnet import DEPTHS, resnet
from jaxseg.models.backbones.trunk import Trunk
from jaxseg.models.backbones.vgg import vgg16
from jaxseg.models.block import round_width
from jaxseg.models.heads.aspp import deeplabv3_head, deeplabv3plus_head
from jaxseg.models.heads.ddrnet import ddrnet_aux_head, ddrnet_head
from jaxseg.models.heads.fcn import fcn_head, fcn_skips_head
from jaxseg.models.heads.linear import linear_head
from jaxseg.models.heads.lraspp import lraspp_head
from jaxseg.models.heads.psp import psp_head
from jaxseg.models.heads.unet import unet_head
from jaxseg.numbers import COMPUTE, NumbersArch

RESNETS = tuple(f"resnet{depth}" for depth in DEPTHS)
INVERTED = {"mobilenet_v2": mobilenet_v2, "efficientnet_lite0": efficientnet_lite0}
VGGS = ("vgg16", "vgg16_bn")
WHOLE = {"itnet": itnet, "bisenetv2": bisenetv2, "ddrnet_23_slim": ddrnet_23_slim, "gas": gas}
"""Networks of one piece, with a backbone of their own: (output_stride, width, ..) -> Trunk."""


def _fcn_aux(trunk: Trunk, width: float, dropout: float) -> tuple[HeadArch, ...]:
    return (fcn_head(trunk.backbone, trunk.levels[16], dropout),)


class Design(NamedTuple):
    """A head, and what it is put on.

    head:           (trunk, width, dropout) -> HeadArch.
    output_strides: that make sense with it, its usual one first.
    backbones:      names.
    resnet:         options of `resnet` that it needs.
    aux:            (trunk, width, dropout) -> auxiliary heads.
    """

    head: Callable[[Trunk, float, float], HeadArch]
    output_strides: tuple[int, ...] = (8, 16, 32)
    backbones: tuple[str, ...] = (*RESNETS, *INVERTED)
    resnet: dict[str, Any] = {}
    aux: Callable[[Trunk, float, float], tuple[HeadArch, ...]] = _fcn_aux


def _fcn(trunk: Trunk, width: float, dropout: float) -> HeadArch:
    return fcn_head(trunk.backbone, dropout=dropout)


def _linear(trunk: Trunk, width: float, dropout: float) -> HeadArch:
    return linear_head(trunk.backbone, dropout)


def _deeplabv3(trunk: Trunk, width: float, dropout: float) -> HeadArch:
    return deeplabv3_head(trunk.backbone, width, dropout=dropout)


def _deeplabv3plus(trunk: Trunk, width: float, dropout: float) -> HeadArch:
    return deeplabv3plus_head(trunk.backbone, trunk.levels[4], width, dropout=dropout)


def _separable(trunk: Trunk, width: float, dropout: float) -> HeadArch:
    return deeplabv3plus_head(
        trunk.backbone, trunk.levels[4], width, dropout=dropout, separable=True
    )


def _unet(trunk: Trunk, width: float, dropout: float) -> HeadArch:
    skips = [trunk.levels[stride] for stride in (16, 8, 4, 2)]
    return unet_head(trunk.backbone, skips, width, dropout)


def _lraspp(trunk: Trunk, width: float, dropout: float) -> HeadArch:
    return lraspp_head(trunk.backbone, trunk.levels[8], width, dropout)


def _psp(trunk: Trunk, width: float, dropout: float) -> HeadArch:
    return psp_head(trunk.backbone, dropout)


def _wide_fcn(trunk: Trunk, width: float, dropout: float) -> HeadArch:
    return fcn_head(trunk.backbone, dropout=dropout, channels=round_width(1024 * width))


def _booster(trunk: Trunk, width: float, dropout: float) -> tuple[HeadArch, ...]:
    mid = round_width(128 * width)
    return tuple(fcn_head(trunk.backbone, at, dropout, mid) for at in trunk.levels.values())


def _ddrnet(trunk: Trunk, width: float, dropout: float) -> HeadArch:
    return ddrnet_head(trunk.backbone, width, dropout)


def _ddrnet_aux(trunk: Trunk, width: float, dropout: float) -> tuple[HeadArch, ...]:
    return (ddrnet_aux_head(trunk.levels[8], width, dropout),)


def _half_deeplabv3(trunk: Trunk, width: float, dropout: float) -> HeadArch:
    return deeplabv3_head(trunk.backbone, width / 2, dropout=dropout)


def _fcn_skips(*strides: int) -> Callable[[Trunk, float, float], HeadArch]:
    def head(trunk: Trunk, width: float, dropout: float) -> HeadArch:
        skips = tuple(trunk.levels[stride] for stride in strides)
        return fcn_skips_head(trunk.backbone, skips, width, dropout)

    return head


# Usual output strides: torchvision's for FCN and DeepLabV3, that of the papers' main results for the others.
DESIGNS: dict[str, Design] = {
    "fcn": Design(_fcn),
    "deeplabv3": Design(_deeplabv3),
    "deeplabv3plus": Design(_deeplabv3plus, (16, 8, 32)),
    # Dilated as in segmentation_models_pytorch, so that its weights fit.
    "deeplabv3plus_separable": Design(_separable, (16, 8, 32), resnet={"dilation": "uniform"}),
    "unet": Design(_unet, (32,), resnet={"fine_stem": True}),
    "lraspp": Design(_lraspp, (16, 32)),
    "fcn32s": Design(_fcn_skips(), (32,), VGGS),
    "fcn16s": Design(_fcn_skips(16), (32,), VGGS),
    "fcn8s": Design(_fcn_skips(16, 8), (32,), VGGS),
    # Dilated as by its authors.
    "pspnet": Design(_psp, (8, 16, 32), RESNETS, {"dilation": "uniform"}),
    "itnet": Design(_linear, (8, 4), ("",)),
    "bisenetv2": Design(_wide_fcn, (8,), ("",), aux=_booster),
    "ddrnet_23_slim": Design(_ddrnet, (8,), ("",), aux=_ddrnet_aux),
    "gas": Design(_half_deeplabv3, (16,), ("",)),
}

NAMES: dict[str, tuple[str, str]] = {
    f"{head}_{backbone}".rstrip("_"): (head, backbone)
    for head, design in DESIGNS.items()
    for backbone in design.backbones
}
"""Name -> (key of `DESIGNS`, name of the backbone)."""

OPTIONS = ("width", "output_stride", "aux", "compute", "dropout")
"""What a named network can be asked for besides its number of classes."""

LOOP_OPTIONS = ("iterations", "sharing", "scales", "reduction")
"""What 'itnet' can be asked for besides: see `backbones.itnet`."""

CELL_OPTIONS = ("cells", "genotype", "guide", "sharing")
"""What 'gas' can be asked for besides: see `backbones.gas`."""


def output_strides(name: str) -> tuple[int, ...]:
    """What the network `name` can have, its usual one first."""
    return DESIGNS[NAMES[name][0]].output_strides


def named(name: str, num_classes: int, **options: Any) -> Arch:
    """The architecture known as `name`.

    Args:
        name: one of `NAMES`.
        num_classes: K.
        **options: see `_arch`.

    Raises:
        UserError: unknown name or option, or an impossible value.
    """
    if name not in NAMES:
        raise unknown_name("network", name, NAMES)
    known = OPTIONS + LOOP_OPTIONS * (name == "itnet") + CELL_OPTIONS * (name == "gas")
    for option in options:
        if option not in known:
            raise unknown_name(f"option of the network {name}", option, known)
    return _arch(name, num_classes, **options)


def _arch(
    name: str,
    num_classes: int,
    *,
    width: float = 1.0,
    output_stride: int = 0,
    aux: bool = False,
    compute: str = "float32",
    dropout: float = 0.1,
    **own: Any,
) -> Arch:
    """The options of every network.

    Args:
        name: one of `NAMES`.
        num_classes: K.
        width: multiplies all widths.
        output_stride: of the last block, of networks of one piece of the answer; 0 = the usual one of this network.
        aux: auxiliary heads for training: FCN on the level of stride 16, or those of the network's own paper.
        compute: 'float32' or 'bfloat16'.
        dropout: of every head; the papers' 0.5 costs a short training from scratch dearly.
        **own: some of `LOOP_OPTIONS` or `CELL_OPTIONS`.
    """
    design, backbone = DESIGNS[NAMES[name][0]], NAMES[name][1]
    allowed = design.output_strides
    output_stride = output_stride or allowed[0]
    if output_stride not in allowed:
        raise UserError(
            f"output_stride of {name}",
            got=output_stride,
            expected=f"one of {allowed}, or 0 for {allowed[0]}",
        )
    if compute not in COMPUTE:
        raise unknown_name("compute format", compute, COMPUTE)
    if name in WHOLE:
        trunk = WHOLE[name](output_stride, width, **own)
    else:
        trunk = _trunk(backbone, output_stride, width, design.resnet)
    # EfficientNet's weights were trained with an epsilon of 1e-3, all others with 1e-5.
    eps = 1e-3 if backbone == "efficientnet_lite0" else 1e-5
    return Arch(
        num_classes=num_classes,
        backbone=trunk.backbone,
        head=design.head(trunk, width, dropout),
        aux=design.aux(trunk, width, dropout) if aux else (),
        numbers=NumbersArch(compute=compute, norm_eps=eps),
        family=_family(name, trunk),
    )


def _family(name: str, trunk: Trunk) -> str:
    if name == "gas" and not genotype_of(trunk.backbone):
        return "gas"  # to be searched
    return "itnet" if name == "itnet" else "segmenter"


def _trunk(backbone: str, output_stride: int, width: float, resnet_options: dict) -> Trunk:
    if backbone in VGGS:
        return vgg16(width, norm=backbone.endswith("_bn"))
    if backbone in INVERTED:
        return INVERTED[backbone](output_stride, width)
    return resnet(int(backbone.removeprefix("resnet")), output_stride, width, **resnet_options)
