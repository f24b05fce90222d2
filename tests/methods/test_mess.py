"""MESS on phases: who learns in which step (M3), what stays frozen (M4), the loss of stage 2 and its limits (M5)."""

import functools
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.data.plan import TrainPlan
from jaxseg.errors import UserError
from jaxseg.methods import mess as method
from jaxseg.methods.mess import ExitLoss, Settings
from jaxseg.models import mess, zoo
from jaxseg.models.mess import DLB, ExitDesign
from jaxseg.objectives import losses
from jaxseg.training import state as states
from jaxseg.training import steps
from jaxseg.training.loss import Loss
from jaxseg.training.optim import Optim
from jaxseg.training.parallel import Parallel
from jaxseg.training.phases import Phase
from jaxseg.types import IGNORE_LABEL, Outputs
from tests.fakes import batch, small_arch

OPTIM = Optim(learning_rate=0.05, weight_decay=0.01)
PLACES = ("block_00", "block_01")
DESIGNS = (ExitDesign(), ExitDesign(1, 1), ExitDesign(1, 0, kind=DLB))
BASE = Loss(class_weights=(0.5, 1.0, 2.0))


def settings(**changes):
    options = {"num_exits": 3, "designs": DESIGNS, "steps": 3, "optim": OPTIM, "blocks": PLACES}
    return Settings(**(options | {"width": 1 / 32} | changes))


def run_of(ema_decay=0.0, **changes):
    """The phases of a small run with MESS: stage 1, then one phase per exit point."""
    make = functools.partial(
        steps.supervised, loss=BASE, mean=(0.5,) * 3, std=(0.25,) * 3, ema_decay=ema_decay
    )
    main = Phase("main", 4, make, TrainPlan(4, 4, seed=0, size_px=(32, 32)), OPTIM)
    return method.multi_exit((main,), settings(**changes), BASE)


def enter(phase, arch, state=None, ema=False):
    state = (
        states.create(arch, replace(phase, on_enter=None), 0, ema=ema) if state is None else state
    )
    return states.enter(phase, arch, state)


def take(phase, arch, state, times, mode="jit", devices=1):
    """The states after each step, on the host, and the last sums."""
    parallel = Parallel.over(mode, 4, jax.devices()[:devices])
    compiled = parallel.compile(functools.partial(phase.make_step, arch, phase))
    state, found, sums = parallel.put_state(state), [], None
    for i in range(times):
        state, sums = compiled(state, parallel.put_batch(batch(seed=i)))
        found.append(jax.device_get(state))
    return found, jax.device_get(sums)


def changed(a, b, name):
    same = jax.tree.map(np.array_equal, (a.params[name], a.batch_stats.get(name)),
                        (b.params[name], b.batch_stats.get(name)))  # fmt: skip
    return not all(jax.tree.leaves(same))


# --- The phases ---


def test_the_run_is_stage_1_and_a_phase_per_exit_point():
    main, *exits = run_of()
    assert [p.name for p in (main, *exits)] == ["main", "exits_1", "exits_2"]
    assert main.trainable == ("*",) and main.steps == 4
    assert [p.trainable for p in exits] == [
        ("exit_0", "exit_1", "exit_2"),
        ("exit_3", "exit_4", "exit_5"),
    ]
    assert exits[0].plan == exits[1].plan != main.plan
    plain, *_ = run_of(stage_1="none")
    assert plain.on_enter is None


def test_scaffolding_goes_and_candidates_come():
    main, first, second = run_of()
    arch, state = enter(main, small_arch())
    assert [h.kind for h in arch.exits] == ["mess_fcn"] * 2
    before = state.params
    arch, state = states.enter(first, arch, state)
    assert [h.inputs[0] for h in arch.exits] == ["block_00"] * 3 + ["block_01"] * 3
    assert set(state.params) == {spec.name for spec in zoo.blocks(arch)}
    for name in ("block_00", "block_02", "head"):
        chex.assert_trees_all_equal(before[name], state.params[name])
    made = jax.eval_shape(lambda: zoo.init(arch, jax.random.PRNGKey(0)))
    chex.assert_trees_all_equal_shapes_and_dtypes(
        made, {"params": state.params, "batch_stats": state.batch_stats}
    )
    again, same = states.enter(second, arch, state)
    assert again == arch
    chex.assert_trees_all_equal(same.params, state.params)


