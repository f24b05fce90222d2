"""Networks whose blocks read several maps: what they carry, refuse and count, with exits and with fewer channels."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import pytest

from jaxseg.arch import IMAGE, BackboneArch, BlockArch, count, from_json, to_json, train_macs
from jaxseg.conversion.channels import Channels
from jaxseg.errors import UserError
from jaxseg.inference import multi_exit
from jaxseg.models import mess, zoo
from tests.models.test_zoo import CHEAP, K, filled, image, small

NAMES = ("bisenetv2", "ddrnet_23_slim")


def test_what_blocks_read_and_what_is_alive():
    plain = BlockArch("basic", (8, 8))
    meeting = dataclasses.replace(plain, inputs=("block_01", "block_00"))
    again = dataclasses.replace(plain, inputs=(IMAGE,))
    backbone = BackboneArch("any", (plain, plain, again, meeting, plain))
    assert [backbone.reads(i) for i in range(5)] == [
        (IMAGE,),
        ("block_00",),
        (IMAGE,),
        ("block_01", "block_00"),
        ("block_03",),
    ]
    assert [backbone.alive(i) for i in range(6)] == [
        (IMAGE,),
        (IMAGE, "block_00"),
        (IMAGE, "block_00", "block_01"),
        ("block_00", "block_01"),
        ("block_03",),
        ("block_04",),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_carry_is_what_is_still_to_be_read(name):
    arch, net, _ = small(name)
    variables = jax.eval_shape(lambda: filled(arch))
    specs = {spec.name: spec for spec in zoo.blocks(arch)}
    carry = image()
    for k in range(1, len(arch.backbone.blocks) + 1):
        run = functools.partial(net.apply, start=k - 1, stop=k, method="run")
        carry, _ = jax.eval_shape(run, variables, carry)
        alive = arch.backbone.alive(k)
        maps = carry if isinstance(carry, dict) else {f"block_{k - 1:02d}": carry}
        assert tuple(sorted(maps)) == tuple(sorted(alive))
        for block, x in maps.items():
            spec = specs.get(block)
            channels, stride = (spec.out_channels, spec.out_stride) if spec else (3, 1)
            chex.assert_shape(x, (4, -(-64 // stride), -(-64 // stride), channels))


@pytest.mark.parametrize(
    "name, block, change, words",
    [
        ("ddrnet_23_slim", 7, {"inputs": ("block_94",)}, ["input of block_07", "'block_94'"]),
        ("ddrnet_23_slim", 7, {"inputs": ("block_07",)}, ["input of block_07", "'block_07'"]),
        ("ddrnet_23_slim", 7, {"inputs": ("head",)}, ["input of block_07", "'head'"]),
        ("ddrnet_23_slim", 7, {"inputs": ("block_03", "block_04")}, ["1 block names"]),
        ("ddrnet_23_slim", 9, {"inputs": ()}, ["inputs of block_09 (ddrnet_down)", "2 block"]),
        ("ddrnet_23_slim", 9, {"inputs": ("block_06", "block_06")}, ["block_09", "of stride 16"]),
        ("ddrnet_23_slim", 10, {"widths": (32,)}, ["widths of block_10 (ddrnet_up)", "(32,)"]),
        ("ddrnet_23_slim", 0, {"stride": 2}, ["stride of block_00 (ddrnet_stem)", "got 2"]),
        ("ddrnet_23_slim", 19, {"widths": (8,) * 10 + (16,)}, ["block_19 (dappm)", "are added"]),
        ("bisenetv2", 4, {"widths": (16, 100, 32)}, ["block_04 (gather_expand)", "a multiple"]),
        ("bisenetv2", 5, {"widths": (32, 192, 64)}, ["without stride the last 32"]),
        ("bisenetv2", 12, {"widths": (64, 128)}, ["widths of block_12 (context)", "equal"]),
        ("bisenetv2", 13, {"inputs": ("block_02", "block_07")}, ["the strides", "(8, 16)"]),
        ("bisenetv2", 13, {"widths": (64, 128, 128, 128, 128)}, ["(guided)", "equal"]),
    ],
)
def test_mistakes_are_refused_before_tracing(name, block, change, words):
    arch = zoo.named(name, K)
    blocks = list(arch.backbone.blocks)
    blocks[block] = dataclasses.replace(blocks[block], **change)
    backbone = dataclasses.replace(arch.backbone, blocks=tuple(blocks))
    broken = from_json(to_json(dataclasses.replace(arch, backbone=backbone)))
    with pytest.raises(UserError) as error:
        zoo.blocks(broken)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_gradients_stop_where_a_branch_begins():
    """With the detail branch alone to learn, nothing before the aggregation needs a gradient of the other one."""
    specs = zoo.blocks(zoo.named("bisenetv2", K, width=0.125))
    detail = [spec.name for spec in specs if spec.kind == "conv_stage"]
    forward = {spec.name: count([spec], 64, 64, (spec.role,)).macs for spec in specs}
    learning = train_macs(specs, 64, 64, lambda name: name in detail)
    # Of the detail branch's first stage no gradient of its input.
    extra = sum(forward[n] for n in detail) + sum(forward[n] for n in detail[1:])
    extra += forward["block_13"] + forward["head"]
    assert learning == sum(forward.values()) + extra
    assert train_macs(specs, 64, 64, lambda name: name == "head") == (
        sum(forward.values()) + forward["head"]
    )


# --- Exits ---


@functools.cache
def exited(name):
    plain, _, variables = small(name, aux=False)
    blocks = len(plain.backbone.blocks)
    at = [f"block_{i:02d}" for i in (1, blocks // 2, blocks - 2)]
    arch = mess.with_exits(plain, at, [mess.ExitDesign(2, 1)])
    mine = filled(arch)
    return arch, {kind: mine[kind] | variables[kind] for kind in mine}


@pytest.mark.parametrize("name", NAMES)
def test_segments_between_exits_hand_on_all_maps(name):
    arch, variables = exited(name)
    x = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    mean, std = (0.5,) * 3, (0.25,) * 3
    segments = multi_exit.cut(arch, mean, std)

    @functools.partial(jax.jit, compiler_options=CHEAP)
    def both(variables, x):
        state, found = segments.start(variables, x), []
        for run in segments.runs:
            state, logits = run(variables, state)
            found.append(logits)
        outputs = zoo.module(arch).apply(variables, segments.start(variables, x)[0])
        return found, [*outputs.exits.values(), outputs.logits]

    in_parts, whole = both(variables, x)
    assert len(in_parts) == 4
    chex.assert_trees_all_close(in_parts, whole, rtol=1e-4, atol=1e-4)
    assert all(np.std(logits) > 0 for logits in in_parts)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_ends_at_an_exit(name):
    arch, variables = exited(name)
    part, fewer = mess.sub_network(arch, variables, [1], final=False)
    assert len(part.backbone.blocks) == mess.exit_block(arch, 1) + 1

    @functools.partial(jax.jit, compiler_options=CHEAP)
    def both(whole, fewer, x):
        return zoo.module(part).apply(fewer, x).logits, zoo.module(arch).apply(whole, x).exits

    alone, exits = both(variables, fewer, image())
    np.testing.assert_allclose(alone, exits["exit_1"], rtol=1e-4, atol=1e-4)


# --- Fewer channels ---


def test_expansions_keep_their_channels():
    """Which kernel of a grouped convolution belongs to which channel would change."""
    channels = Channels(zoo.blocks(zoo.named("bisenetv2", K, width=0.125)))
    block = next(b for b in channels.blocks if b.kind == "gather_expand")
    for layer in ("conv1", "expand"):
        assert set(channels.of((block.name, layer))) <= channels.fixed
    assert not set(channels.of((block.name, "project"))) & channels.fixed
    assert block.layer("expand").kernel_shape == (3, 3, 1, 48)
