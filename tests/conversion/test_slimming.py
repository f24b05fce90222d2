"""Fewer channels over the whole zoo: a shrunk network answers as the whole one with those channels at zero."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxseg.arch import count, from_json, to_json
from jaxseg.conversion import slimming
from jaxseg.conversion.channels import Channels
from jaxseg.errors import UserError
from jaxseg.models import mess, zoo
from tests.models.test_zoo import CHEAP, COVERING, STRIDE, K, filled, image


def network(name):
    arch = zoo.named(name, K, width=0.125, output_stride=STRIDE[name])
    if name == "deeplabv3plus_resnet18":  # with exits of both kinds
        designs = (mess.ExitDesign(2, 1, True), mess.ExitDesign(kind="dlb"))
        arch = mess.with_exits(arch, ("block_03", "block_05"), designs, width=0.125)
    return arch


def masked(channels, keep, variables):
    """The whole network's variables with all that gives a channel that goes set to zero."""
    variables = jax.tree.map(np.array, variables)
    for space, stays in keep.items():
        gone = np.setdiff1d(np.arange(channels.size(space)), stays)
        for block in channels.blocks:
            for layer in block.layers:
                start = 0
                for part in channels.of((block.name, layer.name)):
                    if part == space:
                        own = variables["params"][block.name][layer.name]
                        leaves = [*own.get("norm", own).values()]
                        for leaf in leaves:
                            leaf[..., start + gone] = 0
                    start += channels.size(part)
    return variables


def slimmed(arch, variables, share=0.34):
    channels = Channels(zoo.blocks(arch))
    spaces = slimming.prunable(channels)
    scores = slimming.importance(channels, variables["params"], spaces)
    remove = int(share * sum(map(len, scores.values())))
    keep = slimming.separated(arch, slimming.keep_largest(scores, remove), scores)
    return channels, keep


EVERY_DAY = ("deeplabv3plus_resnet18", "itnet", "lraspp_resnet18")
"""Sums, joins, exits; a loop; gates. The rest is run by `make slow`."""


@pytest.mark.parametrize(
    "name", [n if n in EVERY_DAY else pytest.param(n, marks=pytest.mark.slow) for n in COVERING]
)
def test_shrunk_is_masked(name):
    arch = network(name)
    variables = filled(arch)
    channels, keep = slimmed(arch, variables)
    small = slimming.shrunk(arch, keep)
    assert from_json(to_json(small)) == small
    if not keep:  # without norms nothing tells what a channel is worth
        assert small == arch and "vgg16" in name
        return

    def answers(arch, variables):
        run = jax.jit(lambda v, x: zoo.module(arch).apply(v, x)).lower(variables, image(64, 64))
        return jax.tree.leaves(run.compile(CHEAP)(variables, image(64, 64)))

    whole = answers(arch, masked(channels, keep, variables))
    cut = answers(small, slimming.cut(arch, keep, variables))
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())
    before, after = (count(zoo.blocks(a), 64, 64) for a in (arch, small))
    assert after.macs < 0.8 * before.macs and after.params < 0.8 * before.params


@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_width_belongs_to_a_layer(name):
    """What `shrunk` relies on: `widths` lists the layers' outputs in order."""
    arch = zoo.named(name, K, width=0.25)
    records = (*arch.backbone.blocks, arch.head)
    for block, record in zip(zoo.blocks(arch), records, strict=True):
        widths = [layer.out_channels for layer in block.layers if slimming.has_width(layer)]
        assert tuple(widths) == record.widths, block.name


@pytest.mark.parametrize("name", ["itnet", "lraspp_resnet18", "unet_resnet18"])
def test_spaces_cover_every_channel_once(name):
    arch = network(name)
    channels = Channels(zoo.blocks(arch))
    for block in channels.blocks:
        for layer in block.layers:
            given = sum(map(channels.size, channels.of((block.name, layer.name))))
            read = sum(map(channels.size, channels.read(block, layer)))
            assert given == layer.out_channels and read == layer.in_channels
    assert not set(slimming.prunable(channels)) & channels.fixed


