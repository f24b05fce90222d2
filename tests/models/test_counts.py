"""Counts from specs against counts of what really runs, and against published numbers.

Published parameters and operations: torchvision, `num_params` and `_ops` of the weights
COCO_WITH_VOC_LABELS_V1 (10^9 MACs at 520 x 520 px, auxiliary head included). Published GFLOPs: MESS
(2106.03527), to more digits as derived in the project's notes on that paper.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.arch import Arch, count
from jaxseg.layers.conv import conv2d
from jaxseg.models import zoo

ALL_ROLES = ("backbone", "head", "aux", "exit")


@functools.cache
def variable_shapes(arch: Arch):
    return jax.eval_shape(lambda key: zoo.init(arch, key), jax.random.PRNGKey(0))


def jaxpr_macs(jaxpr) -> int:
    """MACs of all convolutions and products in a jaxpr and in those inside it; resizes are free."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.params.get("name") == "_resize_planes":
            continue
        if eqn.primitive.name == "conv_general_dilated":
            out = eqn.outvars[0].aval.shape
            kernel = eqn.invars[1].aval.shape
            out_features = eqn.params["dimension_numbers"].rhs_spec[0]
            total += math.prod(out) * math.prod(kernel) // kernel[out_features]
        if eqn.primitive.name == "dot_general":
            lhs, out = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += math.prod(out) * math.prod(lhs[i] for i in contracted)
        times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
        ):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                total += times * jaxpr_macs(getattr(inner, "jaxpr", inner))
    return total


def test_the_independent_counter_sees_nested_jaxprs():
    a, b = jnp.zeros((2, 3)), jnp.zeros((3, 5))
    assert jaxpr_macs(jax.make_jaxpr(lambda a, b: a @ b)(a, b).jaxpr) == 30
    assert jaxpr_macs(jax.make_jaxpr(jax.jit(jax.jit(lambda a, b: a @ b)))(a, b).jaxpr) == 30
    loop = jax.make_jaxpr(lambda a, b: jax.lax.scan(lambda a, _: (a, a @ b), a, None, length=7))
    assert jaxpr_macs(loop(a, b).jaxpr) == 210


