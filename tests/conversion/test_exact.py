"""A network trained on fixed grids and the int8 network made from it: every operation of every block, code for code."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from jaxseg import flow
from jaxseg.arch import ACTIVATIONS, PADDINGS
from jaxseg.conversion.assembly import MOST_SUM
from jaxseg.conversion.check import check
from jaxseg.conversion.exact import _steps, exact, is_exact
from jaxseg.errors import UserError
from jaxseg.inference.predictor import make_predict
from jaxseg.inference.to_codes import to_codes
from jaxseg.layers.pool import average, part_sums
from jaxseg.methods import integer
from jaxseg.models import mess, zoo
from jaxseg.numbers import FIXED, Grid
from jaxseg.quant import codes, reference
from jaxseg.quant.rounding import onto
from tests.conversion.runs import MEAN, SIZE, STD, assert_equal, in_jax, interpreted, pixels
from tests.fakes import small_arch
from tests.models.test_zoo import CHEAP, COVERING, STRIDE, K, filled

QUICK = ("deeplabv3plus_separable_resnet18", "fcn8s_vgg16", "lraspp_resnet18", "unet_resnet18")
"""What is in others is here too, or in loops and first blocks below; deep ones take a quarter of a minute."""


def by_time(names, quick=QUICK):
    """As parameters, all others for `make slow`."""
    return [pytest.param(n, marks=[] if n in quick else [pytest.mark.slow]) for n in names]


EXITS = (mess.ExitDesign(2, 1, True, "fcn"), mess.ExitDesign(1, 0, False, "dlb"))
FLOAT = re.compile(r"\b(?:f|bf)(?:16|32|64)\[")


def on_grids(arch, preset="integer_only", **options):
    return integer.architecture(arch, integer.Settings(preset, **options), image_reach=2.7)


def network(name, **options):
    return zoo.named(name, K, width=0.125, output_stride=STRIDE[name], **options)


def beginning(name):
    """The first four blocks, with a small head."""
    arch = mess.with_exits(network(name), ("block_03",), (mess.ExitDesign(4),), width=0.125)
    return mess.sub_network(arch, {}, (0,), final=False)[0]


def check_conversion(arch):
    """The simulation, the int8 network and the interpreter give the same numbers."""
    variables = jax.device_get(filled(arch))
    assert is_exact(arch)
    made, whole = exact(arch, variables)
    assert made.numbers.in_codes and not made.aux
    check(made, whole, MEAN, STD)
    image, steps = pixels(), _steps(arch)
    simulated = in_jax(arch, variables, image)
    found = in_jax(made, whole, image)
    assert {y.dtype for y in found.values()} == {np.dtype(np.int8)}
    assert_equal(found, {name: y / steps[name] for name, y in simulated.items()})
    assert_equal(found, interpreted(made, whole, image))
    # Scores of all heads have one step, and codes are not all alike anywhere.
    assert np.median([len(np.unique(y)) for y in found.values()]) > 40
    for block in zoo.blocks(made):
        for op in block.ops:
            if op.scores:
                assert steps[block.name, op.name] == made.numbers.codes.score_step
            # (But in windows wider than the map most cells are outside.)
            alike = len(np.unique(found[block.name, op.name])) == 1
            assert not alike or op.kind == flow.AVERAGE_POOL, (block.name, op.name)
    return made, whole, found


@pytest.mark.parametrize("name", by_time(COVERING))
def test_every_operation_is_code_for_code(name):
    check_conversion(on_grids(network(name)))


@pytest.mark.parametrize("name", ["deeplabv3_efficientnet_lite0", "deeplabv3_mobilenet_v2"])
def test_the_first_blocks_of_deep_ones(name):
    """Depthwise convolutions, ReLU6, and padding as in TensorFlow."""
    check_conversion(on_grids(beginning(name)))


@pytest.mark.parametrize("sharing", ["weights", "everything", "nothing"])
def test_every_pass_of_a_loop(sharing):
    arch = on_grids(network("itnet", iterations=3, sharing=sharing))
    made, whole, found = check_conversion(arch)
    states = found["block_02", zoo.blocks(made)[2].ops[-1].name]
    assert len(states) == 3 and len({x.tobytes() for x in states}) == 3
    passes = {"weights": (1, 3), "everything": (1, 1), "nothing": (3, 3)}[sharing]
    kernel = whole["params"]["block_02"]["fuse"]["kernel"]
    multiplier = whole["scales"]["block_02"]["fuse"]["multiplier"]
    assert (kernel.ndim - 4, multiplier.ndim - 1) == tuple(int(n > 1) for n in passes)


def test_exits_and_what_is_only_for_training():
    """Both kinds of exits; the auxiliary head is left out."""
    arch = mess.with_exits(
        network("deeplabv3plus_resnet18", aux=True), ("block_03", "block_05"), EXITS, width=0.125
    )
    made, whole, found = check_conversion(on_grids(arch))
    assert {"exit_0", "exit_1", "head"} <= set(whole["params"])
    assert not any(name.startswith("aux") for name in (*whole["params"], *whole["scales"]))
    predict = make_predict(made, MEAN, STD).trace(whole, pixels())
    assert not FLOAT.search(str(predict.jaxpr))
    labels = predict.lower().compile(CHEAP)(whole, pixels())
    last = next(block for block in zoo.blocks(made) if block.role == "head").ops[-1].name
    scores = found["head", last]
    np.testing.assert_array_equal(labels, reference.labels(scores, SIZE))


def test_what_an_int8_network_stores():
    arch = on_grids(small_arch())
    made, whole = exact(arch, jax.device_get(filled(arch)))
    wanted = zoo.template(made)
    assert jax.tree.structure(whole) == jax.tree.structure(wanted)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), whole, wanted)
    assert all(jax.tree.leaves(same))
    assert to_codes(arch, jax.device_get(filled(arch)), None, (), method="mse", most=4)[2] == {
        "conversion": "exact",
        "images": 0,
    }
    again = to_codes(made, whole, None, (), method="mse", most=4)
    assert again[:2] == (made, whole) and again[2]["images"] == 0


OTHERS = {
    "float": lambda: small_arch(),
    "paper with norms": lambda: on_grids(small_arch(), "paper"),
    "paper without": lambda: on_grids(network("fcn8s_vgg16"), "paper"),
    "wageubn": lambda: on_grids(small_arch(), "wageubn"),
    "maps of 4 bits": lambda: on_grids(small_arch(), widths={"maps": 4}),
    "scores of 16 bits": lambda: on_grids(small_arch(), widths={"logits": 16}),
    "weights of 9 bits": lambda: on_grids(small_arch(), widths={"weights": 9}),
    "float weights": lambda: on_grids(small_arch(), widths={"weights": 32}),
    "float norms": lambda: on_grids(small_arch(), widths={"normalised": 32}),
    "float reciprocals": lambda: on_grids(small_arch(), widths={"reciprocal": 32}),
    "one layer of 6 bits": lambda: on_grids(small_arch(), layers=("head/*:activations=6",)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_have_no_exact_conversion(name):
    assert not is_exact(OTHERS[name]())


def test_weights_of_fewer_bits_and_other_gradients_change_nothing():
    for options in ({"widths": {"weights": 4}}, {"widths": {"gradients": 32, "errors": 32}}):
        assert is_exact(on_grids(small_arch(), **options))


def test_a_number_out_of_bounds_is_told_by_its_layer():
    arch = on_grids(small_arch())
    variables = jax.tree.map(np.array, jax.device_get(filled(arch)))
    # So large a deviation that one over it needs more binary digits than a shift has.
    variables["batch_stats"]["block_01"]["conv2"]["norm"]["deviation"][3] = 2.0**13 + 2.0**6
    with pytest.raises(UserError, match="block_01/conv2 as an int8 operation: got ") as error:
        exact(arch, variables)
    assert "\n" not in str(error.value)


def test_sums_of_more_than_32_bits_are_told_by_their_layer():
    arch = on_grids(small_arch())
    blocks = list(arch.backbone.blocks)
    blocks[1] = dataclasses.replace(blocks[1], widths=(2**14, 8))
    arch = dataclasses.replace(
        arch, backbone=dataclasses.replace(arch.backbone, blocks=tuple(blocks))
    )
    shapes = jax.eval_shape(lambda: zoo.init(arch, jax.random.PRNGKey(0)))
    variables = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
    assert 9 * 2**14 * 127**2 > MOST_SUM
    with pytest.raises(UserError, match="block_01/conv2 as an int8 operation: got sums up to 2"):
        exact(arch, variables)


# --- Operations that have to round the same way ---


def both(operation, simulated, x, step=2.0**-5):
    """Results of an operation on codes, and of its simulation, as codes."""
    grid = Grid(8, FIXED, 128 * step)
    one = jax.jit(operation)(x)
    other = jax.jit(lambda x: onto(simulated(x * np.float32(step)), grid))(x.astype(np.float32))
    return np.asarray(one, np.float64), np.asarray(other) / step


@pytest.mark.parametrize(
    "cells",
    [4, 12, 14, 26, 28, 30, 40, 60, 120],
)
def test_means_over_any_number_of_cells(cells):
    """All sums that so many codes can have."""
    total = np.arange(-127 * cells, 127 * cells + 1)
    least = total // cells
    x = (least[:, None] + (np.arange(cells) < (total - least * cells)[:, None])).astype(np.int8)
    x = x.reshape(-1, 1, cells, 1)
    own = np.int16(2**14), np.int8(14)
    mean = lambda x: codes.mean_of(*part_sums(x.astype(np.int32), 1), *own)  # noqa: E731
    np.testing.assert_array_equal(*both(mean, lambda x: average(x, 1), x))


def test_every_kind_of_operation_occurs():
    """In what runs every day: of operations, activations, paddings and kernels."""
    quick = [*map(network, (*QUICK, "itnet")), beginning("deeplabv3_efficientnet_lite0")]
    blocks = [block for arch in quick for block in zoo.blocks(arch)]
    # Of networks with two branches, each by itself in tests/quant/test_pools_and_gates.py.
    others = {flow.RELU, flow.SIGMOID, flow.AVERAGE_POOL, flow.MIX}
    assert {op.kind for block in blocks for op in block.ops} >= set(flow.KINDS) - others
    all_blocks = [block for name in COVERING for block in zoo.blocks(network(name))]
    assert {op.kind for block in all_blocks for op in block.ops} == set(flow.KINDS) - {
        flow.MIX  # only while an architecture is searched
    }
    layers = [layer for block in blocks for layer in block.layers]
    assert {layer.activation for layer in layers} == set(ACTIVATIONS)
    assert {layer.padding for layer in layers} == set(PADDINGS)
    assert {layer.depthwise for layer in layers} == {True, False}
    assert {op.corners for block in blocks for op in block.ops} == {True, False}
