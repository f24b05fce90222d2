"""Any trained network on codes: JAX and the 64-bit interpreter agree on every operation; scores stay near floats."""

import dataclasses
import functools
from fractions import Fraction

import jax
import numpy as np
import pytest

from jaxseg import flow
from jaxseg.conversion import ranges
from jaxseg.conversion.calibrated import calibrated, with_steps
from jaxseg.conversion.check import check
from jaxseg.conversion.ranges import BINS, PERCENTILE, Histogram
from jaxseg.conversion.steps import GATE_STEP, THE_IMAGE, Values, deployed_blocks
from jaxseg.errors import UserError
from jaxseg.inference.artifact import Card
from jaxseg.inference.predictor import make_predict
from jaxseg.inference.to_codes import to_codes
from jaxseg.models import mess
from jaxseg.models.folding import fold
from jaxseg.quant import reference
from tests.conversion.runs import MEAN, SIZE, STD, assert_equal, in_jax, interpreted, pixels
from tests.conversion.test_exact import EXITS, FLOAT, beginning, by_time, network, on_grids
from tests.fakes import small_arch
from tests.models.test_zoo import CHEAP, COVERING, filled

DECIBELS = {
    "deeplabv3_efficientnet_lite0": 12,
    "deeplabv3_mobilenet_v2": 5,
    "deeplabv3_resnet18": 20,
    "deeplabv3_resnet50": 18,
    "deeplabv3plus_resnet18": 23,
    "deeplabv3plus_separable_resnet18": 19,
    "fcn16s_vgg16": 26,
    "fcn16s_vgg16_bn": 20,
    "fcn32s_vgg16": 25,
    "fcn8s_vgg16": 22,
    "fcn_resnet18": 18,
    "itnet": 16,
    "lraspp_resnet18": 16,
    "unet_resnet18": 15,
    "unet_resnet50": 8,  # a step for all joined maps leaves the stem 4 codes
    "start of deeplabv3_efficientnet_lite0": 22,
    "start of deeplabv3_mobilenet_v2": 22,
    "with exits": 14,
    "itnet that shares everything": 13,
    "itnet that shares nothing": 19,
}
"""Of random networks: how scores vary over an image, against the error of their codes. 3 below what was measured."""
LEAST = 6
"""Of others."""

OTHERS = [
    *("start of deeplabv3_efficientnet_lite0", "start of deeplabv3_mobilenet_v2", "with exits"),
    *("itnet that shares everything", "itnet that shares nothing"),
]
QUICK = ["fcn8s_vgg16", "lraspp_resnet18", "itnet", *OTHERS[:3], OTHERS[4]]
NAMES = by_time([*COVERING, *OTHERS], QUICK)


@pytest.fixture(autouse=True, scope="module")
def _cheap():
    """Half the time to compile, also where no options can be given."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def on_coarse_grids(variables):
    """Kernels whose channels are codes times a step: they lose nothing, only maps are rounded."""

    def coarse(path, x):
        if path[-1].key != "kernel":
            return np.asarray(x)
        most = np.abs(x).max(axis=(-4, -3, -2), keepdims=True)
        return np.asarray(np.rint(x / most * 127) / 127 * most, np.float32)

    return jax.tree_util.tree_map_with_path(coarse, jax.device_get(variables))


def architecture(name):
    """By a name of `DECIBELS`."""
    if name == "with exits":
        plain = network("fcn_resnet18", aux=True)
        return mess.with_exits(plain, ("block_03",), EXITS, width=0.125)
    if name.startswith("itnet"):
        sharing = name.split()[-1] if " " in name else "weights"
        return network("itnet", iterations=3, sharing=sharing)
    plain, _, of = name.partition("start of ")
    return beginning(of) if of else network(plain)


@functools.cache
def converted(name):
    """(arch, variables) of a float network, of the int8 one made from it, and all results of the latter."""
    arch = architecture(name)
    variables = on_coarse_grids(filled(arch))
    made = calibrated(arch, variables, MEAN, STD, lambda: [pixels()], method="minmax")
    return arch, variables, *made, in_jax(*made, pixels())


def heads(arch):
    """Block and operation of every head's scores, the final one first."""
    last = {block.name: block.ops[-1].name for block in deployed_blocks(arch)}
    return [(name, op) for name, op in last.items() if name.startswith(("head", "exit"))]


