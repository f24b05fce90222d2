"""One contract for every named network: the tests run over the registry, at 1/8 width and 64 px."""

import dataclasses
import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.arch import from_json, to_json
from jaxseg.errors import UserError
from jaxseg.layers.conv import conv2d
from jaxseg.models import zoo
from jaxseg.models.backbones.inverted import efficientnet_lite0, mobilenet_v2
from jaxseg.models.backbones.resnet import resnet
from jaxseg.models.backbones.vgg import vgg16
from jaxseg.models.heads.fcn import fcn_head
from jaxseg.models.networks import output_strides

K = 5
BATCH = 4
# The least that each network can have: dilation everywhere, and the same for most of them, so that operations
# run one by one are compiled once.
STRIDE = {name: min(output_strides(name)) for name in zoo.NAMES}
CHEAP = {"xla_backend_optimization_level": 0}  # half the time to compile


@functools.cache
def small(name, **options):
    """(arch, module, variables) of a named network."""
    options = {"aux": True, "output_stride": STRIDE[name]} | options
    arch = zoo.named(name, K, width=0.125, **options)
    return arch, zoo.module(arch), filled(arch)


def filled(arch):
    """Random variables without zoo.init's time to compile."""
    shapes = jax.eval_shape(lambda key: zoo.init(arch, key), jax.random.PRNGKey(0))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            value = rng.normal(0, np.sqrt(2 / fan_in), leaf.shape)
        else:
            # Not 0 or 1, so that a scale, bias, mean or variance that is left out shows.
            value = rng.uniform(0.8, 1.2, leaf.shape) - (kind in ("bias", "mean"))
        return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def image(height_px=64, width_px=64):
    pixels = np.random.default_rng(1).normal(size=(BATCH, height_px, width_px, 3))
    return jnp.asarray(pixels, jnp.float32)


def covering() -> list[str]:
    """Few small networks in which every kind of block, every kind of head and every network's own head occurs."""
    found, seen = [], set()
    for name in sorted(zoo.NAMES, key=lambda n: (len(zoo.blocks(zoo.named(n, K))), n)):
        kinds = {spec.kind for spec in zoo.blocks(zoo.named(name, K))} | {zoo.NAMES[name][0]}
        if not kinds <= seen:
            found.append(name)
            seen |= kinds
    return sorted(found)


COVERING = covering()


def train_apply(net, variables, x):
    return net.apply(
        variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.PRNGKey(7)}
    )