def test_heads_go_on_from_stage_1():
    """Those of its design, with their statistics and averages; all others are as fresh as without."""
    main, first, _ = run_of(ema_decay=0.5, stage_1="sum", go_on=True)
    arch, state = enter(main, small_arch(), ema=True)
    (*_, state), _ = take(main, arch, state, 2)
    kept = {"exit_0": "exit_0", "exit_3": "exit_1"}
    small, after = states.enter(first, arch, state)
    _, fresh = states.enter(run_of(ema_decay=0.5, stage_1="sum")[1], arch, state)
    for name in (f"exit_{i}" for i in range(6)):
        of, at = (state.ema, kept[name]) if name in kept else (vars(fresh), name)
        for kind, tree in {"params": after.params, "batch_stats": after.batch_stats}.items():
            chex.assert_trees_all_equal(tree[name], of[kind][at])
            chex.assert_trees_all_equal(after.ema[kind][name], of[kind][at])
    assert changed(after, fresh, "exit_0") and changed(after, fresh, "exit_3")
    after = jax.device_get(after)
    (*_, end), _ = take(first, small, after, 1)
    assert changed(end, after, "exit_0") and not changed(end, after, "exit_3")


def test_a_trained_network_needs_no_first_stage():
    """Heads that are added to it start and learn as those of a run that trained it."""
    _, *stage_2 = run_of()
    added = run_of(stage_1="skip")
    assert [p.name for p in added] == ["exits_1", "exits_2"]
    for ours, theirs in zip(added, stage_2, strict=True):
        assert (ours.plan, ours.steps, ours.trainable) == (
            theirs.plan,
            theirs.steps,
            theirs.trainable,
        )
    arch, state = enter(added[0], small_arch())
    _, same = states.enter(stage_2[0], *enter(run_of(stage_1="none")[0], small_arch()))
    assert len(arch.exits) == 6
    chex.assert_trees_all_equal(state.params, same.params)


def test_fresh_heads_depend_on_themselves_alone_and_are_fit_to_train():
    arch = mess.with_exits(small_arch(), PLACES, DESIGNS, width=1 / 32)
    alone = replace(arch, exits=arch.exits[4:5])
    key = np.array([1, 2], np.uint32)
    ours, its = (method.fresh_heads(a, key)["params"] for a in (arch, alone))
    chex.assert_trees_all_equal(ours["exit_4"], its["exit_0"])
    other = method.fresh_heads(arch, np.array([1, 3], np.uint32))["params"]
    assert not np.array_equal(ours["exit_0"]["conv"]["kernel"], other["exit_0"]["conv"]["kernel"])
    kernel = ours["exit_1"]["extra_0_conv2"]["kernel"]
    np.testing.assert_allclose(np.std(kernel), (2 / (9 * kernel.shape[-1])) ** 0.5, rtol=0.1)


def test_the_average_is_what_is_frozen():
    _, first, _ = run_of(stage_1="none")
    state = states.create(small_arch(), replace(first, trainable=("*",)), 0, ema=True)
    state = state.replace(ema=jax.tree.map(lambda x: x + 1, state.ema))
    arch, entered = states.enter(first, small_arch(), state)
    for name in ("block_01", "head"):
        chex.assert_trees_all_equal(entered.params[name], state.ema["params"][name])
        chex.assert_trees_all_equal(entered.batch_stats[name], state.ema["batch_stats"][name])
    assert set(entered.ema["params"]) == set(entered.params)


@pytest.mark.parametrize("phase", [0, 1])
def test_the_average_of_a_head_is_as_young_as_the_head(phase):
    """Entered late in a run, it forgets its random start as fast as in a run that begins with it."""
    one = run_of(stage_1="skip", ema_decay=0.999)[phase]
    attach = run_of(stage_1="skip")[0].on_enter
    arch, state = states.enter(replace(one, on_enter=attach), *enter(one, small_arch(), ema=True))
    found = []
    for step in (0, 12_000):
        late = jax.tree.map(jnp.copy, state).replace(step=jnp.int32(step))
        found.append(take(one, arch, late, 3)[0][-1])
    name = one.trainable[0]
    start = np.asarray(state.ema["params"][name]["conv"]["kernel"])
    moved = [np.linalg.norm(x.ema["params"][name]["conv"]["kernel"] - start) for x in found]
    learnt = [np.linalg.norm(x.params[name]["conv"]["kernel"] - start) for x in found]
    assert min(np.divide(moved, learnt)) > 0.5


