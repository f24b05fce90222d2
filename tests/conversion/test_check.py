"""What a folder of an int8 network may not hold: each in one line that names the operation."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jaxseg.conversion.calibrated import calibrated
from jaxseg.conversion.check import check
from jaxseg.conversion.exact import GATE_SHIFT, exact
from jaxseg.conversion.steps import deployed_blocks
from jaxseg.errors import UserError
from jaxseg.models import zoo
from jaxseg.quant import codes, reference, scaling
from tests.conversion.runs import MEAN, STD, pixels
from tests.conversion.test_exact import on_grids
from tests.fakes import small_arch
from tests.models.test_zoo import filled

LARGE = 2**31 - 1


@functools.cache
def small():
    """A network of residual blocks, norms folded."""
    variables = jax.device_get(filled(small_arch()))
    return calibrated(small_arch(), variables, MEAN, STD, lambda: [pixels()])


@functools.cache
def normed():
    """The same as trained on grids: a norm has numbers of its own."""
    arch = on_grids(small_arch())
    return exact(arch, jax.device_get(filled(arch)))


def plausible(arch):
    """Variables of the right shapes, all within bounds, for networks that need not answer."""
    rng = np.random.default_rng(0)

    def value(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            return rng.integers(-127, 128, leaf.shape).astype(leaf.dtype)
        if kind == "thresholds":
            return scaling.sigmoid_thresholds(2.0**-8)
        fixed = {"top": 90}
        for part, number in {"multiplier": 2**12, "offset": -(2**12), "shift": 12}.items():
            fixed |= {part: number, f"{part}_norm": number}
        return np.full(leaf.shape, fixed[kind], leaf.dtype)

    return jax.tree_util.tree_map_with_path(value, zoo.template(arch))


@functools.cache
def mobile():
    """With means, gates, products and ReLU6 (`itnet` has it); grids where norms round."""
    found = {}
    for name in ("lraspp_resnet18", "itnet"):
        arch = zoo.named(name, 3, width=0.125)
        numbers = small()[0].numbers
        arch = dataclasses.replace(arch, numbers=numbers)
        found[name] = arch, plausible(arch)
    return found


NETWORKS = {
    "small": small,
    "normed": normed,
    "lraspp": lambda: mobile()["lraspp_resnet18"],
    "itnet": lambda: mobile()["itnet"],
}


def changed(name, path, change):
    """(arch, variables) with one array changed by a function that gets a copy."""
    arch, variables = NETWORKS[name]()
    variables = jax.tree.map(np.array, variables)
    *parents, leaf = path.split("/")
    node = functools.reduce(dict.__getitem__, parents, variables)
    new = node[leaf]
    result = change(new)
    node[leaf] = new if result is None else np.asarray(result, new.dtype)
    return arch, variables


def at(index, value):
    def change(array):
        array[index] = value

    return change


@pytest.mark.parametrize("name", NETWORKS)
def test_sound_networks_pass(name):
    check(*NETWORKS[name](), MEAN, STD)


def operation(arch, kind, activation=None):
    """'<block>/<operation>' of the first of a kind."""
    for block in deployed_blocks(arch):
        for op in block.ops:
            if op.kind == kind and (
                activation is None or block.layer(op.name).activation == activation
            ):
                return f"{block.name}/{op.name}"
    raise LookupError(kind)


CONV = "block_01/conv1"
WRONG = {
    "a weight of -128": ("small", CONV, "kernel", at((0, 0, 1, 2), -128), "a weight of -128"),
    "a long shift": ("small", CONV, "shift", at(3, 22), "multiplier, offset and shift"),
    "no shift": ("small", CONV, "shift", at(0, 0), "that 32 bits do not hold"),
    "a shift to the left": ("small", CONV, "shift", at(0, -1), "that 32 bits do not hold"),
    "a multiplier of -2^15": ("small", CONV, "multiplier", at(7, -(2**15)), "do not hold"),
    "a large offset": ("small", CONV, "offset", at(5, 2**30), "do not hold"),
    "the largest offset": ("small", CONV, "offset", at(5, LARGE), "do not hold"),
    "the smallest offset": ("small", CONV, "offset", at(5, -LARGE - 1), "do not hold"),
    "of scores": ("small", "head/logits", "offset", at(2, 2**30), "do not hold"),
    "of a norm, shift": ("normed", CONV, "shift_norm", at(3, 22), "multiplier_norm, offset_norm"),
    "of a norm, offset": ("normed", CONV, "offset_norm", at(3, -(2**30)), "shift_norm"),
    "behind a norm": ("normed", CONV, "shift", at(3, 0), "multiplier, offset and shift"),
    "of a sum, shift": ("small", "block_01/sum", "shift", lambda x: 16, "a shift beyond 1 to 15"),
    "of a sum, no shift": ("small", "block_01/sum", "shift", lambda x: 0, "a shift beyond 1 to 15"),
    "of a sum, sign": ("small", "block_01/sum", "multiplier", at(1, -1), "a multiplier below 0"),
    "of a mean, shift": ("lraspp", "head/pooled", "shift", lambda x: 16, "a shift beyond 1 to 15"),
    "of a mean, sign": (
        "lraspp",
        "head/pooled",
        "multiplier",
        lambda x: -1,
        "a multiplier below 0",
    ),
    "of a product": ("lraspp", "head/gated", "multiplier", lambda x: -5, "a multiplier below 0"),
    "of a product, shift": (
        "lraspp",
        "head/gated",
        "shift",
        lambda x: -3,
        "a shift beyond 1 to 15",
    ),
    "thresholds that fall": (
        "lraspp",
        "head/gate",
        "thresholds",
        lambda x: x[::-1],
        "out of order",
    ),
    "one threshold": (
        "lraspp",
        "head/gate",
        "thresholds",
        at(60, 10**6),
        "thresholds out of order",
    ),
    "a shift that blinds a gate": ("lraspp", "head/gate", "shift", at(0, 19), "a shift above 18"),
    "a bound below 0": ("itnet", "block_03/fuse", "top", lambda x: np.full_like(x, -1), "an upper"),
    "of one pass": ("itnet", "block_03/fuse", "shift", at((1, 0), 22), "do not hold"),
    "a sum of one pass": ("itnet", "block_03/scale_0_sum", "shift", at(1, 0), "a shift beyond"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_each_is_one_line_that_names_the_operation(kind):
    name, where, leaf, change, says = WRONG[kind]
    collection = "params" if leaf == "kernel" else "scales"
    with pytest.raises(UserError) as error:
        check(*changed(name, f"{collection}/{where}/{leaf}", change), MEAN, STD)
    told = str(error.value)
    assert told.startswith(f"{where} of an int8 network: got ") and says in told, told
    assert "\n" not in told


def test_a_sum_over_32_bits_is_told():
    """2^31 / 128 as the sum of absolute weights is one too many."""
    arch = zoo.named("fcn_resnet18", 3, width=0.125)
    blocks = list(arch.backbone.blocks)
    blocks[1] = dataclasses.replace(blocks[1], widths=(2**14, 8))
    arch = dataclasses.replace(
        arch,
        numbers=small()[0].numbers,
        backbone=dataclasses.replace(arch.backbone, blocks=tuple(blocks)),
    )
    variables = plausible(arch)
    kernel = variables["params"]["block_01"]["conv2"]["kernel"]
    kernel[..., 3] = np.sign(kernel[..., 3])
    kernel[..., 3].flat[0] = 0
    need, each = 2**31 // 128, kernel[..., 3].reshape(-1)
    each[:] = 0
    each[: need // 127] = 127
    each[need // 127] = need - 127 * (need // 127)
    kernel[..., 3] = each.reshape(kernel.shape[:-1])
    with pytest.raises(UserError, match="block_01/conv2 of an int8 network: got sums up to 2.147e"):
        check(arch, variables, MEAN, STD)
    each[need // 127] -= 1
    kernel[..., 3] = -each.reshape(kernel.shape[:-1])
    check(arch, variables, MEAN, STD)


@pytest.mark.parametrize(
    "mean, std",
    [
        ((0.5,) * 3, (1e-8,) * 3),
        ((0.5, 0.5, 1e6), (0.01,) * 3),
        ((0.5, -1e6, 0.5), (0.01,) * 3),
        ((0.5,) * 3, (0.25, 1e-300, 0.25)),
        ((0.0,) * 3, (0.25, 5e-324, 0.25)),
    ],
)
def test_a_card_that_32_bits_cannot_hold_is_one_line(mean, std):
    with pytest.raises(UserError, match="mean and std of an int8 network: got mean") as error:
        check(*small(), mean, std)
    assert "\n" not in str(error.value)


# --- Whether what passes is right ---


def test_a_gate_without_room_for_its_thresholds_is_refused():
    """Sums are clipped where products reach 2^29, and a large offset would bring them back below thresholds."""
    own = scaling.Affine(np.int16([2**14]), np.int32([-(2**29 - 129 * 2**18)]), np.int8([18]))
    arch, variables = changed("lraspp", "scales/head/gate/thresholds", lambda x: None)
    for name, value in own._asdict().items():
        variables["scales"]["head"]["gate"][name][0] = value[0]
    with pytest.raises(UserError, match="room for its thresholds"):
        check(arch, variables, MEAN, STD)
    thresholds = variables["scales"]["head"]["gate"]["thresholds"]
    total = np.int32([2**20]).reshape(1, 1, 1, 1)
    found = codes.over_thresholds(total, *own, thresholds)
    expected = np.searchsorted(thresholds, reference.rescale(total, *own), side="right")
    assert found.item() != expected.item()  # and rightly so


def test_a_card_that_passes_is_that_of_the_interpreter():
    """A mean below 0, which no data set has and any folder may say."""
    mean, std = (-1.0,) * 3, (1.0,) * 3
    arch, variables = small()
    numbers = arch.numbers.codes
    numbers = dataclasses.replace(
        arch.numbers, codes=dataclasses.replace(numbers, image_step=4 / 127)
    )
    check(dataclasses.replace(arch, numbers=numbers), variables, mean, std)  # says nothing
    own = scaling.image_affine(mean, std, 4 / 127)
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    np.testing.assert_array_equal(
        codes.image_codes(image, *own), reference.image_codes(image, *own)
    )


def test_the_shift_of_gates_is_one_that_calibration_keeps():
    own = scaling.affine(np.array([2.0**-20, 2.0**-4]), np.zeros(2), GATE_SHIFT)
    assert own.shift.max() == GATE_SHIFT