@pytest.mark.parametrize("name", NAMES)
def test_jax_is_the_interpreter(name):
    *_, arch, variables, found = converted(name)
    check(arch, variables, MEAN, STD)
    assert {y.dtype for y in found.values()} == {np.dtype(np.int8)}
    assert_equal(found, interpreted(arch, variables, pixels()))
    for value, y in found.items():
        assert len(np.unique(y)) > 1, value


@pytest.mark.parametrize("name", NAMES)
def test_nothing_floats_and_labels_are_exact(name):
    *_, arch, variables, found = converted(name)
    traced = make_predict(arch, MEAN, STD).trace(variables, pixels())
    assert not FLOAT.search(str(traced.jaxpr))
    labels = traced.lower().compile(CHEAP)(variables, pixels())
    np.testing.assert_array_equal(labels, reference.labels(found[heads(arch)[0]], SIZE))
    assert len(np.unique(labels)) > 1 or name not in QUICK or name.startswith("itnet")


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_near_those_of_floats(name):
    arch, variables, made, _, codes = converted(name)
    found = in_jax(dataclasses.replace(arch, aux=()), variables, pixels())
    for value in heads(arch):
        error = found[value] - codes[value] * made.numbers.codes.score_step
        spread = found[value].var(axis=(0, 1, 2)).mean()
        assert 10 * np.log10(spread / np.mean(error**2)) > DECIBELS.get(name, LEAST), value


# --- Networks on other numbers ---


@pytest.mark.parametrize("preset", ["paper", "wageubn", "integer_only"])
def test_norms_on_grids_are_folded_as_they_are(preset):
    """Gains and offsets are of the running statistics, with each method's epsilon: one that cannot be overlooked."""
    arch = on_grids(small_arch(), preset)
    arch = dataclasses.replace(arch, numbers=dataclasses.replace(arch.numbers, norm_eps=0.5))
    variables = jax.device_get(filled(arch))
    made, whole = calibrated(arch, variables, MEAN, STD, lambda: [pixels()], method="minmax")
    assert made.numbers.norm == "folded"
    check(made, whole, MEAN, STD)
    codes, found = in_jax(made, whole, pixels()), in_jax(arch, variables, pixels())
    assert_equal(codes, interpreted(made, whole, pixels()))
    (value,) = heads(arch)
    error = found[value] - codes[value] * made.numbers.codes.score_step
    assert 10 * np.log10(found[value].var() / np.mean(error**2)) > 12


def test_bfloat16_is_read_as_floats():
    """What it was trained in makes no difference."""
    variables = jax.device_get(filled(small_arch()))
    each = [
        calibrated(small_arch(compute=compute), variables, MEAN, STD, lambda: [pixels()])
        for compute in ("float32", "bfloat16")
    ]
    assert each[0][0] == each[1][0]
    jax.tree.map(np.testing.assert_array_equal, each[0][1], each[1][1])


def test_whole_numbers_stay_what_they_are():
    """A network whose maps are whole numbers within +-127, with a step of 1 everywhere: no rounding, no error."""
    arch = small_arch()
    rng = np.random.default_rng(3)

    def sparse(path, x):
        kind = path[-1].key
        if kind in ("bias", "mean"):
            return np.asarray(rng.integers(-3, 4, x.shape), np.float32)
        if kind != "kernel":
            return np.full(x.shape, 1 - arch.numbers.norm_eps if kind == "var" else 1, np.float32)
        # Two of +-1 in each channel.
        kernel = np.zeros((np.prod(x.shape[:-1]), x.shape[-1]), np.float32)
        for k in range(x.shape[-1]):
            kernel[rng.choice(len(kernel), 2, replace=False), k] = rng.choice([-1, 1], 2)
        return kernel.reshape(x.shape)

    variables = jax.tree_util.tree_map_with_path(sparse, jax.device_get(filled(arch)))
    mean, std = (0.0,) * 3, (12 / 255,) * 3
    image = 12 * rng.integers(0, 6, (2, *SIZE, 3), np.uint8)
    found = in_jax(arch, variables, image, mean, std)
    assert max(np.abs(y).max() for y in found.values()) < 127
    made, whole = with_steps(*fold(arch, variables), dict.fromkeys(found, 1.0))
    codes = in_jax(made, whole, image, mean, std)
    for value, y in codes.items():
        np.testing.assert_allclose(found[value], y, atol=1e-3, err_msg="/".join(value))
        assert len(np.unique(y)) > 5
    kernels = [k for k in jax.tree.leaves(whole["params"])]
    assert {int(np.abs(k).max()) for k in kernels} == {127}


