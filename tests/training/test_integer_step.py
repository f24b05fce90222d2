"""The step on integer arrays: where the simulation is, bit for bit, and without a float outside of the loss."""

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
from jaxseg.training import integer_step, steps
from jaxseg.training import state as states
from jaxseg.training.loss import Loss
from jaxseg.training.optim import Optim
from jaxseg.training.phases import Phase
from tests.fakes import NUM_CLASSES, batch

MEAN, STD = (128 / 255,) * 3, (64 / 255,) * 3
SETTINGS = integer.Settings("integer_only")
STEPS = 20


def chain(blocks=2, width=8) -> Arch:
    """Convolutions of stride 1 with norm and ReLU6, and a classifier."""
    backbone = BackboneArch("chain", (BlockArch("conv_stem", (width,)),) * blocks)
    head = HeadArch("linear", (f"block_{blocks - 1:02d}",), ())
    return integer.architecture(Arch(NUM_CLASSES, backbone, head), SETTINGS, image_reach=2.0)


def phase(arch, **optim) -> Phase:
    optim = {"learning_rate": 2.0**-3, "momentum": 0.875, "weight_decay": 0.0} | optim
    settings = Optim(schedule="halving", halve_at=(0.5,), **optim)
    make = functools.partial(steps.supervised, loss=Loss(), mean=MEAN, std=STD)
    plain = Phase("p", STEPS, make, TrainPlan(4, 4, seed=0, size_px=(8, 8)), settings)
    return integer.rounded([plain], arch, SETTINGS)[0]


def test_twenty_steps_are_those_of_the_simulation_to_the_bit():
    arch = chain()
    p = phase(arch)
    state = states.create(arch, p, 0, ema=False)
    whole = integer_step.codes_of(arch, state)
    start = integer_step.values_of(arch, whole)
    rounded = lambda path, x: jnp.asarray(start[integer_step.path_name(path)], x.dtype)  # noqa: E731
    state = state.replace(params=jax.tree_util.tree_map_with_path(rounded, state.params))
    table = integer_step.pixel_codes(MEAN, STD, arch.numbers.integer.image)
    step = jax.jit(
        integer_step.make_step(arch, p.optim, STEPS, loss=Loss(), table=table, cells=4 * 8 * 8)
    )
    with float64.everywhere():
        simulated = jax.jit(p.make_step(float64.exact(arch), p))
        state = float64.widened(state)
        for i in range(STEPS):
            data = batch(4, 8, 8, seed=i)
            state, sums = simulated(state, data)
            whole, told = step(whole, data)
            values = integer_step.values_of(arch, whole)
            found = integer_step._flat(state.params) | integer_step._flat(state.batch_stats)
            for path in sorted(values):
                np.testing.assert_array_equal(values[path], found[path], err_msg=f"{i} {path}")
            assert float(told["loss_sum"]) == pytest.approx(float(sums["loss_sum"]), rel=1e-12)
    moved = [not np.array_equal(values[path], start[path]) for path in start]
    assert all(moved), "a path that never moves proves nothing"