@pytest.mark.parametrize(
    "name, size",
    [(name, (65, 97)) for name in sorted(zoo.NAMES)] + [("deeplabv3plus_resnet18", (64, 64))],
)
def test_macs_and_params_equal_what_runs(name, size):
    arch = zoo.named(name, 7, width=0.125, aux=True)
    variables, net = variable_shapes(arch), zoo.module(arch)
    jaxpr = jax.make_jaxpr(net.apply)(variables, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
    blocks = zoo.blocks(arch)
    assert count(blocks, *size).macs == jaxpr_macs(jaxpr.jaxpr)
    leaves = jax.tree.leaves(variables["params"])
    assert count(blocks, *size, roles=ALL_ROLES).params == sum(math.prod(x.shape) for x in leaves)


@pytest.mark.parametrize("name", sorted(zoo.NAMES))
def test_every_layer_has_its_variables_under_its_name(name):
    arch = zoo.named(name, 7, width=0.125, aux=True)
    params = variable_shapes(arch)["params"]
    blocks = zoo.blocks(arch)
    assert set(params) == {block.name for block in blocks}
    for block in blocks:
        assert set(params[block.name]) == {layer.name for layer in block.layers}
        for layer in block.layers:
            assert params[block.name][layer.name]["kernel"].shape == layer.kernel_shape


def test_norm_elements_equal_what_runs():
    """What enters a batch norm, seen from outside: the results of the normed convolutions."""
    arch, seen = zoo.named("deeplabv3plus_resnet18", 7, width=0.125), []

    def op(x, kernel, **geometry):
        y = conv2d(x, kernel, **geometry)
        seen.append(math.prod(y.shape))
        return y

    net = zoo.module(arch, conv_op=op)
    logits = jax.eval_shape(net.apply, variable_shapes(arch), jnp.zeros((1, 65, 97, 3))).logits
    assert count(zoo.blocks(arch), 65, 97).norm_elements == sum(seen) - math.prod(logits.shape)


@pytest.mark.parametrize(
    "name, params, giga_macs",
    [
        ("fcn_resnet50", 35322218, 152.717),
        ("fcn_resnet101", 54314346, 232.738),
        ("deeplabv3_resnet50", 42004074, 178.722),
        ("deeplabv3_resnet101", 60996202, 258.743),
    ],
)
def test_torchvisions_published_counts(name, params, giga_macs):
    counts = count(zoo.blocks(zoo.named(name, 21, aux=True)), 520, 520, roles=ALL_ROLES)
    assert counts.params == params
    np.testing.assert_allclose(counts.macs / 1e9, giga_macs, atol=5e-4)


@pytest.mark.parametrize(
    "name, published, without",
    [
        # torchvision's `num_params`, less its last convolution (1280, with norm) and its classifier.
        ("lraspp_mobilenet_v2", 3504872, 320 * 1280 + 2 * 1280 + 1281 * 1000),
        ("fcn32s_vgg16", 138357544, 25088 * 4096 + 4096 * 4096 + 2 * 4096 + 4097 * 1000),
        ("fcn32s_vgg16_bn", 138365992, 25088 * 4096 + 4096 * 4096 + 2 * 4096 + 4097 * 1000),
        # The published weights hold 4652008 parameters, counted as above.
        ("lraspp_efficientnet_lite0", 4652008, 320 * 1280 + 2 * 1280 + 1281 * 1000),
    ],
)
def test_other_trunks_have_the_published_parameters(name, published, without):
    blocks = zoo.blocks(zoo.named(name, 21))
    assert count(blocks, 64, 64, roles=("backbone",)).params == published - without


@pytest.mark.parametrize(
    "name, mega_params, giga_macs", [("bisenetv2", 3.4, 98.4), ("ddrnet_23_slim", 5.7, 36.3)]
)
def test_real_time_networks_have_their_published_counts(name, mega_params, giga_macs):
    """At 1024 x 2048 px with 19 classes (2406.12496, table of real-time networks), to all digits printed."""
    counts = count(zoo.blocks(zoo.named(name, 19)), 1024, 2048)
    assert round(counts.params / 1e6, 1) == mega_params
    assert round(counts.macs / 1e9, 1) == giga_macs


def test_pspnet_is_its_backbone_and_its_pyramid():
    """On ResNet-50: four 1x1 convolutions to 512 channels, 3x3 on twice what they read, the classifier."""
    head = count(zoo.blocks(zoo.named("pspnet_resnet50", 21)), 520, 520, roles=("head",))
    grid = 65 * 65
    bins, conv, classifier = 2048 * 512, 9 * 4096 * 512, 512 * 21
    assert head.params == 4 * (bins + 1024) + conv + 1024 + classifier + 21
    assert head.macs == (1 + 4 + 9 + 36) * bins + grid * (conv + classifier)


def test_mobilenet_v2_has_its_published_operations():
    """300.8 M multiply-adds at 224 x 224 px (1801.04381, table 4: 300 M), with what we leave out."""
    macs = count(
        zoo.blocks(zoo.named("lraspp_mobilenet_v2", 21, output_stride=32)), 224, 224, ("backbone",)
    ).macs
    np.testing.assert_allclose((macs + 49 * 320 * 1280 + 1280 * 1000) / 1e6, 300.8, atol=0.05)


@pytest.mark.parametrize("depth, params", [(18, 11176512), (34, 21284672)])
def test_trunks_of_basic_blocks_have_the_usual_parameters(depth, params):
    """Torchvision's published 11689512 and 21797672, less 513,000 of the ImageNet classifier."""
    blocks = zoo.blocks(zoo.named(f"fcn_resnet{depth}", 21))
    assert count(blocks, 64, 64, roles=("backbone",)).params == params


def gflops(blocks) -> float:
    """MESS's convention at its 512 x 512 px."""
    counts = count(blocks, 512, 512)
    return (counts.macs + 2 * counts.norm_elements + counts.pool_elements) / 1e9


MESS_CUMULATIVE = (
    *(0.624951, 1.8539, 3.0073, 4.1607, 6.1205, 7.2677, 8.4148, 9.5620, 15.7570, 20.3329),
    *(24.9089, 29.4849, 34.0609, 38.6369, 63.3749, 81.6537, 99.9324),
)


def test_mess_backbone_block_by_block():
    blocks = zoo.blocks(zoo.named("fcn_resnet50", 21))[:17]
    np.testing.assert_allclose(gflops(blocks), 99.932439, atol=1e-6)
    for i, expected in enumerate(MESS_CUMULATIVE):
        np.testing.assert_allclose(gflops(blocks[: i + 1]), expected, atol=6e-5, err_msg=str(i))


@pytest.mark.parametrize("name, expected", [("fcn", 138.635379), ("deeplabv3", 163.863596)])
def test_mess_whole_networks(name, expected):
    np.testing.assert_allclose(
        gflops(zoo.blocks(zoo.named(f"{name}_resnet50", 21))), expected, atol=1e-6
    )
