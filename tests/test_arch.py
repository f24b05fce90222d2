"""Architectures as values: JSON in and out, its errors, digests, conventions of counting."""

import dataclasses
import json
import subprocess
import sys

import pytest

from jaxseg.arch import (
    Arch,
    BackboneArch,
    BlockArch,
    BlockSpec,
    Counts,
    HeadArch,
    LayerSpec,
    count,
    digest,
    from_json,
    to_json,
    train_macs,
)
from jaxseg.errors import UserError
from jaxseg.numbers import NumbersArch

ARCH = Arch(
    num_classes=5,
    backbone=BackboneArch("tiny", (BlockArch("stem", (8,), stride=4), BlockArch("basic", (8, 16)))),
    head=HeadArch("deeplabv3", ("block_01",), (8,) * 7, rates=(6, 12, 18), dropout=0.5),
    aux=(HeadArch("fcn", ("block_00",), (8,)),),
    numbers=NumbersArch("bfloat16", norm_eps=1e-3),
)


def test_json_round_trip():
    text = to_json(ARCH)
    assert from_json(text) == ARCH
    assert to_json(from_json(text)) == text
    assert hash(from_json(text)) == hash(ARCH)


def test_json_is_stable_and_its_digest_tells_values_apart():
    assert to_json(dataclasses.replace(ARCH)) == to_json(ARCH)
    keys = list(json.loads(to_json(ARCH)))
    assert keys == sorted(keys)
    assert len(digest(ARCH)) == 16 and int(digest(ARCH), 16) >= 0
    assert digest(dataclasses.replace(ARCH, num_classes=6)) != digest(ARCH)


def test_whole_numbers_in_place_of_floats_are_the_same_architecture():
    whole = dataclasses.replace(ARCH, head=dataclasses.replace(ARCH.head, dropout=0))
    exact = dataclasses.replace(ARCH, head=dataclasses.replace(ARCH.head, dropout=0.0))
    assert digest(whole) == digest(exact)
    assert to_json(whole) == to_json(
        from_json(to_json(whole).replace('"dropout": 0.0', '"dropout": 0'))
    )


def test_fields_with_defaults_may_be_missing():
    record = json.loads(to_json(ARCH))
    for name in ("numbers", "aux", "exits", "family", "schema"):
        del record[name]
    del record["backbone"]["blocks"][0]["dilation"]
    arch = from_json(json.dumps(record))
    assert arch == dataclasses.replace(ARCH, aux=(), numbers=NumbersArch())


def edited(path: str, value: object) -> str:
    """The JSON of ARCH with the field at `path` set, or deleted where value is KeyError."""
    record = json.loads(to_json(ARCH))
    *parents, last = path.split(".")
    node = record
    for name in parents:
        node = node[int(name)] if name.isdigit() else node[name]
    if value is KeyError:
        del node[last]
    else:
        node[last] = value
    return json.dumps(record)


@pytest.mark.parametrize(
    "text, words",
    [
        ("{nope", ["not valid JSON"]),
        ("[1]", ["an architecture", "a list", "a JSON object"]),
        (edited("schema", 99), ["schema", "99", "expected 1"]),
        (
            edited("bakcbone", {}),
            ["unknown field of arch", "'bakcbone'", "did you mean 'backbone'"],
        ),
        (
            edited("backbone.blocks.1.strid", 2),
            ["arch.backbone.blocks[1]", "did you mean 'stride'"],
        ),
        (edited("num_classes", KeyError), ["arch", "lacks", "'num_classes'"]),
        (
            edited("backbone.blocks.0.kind", KeyError),
            ["arch.backbone.blocks[0]", "lacks", "'kind'"],
        ),
        (edited("num_classes", "5"), ["arch.num_classes", "'5'", "int"]),
        (edited("num_classes", True), ["arch.num_classes", "True", "int"]),
        (edited("num_classes", 2.0), ["arch.num_classes", "2.0", "int"]),
        (edited("num_classes", 256), ["num_classes", "256", "1 to 255"]),
        (edited("head", None), ["arch.head", "None", "an object"]),
        (edited("head.widths", 8), ["arch.head.widths", "a list"]),
        (edited("head.widths", [8, "8"]), ["arch.head.widths[1]", "'8'"]),
        (edited("head.dropout", 1.5), ["dropout", "1.5"]),
        (edited("numbers.compute", "bfloat"), ["compute", "did you mean 'bfloat16'"]),
    ],
)
def test_mistakes_are_one_line(text, words):
    with pytest.raises(UserError) as error:
        from_json(text)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_imports_no_jax():
    code = "import sys, jaxseg.arch; sys.exit(any(m.split('.')[0] == 'jax' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- Counting ---


