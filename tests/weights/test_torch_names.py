"""Names and axes of torch weights, as far as that can be said without torch; `tests/parity` has the rest."""

import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.models import zoo
from jaxseg.weights.torch_names import LAYOUTS, layout_of, to_ours, to_torch, torch_keys

K = 5

# Every layout with a network that it names completely.
WHOLE = [
    ("torchvision_segmentation", "fcn_resnet50"),
    ("torchvision_segmentation", "deeplabv3_resnet101"),
    ("torchvision_segmentation", "fcn_mobilenet_v2"),
    ("torchvision_segmentation", "lraspp_mobilenet_v2"),
    ("smp", "unet_resnet18"),
    ("smp", "unet_mobilenet_v2"),
    ("smp", "deeplabv3plus_separable_efficientnet_lite0"),
]
BACKBONES = [
    ("torchvision", "fcn_resnet18"),
    ("torchvision", "fcn32s_vgg16"),
    ("torchvision", "fcn8s_vgg16_bn"),
    ("torchvision", "fcn_mobilenet_v2"),
    ("timm", "fcn_mobilenet_v2"),
    ("timm", "fcn_efficientnet_lite0"),
    ("efficientnet_lite", "fcn_efficientnet_lite0"),
]


def paths(network: str, *roles: str) -> set[str]:
    """Every value of ours in blocks of these roles, from the specs."""
    found = set()
    for spec in zoo.blocks(zoo.named(network, K)):
        for layer in spec.layers if spec.role in roles else ():
            layer_path = f"{spec.name}/{layer.name}"
            found |= {f"params/{layer_path}/kernel"}
            found |= {f"params/{layer_path}/bias"} if layer.bias else set()
            if layer.norm:
                found |= {f"params/{layer_path}/norm/{leaf}" for leaf in ("scale", "bias")}
                found |= {f"batch_stats/{layer_path}/norm/{leaf}" for leaf in ("mean", "var")}
    return found


@pytest.mark.parametrize("layout, network", WHOLE)
def test_a_whole_network_has_names(layout, network):
    keys = torch_keys(zoo.named(network, K), layout)
    assert set(keys) == paths(network, "backbone", "head")
    assert len(set(keys.values())) == len(keys)
    assert layout_of(keys.values()) == layout


@pytest.mark.parametrize("layout, network", BACKBONES)
def test_a_classifier_names_the_backbone_and_no_classes(layout, network):
    keys = torch_keys(zoo.named(network, K), layout)
    named = {path for path in keys if "/head/" not in path}
    assert named == paths(network, "backbone")
    assert all("/head/fc" in path for path in set(keys) - named)  # VGG's dense layers
    assert len(set(keys.values())) == len(keys)
    assert layout_of(keys.values()) == layout


def test_every_layout_is_tried():
    assert {layout for layout, _ in WHOLE + BACKBONES} == set(LAYOUTS)


# One of each sort, from the published files.
@pytest.mark.parametrize(
    "layout, network, path, key",
    [
        (
            "torchvision",
            "fcn_resnet18",
            "params/block_03/downsample/norm/scale",
            "layer2.0.downsample.1.weight",
        ),
        (
            "torchvision",
            "fcn_resnet50",
            "batch_stats/block_16/conv3/norm/var",
            "layer4.2.bn3.running_var",
        ),
        ("torchvision", "fcn8s_vgg16", "params/block_12/conv/bias", "features.28.bias"),
        ("torchvision", "fcn8s_vgg16_bn", "params/block_12/conv/kernel", "features.40.weight"),
        ("torchvision", "fcn8s_vgg16", "params/head/fc7/kernel", "classifier.3.weight"),
        (
            "torchvision",
            "fcn_mobilenet_v2",
            "params/block_01/project/kernel",
            "features.1.conv.1.weight",
        ),
        (
            "torchvision",
            "fcn_mobilenet_v2",
            "params/block_17/project/norm/bias",
            "features.17.conv.3.bias",
        ),
        (
            "torchvision_segmentation",
            "deeplabv3_resnet50",
            "params/head/aspp_pool/norm/bias",
            "classifier.0.convs.4.2.bias",
        ),
        (
            "torchvision_segmentation",
            "fcn_mobilenet_v2",
            "params/block_00/conv/kernel",
            "backbone.0.0.weight",
        ),
        (
            "efficientnet_lite",
            "fcn_efficientnet_lite0",
            "params/block_01/depthwise/norm/scale",
            "_blocks.0._bn1.weight",
        ),
        (
            "efficientnet_lite",
            "fcn_efficientnet_lite0",
            "params/block_16/expand/kernel",
            "_blocks.15._expand_conv.weight",
        ),
        (
            "timm",
            "fcn_efficientnet_lite0",
            "params/block_01/project/kernel",
            "blocks.0.0.conv_pw.weight",
        ),
        (
            "timm",
            "fcn_efficientnet_lite0",
            "params/block_15/project/norm/bias",
            "blocks.5.3.bn3.bias",
        ),
        ("smp", "unet_resnet18", "params/head/logits/bias", "segmentation_head.0.bias"),
    ],
)
def test_published_names(layout, network, path, key):
    assert torch_keys(zoo.named(network, K), layout)[path] == key