def test_what_32_bits_cannot_hold_is_told_by_its_layer():
    arch, variables = fold(small_arch(), jax.device_get(filled(small_arch())))
    values = [THE_IMAGE, *Values(deployed_blocks(arch)).groups()]
    steps = dict.fromkeys(values, 1.0)
    with pytest.raises(UserError, match="block_01/conv2 as an int8 operation: got ratio") as error:
        with_steps(arch, variables, steps | {("block_01", "conv2"): 2.0**-30})
    assert "\n" not in str(error.value)
    variables["params"]["head"]["logits"]["bias"] = np.full(3, 1e10, np.float32)
    with pytest.raises(UserError, match="head/logits as an int8 operation"):
        with_steps(arch, variables, steps)


def test_what_is_no_number_is_refused():
    variables = jax.tree.map(np.array, jax.device_get(filled(small_arch())))
    variables["params"]["block_01"]["conv1"]["kernel"][0, 0, 0, 0] = np.nan
    with pytest.raises(UserError):
        calibrated(small_arch(), variables, MEAN, STD, lambda: [pixels()])


# --- Ranges ---


def histogram(counts):
    """Up to 1, from {bin: count}."""
    found = np.zeros(BINS, np.int64)
    for place, count in counts.items():
        found[place] = count
    return Histogram(1.0, found)


def test_ranges_of_made_up_histograms():
    alone = histogram({0: 10**6, 200: 10**6, BINS - 1: 1})  # one in two million is large
    assert alone.range("minmax") == 1.0
    assert alone.range("percentile") == 201 / BINS
    assert 201 / BINS <= alone.range("mse") < 0.3
    even = histogram(dict.fromkeys(range(BINS), 1000))
    assert even.range("minmax") == 1.0
    assert even.range("percentile") == pytest.approx(PERCENTILE, abs=1 / BINS)
    assert even.range("mse") > 0.97  # cutting off costs more than a coarse step
    assert histogram({BINS - 1: 3}).range("percentile") == 1.0
    for method in ranges.METHODS:
        assert Histogram(0.0, np.zeros(BINS, np.int64)).range(method) == 1.0
        tripled = dataclasses.replace(alone, most=3.0)
        assert tripled.range(method) == pytest.approx(3 * alone.range(method))


def test_mse_is_the_best_range():
    """Against the error of rounding and clipping draws themselves, over all ranges that are tried."""
    rng = np.random.default_rng(0)
    x = np.abs(rng.laplace(size=200_000))
    counts = np.minimum(x * (BINS / x.max()), BINS - 1).astype(int)
    found = Histogram(float(x.max()), np.bincount(counts, minlength=BINS)).range("mse")

    def error(reach):
        step = reach / 127
        return np.mean((np.minimum(np.rint(x / step), 127) * step - x) ** 2)

    best = min(error(share * x.max()) for share in ranges.SHARES)
    assert error(found) < 1.02 * best < 0.8 * error(x.max())


def test_zeros_have_no_error_and_no_say():
    """Behind ReLU half of all values are 0 whatever the step is."""
    spread = dict.fromkeys(range(1, 400), 100)
    one = histogram({**spread, BINS - 1: 40})
    assert one.range("mse") == histogram({**spread, BINS - 1: 40, 0: 10**9}).range("mse") < 1.0


def test_an_unknown_method_is_one_line():
    with pytest.raises(UserError, match="calibration.*did you mean 'minmax'"):
        histogram({1: 1}).range("minmx")


