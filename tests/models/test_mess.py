"""Early exits: the published operation counts (M1), the space of heads (M2), and networks with exits over the zoo."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import pytest

from jaxseg.arch import count, from_json, to_json, train_macs
from jaxseg.errors import UserError
from jaxseg.models import mess, zoo
from jaxseg.models.mess import DLB, FCN, ExitDesign
from tests.models.test_zoo import CHEAP, COVERING, EXAMPLE, K, filled, image, small

GIGA = 1e9
# After b09, b11, .. b16; 'E1' is the first of them.
PUBLISHED_EXITS = (*mess.DRN50_EXITS, "block_16")

# 10^9 operations of every head by input channels, kind and reduction, for 0 to 3 extra blocks; global pooling not
# counted (derived from the paper's printed numbers; see the notes in `models.heads.mess`).
HEADS = {
    (1024, FCN, 1): (9.6878, 14.2638, 18.8398, 23.4158),
    (1024, FCN, 2): (4.5755, 5.7226, 6.8697, 8.0169),
    (1024, FCN, 4): (1.6838, 1.9721, 2.2605, 2.5488),
    (1024, FCN, 8): (0.6909, 0.7638, 0.8366, 0.9095),
    (1024, DLB, 1): (33.8577, 38.4337, 43.0097, 47.5857),
    (1024, DLB, 2): (20.9727, 22.1198, 23.2670, 24.4141),
    (1024, DLB, 4): (12.3827, 12.6711, 12.9594, 13.2478),
    (1024, DLB, 8): (8.0877, 8.1606, 8.2335, 8.3063),
    (2048, FCN, 1): (38.7029, 56.9817, 75.2605, 93.5393),
    (2048, FCN, 2): (18.2777, 22.8537, 27.4297, 32.0057),
    (2048, FCN, 4): (6.7229, 7.8701, 9.0172, 10.1644),
    (2048, FCN, 8): (2.7575, 3.0459, 3.3342, 3.6226),
    (2048, DLB, 1): (63.9228, 82.2015, 100.4803, 118.7591),
    (2048, DLB, 2): (42.4477, 47.0237, 51.5996, 56.1756),
    (2048, DLB, 4): (23.1202, 24.2673, 25.4145, 26.5616),
    (2048, DLB, 8): (13.4564, 13.7448, 14.0332, 14.3215),
}

# Share of the backbone's work at the published exits, in percent (Fig. 3).
PUBLISHED_SHARES = (20.35, 29.50, 38.66, 63.42, 81.71, 100.0)

# (exit, design) -> what is counted -> (derived, printed in the paper or None), 10^9 operations.
CASES = [
    ("E1", ExitDesign(2, 3), "head", 8.016888, 8.01),
    ("E1", ExitDesign(2, 3), "early", 28.349825, 28.34),
    ("E3", ExitDesign(8, 0), "head", 0.690881, 0.69),
    ("E3", ExitDesign(8, 0), "early", 39.327760, 39.32),
    ("E3", ExitDesign(8, 0), "final", 139.326259, 139.33),
    ("E1", ExitDesign(4, 3), "head", 2.548826, 2.54),
    ("E1", ExitDesign(4, 2), "head", 2.260467, None),
    ("E5", ExitDesign(2, 3), "early", 113.659347, 113.65),
    ("E6", ExitDesign(8, 1, kind=DLB), "early", 113.678288, None),
    ("E5", ExitDesign(2, 0, kind=DLB), "early", 124.105525, 124.10),
    ("E4", ExitDesign(1, 1), "head", 56.9817, None),
    ("E5", ExitDesign(1, 2), "head", 75.2605, None),
]


@functools.cache
def drn50():
    return zoo.named("fcn_resnet50", 21)


@functools.cache
def costs_at(exit_name, design):
    """Costs of the DRN-50 with one exit; 'E6' is behind the last block, where there is no early exit."""
    block = PUBLISHED_EXITS[int(exit_name[1]) - 1]
    head = mess.exit_head(drn50().backbone, block, design)
    arch = dataclasses.replace(drn50(), exits=(head,))
    return mess.costs(arch, (512, 512), unit=lambda counts: counts.operations)


# --- M1 ---


@pytest.mark.parametrize("at, design, what, derived, printed", CASES)
def test_published_operations_of_exits(at, design, what, derived, printed):
    found = costs_at(at, design)
    values = {
        "head": found.heads[0],
        "early": found.budgeted(0),
        "final": found.anytime((0, 1)),
    }
    np.testing.assert_allclose(values[what] / GIGA, derived, atol=1e-4)
    if printed is not None:
        np.testing.assert_allclose(values[what] / GIGA, printed, atol=0.02)


@pytest.mark.parametrize("channels, kind, reduction", HEADS)
def test_every_head_of_the_space(channels, kind, reduction):
    at = {1024: "block_09", 2048: "block_14"}[channels]
    for blocks, expected in enumerate(HEADS[channels, kind, reduction]):
        for rapid in (False, True):
            design = ExitDesign(reduction, blocks, rapid, kind)
            arch = mess.with_exits(drn50(), (at,), (design,))
            found = count(zoo.blocks(arch), 512, 512, roles=("exit",))
            np.testing.assert_allclose(
                (found.macs + 2 * found.norm_elements) / GIGA, expected, atol=1e-4
            )
            pooled = (64 * 64 + 1) * channels // reduction if kind == DLB else 0
            assert found.pool_elements == pooled


def test_published_shares_of_the_exits():
    work = [c.operations for c in mess.cumulative(drn50(), (512, 512))]
    at = [int(name[-2:]) for name in PUBLISHED_EXITS]
    np.testing.assert_allclose(
        [100 * work[i] / work[-1] for i in at], PUBLISHED_SHARES, atol=0.0101
    )


@pytest.mark.parametrize(
    "name, printed, derived",
    [
        ("fcn_resnet50", 138.63, 138.635379),
        ("deeplabv3_resnet50", 163.86, 163.863596),
        ("fcn_mobilenet_v2", 8.78, 8.786674),
    ],
)
def test_published_operations_of_whole_networks(name, printed, derived):
    arch = zoo.named(name, 21, output_stride=8)
    total = mess.costs(arch, (512, 512), unit=lambda c: c.operations).final_only() / GIGA
    np.testing.assert_allclose(total, derived, atol=1e-6)
    np.testing.assert_allclose(total, printed, atol=0.02)


def test_published_operations_of_the_mobilenet_trunk():
    work = mess.cumulative(zoo.named("fcn_mobilenet_v2", 21, output_stride=8), (512, 512))
    np.testing.assert_allclose(work[-1].operations / GIGA, 7.835419, atol=1e-6)


# --- M2 ---


def test_the_space_has_56_distinct_heads():
    designs = mess.space()
    assert len(mess.REDUCTIONS) * len(mess.EXTRA_BLOCKS) * 2 * len(mess.KINDS) == 64
    assert len(designs) == len(set(designs)) == 56
    assert ExitDesign(2, 0, True) == ExitDesign(2, 0, False)
    assert ExitDesign(2, 1, True) != ExitDesign(2, 1, False)
    heads = {mess.exit_head(drn50().backbone, "block_09", design) for design in designs}
    # One extra block has the same dilation with and without RDI.
    same = sum(d.extra_blocks == 1 and d.rapid_dilation for d in designs)
    assert len(heads) == 56 - same == 48
    assert len(mess.space(rapid_dilations=(False,), kinds=(FCN,))) == 16


def test_dilations_start_from_the_stage_and_double():
    def rates(at, **options):
        return mess.exit_head(drn50().backbone, at, ExitDesign(1, 3, **options)).rates

    assert rates("block_09") == (2, 2, 2)
    assert rates("block_09", rapid_dilation=True) == (2, 4, 8)
    # The first block of a dilated stage keeps the dilation before it; the exit behind it does not.
    assert rates("block_14") == (4, 4, 4)
    assert rates("block_16", rapid_dilation=True, kind=DLB) == (4, 8, 16, 12, 24, 36)
    assert rates("block_02") == (1, 1, 1)


# --- Placement ---


def test_placement_published_and_nearest():
    assert mess.placement(drn50(), 6) == mess.DRN50_EXITS
    # What the paper's list is not: the nearest block, here with the stage's last blocks all the same.
    other = dataclasses.replace(
        drn50(), backbone=dataclasses.replace(drn50().backbone, name="other")
    )
    nearest = tuple(f"block_{i:02d}" for i in (8, 12, 13, 14, 15))
    assert mess.placement(other, 6) == nearest


@pytest.mark.parametrize("name", sorted(zoo.NAMES))
def test_placement_is_distinct_and_ordered(name):
    arch = zoo.named(name, K, width=0.125)
    blocks = len(arch.backbone.blocks)
    for number in (2, 3, blocks):
        places = mess.placement(arch, number, (64, 64))
        assert len(set(places)) == number - 1 and list(places) == sorted(places)
        assert places[-1] < f"block_{blocks - 1:02d}"
    with pytest.raises(UserError, match="number of exits: got 1"):
        mess.placement(arch, 1)


# --- Networks ---


@functools.cache
def exited(name):
    """(arch, variables) of a small network with two exits, one of each kind; those of the plain one are the same."""
    plain, _, variables = small(name)
    at = mess.placement(plain, 3, (64, 64))
    arch = dataclasses.replace(
        plain,
        exits=(
            mess.exit_head(plain.backbone, at[0], ExitDesign(2, 2, True)),
            mess.exit_head(plain.backbone, at[1], ExitDesign(1, 1, kind=DLB), 0.125),
        ),
    )
    mine = filled(arch)
    merged = {kind: mine[kind] | variables[kind] for kind in mine}
    return arch, merged


@pytest.mark.parametrize("name", COVERING)
def test_exits_leave_the_final_answer_as_it_was(name):
    plain, net, variables = small(name)
    arch, more = exited(name)
    assert from_json(to_json(arch)) == arch
    x = image()

    def answers(module, variables):
        # Unfused, so that the programs differ in nothing but what exits add.
        return jax.jit(module.apply, compiler_options=CHEAP)(variables, x)

    before, after = answers(net, variables), answers(zoo.module(arch), more)
    np.testing.assert_array_equal(before.logits, after.logits)
    strides = {spec.name: spec.out_stride for spec in zoo.blocks(arch)}
    assert set(after.exits) == {"exit_0", "exit_1"}
    for exit_name, logits in after.exits.items():
        side = -(-64 // strides[exit_name])
        chex.assert_shape(logits, (x.shape[0], side, side, K))
    made = jax.eval_shape(lambda: zoo.init(arch, jax.random.PRNGKey(0)))
    traced = jax.eval_shape(zoo.module(arch).init, jax.random.PRNGKey(0), x)
    chex.assert_trees_all_equal_shapes_and_dtypes(traced, {k: v for k, v in made.items() if v})


@pytest.mark.parametrize("name", sorted(zoo.NAMES))
def test_every_network_can_have_exits(name):
    plain = zoo.named(name, K, width=0.125)
    arch = mess.with_exits(plain, mess.placement(plain, 3, (64, 64)), (ExitDesign(4, 1),))
    shapes = jax.eval_shape(lambda: zoo.init(arch, jax.random.PRNGKey(0)))
    outputs = jax.eval_shape(zoo.module(arch).apply, shapes, image())
    assert len(outputs.exits) == 2
    specs = {spec.name: spec for spec in zoo.blocks(arch)}
    assert [specs[f"exit_{i}"].role for i in (0, 1)] == ["exit", "exit"]
    assert zoo.blocks(arch)[: len(plain.backbone.blocks) + 1] == zoo.blocks(plain)


def test_the_network_may_be_run_in_parts():
    arch, variables = exited(EXAMPLE)
    net, x = zoo.module(arch), image()
    number = len(arch.backbone.blocks)
    whole_carry, whole = net.apply(variables, x, 0, number, method="run")
    k = mess.exit_block(arch, 0) + 1
    front = {
        "params": {n: v for n, v in variables["params"].items() if n[:6] == "block_" and n[6:] < f"{k:02d}"},
        "batch_stats": variables["batch_stats"],
    }  # fmt: skip
    carry, taps = net.apply(front, x, 0, k, method="run")
    carry, rest = net.apply(variables, carry, k, number, method="run")
    chex.assert_trees_all_equal(taps | rest, whole)
    chex.assert_trees_all_equal(carry, whole_carry)
    early = net.apply(variables, "exit_0", taps, method="score")
    np.testing.assert_array_equal(early, net.apply(variables, "exit_0", whole, method="score"))


@pytest.mark.parametrize(
    "chosen, final", [((1,), False), ((0, 1), False), ((0,), True), ((), True)]
)
def test_a_sub_network_answers_as_the_whole_one(chosen, final):
    arch, variables = exited(EXAMPLE)
    part, fewer = mess.sub_network(arch, variables, chosen, final=final)
    x = image()
    whole = zoo.module(arch).apply(variables, x)
    answers = zoo.module(part).apply(fewer, x)
    names = [f"exit_{i}" for i in chosen]
    expected = [whole.exits[name] for name in names] + [whole.logits] * final
    found = [answers.exits[f"exit_{i}"] for i in range(len(answers.exits))] + [answers.logits]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert set(fewer["params"]) == {spec.name for spec in zoo.blocks(part)}
    if not final:
        assert len(part.backbone.blocks) == mess.exit_block(arch, chosen[-1]) + 1
        whole_costs, part_costs = (mess.costs(a, (64, 64)) for a in (arch, part))
        assert part_costs.final_only() == whole_costs.budgeted(chosen[-1])


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda a, v: mess.with_exits(a, ("block_05", "block_02"), mess.space()), "in the order"),
        (lambda a, v: mess.with_exits(a, ("block_08",), mess.space()), "before block_08"),
        (lambda a, v: mess.with_exits(a, ("block_5",), mess.space()), "block for an exit"),
        (lambda a, v: mess.sub_network(a, v, (1, 0), final=True), "in order"),
        (lambda a, v: mess.sub_network(a, v, (2,), final=True), "exit: got 2; expected 0 to 1"),
        (lambda a, v: mess.sub_network(a, v, (), final=False), "at least one"),
        (lambda a, v: ExitDesign(3), "reduction of an exit: got 3"),
        (lambda a, v: ExitDesign(kind="fnc"), "did you mean 'fcn'"),
    ],
)
def test_mistakes_are_one_line(act, words):
    with pytest.raises(UserError, match=words) as error:
        act(*exited(EXAMPLE))
    assert "\n" not in str(error.value)


# --- Costs (table 1) ---


def test_a_head_that_does_not_learn_costs_nothing_in_training():
    """Stage 2: everything frozen runs forward once, the heads that learn forward and for their weights."""
    arch, _ = exited(EXAMPLE)
    arch = dataclasses.replace(arch, aux=())
    specs = {spec.name: spec for spec in zoo.blocks(arch)}
    frozen = count(specs.values(), 64, 64).macs
    learns = count([specs["exit_1"]], 64, 64, roles=("exit",)).macs
    assert train_macs(specs.values(), 64, 64, "exit_1".__eq__) == frozen + 2 * learns


def test_the_mean_of_what_images_cost_is_the_formula():
    costs = mess.Costs((10.0, 40.0, 70.0, 100.0), (3.0, 5.0, 7.0, 20.0))
    taken = np.array([0, 0, 2, 1, 0, 2, 0, 0])
    for chosen in ((0, 1, 3), (0, 2, 3), (1, 2, 3)):
        paths = costs.paths(chosen)
        past = [np.mean(taken > place) for place in range(len(chosen))]
        mean = np.mean([paths[place] for place in taken])
        np.testing.assert_allclose(costs.input_dependent(chosen, past), mean, rtol=1e-12)
        np.testing.assert_allclose(costs.input_dependent(chosen, [1, 1, 0]), costs.anytime(chosen))
        np.testing.assert_allclose(
            costs.input_dependent(chosen, [0, 0, 0]), costs.budgeted(chosen[0])
        )


def test_the_papers_example_of_input_dependent_inference():
    """Table 7: 23.02 GFLOPs on average follow from E1, CRM/4, 3 blocks and 0.12 % of images going on."""
    found = costs_at("E1", ExitDesign(4, 3))
    np.testing.assert_allclose(found.input_dependent((0, 1), (0.00121, 0)) / GIGA, 23.02, atol=0.01)