def test_a_second_phase_goes_on_with_the_average_of_the_first():
    main = run_of(stage_1="none", ema_decay=0.999)[0]
    arch, state = enter(main, small_arch(), ema=True)
    state = state.replace(step=jnp.int32(12_000), ema=jax.tree.map(lambda x: x + 1, state.ema))
    before = np.array(state.ema["params"]["head"]["conv"]["kernel"])
    (after,), _ = take(main, arch, state, 1)
    kernel, mean = (tree["head"]["conv"]["kernel"] for tree in (after.params, after.ema["params"]))
    np.testing.assert_allclose(mean, 0.999 * before + 0.001 * kernel, rtol=1e-5)


# --- M3: stage 1 ---


def test_exit_weights_of_every_form():
    early = 5
    total = np.zeros(early)
    for j in range(2 * early):
        weights, final = method.exit_weights("round_robin", jnp.int32(j), early)
        assert weights[j % early] == 1 and weights.sum() == 1 and final == 1
        total += weights
        printed, final = method.exit_weights("printed", jnp.int32(j), early)
        np.testing.assert_array_equal(printed, [j % i == 0 for i in range(1, early + 1)])
        assert final == early
        everything, final = method.exit_weights("sum", jnp.int32(j), early)
        assert np.all(everything == 1) and final == 1
    np.testing.assert_array_equal(total, 2)


def test_round_robin_moves_one_exit_a_step():
    main = run_of()[0]
    main = replace(main, optim=Optim(learning_rate=0.05, weight_decay=0.0, momentum=0.0))
    arch, state = enter(main, small_arch())
    start = jax.device_get(state)
    found = [start, *take(main, arch, start, 4)[0]]
    for j in range(4):
        moved = {n for n in found[0].params if changed(found[j], found[j + 1], n)}
        assert moved == {"block_00", "block_01", "block_02", "head", f"exit_{j % 2}"}


@functools.cache
def stage_1_gradients(form=None):
    """(arch, start, function of (params, step) -> ((loss, statistics), gradients)); None = by the whole network."""
    arch, state = enter(run_of()[0], small_arch(dropout=0.0))
    module, data, key = zoo.module(arch), batch(), jax.random.PRNGKey(0)
    image = jnp.asarray(data["image"], jnp.float32) / 255
    counts = BASE.counts(data)

    def value(params, step):
        variables = {"params": params, "batch_stats": state.batch_stats}
        totals, _, stats = method.exit_dropout(
            module, BASE, variables, image, data, key, steps.Now(step, key), form=form
        )
        return losses.mean(*BASE.pooled(totals, counts)), stats

    def whole(params, weights):
        variables = {"params": params, "batch_stats": state.batch_stats}
        outputs, _ = module.apply(variables, image, True, mutable=["batch_stats"])
        maps = [outputs.exits["exit_0"], outputs.exits["exit_1"], outputs.logits]
        totals = [BASE(Outputs(x, {}, {}), data)[0]["cross_entropy"] for x in maps]
        return jnp.dot(weights, jnp.stack(totals)) / counts["cross_entropy"], ()

    function = value if form else whole
    return arch, state, jax.jit(jax.value_and_grad(function, has_aux=True))


@pytest.mark.parametrize("form, step", [("round_robin", 1), ("printed", 1), ("sum", 0)])
def test_stage_1_is_the_weighted_sum(form, step):
    """Value and gradient equal those of the whole network with weights; dropped exits have none and stand still."""
    _, state, function = stage_1_gradients(form)
    (found, stats), grads = function(state.params, jnp.int32(step))
    weights, final = method.exit_weights(form, jnp.int32(step), 2)
    _, _, reference = stage_1_gradients()
    (expected, _), plain = reference(state.params, jnp.append(weights, final))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    chex.assert_trees_all_close(grads, plain, rtol=1e-3, atol=1e-5)
    active = {"round_robin": {1}, "printed": {0}, "sum": {0, 1}}[form]
    for i in range(2):
        size = sum(float(jnp.abs(g).sum()) for g in jax.tree.leaves(grads[f"exit_{i}"]))
        assert (size > 0) == (i in active)
        old, new = state.batch_stats[f"exit_{i}"], stats[f"exit_{i}"]
        still = jax.tree.leaves(jax.tree.map(np.array_equal, old, new))
        assert all(still) != (i in active)


# --- M4: stage 2 ---


@functools.cache
def stage_2(mode="jit", devices=1, dropout=0.0):
    """(arch, state at the start, states after each of 3 steps, sums) of the first exit point."""
    _, first, _ = run_of()
    arch, state = enter(first, small_arch(dropout=dropout), ema=True)
    start = jax.device_get(state)
    return arch, start, *take(first, arch, state, 3, mode, devices)