def layer(name="conv", inp=3, out=8, kernel=(3, 3), groups=1, bias=False, norm=True, out_stride=2):
    return LayerSpec(name, inp, out, kernel, 1, 1, groups, bias, norm, out_stride)


def block(name, role="backbone", inputs=(), pool=None, layers=None):
    layers = layers or (layer(),)
    return BlockSpec(name, role, "any", layers, (), layers[-1].out_channels, 2, inputs, pool=pool)


@pytest.mark.parametrize(
    "spec, expected",
    [
        # 7 x 5 px at stride 2: a 4 x 3 grid
        (layer(), Counts(12 * 9 * 3 * 8, 9 * 3 * 8 + 16, 12 * 8, 0)),
        (layer(norm=False, bias=True), Counts(12 * 9 * 3 * 8, 9 * 3 * 8 + 8, 0, 0)),
        (layer(inp=8, groups=8), Counts(12 * 9 * 8, 9 * 8 + 16, 12 * 8, 0)),
        (layer(kernel=(1, 1), out_stride=0), Counts(3 * 8, 3 * 8 + 16, 8, 0)),
        (layer(kernel=(1, 3), out_stride=1), Counts(35 * 3 * 3 * 8, 3 * 3 * 8 + 16, 35 * 8, 0)),
    ],
)
def test_count_of_one_layer_by_hand(spec, expected):
    assert count([block("block_00", layers=(spec,))], 7, 5) == expected


def test_count_adds_up_over_blocks_of_the_wanted_roles():
    blocks = [block("block_00"), block("head", "head", pool=(8, 2)), block("aux_0", "aux")]
    one = count(blocks[:1], 7, 5)
    assert count(blocks, 7, 5) == one + one + Counts(pool_elements=(12 + 1) * 8)
    assert count(blocks, 7, 5, roles=("aux",)) == one
    assert sum([one, one], Counts()) == one + one


def test_layers_are_found_by_name():
    spec = block("block_00", layers=(layer("conv1"), layer("conv2", out=16)))
    assert spec.layer("conv2").out_channels == 16
    assert spec.has("conv1") and not spec.has("downsample")
    with pytest.raises(KeyError, match="downsample"):
        spec.layer("downsample")


@pytest.mark.parametrize(
    "trained, expected",
    [
        # units: MACs of one block; [block_00, block_01, block_02, head(02), aux(00), exit(01)]
        ("block_00 block_01 block_02 head aux_0 exit_0", 2 + 3 + 3 + 3 + 3 + 3),
        # an exit that does not learn does not run
        ("", 5),
        ("head", 5 + 1),
        ("aux_0", 5 + 1),
        ("exit_0", 5 + 2),
        # the weights of block_01 itself; inputs of block_02 and of head
        ("block_01", 5 + 1 + 2),
        ("block_02 head", 5 + 1 + 1 + 1),
    ],
)
def test_train_macs_by_hand(trained, expected):
    blocks = [
        *(block(f"block_{i:02d}") for i in range(3)),
        block("head", "head", ("block_02", "block_00")),
        block("aux_0", "aux", ("block_00",)),
        block("exit_0", "exit", ("block_01",)),
    ]
    unit = count(blocks[:1], 16, 16).macs
    assert train_macs(blocks, 16, 16, lambda n: n in trained.split()) == expected * unit


def test_train_macs_of_a_loop():
    """A loop alone learns from gradients that pass through itself; without it the gradient stops before."""
    loop = block("block_01")
    layers = tuple(dataclasses.replace(x, repeats=4) for x in loop.layers)
    loop = dataclasses.replace(loop, layers=layers)
    blocks = [block("block_00"), loop, block("head", "head", ("block_01",))]
    unit = count(blocks[:1], 16, 16).macs
    macs = {t: train_macs(blocks, 16, 16, t.split().__contains__) for t in ("", "head", "block_01")}
    assert macs == {"": 6 * unit, "head": 7 * unit, "block_01": (1 + 3 * 4 + 2) * unit}