def test_a_projection_stays_where_widths_would_become_equal():
    """Block 2 of a bottleneck ResNet projects 8 channels to 32 at stride 1; cut to 8 it would not."""
    arch = zoo.named("fcn_resnet50", K, width=0.125)
    variables = filled(arch)
    channels = Channels(zoo.blocks(arch))
    scores = slimming.importance(channels, variables["params"], slimming.prunable(channels))
    block = zoo.blocks(arch)[1]
    (space,) = channels.of((block.name, "sum"))
    keep = {space: np.argsort(-scores[space])[:8]}
    keep = {space: np.sort(keep[space])}
    with pytest.raises(slimming.OtherStructure):
        slimming.shrunk(arch, keep)
    mended = slimming.separated(arch, keep, scores)
    assert len(mended[space]) == 9 and set(keep[space]) < set(mended[space])
    rest = np.setdiff1d(np.arange(32), keep[space])
    assert max(rest, key=lambda c: scores[space][c]) in mended[space]
    slimming.shrunk(arch, mended)


def test_exactly_so_many_go_and_one_stays():
    """The specification's golden mask, ties by order, and a floor of one channel."""
    one, two = ("a", "x"), ("b", "y")
    keep = slimming.keep_largest({one: np.array([0.1, 0.2, 0.3, 0.4])}, 2)
    np.testing.assert_array_equal(keep[one], [2, 3])
    keep = slimming.keep_largest({one: np.array([0.5, 0.5]), two: np.array([0.5, 0.9])}, 2)
    np.testing.assert_array_equal(keep[one], [1])
    np.testing.assert_array_equal(keep[two], [1])
    keep = slimming.keep_largest({one: np.array([0.1, 0.2]), two: np.array([0.3, 0.9])}, 3)
    assert [len(keep[s]) for s in (one, two)] == [1, 1]


def test_channels_go_in_groups():
    """The least of a space first, until a multiple stays; by the mean of a group; nearest to what was asked."""
    one, two, tiny = ("a", "x"), ("b", "y"), ("c", "z")
    scores = {
        one: np.array([0.1, 0.9, 0.2, 0.8, 0.3, 0.7]),  # to 4 by 0.1 and 0.2
        two: np.array([0.25, 0.26, 0.27, 0.28, 5, 6, 7, 8]),  # to 4 by 0.25 to 0.28
        tiny: np.zeros(4),  # is a group already
    }
    kept = lambda remove: {  # noqa: E731
        s: list(c) for s, c in slimming.keep_largest(scores, remove, 4).items()
    }
    whole = {s: list(range(len(v))) for s, v in scores.items()}
    assert kept(0) == whole
    assert kept(1) == kept(2) == kept(3) == {**whole, one: [1, 3, 4, 5]}
    assert kept(4) == kept(99) == {**whole, one: [1, 3, 4, 5], two: [4, 5, 6, 7]}


def test_a_structure_is_kept_in_groups_too():
    arch = network("fcn_resnet18")
    channels = Channels(zoo.blocks(arch))
    spaces = slimming.prunable(channels)
    scores = slimming.importance(channels, filled(arch)["params"], spaces)
    sizes = set()
    for remove in range(0, sum(map(channels.size, spaces)), 50):
        keep = slimming.keep_largest(scores, remove, 4)
        keep = slimming.separated(arch, keep, scores, 4)
        slimming.shrunk(arch, keep)
        sizes |= {len(c) for c in keep.values()}
    assert len(sizes) > 4 and all(n % 4 == 0 for n in sizes)


def test_a_space_without_norms_cannot_be_judged():
    arch = network("fcn8s_vgg16")
    channels = Channels(zoo.blocks(arch))
    with pytest.raises(UserError, match="norm"):
        slimming.importance(channels, filled(arch)["params"], (("block_00", "conv"),))


def test_what_is_no_variable_stays():
    """An optimiser's counters, keys, other trees beside the parameters."""
    arch = network("fcn_resnet18")
    variables = filled(arch)
    _, keep = slimmed(arch, variables)
    tree = {"count": np.int32(3), "trace": variables["params"], "key": np.arange(2)}
    made = slimming.cut(arch, keep, tree)
    assert made["count"] == 3
    np.testing.assert_array_equal(made["key"], tree["key"])
    small = dataclasses.replace(slimming.shrunk(arch, keep))
    shapes = jax.tree.map(np.shape, zoo.init(small, jax.random.PRNGKey(0))["params"])
    assert jax.tree.map(np.shape, made["trace"]) == shapes