@pytest.mark.parametrize(
    "name, output_stride, compute",
    [
        (name, stride, "bfloat16" if stride == 16 else "float32")
        for name in sorted(zoo.NAMES)
        for stride in output_strides(name)
        if stride != 32 or name in COVERING or stride == STRIDE[name]
    ],
)
def test_shapes_and_dtypes(name, output_stride, compute):
    arch = zoo.named(name, K, width=0.125, output_stride=output_stride, aux=True, compute=compute)
    net = zoo.module(arch)
    variables = jax.eval_shape(lambda key: zoo.init(arch, key), jax.random.PRNGKey(0))
    chex.assert_trees_all_equal_dtypes(variables, jax.tree.map(lambda _: jnp.float32(0), variables))
    x = jax.ShapeDtypeStruct((BATCH, 65, 97, 3), jnp.float32)

    def grid(stride):
        return (BATCH, -(-65 // stride), -(-97 // stride), K)

    outputs, updated = jax.eval_shape(lambda v, x: train_apply(net, v, x), variables, x)
    fine = {"deeplabv3plus": 4, "deeplabv3plus_separable": 4, "unet": 1, "lraspp": 8}
    fine |= {"fcn16s": 16, "fcn8s": 8}
    auxes = {"bisenetv2": (4, 8, 16, 32), "ddrnet_23_slim": (8,)}
    stride = fine.get(head := zoo.NAMES[name][0], output_stride)
    assert (outputs.logits.shape, outputs.logits.dtype) == (grid(stride), jnp.float32)
    strides = enumerate(auxes.get(head, (min(16, output_stride),)))
    expected = {f"aux_{i}": (grid(s), jnp.float32) for i, s in strides}
    assert {n: (aux.shape, aux.dtype) for n, aux in outputs.aux.items()} == expected
    assert jax.tree.structure(updated["batch_stats"]) == jax.tree.structure(
        variables["batch_stats"]
    )
    chex.assert_trees_all_equal_dtypes(updated["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize("name", COVERING)
def test_every_parameter_gets_a_gradient(name):
    _, net, variables = small(name)

    def loss(params, x):
        outputs, _ = train_apply(net, {**variables, "params": params}, x)
        return sum(jnp.mean(jax.nn.log_softmax(y)[..., 0]) for y in jax.tree.leaves(outputs))

    found = jax.jit(jax.grad(loss), compiler_options=CHEAP)(variables["params"], image())
    chex.assert_tree_all_finite(found)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, variables["params"])
    leaves = jax.tree_util.tree_flatten_with_path(found)[0]
    assert [jax.tree_util.keystr(path) for path, leaf in leaves if not np.any(leaf)] == []


def slow_if(name):
    """Operation by operation the deepest one takes a quarter of a minute; MobileNetV2 has its blocks too."""
    deepest = name == "deeplabv3_efficientnet_lite0"
    return pytest.param(name, marks=[pytest.mark.slow] if deepest else [])


@pytest.mark.parametrize("name", [slow_if(name) for name in COVERING])
def test_jit_equals_eager_and_runs_compose_at_every_block(name):
    """run(0, k) then run(k, N) is run(0, N), each with only its own blocks' variables."""
    arch, net, variables = small(name)
    x, n = image(), len(arch.backbone.blocks)
    names = [spec.name for spec in zoo.blocks(arch)[:n]]

    def run(carry, start, stop):
        own = {
            kind: {block: tree[block] for block in names[start:stop] if block in tree}
            for kind, tree in variables.items()
        }
        return net.apply(own, carry, start, stop, method="run")

    whole = jax.jit(net.apply, compiler_options=CHEAP)(variables, x)
    assert np.all(np.isfinite(whole.logits))
    assert np.std(whole.logits) > 0
    assert whole.aux == {} and whole.exits == {}
    carry, taps, carries = x, {}, [x]
    for k in range(n):
        carry, new = run(carry, k, k + 1)
        carries.append(carry)
        taps |= new
    eager = net.apply(variables, taps, method="answer")
    np.testing.assert_allclose(whole.logits, eager.logits, rtol=1e-3, atol=1e-3)
    for k in range(n + 1):
        front, front_taps = run(x, 0, k)
        chex.assert_trees_all_equal(front, carries[k])
        back, back_taps = run(front, k, n)
        chex.assert_trees_all_equal(back, carry)
        chex.assert_trees_all_equal(front_taps | back_taps, taps)


# --- What one network shows for all ---

EXAMPLE = "deeplabv3plus_resnet18"


@pytest.mark.parametrize("name", COVERING)
def test_variables_are_those_that_the_module_makes(name):
    arch = small(name)[0]
    traced = jax.eval_shape(zoo.module(arch).init, jax.random.PRNGKey(0), image())
    made = jax.eval_shape(lambda: zoo.init(arch, jax.random.PRNGKey(0)))
    made = {kind: tree for kind, tree in made.items() if tree}
    chex.assert_trees_all_equal_shapes_and_dtypes(traced, made)
    assert jax.tree.structure(traced) == jax.tree.structure(made)


def test_initial_variables_are_fit_to_train():
    arch = zoo.named("fcn_resnet18", K, width=0.125, aux=True)
    variables = zoo.init(arch, jax.random.PRNGKey(0))
    assert set(variables) == {"params", "batch_stats"}
    names = {spec.name for spec in zoo.blocks(arch)}
    assert set(variables["params"]) == set(variables["batch_stats"]) == names
    chex.assert_trees_all_equal(variables, zoo.init(arch, jax.random.PRNGKey(0)))
    outputs, _ = train_apply(zoo.module(arch), variables, image())
    loss = -jnp.mean(jax.nn.log_softmax(outputs.logits)[..., 0])
    np.testing.assert_allclose(loss, np.log(K), atol=0.5)  # close to uniform classes
    other = zoo.init(arch, jax.random.PRNGKey(1))["params"]["head"]["conv"]["kernel"]
    assert not np.allclose(variables["params"]["head"]["conv"]["kernel"], other)


def test_frozen_parts_keep_their_statistics_and_the_others_change():
    arch, _, variables = small(EXAMPLE)
    frozen = ("block_00", "block_03", "head")
    net = zoo.module(arch, frozen=frozen)
    _, updated = train_apply(net, variables, image())
    for name, old in variables["batch_stats"].items():
        new = updated["batch_stats"][name]
        same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), old, new)
        assert all(jax.tree.leaves(same)) if name in frozen else not any(jax.tree.leaves(same)), (
            name
        )


def test_dropout_runs_in_training_only_and_not_in_a_frozen_head():
    arch, net, variables = small(EXAMPLE)
    frozen = zoo.module(arch, frozen=tuple(spec.name for spec in zoo.blocks(arch)))

    def logits(net, seed, train):
        rngs = {"dropout": jax.random.PRNGKey(seed)}
        outputs, _ = net.apply(variables, image(), train, rngs=rngs, mutable=["batch_stats"])
        return outputs.logits

    assert not np.array_equal(logits(net, 0, True), logits(net, 1, True))
    np.testing.assert_array_equal(logits(frozen, 0, True), logits(net, 1, False))


def test_bfloat16_keeps_parameters_and_logits_in_float32_and_agrees_roughly():
    arch, net, variables = small(EXAMPLE)
    rough = zoo.module(zoo.named(EXAMPLE, K, width=0.125, output_stride=8, compute="bfloat16"))
    exact = net.apply(variables, image()).logits

    @functools.partial(jax.jit, compiler_options=CHEAP)
    def both(x):
        taps = rough.apply(variables, x, 0, 9, method="run")[1]
        return taps, rough.apply(variables, taps, method="answer").logits

    taps, logits = both(image())
    assert {x.dtype for x in taps.values()} == {jnp.dtype("bfloat16")}
    assert logits.dtype == jnp.float32
    error = np.sqrt(np.mean((logits - exact) ** 2)) / np.std(exact)
    assert 1e-5 < error < 0.05


def test_conv_op_reaches_every_layer():
    arch, _, variables = small(EXAMPLE)
    shapes = []

    def op(x, kernel, **geometry):
        shapes.append(kernel.shape)
        return conv2d(x, kernel, **geometry)

    jax.eval_shape(zoo.module(arch, conv_op=op).apply, variables, image())
    layers = [x for spec in zoo.blocks(arch) if spec.role != "aux" for x in spec.layers]
    assert sorted(shapes) == sorted(layer.kernel_shape for layer in layers)


def test_exits_answer_in_training_and_inference_from_taps_of_a_part_of_the_run():
    plain = small("fcn_resnet18")[0]
    exits = tuple(fcn_head(plain.backbone, at) for at in ("block_02", "block_05"))
    arch = from_json(to_json(plain).replace('"exits": []', '"exits": ' + _json(exits)))
    net, x = zoo.module(arch), image()
    variables = filled(arch)
    assert {"exit_0", "exit_1"} <= set(variables["params"])
    outputs = net.apply(variables, x)
    assert set(outputs.exits) == {"exit_0", "exit_1"}
    assert set(train_apply(net, variables, x)[0].exits) == {"exit_0", "exit_1"}
    _, taps = net.apply(variables, x, 0, 3, method="run")
    assert set(taps) == {"block_02"}
    early = net.apply(variables, "exit_0", taps, method="score")
    np.testing.assert_array_equal(early, outputs.exits["exit_0"])


def _json(records) -> str:
    return json.dumps([dataclasses.asdict(record) for record in records])


# --- Names, options and constructors ---


@pytest.mark.parametrize("name", sorted(zoo.NAMES))
def test_json_round_trip(name):
    arch = zoo.named(name, K, width=0.5, aux=True, compute="bfloat16")
    assert from_json(to_json(arch)) == arch
    assert zoo.blocks(from_json(to_json(arch))) == zoo.blocks(arch)


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("fcn_resnet5", {}, ["'fcn_resnet5'", "did you mean 'fcn_resnet50'"]),
        ("fcn_resnet18", {"widht": 1}, ["'widht'", "did you mean 'width'"]),
        ("fcn_resnet18", {"output_stride": 4}, ["output_stride", "got 4", "(8, 16, 32)"]),
        (
            "unet_resnet18",
            {"output_stride": 16},
            ["output_stride of unet_resnet18", "got 16", "(32,)"],
        ),
        ("fcn_resnet18", {"width": 0}, ["width", "got 0"]),
        ("fcn_resnet18", {"compute": "float16"}, ["'float16'", "did you mean 'bfloat16'"]),
    ],
)
def test_mistakes_are_one_line(name, options, words):
    with pytest.raises(UserError) as error:
        zoo.named(name, K, **options)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    "old, new, words",
    [
        ('"family": "segmenter"', '"family": "segmentor"', ["did you mean 'segmenter'"]),
        ('"kind": "basic"', '"kind": "basik"', ["kind of block", "did you mean 'basic'"]),
        ('"kind": "fcn"', '"kind": "fnc"', ["kind of head", "did you mean 'fcn'"]),
        ('"block_08"', '"block_80"', ["input of head", "did you mean 'block_08'"]),
        ('"block_08"', '"block_08", "block_01"', ["inputs of head", "1 block names"]),
        ("[\n     64,\n     64\n    ]", "[64]", ["widths of block_01", "2 numbers"]),
    ],
)
def test_impossible_architectures_are_refused_before_tracing(old, new, words):
    text = to_json(zoo.named("fcn_resnet18", K))
    assert old in text
    with pytest.raises(UserError) as error:
        zoo.module(from_json(text.replace(old, new)))
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    "output_stride, dilation, expected",
    [
        (32, "first_undilated", [(1, 1), (2, 1), (2, 1), (2, 1)]),
        (16, "first_undilated", [(1, 1), (2, 1), (2, 1), (1, 1)]),
        (8, "first_undilated", [(1, 1), (2, 1), (1, 1), (1, 2)]),
        (8, "uniform", [(1, 1), (2, 1), (1, 2), (1, 4)]),
    ],
)
def test_resnet_dilates_instead_of_striding(output_stride, dilation, expected):
    blocks = resnet(50, output_stride, dilation=dilation).backbone.blocks
    firsts = [blocks[i] for i in (1, 4, 8, 14)]
    assert [(b.stride, b.dilation) for b in firsts] == expected
    # The rest of a stage has the full dilation: doubled for every stride that was left out.
    rest = [(blocks[i].stride, blocks[i].dilation) for i in (2, 5, 9, 15)]
    full = {32: (1, 1, 1, 1), 16: (1, 1, 1, 2), 8: (1, 1, 2, 4)}[output_stride]
    assert rest == [(1, rate) for rate in full]