def test_an_auxiliary_head_has_names_where_the_library_has_one():
    arch = zoo.named("fcn_resnet50", K, aux=True)
    keys = torch_keys(arch, "torchvision_segmentation")
    assert keys["params/aux_0/logits/kernel"] == "aux_classifier.4.weight"
    assert not any("aux" in path for path in torch_keys(arch, "torchvision"))


def test_more_layers_can_be_named():
    keys = torch_keys(zoo.named("fcn_resnet18", K), "timm", {"head/logits": ("my.scores", "")})
    assert keys["params/head/logits/kernel"] == "my.scores.weight"
    assert keys["params/head/logits/bias"] == "my.scores.bias"


def test_axes_there_and_back():
    rng = np.random.default_rng(0)
    theirs = rng.normal(size=(6, 3, 5, 7)).astype(np.float32)  # O I h w
    ours = to_ours("params/x/kernel", theirs, (5, 7, 3, 6))
    for o, i, h, w in [(0, 0, 0, 0), (5, 2, 4, 6), (3, 1, 2, 5)]:
        assert ours[h, w, i, o] == theirs[o, i, h, w]
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(to_torch("params/x/kernel", ours, theirs.shape), theirs)


def test_a_dense_layer_is_a_convolution_over_the_whole_map():
    """As torch flattens: channels first, then rows, then columns."""
    rng = np.random.default_rng(1)
    dense, cells = rng.normal(size=(4, 3 * 7 * 7)), rng.normal(size=(3, 7, 7))
    kernel = to_ours("params/head/fc6/kernel", dense, (7, 7, 3, 4))
    answer = np.einsum("hwio,ihw->o", kernel, cells)
    np.testing.assert_allclose(answer, dense @ cells.reshape(-1))
    np.testing.assert_array_equal(to_torch("params/head/fc6/kernel", kernel, dense.shape), dense)


def test_vectors_stay_as_they_are():
    value = np.arange(3.0)
    np.testing.assert_array_equal(to_ours("params/x/norm/scale", value, (3,)), value)
    np.testing.assert_array_equal(to_torch("params/x/norm/scale", value, (3,)), value)


@pytest.mark.parametrize(
    "mistake, words",
    [
        (
            lambda: torch_keys(zoo.named("fcn_resnet18", K), "torchvison"),
            ["'torchvison'", "did you mean 'torchvision'"],
        ),
        (
            lambda: torch_keys(zoo.named("fcn_resnet18", K), "efficientnet_lite"),
            ["got resnet18", "efficientnet_lite0"],
        ),
        (lambda: layout_of(["stem.weight", "head.bias"]), ["head.bias, stem.weight", "smp"]),
        (lambda: layout_of([]), ["no keys"]),
        (
            lambda: to_ours("params/x/kernel", np.zeros((4, 3, 1, 1)), (3, 3, 3, 4)),
            ["params/x/kernel", "(4, 3, 1, 1)", "(3, 3, 3, 4)"],
        ),
        (
            lambda: to_torch("params/x/norm/scale", np.zeros(3), (4,)),
            ["params/x/norm/scale", "(3,)", "(4,)"],
        ),
    ],
)
def test_mistakes_are_one_line(mistake, words):
    with pytest.raises(UserError) as error:
        mistake()
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)
