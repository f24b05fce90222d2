"""Slimming while training: events cut everything along, resuming is exact, off is the plain run bit for bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.arch import BackboneArch, BlockArch, HeadArch
from jaxseg.conversion.channels import Channels
from jaxseg.errors import UserError
from jaxseg.inference.artifact import load_model
from jaxseg.methods import dance
from jaxseg.models import zoo
from jaxseg.training import run
from jaxseg.training import state as states
from jaxseg.training.phases import total_steps
from tests.fakes import NUM_CLASSES, small_arch
from tests.training.test_run import phase, plan, run_in_pieces

ALL = functools.partial(dance.Settings, scope="all", l1=1e-4)


def aspp_arch():
    """With a module that looks at several scales."""
    small = small_arch()
    head = HeadArch("deeplabv3", ("block_02",), (8,) * 7, (1, 2, 3))
    blocks = (*small.backbone.blocks[:2], BlockArch("basic", (16, 16), stride=2))
    return small.__class__(NUM_CLASSES, BackboneArch("tiny", blocks), head)


def slimmed_plan(settings, arch=None, steps=8):
    arch = arch or small_arch()
    return plan(dance.slimmed([phase("main", steps)], arch, settings), arch)


def test_pieces_are_one_phase_cut():
    pieces = dance.slimmed([phase("main", 100)], small_arch(), ALL(share=0.5))
    assert [p.steps for p in pieces] == [10, 20, 30, 40, 50, 100]
    assert total_steps(pieces) == 100 and {p.schedule_steps for p in pieces} == {100}
    assert [p.goes_on for p in pieces] == [False] + [True] * 5
    assert pieces[0].on_enter is None and not any(p.fresh_optimiser for p in pieces[1:])
    total = sum(map(Channels(zoo.blocks(small_arch())).size, dance.in_scope(small_arch(), "all")))
    left = [p.on_enter.keywords["left"] for p in pieces[1:]]
    assert left == [total - int(share * total) for share in (0.1, 0.2, 0.3, 0.4, 0.5)]


def test_off_is_the_plain_run():
    main = [phase("main", 8)]
    assert dance.slimmed(main, small_arch(), dance.Settings()) == tuple(main)


def test_a_cut_phase_without_events_is_the_whole_one_bit_for_bit(tmp_path):
    """Pieces see the batches, rates and keys of the phase that they are cut from."""
    run.train(tmp_path / "whole", plan([phase("main", 8)]))
    keep_all = dance.slimmed([phase("main", 8)], small_arch(), ALL(share=1e-9, l1=0.0, events=2))
    run.train(tmp_path / "pieces", plan(keep_all))
    # (The states differ in one number, the steps done in the phase.)
    whole, pieces = (load_model(tmp_path / name / "model")[:2] for name in ("whole", "pieces"))
    assert whole[0] == pieces[0]
    jax.tree.map(np.testing.assert_array_equal, whole[1], pieces[1])


def test_channels_go_and_training_goes_on(tmp_path):
    settings = ALL(share=0.5, events=2)
    record = run.train(tmp_path, slimmed_plan(settings))
    arch, variables, _ = load_model(tmp_path / "model")
    sizes = [layer.out_channels for b in zoo.blocks(arch) for layer in b.layers]
    before = [layer.out_channels for b in zoo.blocks(small_arch()) for layer in b.layers]
    assert sum(sizes) < sum(before)
    plain = run.train(tmp_path / "plain", plan([phase("main", 8)]))
    assert record["train_macs"] < plain["train_macs"]
    out = zoo.module(arch).apply(variables, jnp.zeros((1, 32, 32, 3)))
    assert np.isfinite(out.logits).all()


@pytest.mark.parametrize(
    "stops",
    [(2, 4), *(pytest.param(s, marks=pytest.mark.slow) for s in ((1,), (2,), (3, 4), (5,)))],
)
def test_resuming_is_exact_across_events(tmp_path, stops):
    """Stops before, at and behind events, which lie after 2 and 4 of 8 steps."""
    make = functools.partial(slimmed_plan, ALL(share=0.5, events=2))
    straight = run.train(tmp_path / "straight", make())
    resumed = run_in_pieces(tmp_path / "pieces", make, stops)
    assert resumed["state_digest"] == straight["state_digest"]
    assert resumed["train_macs"] == straight["train_macs"]


def test_an_event_cuts_everything_along():
    arch, main = small_arch(), phase("main", 8)
    state = states.create(arch, main, 0, ema=True)
    spaces = dance.in_scope(arch, "all")
    channels = Channels(zoo.blocks(arch))
    total = sum(map(channels.size, spaces))
    small, cut = dance.remove(arch, state, spaces=spaces, left=total // 2)
    shapes = jax.eval_shape(lambda: states.create(small, main, 0, ema=True))
    assert jax.tree.map(jnp.shape, cut) == jax.tree.map(lambda x: x.shape, shapes)
    assert sum(map(Channels(zoo.blocks(small)).size, spaces)) == total // 2


def test_an_event_leaves_multiples():
    arch, main = small_arch(), phase("main", 8)
    state = states.create(arch, main, 0, ema=False)
    spaces = dance.in_scope(arch, "all")
    before = list(map(Channels(zoo.blocks(arch)).size, spaces))
    small, _ = dance.remove(arch, state, spaces=spaces, left=sum(before) // 2, multiple=4)
    after = list(map(Channels(zoo.blocks(small)).size, spaces))
    assert after != before and abs(sum(after) - sum(before) // 2) <= 2
    assert all(a % 4 == 0 or a == b < 4 for a, b in zip(after, before, strict=True))


def test_a_multiple_that_no_layer_has():
    with pytest.raises(UserError, match=r"dance\.network\.multiple"):
        dance.slimmed([phase("main", 8)], small_arch(), ALL(share=0.5, events=1, multiple=1024))


def test_the_scope_of_several_scales_is_the_aspp():
    spaces = dance.in_scope(aspp_arch(), "multi_scale")
    assert {name for _, name in spaces} == {"aspp_0", "aspp_1", "aspp_2", "aspp_3", "aspp_pool"}
    with pytest.raises(UserError, match=r"scope=all"):
        dance.in_scope(small_arch(), "multi_scale")


def test_scales_are_drawn_to_zero():
    params = {"head": {"conv": {"norm": {"scale": jnp.array([1.0, -2.0])}}}}
    value = dance.absolute_scales(params, layers=(("head", "conv"),), weight=0.5)
    assert value == 1.5


@pytest.mark.parametrize(
    "changes",
    [
        {"share": 1.0},
        {"share": -0.1},
        {"events": 0},
        {"done": 0.0},
        {"done": 1.0},
        {"stable": 1.0},
        {"look_every": -1},
        {"multiple": 0},
        {"l1": -1.0},
        {"scope": "x"},
    ],
)
def test_mistakes_are_one_line(changes):
    with pytest.raises(UserError) as error:
        dance.Settings(**changes)
    assert "dance.network" in str(error.value) and "\n" not in str(error.value)


def test_more_events_than_steps():
    with pytest.raises(UserError, match=r"events"):
        dance.slimmed([phase("main", 8)], small_arch(), ALL(share=0.5, events=6))


def test_coupling():
    assert dance.coupled(0.5, dance.FULL_DATA) == pytest.approx(0.5)
    assert dance.coupled(0.5, 1.0) == 0.0
    assert dance.coupled(0.7, 0.25) == dance.MOST