def test_stage_2_leaves_every_bit_of_the_rest():
    arch, start, found, sums = stage_2()
    for name in start.params:
        moved = name in ("exit_0", "exit_1", "exit_2")
        assert changed(start, found[-1], name) == moved, name
        same = jax.tree.map(
            np.array_equal, start.ema["params"][name], found[-1].ema["params"][name]
        )
        assert all(jax.tree.leaves(same)) != moved
    x = jnp.asarray(batch()["image"], jnp.float32) / 255
    module = zoo.module(arch)
    before, after = (
        jax.jit(module.apply)({"params": s.params, "batch_stats": s.batch_stats}, x).logits
        for s in (start, found[-1])
    )
    np.testing.assert_array_equal(before, after)
    assert sums["loss_sum"] > 0 and sums["loss_count/kept"] >= sums["loss_sum/kept"]


def test_a_head_alone_learns_what_it_learns_among_others():
    arch, _, found, _ = stage_2()
    index = 1
    _, first, _ = run_of(designs=DESIGNS[index : index + 1])
    own, state = enter(first, small_arch(dropout=0.0), ema=True)
    assert own.exits[0] == arch.exits[index]
    last = take(first, own, state, 3)[0][-1]
    chex.assert_trees_all_close(
        last.params["exit_0"], found[-1].params[f"exit_{index}"], rtol=1e-5, atol=1e-7
    )
    chex.assert_trees_all_close(
        last.batch_stats["exit_0"], found[-1].batch_stats[f"exit_{index}"], rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("stage", [1, 2])
def test_two_devices_equal_one(stage):
    phase = run_of(designs=DESIGNS[:1], blocks=PLACES[1:], num_exits=2)[stage - 1]
    arch, state = enter(phase, small_arch(dropout=0.0))
    start = jax.device_get(state)
    one, one_sums = take(phase, arch, start, 2)
    for mode in ("jit", "pmap"):
        two, two_sums = take(phase, arch, start, 2, mode, 2)
        chex.assert_trees_all_close(one_sums, two_sums, rtol=1e-4)
        chex.assert_trees_all_close(one[-1].params, two[-1].params, rtol=2e-3, atol=2e-5)
        chex.assert_trees_all_close(one[-1].batch_stats, two[-1].batch_stats, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("stage", [1, 2])
def test_lowers_for_every_platform(stage):
    phase = run_of()[0 if stage == 1 else 1]
    arch, state = enter(phase, small_arch())
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, batch()))
    traced = jax.jit(phase.make_step(arch, phase)).trace(*shapes)
    assert "convolution" in traced.lower(lowering_platforms=("cpu", "cuda", "tpu")).as_text()


# --- M5: the loss of stage 2 ---


def answers(teacher=None, seed=0):
    """Outputs with two exits at half the labels' size, and the batch."""
    rng = np.random.default_rng(seed)
    data = batch(height_px=16, width_px=16)
    maps = rng.normal(size=(3, 4, 8, 8, 3)).astype(np.float32)
    final = maps[2] if teacher is None else teacher(data["label"])
    return Outputs(final, {}, {"exit_0": maps[0], "exit_1": maps[1]}), data


def value(loss, outputs, data):
    return losses.mean(*loss.pooled(loss(outputs, data)[0], loss.counts(data)))


def always(shift):
    """A teacher that answers the label, moved on by `shift` classes."""
    return lambda label: 9 * np.eye(3, dtype=np.float32)[(label.astype(int) % 3 + shift) % 3]


def cross_entropy_of_exits(outputs, data, base=BASE):
    parts = (base(Outputs(x, {}, {}), data)[0] for x in outputs.exits.values())
    return sum(losses.mean(*base.pooled(t, base.counts(data))) for t in parts)


def test_pfd_with_a_right_teacher_and_alpha_1_is_cross_entropy():
    outputs, data = answers(lambda label: always(0)(np.where(label == IGNORE_LABEL, 0, label)))
    expected = cross_entropy_of_exits(outputs, data)
    for normalise in method.NORMALISATIONS:
        loss = ExitLoss(BASE, alpha=1.0, normalise=normalise)
        np.testing.assert_allclose(value(loss, outputs, data), expected, rtol=1e-5)