def test_heads_read_the_right_blocks_and_scale_their_rates():
    assert zoo.named("fcn_resnet50", K, aux=True).head.inputs == ("block_16",)
    assert zoo.named("fcn_resnet50", K, aux=True).aux[0].inputs == ("block_13",)
    assert zoo.named("unet_resnet18", K).head.inputs == (
        *("block_08", "block_06", "block_04", "block_02", "block_00"),
        "image",
    )
    assert zoo.named("lraspp_mobilenet_v2", K).head.inputs == ("block_17", "block_06")
    assert zoo.named("fcn8s_vgg16", K).head.inputs == ("block_12", "block_09", "block_06")
    for stride, rates in ((8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))):
        head = zoo.named("deeplabv3plus_resnet18", K, output_stride=stride).head
        assert (head.inputs, head.rates) == (("block_08", "block_02"), rates)


def test_width_scales_every_layer_in_multiples_of_eight():
    full, part = (zoo.blocks(zoo.named(EXAMPLE, K, width=w, aux=True)) for w in (1.0, 0.3))
    for a, b in zip(full, part, strict=True):
        for wide, narrow in zip(a.layers, b.layers, strict=True):
            if wide.name != "logits":
                assert narrow.out_channels % 8 == 0
                assert abs(narrow.out_channels - 0.3 * wide.out_channels) <= 8


