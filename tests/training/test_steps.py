"""The pure step: right over devices with uneven void, frozen parts, micro-batches, lowering."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.data.plan import TrainPlan
from jaxseg.errors import UserError
from jaxseg.models import zoo
from jaxseg.training import state as states
from jaxseg.training import steps
from jaxseg.training.optim import Optim
from jaxseg.training.parallel import Parallel
from jaxseg.training.phases import Phase
from jaxseg.types import IGNORE_LABEL
from tests.fakes import FakeSplit, batch, small_arch

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
OPTIM = Optim(learning_rate=0.05, weight_decay=0.01)


def make_phase(arch, trainable=("*",), optim=OPTIM, **options):
    make = functools.partial(
        steps.supervised, loss=options.pop("loss", steps.Loss()), mean=MEAN, std=STD, **options
    )
    plan = TrainPlan(4, 4, seed=0, size_px=(32, 32))
    return Phase("p", 10, make, plan, optim, trainable=trainable)


def take(arch, phase, data, *, mode="jit", devices=1, times=2, ema=True):
    """The state and summed metrics after a few steps, on the host."""
    parallel = Parallel.over(mode, len(data["label"]), jax.devices()[:devices])
    compiled = parallel.compile(functools.partial(phase.make_step, arch, phase))
    state = parallel.put_state(states.create(arch, phase, 0, ema=ema))
    sums = {}
    for _ in range(times):
        state, sums = compiled(state, parallel.put_batch(data))
    return jax.device_get(state), jax.device_get(sums)


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_two_devices_equal_one_with_uneven_void(mode):
    """Device 0 sees nearly all labels, device 1 mostly void: means per device would be far off."""
    arch = small_arch(aux=True, dropout=0.0)
    phase = make_phase(arch, ema_decay=0.9)
    data = batch()
    one, one_sums = take(arch, phase, data, mode="jit", devices=1)
    two, two_sums = take(arch, phase, data, mode=mode, devices=2)
    chex.assert_trees_all_close(one_sums, two_sums, rtol=1e-4)
    chex.assert_trees_all_close(one.params, two.params, rtol=2e-3, atol=2e-5)
    chex.assert_trees_all_close(one.batch_stats, two.batch_stats, rtol=1e-3, atol=1e-5)
    chex.assert_trees_all_close(one.ema, two.ema, rtol=2e-3, atol=2e-5)
    assert int(two.step) == 2 and int(two.phase_step) == 2


def test_devices_wait_for_each_other_outside_of_loops():
    """Inside of one they would as often as it turns, and several processes on CPU not in the same order."""
    arch = small_arch()
    phase = make_phase(arch)
    parallel = Parallel.over("jit", 4)
    state = parallel.put_state(states.create(arch, phase, 0, ema=False))
    compiled = parallel.compile(functools.partial(phase.make_step, arch, phase))
    text = compiled.lower(state, parallel.put_batch(batch())).compile().as_text()
    computations = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    where = [c.split(" ", 1)[0] for c in computations if "all-reduce(" in c]
    assert where == ["ENTRY"] and " while(" in text


@pytest.mark.parametrize("mode", ["jit", "pmap"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_update_that_is_no_number_is_skipped(mode, accumulate):
    arch = small_arch(dropout=0.0)
    phase = make_phase(arch, ema_decay=0.9, accumulate=accumulate)
    bad = batch()
    bad["weight"] = np.array([1, np.nan, 1, 1], np.float32)
    before, _ = take(arch, phase, bad, mode=mode, devices=2, times=0)
    after, sums = take(arch, phase, bad, mode=mode, devices=2, times=1)
    assert (int(after.step), int(after.phase_step), int(sums["skipped"])) == (1, 1, 1)
    chex.assert_trees_all_equal(
        after.replace(step=before.step, phase_step=before.phase_step), before
    )
    for name, value in sums.items():
        assert name == "skipped" or not np.any(value), name
    _, sums = take(arch, phase, batch(), mode=mode, devices=2, times=1)
    assert int(sums["skipped"]) == 0 and int(sums["steps"]) == 1


def test_frozen_parts_keep_every_bit():
    arch = small_arch()
    phase = make_phase(arch, trainable=("head",), ema_decay=0.5)
    before = jax.device_get(states.create(arch, phase, 0, ema=True))
    after, _ = take(arch, phase, batch())
    for name in before.params:
        if name == "head":
            assert not np.array_equal(
                before.params[name]["conv"]["kernel"], after.params[name]["conv"]["kernel"]
            )
            continue
        chex.assert_trees_all_equal(before.params[name], after.params[name])
        chex.assert_trees_all_equal(before.batch_stats[name], after.batch_stats[name])
        chex.assert_trees_all_equal(before.ema["params"][name], after.ema["params"][name])
    shapes = {x.shape for x in jax.tree.leaves(after.opt_state)}
    assert before.params["block_00"]["conv1"]["kernel"].shape not in shapes


def test_frozen_parts_cost_no_backward_pass():
    arch = small_arch()

    def convolutions(trainable):
        phase = make_phase(arch, trainable=trainable)
        state = states.create(arch, phase, 0, ema=False)
        text = str(jax.make_jaxpr(phase.make_step(arch, phase))(state, batch()))
        return text.count("conv_general_dilated[")

    forward = sum(len(spec.layers) for spec in steps.zoo.blocks(arch))
    assert convolutions(("head",)) <= forward + 4
    assert convolutions(("*",)) > 2 * forward


def test_an_all_void_batch_moves_nothing_but_statistics():
    arch = small_arch()
    phase = make_phase(arch, optim=Optim(weight_decay=0.0))
    data = batch()
    data["label"] = np.full_like(data["label"], IGNORE_LABEL)
    before = jax.device_get(states.create(arch, phase, 0, ema=False))
    after, sums = take(arch, phase, data, ema=False)
    assert float(sums["loss_sum"]) == 0.0 and float(sums["loss_count"]) == 0.0
    chex.assert_trees_all_equal(before.params, after.params)
    chex.assert_tree_all_finite(after.batch_stats)


def test_micro_batches_of_frozen_statistics_give_the_whole_gradient(monkeypatch):
    """With batch norm in eval mode nothing couples images, so two halves must equal the whole."""
    arch = small_arch(dropout=0.0)
    module = zoo.module(arch, frozen=tuple(spec.name for spec in zoo.blocks(arch)))
    frozen_norms = lambda arch, **_: module  # noqa: E731
    monkeypatch.setattr(steps.zoo, "module", frozen_norms)
    results = []
    for parts in (1, 4):
        phase = make_phase(arch, accumulate=parts)
        results.append(take(arch, phase, batch(), times=1, ema=False))
    whole, whole_sums = results[0]
    for state, sums in results[1:]:
        chex.assert_trees_all_close(whole_sums, sums, rtol=1e-4)
        chex.assert_trees_all_close(whole.params, state.params, rtol=1e-4, atol=1e-6)


def test_micro_batches_that_do_not_divide_are_refused():
    arch = small_arch()
    phase = make_phase(arch, accumulate=3)
    with pytest.raises(UserError, match="divisor of the 4 images"):
        take(arch, phase, batch())


def test_the_loss_falls():
    arch = small_arch()
    phase = make_phase(arch, optim=Optim(name="adamw", learning_rate=1e-2, schedule="constant"))
    examples = [FakeSplit()[i] for i in range(4)]
    data = batch(height_px=40, width_px=48)
    data |= {k: np.stack([e[k] for e in examples]) for k in ("image", "label")}
    _, first = take(arch, phase, data, times=1)
    _, last = take(arch, phase, data, times=20)
    assert last["loss_sum"] / last["loss_count"] < 0.7 * first["loss_sum"] / first["loss_count"]


def test_no_recompilation_after_the_first_step():
    arch = small_arch()
    phase = make_phase(arch)
    parallel = Parallel.over("jit", 4)
    compiled = parallel.compile(functools.partial(phase.make_step, arch, phase))
    state = parallel.put_state(states.create(arch, phase, 0, ema=False))
    for seed in range(3):
        state, _ = compiled(state, parallel.put_batch(batch(seed=seed)))
    assert compiled._cache_size() == 1


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_state_stays_float32(compute):
    arch = small_arch(compute=compute)
    phase = make_phase(arch)
    after, sums = take(arch, phase, batch())
    chex.assert_tree_all_finite(after.params)
    for leaf in jax.tree.leaves((after.params, after.batch_stats, after.ema)):
        assert leaf.dtype == np.float32
    assert sums["loss_sum"].dtype == np.float32


def test_lowers_for_every_platform():
    arch = small_arch()
    phase = make_phase(arch)
    step = phase.make_step(arch, phase)
    state = jax.eval_shape(lambda: states.create(arch, phase, 0, ema=True))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch())
    lowered = jax.jit(step).trace(state, shapes).lower(lowering_platforms=("cpu", "cuda", "tpu"))
    assert "convolution" in lowered.as_text()


def test_the_key_of_a_step_depends_on_the_step_alone():
    """Dropout differs between steps and not between runs."""
    arch = small_arch()
    phase = make_phase(arch)
    a, _ = take(arch, phase, batch())
    b, _ = take(arch, phase, batch())
    chex.assert_trees_all_equal(a.params, b.params)
    assert jnp.any(jax.random.fold_in(a.key, 0) != jax.random.fold_in(a.key, 1))