def test_pfd_with_a_wrong_teacher_has_no_cross_entropy():
    outputs, data = answers(lambda label: always(1)(np.where(label == IGNORE_LABEL, 0, label)))
    loss = ExitLoss(BASE, alpha=0.5)
    assert loss(outputs, data)[0]["label"] == 0
    assert value(ExitLoss(BASE, alpha=1.0), outputs, data) == 0
    assert value(ExitLoss(BASE, alpha=1.0, normalise="kept"), outputs, data) == 0
    np.testing.assert_allclose(
        value(loss, outputs, data), 0.5 * value(ExitLoss(BASE, kind="kd"), outputs, data), rtol=1e-6
    )


def test_the_other_losses_are_its_parts():
    outputs, data = answers()
    ce, kd, both = (value(ExitLoss(BASE, kind=k, alpha=0.3), outputs, data)
                    for k in ("ce", "kd", "ce+kd"))  # fmt: skip
    np.testing.assert_allclose(ce, cross_entropy_of_exits(outputs, data), rtol=1e-5)
    np.testing.assert_allclose(both, 0.3 * ce + 0.7 * kd, rtol=1e-5)
    assert value(ExitLoss(BASE, alpha=0.3), outputs, data) < both


def test_means_may_be_per_image_first():
    """Labels as in the run's own loss; the final answer's part is the mean of what images are worth alone."""
    outputs, data = answers()
    data["label"][0, :10] = IGNORE_LABEL
    data["weight"] = np.array([1.0, 0.5, 0.0, 2.0], np.float32)[: len(data["weight"])]
    base = replace(BASE, per_image=True)
    ce, kd = (value(ExitLoss(base, kind=k), outputs, data) for k in ("ce", "kd"))
    np.testing.assert_allclose(ce, cross_entropy_of_exits(outputs, data, base), rtol=1e-5)
    assert abs(ce - value(ExitLoss(BASE, kind="ce"), outputs, data)) > 1e-3
    alone = [
        value(ExitLoss(BASE, kind="kd"), *jax.tree.map(lambda x: x[i : i + 1], (outputs, data)))  # noqa: B023
        for i in range(len(data["weight"]))
    ]
    np.testing.assert_allclose(kd, np.average(alone, weights=data["weight"]), rtol=1e-5)


def test_an_exit_like_the_final_answer_is_at_rest_and_void_counts_nowhere():
    outputs, data = answers()
    loss = ExitLoss(BASE, alpha=0.0)
    same = outputs._replace(exits={"exit_0": outputs.logits})
    at_rest, gradient = jax.value_and_grad(
        lambda x: value(loss, same._replace(exits={"exit_0": x}), data)
    )(outputs.logits)
    np.testing.assert_allclose(at_rest, 0, atol=1e-7)
    np.testing.assert_allclose(gradient, 0, atol=1e-7)
    through = jax.grad(lambda t: value(ExitLoss(BASE), outputs._replace(logits=t), data))
    np.testing.assert_array_equal(through(outputs.logits), 0.0)
    void = data | {"label": np.full_like(data["label"], IGNORE_LABEL)}
    assert value(ExitLoss(BASE), outputs, void) == 0


def test_labels_may_be_sampled():
    outputs, data = answers()
    loss = ExitLoss(BASE, names=("exit_1",), label_stride=2)
    assert loss(outputs, data)[1].shape == data["label"].shape
    thin = data | {"label": data["label"][:, 1::2, 1::2]}
    expected = value(ExitLoss(BASE, names=("exit_1",)), outputs, thin)
    np.testing.assert_allclose(value(loss, outputs, data), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda: settings(stage_1="round-robin"), "did you mean 'round_robin'"),
        (lambda: settings(blocks=("block_00",)), "mess.blocks: got 1 names; expected num_exits - 1 = 2"),
        (lambda: settings(designs=()), "mess.heads"),
        (lambda: settings(optim=Optim(clip_norm=1.0)), "depend on each other"),
        (lambda: settings(go_on=True, stage_1="skip"), "mess.heads.go_on: got stage_1=skip"),
        (lambda: settings(go_on=True, designs=DESIGNS[1:]), "mess.heads.go_on"),
        (lambda: settings(alpha=1.5), "mess.alpha: got 1.5"),
        (lambda: settings(loss="pdf"), "did you mean 'pfd'"),
        (lambda: settings(normalise="all"), "unknown mess.normalise"),
        (lambda: settings(label_stride=0), "mess.label_stride"),
        (lambda: settings(blocks=("block_01", "block_00")).places(small_arch(), (32, 32)), "in the order"),
        (lambda: replace(settings(), num_exits=1), "mess.num_exits: got 1"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(act, words):
    with pytest.raises(UserError, match=words) as error:
        act()
    assert "\n" not in str(error.value)