def test_levels_keep_their_blocks_when_dilated():
    levels = {4: "block_03", 8: "block_07", 16: "block_30", 32: "block_33"}
    assert resnet(101, 32).levels == resnet(101, 8).levels == levels
    assert resnet(18, 32, fine_stem=True).levels[2] == "block_00"
    expected = {2: "block_01", 4: "block_03", 8: "block_06", 16: "block_13", 32: "block_17"}
    assert mobilenet_v2(8).levels == expected
    expected = {2: "block_01", 4: "block_03", 8: "block_05", 16: "block_11", 32: "block_16"}
    assert efficientnet_lite0(16).levels == expected
    expected = {2: "block_01", 4: "block_03", 8: "block_06", 16: "block_09", 32: "block_12"}
    assert vgg16().levels == expected


@pytest.mark.parametrize(
    "make, first, rest",
    [
        (mobilenet_v2, "block_14", "block_15"),  # 160 channels
        (efficientnet_lite0, "block_12", "block_13"),  # 192 channels
    ],
)
def test_inverted_backbones_dilate_as_timm_does(make, first, rest):
    blocks = {f"block_{i:02d}": block for i, block in enumerate(make(16).backbone.blocks)}
    assert (blocks[first].stride, blocks[first].dilation) == (1, 1)
    assert (blocks[rest].stride, blocks[rest].dilation) == (1, 2)
    strided = {f"block_{i:02d}": block for i, block in enumerate(make(32).backbone.blocks)}
    assert (strided[first].stride, strided[rest].dilation) == (2, 1)


def test_the_fine_stem_computes_the_same_function():
    """Only the cut between the blocks differs, so the same variables give the same maps."""
    arch, _, variables = small("fcn_resnet18", output_stride=32)
    fine = dataclasses.replace(arch, backbone=resnet(18, 32, 0.125, fine_stem=True).backbone)
    outputs = [zoo.module(a).apply(variables, image()).logits for a in (arch, fine)]
    np.testing.assert_array_equal(*outputs)
