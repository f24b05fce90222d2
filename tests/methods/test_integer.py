"""Integer training over the whole zoo: what layers read is 8 bits, devices agree, updates stay on grids, mistakes."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import build, cli, defaults
from jaxseg.arch import from_json, to_json
from jaxseg.data.plan import TrainPlan
from jaxseg.errors import UserError
from jaxseg.layers.conv import conv2d
from jaxseg.methods import integer, mess
from jaxseg.models import mess as exits
from jaxseg.models import zoo
from jaxseg.training import state as states
from jaxseg.training import steps
from jaxseg.training.fixed_point import Updates, stored_grids
from jaxseg.training.loss import Loss
from jaxseg.training.optim import Optim
from jaxseg.training.parallel import Parallel
from jaxseg.training.phases import Phase
from tests.fakes import FakeSplit, batch, small_arch
from tests.models.test_zoo import CHEAP, COVERING, STRIDE, K, filled, image

MEAN, STD = (128 / 255,) * 3, (64 / 255,) * 3
OTHERS = (("integer_only", "pmap"), ("paper", "jit"), ("wageubn", "jit"))
SLOW_PRESETS = [pytest.param(p, marks=pytest.mark.slow) for p in ("paper", "integer_only")]
SETTINGS = {preset: integer.Settings(preset) for preset in integer.PRESETS}
OPTIM = Optim(
    learning_rate=2.0**-4, momentum=0.75, weight_decay=0.0, schedule="halving", halve_at=(0.5,)
)


def whole(preset, arch):
    return integer.architecture(arch, SETTINGS[preset], image_reach=2.0)


def network(name, preset="integer_only"):
    arch = zoo.named(name, K, width=0.125, output_stride=STRIDE[name])
    if name.startswith("deeplabv3_"):  # of all, the one that stands for exits too
        arch = exits.with_exits(arch, ("block_01",), (exits.ExitDesign(extra_blocks=1),))
    return whole(preset, arch)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", [n for n in COVERING if n != "itnet"])
def test_every_convolution_reads_codes_of_eight_bits(name, train):
    """Of `integer_only`, with whatever stands between convolutions: sums, pools, joins, resizes, gates."""
    arch = network(name)
    options = {}
    if train:
        options = {"mutable": ["batch_stats"], "rngs": {"dropout": jax.random.PRNGKey(0)}}

    def reads(variables, x):
        found = []

        def recording(x, kernel, **options):
            found.append((x, kernel))
            return conv2d(x, kernel, **options)

        zoo.module(arch, conv_op=recording).apply(variables, x, train, **options)
        return found

    args = filled(arch), image(64, 64) / 2
    found = jax.jit(reads).lower(*args).compile(CHEAP)(*args)
    assert len(found) == sum(len(block.layers) for block in zoo.blocks(arch))
    for x, kernel in found:
        # Steps of 1/32 up to 4; of the image (steps of 1/64) and of gates finer ones below.
        codes = np.asarray(x) * (64 if x.shape[-1] == 3 else 32)
        np.testing.assert_array_equal(codes, np.round(codes))
        assert np.abs(codes).max() <= 127
        assert len(np.unique(kernel)) <= 255
        codes = np.asarray(kernel) * 2**16
        np.testing.assert_array_equal(codes, np.round(codes))


@pytest.mark.parametrize("preset", integer.PRESETS)
@pytest.mark.parametrize("name", COVERING)
def test_variables_are_what_the_modules_make(name, preset):
    arch = network(name, preset)
    assert from_json(to_json(arch)) == arch
    net, x = zoo.module(arch), image()
    shapes = jax.eval_shape(lambda key: zoo.init(arch, key), jax.random.PRNGKey(0))
    own = jax.eval_shape(lambda key: net.init(key, x, False), jax.random.PRNGKey(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, {"batch_stats": {}, **own})

    def trained(variables, x):
        return net.apply(
            variables, x, True, mutable=["batch_stats"], rngs={"dropout": jax.random.PRNGKey(0)}
        )

    outputs, updated = jax.eval_shape(trained, shapes, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        updated.get("batch_stats", {}), shapes["batch_stats"]
    )
    assert outputs.logits.dtype == jnp.float32


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v2", "itnet"])
def test_blocks_apart_are_the_network(name):
    arch = network(name)
    net, variables, x = zoo.module(arch), filled(arch), image()
    blocks = len(arch.backbone.blocks)
    run = jax.jit(lambda v, x, a, b: net.apply(v, x, a, b, method="run"), static_argnums=(2, 3))
    together, _ = run(variables, x, 0, blocks)
    half, _ = run(variables, x, 0, 2)
    apart, _ = run(variables, half, 2, blocks)
    np.testing.assert_array_equal(together, apart)


def phase_of(arch, preset="integer_only", optim=OPTIM, num_steps=10, **options):
    make = functools.partial(steps.supervised, loss=Loss(), mean=MEAN, std=STD, **options)
    phase = Phase("p", num_steps, make, TrainPlan(4, 4, seed=0, size_px=(32, 32)), optim)
    return integer.rounded([phase], arch, SETTINGS[preset])[0]


def compiled(arch, phase, mode="jit", devices=1):
    """(state on its devices, step, how batches get there)."""
    parallel = Parallel.over(mode, 4, jax.devices()[:devices])
    state = parallel.put_state(states.create(arch, phase, 0, ema=False))
    return state, parallel.compile(functools.partial(phase.make_step, arch, phase)), parallel


def take(arch, phase, *, mode="jit", devices=1, times=1):
    state, step, parallel = compiled(arch, phase, mode, devices)
    for _ in range(times):
        state, sums = step(state, parallel.put_batch(batch()))
    return jax.device_get(state), jax.device_get(sums)


@pytest.mark.parametrize(
    "preset, mode",
    [
        ("integer_only", "jit"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS),
    ],
)
def test_two_devices_are_one(preset, mode):
    """Ranges, means and gradients are of the whole batch. What rounds to another side differs by a step."""
    arch = whole(preset, small_arch(dropout=0.0))
    phase = phase_of(arch, preset)
    one, one_sums = take(arch, phase)
    two, two_sums = take(arch, phase, mode=mode, devices=2)
    chex.assert_trees_all_close(one_sums["loss_sum"], two_sums["loss_sum"], rtol=1e-5)
    start = jax.device_get(states.create(arch, phase, 0, ema=False)).params
    change = lambda s: np.concatenate(  # noqa: E731
        [(a - b).ravel() for a, b in zip(*map(jax.tree.leaves, (s.params, start)), strict=True)]
    )
    a, b = change(one), change(two)
    assert np.mean(a == b) > 0.9
    assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a)
    chex.assert_trees_all_close(one.batch_stats, two.batch_stats, atol=2e-4)


@pytest.mark.parametrize("preset", ["wageubn", *SLOW_PRESETS])
def test_stored_weights_stay_on_their_grids(preset):
    arch = whole(preset, small_arch(dropout=0.0))
    after, _ = take(
        arch, phase_of(arch, preset, dataclasses.replace(OPTIM, learning_rate=2.0)), times=4
    )
    grids = stored_grids(arch, phase_of(arch, preset).optim.updates)
    seen, spared = [], []
    for path, value in jax.tree_util.tree_flatten_with_path(after.params)[0]:
        name = "/".join(p.key for p in path)
        if name not in grids:
            spared.append(name)
            continue
        step = grids[name].reach * 2.0**-23
        np.testing.assert_array_equal(value / step, np.round(value / step))
        assert np.abs(value).max() <= grids[name].reach - step
        seen.append(name)
    assert sorted(seen) == sorted(grids)
    ends = [n for n in spared if n.startswith("block_00/") or "/logits" in n]
    assert len(spared) == len(ends) == (5 if preset == "wageubn" else 0)


def test_lowers_for_every_platform_and_holds_no_root():
    arch = whole("integer_only", small_arch(dropout=0.0))
    phase = phase_of(arch)
    state = jax.eval_shape(lambda: states.create(arch, phase, 0, ema=False))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch())
    traced = jax.jit(phase.make_step(arch, phase)).trace(state, shapes)
    lowered = traced.lower(lowering_platforms=("cpu", "cuda", "tpu")).as_text()
    # One root is the trainer's: the norm of the gradient that it logs.
    assert lowered.count("stablehlo.sqrt") <= 1 and "stablehlo.rsqrt" not in lowered
    assert str(traced.jaxpr).count(" quantize[") > 50


def losses_of(arch, phase, times=60):
    """First and last loss over a few steps on the same four images."""
    examples = [FakeSplit()[i] for i in range(4)]
    data = batch(height_px=40, width_px=48)
    data |= {k: np.stack([e[k] for e in examples]) for k in ("image", "label")}
    state, step, parallel = compiled(arch, phase)
    found = []
    for _ in range(times):
        state, sums = step(state, parallel.put_batch(data))
        found.append(float(sums["loss_sum"] / sums["loss_count"]))
    return found[0], found[-1]


@functools.cache
def floating_loss():
    optim = dataclasses.replace(OPTIM, learning_rate=2.0**-4)
    make = functools.partial(steps.supervised, loss=Loss(), mean=MEAN, std=STD)
    phase = Phase("p", 60, make, TrainPlan(4, 4, seed=0, size_px=(40, 48)), optim)
    return losses_of(small_arch(dropout=0.0), phase)


@pytest.mark.parametrize(
    # The authors' gradients are a tenth and without momentum, constant ones small: rates to match.
    "preset, rate",
    [
        ("integer_only", 1.0),
        pytest.param("paper", 2.0, marks=pytest.mark.slow),
        pytest.param("wageubn", 2.0, marks=pytest.mark.slow),
    ],
)
def test_the_loss_falls_about_as_far_as_in_floats(preset, rate):
    """T9: within a quarter of the first loss of the float run on the same schedule."""
    arch = whole(preset, small_arch(dropout=0.0))
    optim = dataclasses.replace(OPTIM, learning_rate=rate)
    first, last = losses_of(arch, phase_of(arch, preset, optim, num_steps=60))
    assert last < 0.6 * first
    assert last - floating_loss()[1] < 0.25 * first


def test_exits_and_their_stages_are_rounded_too():
    arch = whole("integer_only", small_arch(dropout=0.0))
    settings = mess.Settings(2, (exits.ExitDesign(),), 5, OPTIM, blocks=("block_01",))
    make = functools.partial(steps.supervised, loss=Loss(), mean=MEAN, std=STD)
    last = Phase("main", 5, make, TrainPlan(4, 4, seed=0, size_px=(32, 32)), OPTIM)
    run = integer.rounded(mess.multi_exit([last], settings, Loss()), arch, SETTINGS["integer_only"])
    assert [p.optim.updates.stored_bits for p in run] == [24, 24]
    state = states.create(arch, run[0], 0, ema=False)
    for phase in run:
        arch, state = states.enter(phase, arch, state)
        state, sums = jax.jit(phase.make_step(arch, phase))(state, batch())
        assert np.isfinite(sums["loss_sum"]) and not int(sums["skipped"])
    assert "exit_0" in state.params
    assert "deviation" in state.batch_stats["exit_0"]["conv"]["norm"]


# --- Presets and mistakes ---


def test_the_config_lists_every_width():
    assert sorted(defaults.INTEGER_WIDTHS) == sorted(integer.WIDTHS)
    assert set(defaults.get_config().integer.widths.values()) == {-1}


@pytest.mark.parametrize(
    "change", ["integer.widths.weights=4", "integer.layers=('head/*:weights=4',)"]
)
def test_changes_without_a_preset_are_refused(change):
    config = cli.override(defaults.get_config(), [f"--config.{change}"])
    with pytest.raises(UserError, match="expected a preset that they change"):
        build.architecture(config, FakeSplit().spec)


def test_a_mistake_names_its_phase():
    phase = dataclasses.replace(phase_of(small_arch()), optim=Optim(learning_rate=0.3))
    with pytest.raises(UserError, match="phase p: optim.learning_rate.*take 0.25 or 0.5"):
        integer.rounded([phase], small_arch(), SETTINGS["paper"])


def test_the_paper_has_two_flavours():
    deeplab = whole("paper", zoo.named("deeplabv3_resnet50", K, width=0.125)).numbers
    fcn = whole("paper", zoo.named("fcn8s_vgg16", K, width=0.125)).numbers
    assert (deeplab.norm, deeplab.norm_eps, deeplab.norm_momentum) == ("deviation", 1e-3, 0.95)
    assert deeplab.integer.activations.rule == "max" and fcn.integer.activations.rule == "fixed"
    assert deeplab.integer.conv_errors.bits == 16 and fcn.integer.conv_errors.off
    stem, logits = (deeplab.integer.at(n) for n in ("block_00/conv1", "head/logits"))
    assert stem.weights.off and logits.weights.off and logits.logits.off
    assert not deeplab.integer.at("block_01/conv1").weights.off
    assert not fcn.integer.at("block_00/conv").weights.off


def test_widths_and_layers_can_differ_from_the_preset():
    settings = integer.Settings(
        "integer_only", {"weights": 4, "gradients": 32, "reciprocal": 32}, ("head/*:weights=6",)
    )
    arch = small_arch()
    grids = integer.architecture(arch, settings).numbers.integer
    assert (grids.weights.bits, grids.reciprocal_bits) == (4, 32)
    assert grids.at("head/conv").weights.bits == 6 and grids.at("block_00/conv1").weights.bits == 4
    assert settings.of(arch).updates.gradient_bits == 32
    assert settings.of(arch).updates.momentum.bits == 24
    # What a preset leaves floating gets a rule that fits it.
    more = integer.Settings("paper", {"maps": 8, "logits": 8, "norm_errors": 16})
    grids = integer.architecture(arch, more).numbers.integer
    assert (grids.maps.rule, grids.norm_errors.rule, grids.maps.bits) == ("max", "shift", 8)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: integer.Settings("papr"), "did you mean 'paper'"),
        (lambda: integer.Settings("paper", {"weights": 0}), "integer.widths.weights: got 0"),
        (lambda: integer.Settings("paper", {"stored": 33}), "integer.widths.stored: got 33"),
        (lambda: integer.Settings("paper", {"wights": 8}), "did you mean 'weights'"),
        (lambda: integer.Settings("paper", layers=("head",)), "'<block>/<layer>:<path>=<bits>'"),
        (lambda: integer.Settings("paper", layers=("a:weights=0",)), "got 0; expected 2 to 31"),
        (lambda: integer.Settings("paper", layers=("a:weigths=8",)), "did you mean 'weights'"),
        (
            lambda: integer.architecture(
                small_arch(), integer.Settings("paper", layers=("haed/*:weights=8",))
            ),
            "unknown layer in integer.layers",
        ),
        (lambda: whole("integer_only", small_arch(compute="bfloat16")), "bfloat16"),
        (
            lambda: Optim(learning_rate=0.05, schedule="constant", updates=Updates(8)),
            "take 0.03125 or 0.0625",
        ),
        (lambda: Optim(learning_rate=0.25, schedule="poly", updates=Updates(8)), "halving or constant"),
        (
            lambda: Optim("adamw", learning_rate=0.25, schedule="constant", updates=Updates(8)),
            "optim.name of integer training: got adamw",
        ),
        (lambda: Updates(8, "constnt"), "did you mean 'constant'"),
        (lambda: Optim(schedule="halving", halve_at=(0.5, 0.2)), "rising"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(make, says):
    with pytest.raises(UserError) as error:
        make()
    assert says in str(error.value) and "\n" not in str(error.value)


def test_sums_of_more_products_than_32_bits_hold_are_refused():
    arch = small_arch()
    blocks = list(arch.backbone.blocks)
    blocks[1] = dataclasses.replace(blocks[1], widths=(2**14, 8))
    arch = dataclasses.replace(
        arch, backbone=dataclasses.replace(arch.backbone, blocks=tuple(blocks))
    )
    with pytest.raises(UserError, match="block_01/conv2 as an integer layer: got 147456 products"):
        whole("integer_only", arch)