def test_observing_counts_every_value_of_every_batch():
    """Over batches of two sizes: as one would by keeping everything."""
    arch, variables = fold(small_arch(), jax.device_get(filled(small_arch())))
    batches = [pixels(), pixels((24, 40))[:1], pixels((24, 40))[1:]]
    found = ranges.observe(arch, variables, MEAN, STD, lambda: batches)
    seen = [in_jax(arch, variables, image) for image in batches]
    assert found.keys() == seen[0].keys() - {THE_IMAGE}
    for value, one in found.items():
        x = np.concatenate([np.abs(y[value]).ravel() for y in seen])
        assert one.most == pytest.approx(x.max(), rel=1e-5) and one.counts.sum() == x.size
        place = np.minimum(x * (BINS / one.most), BINS - 1).astype(int)
        cumulated = np.cumsum(np.bincount(place, minlength=BINS))
        # Programs round differently: values at the edge of a bin may be in the next.
        assert np.abs(np.cumsum(one.counts) - cumulated).max() <= 0.002 * x.size


@pytest.mark.parametrize("name", ["lraspp_resnet18", "unet_resnet18", "itnet", "with exits"])
def test_values_that_share_a_step_have_the_range_of_the_largest(name):
    arch = dataclasses.replace(architecture(name), aux=())
    values = Values(deployed_blocks(arch))
    rng = np.random.default_rng(0)
    found = {
        (block.name, op.name): Histogram(float(rng.uniform(1, 9)), np.ones(BINS, np.int64))
        for block in deployed_blocks(arch)
        for op in block.ops
    }
    steps = ranges.steps(arch, found, MEAN, STD, "minmax")
    reach = max(max(m, 1 - m) / s for m, s in zip(MEAN, STD, strict=True))
    assert ranges.image_range(MEAN, STD) == pytest.approx(reach)
    largest = {THE_IMAGE: reach} | {value: one.most for value, one in found.items()}
    gates = 0
    for block in deployed_blocks(arch):
        for op in block.ops:
            mine = steps[block.name, op.name]
            if op.kind in flow.KEEPING:
                assert {steps[value] for value in values.reads(block, op)} == {mine}
            if op.kind == flow.CONV and block.layer(op.name).activation == "sigmoid":
                assert mine == GATE_STEP
                gates += 1
            else:
                assert 127 * mine >= largest[block.name, op.name] * (1 - 1e-9)
                assert any(127 * mine == pytest.approx(x) for x in largest.values())
    assert len({steps[value] for value in heads(arch)}) == 1
    assert gates == (name == "lraspp_resnet18")


class Split(list):
    """Of images alone."""

    def __init__(self, sizes):
        super().__init__({"image": pixels(size)[i % 2]} for i, size in enumerate(sizes))


def test_images_are_spread_over_the_split_and_batched_by_size(monkeypatch):
    split, seen = Split([SIZE] * 6 + [(24, 40)] * 5), []
    monkeypatch.setattr(
        "jaxseg.inference.to_codes.calibrated",
        lambda arch, v, mean, std, batches, method: (seen.append((batches(), method)), (arch, v))[
            1
        ],
    )
    card = Card((), (), MEAN, STD, {}, {})
    *_, told = to_codes(small_arch(), {}, card, split, method="percentile", most=7)
    assert told == {"conversion": "percentile", "images": 7}
    ((batches, method),) = seen
    assert [x.shape for x in batches] == [(4, *SIZE, 3), (3, 24, 40, 3)] and method == "percentile"
    np.testing.assert_array_equal(batches[0][1], split[1]["image"])
    np.testing.assert_array_equal(batches[1][-1], split[10]["image"])
    assert to_codes(small_arch(), {}, card, split, method="mse", most=99)[2]["images"] == 11


def test_the_image_s_step_is_that_of_all_pixels():
    """0 to 255 fit into codes exactly."""
    _, _, arch, *_ = converted("itnet")
    reach = Fraction(max(max(m, 1 - m) / s for m, s in zip(MEAN, STD, strict=True)))
    assert arch.numbers.codes.image_step == pytest.approx(float(reach / 127))
