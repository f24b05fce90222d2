"""The step on integer arrays: where the simulation is, bit for bit, and without a float outside of the loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import float64
from jaxseg.arch import Arch, BackboneArch, BlockArch, HeadArch
from jaxseg.data.plan import TrainPlan
from jaxseg.errors import UserError
from jaxseg.methods import integer
from jaxseg.models import zoo
from jaxseg.training import integer_state, integer_step, steps
from jaxseg.training import state as states
from jaxseg.training.fixed_point import path_name
from jaxseg.training.loss import Loss
from jaxseg.training.optim import Optim
from jaxseg.training.phases import Phase
from tests.fakes import NUM_CLASSES, batch

MEAN, STD = (128 / 255,) * 3, (64 / 255,) * 3
SETTINGS = integer.Settings("integer_only")
STEPS = 20


def chain(blocks=2, width=6) -> Arch:
    """Convolutions of stride 1 with norm and ReLU6, and a classifier."""
    backbone = BackboneArch("chain", (BlockArch("conv_stem", (width,)),) * blocks)
    head = HeadArch("linear", (f"block_{blocks - 1:02d}",), ())
    return integer.architecture(Arch(NUM_CLASSES, backbone, head), SETTINGS, image_reach=2.0)


def phase(arch, **optim) -> Phase:
    optim = {"learning_rate": 0.5, "momentum": 0.875, "weight_decay": 0.0} | optim
    settings = Optim(schedule="halving", halve_at=(0.5,), **optim)
    make = functools.partial(steps.supervised, loss=Loss(), mean=MEAN, std=STD)
    plain = Phase("p", STEPS, make, TrainPlan(4, 4, seed=0, size_px=(8, 8)), settings)
    return integer.rounded([plain], arch, SETTINGS)[0]


def follow(arch, p, steps_taken):
    """Both for some steps: after each, parameters and statistics are the same numbers. Returns first and last ones."""
    state = states.create(arch, p, 0, ema=False)
    whole = integer_state.codes_of(arch, state)
    start = integer_state.values_of(arch, whole)
    rounded = lambda path, x: jnp.asarray(start[path_name(path)], x.dtype)  # noqa: E731
    state = state.replace(params=jax.tree_util.tree_map_with_path(rounded, state.params))
    step = jax.jit(ready(arch, p))
    with float64.everywhere():
        simulated = jax.jit(p.make_step(float64.exact(arch), p))
        state = float64.widened(state)
        for i in range(steps_taken):
            data = batch(4, 8, 8, seed=i)
            state, sums = simulated(state, data)
            whole, told = step(whole, data)
            values = integer_state.values_of(arch, whole)
            found = integer_state.flat(state.params) | integer_state.flat(state.batch_stats)
            for path in sorted(values):
                np.testing.assert_array_equal(values[path], found[path], err_msg=f"{i} {path}")
            assert float(told["loss_sum"]) == pytest.approx(float(sums["loss_sum"]), rel=1e-12)
    return start, values


def test_twenty_steps_are_those_of_the_simulation_to_the_bit():
    arch = chain()
    start, values = follow(arch, phase(arch), STEPS)
    moved = [not np.array_equal(values[path], start[path]) for path in start]
    assert all(moved), "a path that never moves proves nothing"


def ready(arch, p, cells=4 * 8 * 8):
    table = integer_state.pixel_codes(MEAN, STD, arch.numbers.integer.image)
    return integer_step.make_step(arch, p.optim, STEPS, loss=Loss(), table=table, cells=cells)


def equations(jaxpr, inside=""):
    """Every equation with the name of the function that it stands in."""
    for eqn in jaxpr.eqns:
        name = eqn.params.get("name", inside)
        yield inside, eqn
        for value in eqn.params.values():
            for sub in value if isinstance(value, tuple | list) else (value,):
                sub = getattr(sub, "jaxpr", sub)
                if hasattr(sub, "eqns"):
                    yield from equations(
                        sub, "floating_loss" if inside == "floating_loss" else name
                    )


def test_nothing_floats_outside_of_the_loss():
    arch = chain()
    state = integer_state.codes_of(arch, states.create(arch, phase(arch), 0, ema=False))
    data = {k: v for k, v in batch(4, 8, 8).items() if k != "weight"}
    weight = np.ones(4, np.float32)
    step = ready(arch, phase(arch))
    jaxpr = jax.make_jaxpr(lambda s, d, w: step(s, {**d, "weight": w})[0])(state, data, weight)
    floats = set()
    for inside, eqn in equations(jaxpr.jaxpr):
        called = eqn.params.get("name") == "floating_loss"
        types = [v.aval.dtype for v in (*eqn.invars, *eqn.outvars) if hasattr(v.aval, "dtype")]
        if inside != "floating_loss" and any(jnp.issubdtype(t, jnp.floating) for t in types):
            floats.add((inside, eqn.primitive.name, called))
    # The loss is called with the weights of images, and gives sums to log.
    assert floats == {("", "jit", True)}
    assert sum(inside == "floating_loss" for inside, _ in equations(jaxpr.jaxpr)) > 10
    convolutions = [
        e for _, e in equations(jaxpr.jaxpr) if e.primitive.name == "conv_general_dilated"
    ]
    assert {str(v.aval.dtype) for e in convolutions for v in e.invars} == {"int8"}
    assert {str(v.aval.dtype) for e in convolutions for v in e.outvars} == {"int32"}


def test_what_is_kept_for_the_way_back_is_half_of_floats_or_less():
    """Temporary memory of the whole compiled step, by XLA's account, where maps and not weights are most of it.

    Sums could exceed 32 bits at this size, which does not matter for memory.
    """
    arch = chain(6)
    p = phase(arch)
    layers = [(f"{b.name}/{s.name}", s) for b in zoo.blocks(arch) for s in b.layers]
    table = integer_state.pixel_codes(MEAN, STD, arch.numbers.integer.image)
    integers = integer_step.unchecked(layers, arch, p.optim, STEPS, Loss(), table, 4 * 32 * 32)
    state = integer_state.codes_of(arch, states.create(arch, p, 0, ema=False))
    data = batch(4, 32, 32)
    plain = Arch(NUM_CLASSES, arch.backbone, arch.head)
    optim = Optim(momentum=0.875, weight_decay=0.0)
    make = functools.partial(steps.supervised, loss=Loss(), mean=MEAN, std=STD)
    floats = Phase("p", STEPS, make, TrainPlan(4, 4, seed=0, size_px=(8, 8)), optim)
    usual = states.create(plain, floats, 0, ema=False)

    def temporary(step, state):
        compiled = jax.jit(step, donate_argnums=0).lower(state, data).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(integers, state) <= 0.5 * temporary(floats.make_step(plain, floats), usual)


def settings(**changes):
    return integer.Settings("integer_only", changes)


def checked(arch=None, cells=256, **optim):
    arch = arch or chain()
    return integer_step.check(arch, phase(chain(), **optim).optim, cells)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda: checked(cells=100), "a power of two"),
        (lambda: checked(cells=1024), "below 31 bits"),
        (lambda: checked(chain(width=64), 64), "below 31 bits"),
        (lambda: checked(weight_decay=2.0**-10), "no weight decay"),
        (lambda: checked(momentum=0.9), "whole eighths"),
        (lambda: checked(momentum=0.0), "whole eighths"),
        (lambda: checked(backbone_multiplier=0.5), "one rate for all"),
        (lambda: checked(Arch(NUM_CLASSES, chain().backbone, chain().head)), "preset integer_only"),
        (lambda: checked(integer.architecture(chain(), settings(image=16))), "got .'image'"),
        (lambda: checked(integer.architecture(chain(), settings(maps=16))), "got .'maps'"),
    ],
)
def test_what_it_is_not_written_for_is_refused(change, says):
    assert checked()
    with pytest.raises(UserError, match=says):
        change()


def test_the_first_layer_is_known_by_its_place_and_a_constant_rate_stays():
    """Three channels everywhere; the marks of `halving` mean nothing to `constant`."""
    blocks = tuple(BlockArch("conv_stem", (w,)) for w in (3, 3, 6))
    arch = Arch(NUM_CLASSES, BackboneArch("chain", blocks), chain(3).head)
    arch = integer.architecture(arch, SETTINGS, image_reach=2.0)
    p = phase(arch)
    p = dataclasses.replace(p, optim=dataclasses.replace(p.optim, schedule="constant"))
    follow(arch, p, 12)
