"""The loop: equal to plain NumPy and to its unrolling, its graph and its program do not grow with the passes."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.arch import Arch, BlockArch, LayerSpec, count, from_json, layer_counts, to_json
from jaxseg.errors import UserError
from jaxseg.models import itnet, zoo
from jaxseg.models.backbones.itnet import SHARING
from jaxseg.models.block import normed_layer
from jaxseg.models.folding import fold
from jaxseg.numbers import FOLDED
from tests.models.test_counts import jaxpr_macs
from tests.models.test_zoo import CHEAP, filled

K, B, SIZE = 5, 2, (40, 56)


def network(sharing="weights", iterations=3, **options) -> Arch:
    """Small: 8 channels, 2 scales on maps of 5 x 7 and 3 x 4 cells; no dropout."""
    options = {"width": 0.125, "dropout": 0.0, "scales": 2} | options
    return zoo.named("itnet", K, sharing=sharing, iterations=iterations, **options)


def image(batch=B):
    return jnp.asarray(np.random.default_rng(1).normal(size=(batch, *SIZE, 3)), jnp.float32)


@functools.cache
def made(sharing="weights", iterations=3):
    arch = network(sharing, iterations)
    return arch, zoo.module(arch), filled(arch)


def run_answers(arch, iterations):
    """Compiled: variables -> the answers after `iterations`, in eval mode."""
    module, x = zoo.module(arch), image()
    run = jax.jit(
        lambda v: module.apply(v, x, iterations, method="answers")[0], compiler_options=CHEAP
    )
    return lambda variables: np.asarray(run(variables))


@functools.cache
def answers(sharing="weights", iterations=3):
    """The answers after every pass, by the loop."""
    arch, _, variables = made(sharing, iterations)
    return run_answers(arch, tuple(range(1, iterations + 1)))(variables)


def unrolled(arch, variables, x):
    """The same pass by pass, in Python: [N, B, h, w, K]."""
    module, last = zoo.module(arch), itnet.loop_name(arch)
    d = module.apply(variables, x, method="data")
    h, found = jnp.zeros_like(d), []
    for n in range(itnet.num_iterations(arch)):
        h = module.apply(itnet.of_pass(arch, variables, n), d, h, method="once")
        found.append(module.apply(variables, "head", {last: h}, method="score"))
    return jnp.stack(found)


# --- I1, and against plain NumPy ---


def one_pass(params, stats, d, h, eps):
    """A pass in float64, from the text of `models.backbones.itnet`."""

    def conv(name, x):
        kernel, norm = np.float64(params[name]["kernel"]), params[name]["norm"]
        kh, kw = kernel.shape[:2]
        padded = np.pad(x, ((0, 0), (kh // 2,) * 2, (kw // 2,) * 2, (0, 0)))
        rows, columns = x.shape[1:3]
        y = sum(
            padded[:, i : i + rows, j : j + columns] @ kernel[i, j]
            for i in range(kh)
            for j in range(kw)
        )
        y = (y - stats[name]["norm"]["mean"]) / np.sqrt(stats[name]["norm"]["var"] + eps)
        return y * norm["scale"] + norm["bias"]

    def half(x):
        out = np.zeros((x.shape[0], -(-x.shape[1] // 2), -(-x.shape[2] // 2), x.shape[3]))
        for i, j in np.ndindex(out.shape[1:3]):
            out[:, i, j] = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2))
        return out

    maps = [np.clip(conv("fuse", np.concatenate([d, h], -1)), 0, 6)]
    maps += [half(maps[0])]
    maps += [half(maps[1])]
    result = 0.0
    for i in (2, 1, 0):
        y = np.maximum(conv(f"scale_{i}_conv1", maps[i]), 0)
        y = np.maximum(conv(f"scale_{i}_conv2", y), 0)
        y = np.maximum(maps[i] + conv(f"scale_{i}_conv3", y), 0)
        if i < 2:
            result = result.repeat(2, 1).repeat(2, 2)[:, : y.shape[1], : y.shape[2]]
        result = y + result
    return result


def test_a_pass_equals_plain_numpy():
    arch = network(scales=3)
    module, variables = zoo.module(arch), jax.device_get(filled(arch))
    d = np.asarray(module.apply(variables, image(), method="data"), np.float64)
    name, h = itnet.loop_name(arch), np.zeros_like(d)
    state = jax.tree.map(np.float64, {k: variables[k][name] for k in ("params", "batch_stats")})
    classify = variables["params"]["head"]["logits"]
    for n, found in enumerate(run_answers(arch, (1, 2, 3))(variables)):
        stats = jax.tree.map(lambda x, n=n: x[n], state["batch_stats"])
        h = one_pass(state["params"], stats, d, h, arch.numbers.norm_eps)
        expected = h @ np.float64(classify["kernel"][0, 0]) + classify["bias"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sharing", SHARING)
def test_scan_equals_the_unrolling(sharing):
    arch, module, variables = made(sharing)
    expected = jax.jit(functools.partial(unrolled, arch), compiler_options=CHEAP)(
        variables, image()
    )
    found = answers(sharing)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(found[0], found[1], atol=1e-2)
    whole = jax.jit(module.apply, compiler_options=CHEAP)(variables, image())
    np.testing.assert_allclose(whole.logits, found[-1], rtol=1e-4, atol=1e-4)


# --- I2 ---


@pytest.mark.parametrize("sharing", SHARING)
def test_fewer_passes_give_the_same_answers_and_more_repeat_the_last_pass(sharing):
    arch, _, variables = made(sharing)
    for n in (1, 2, 5):
        other, parts = itnet.with_iterations(arch, variables, n)
        shapes = jax.eval_shape(lambda other=other: zoo.init(other, jax.random.PRNGKey(0)))
        chex.assert_trees_all_equal_shapes(dict(parts), dict(shapes))
        every = tuple(range(1, n + 1))
        found = run_answers(other, every)(parts)
        same = min(n, 3)
        np.testing.assert_allclose(found[:same], answers(sharing)[:same], rtol=1e-4, atol=1e-4)
    assert itnet.with_iterations(*itnet.with_iterations(arch, variables, 5), 3)[0] == arch
    back = itnet.with_iterations(*itnet.with_iterations(arch, variables, 5), 3)[1]
    chex.assert_trees_all_equal(back, variables)


# --- I3, I4 ---


def test_what_grows_with_the_passes_and_what_does_not():
    sizes = {}
    for sharing in SHARING:
        sizes[sharing] = [
            itnet.account(network(sharing, 4), (360, 480), n) for n in (1, 2, 3, 4, 16)
        ]
    shared, own = sizes["weights"], sizes["nothing"]
    for accounts in sizes.values():
        macs, depth = ([getattr(a, what) for a in accounts] for what in ("macs", "depth"))
        assert macs[4] - macs[0] == 15 * (macs[1] - macs[0]) > 0
        assert depth == [3 + 4 * n + 1 for n in (1, 2, 3, 4, 16)]
    for what in ("params", "nodes", "edges"):
        assert len({getattr(a, what) for a in shared}) == 1
        grows = [getattr(a, what) for a in own]
        assert grows[4] - grows[0] == 15 * (grows[1] - grows[0]) > 0
        assert grows[0] == getattr(shared[0], what)
    assert shared[0].edges == shared[0].macs < shared[1].macs
    arch = network("nothing", 4)
    params = sum(x.size for x in jax.tree.leaves(zoo.init(arch, jax.random.PRNGKey(0))["params"]))
    assert params == own[3].params


def test_golden_operations_of_a_bottleneck():
    """64 -> 16 -> 64 channels on 90 x 120 cells, as the specification works out by hand."""
    layers = (
        normed_layer("conv1", 64, 16, 1, 8),
        normed_layer("conv2", 16, 16, 3, 8),
        normed_layer("conv3", 16, 64, 1, 8),
    )
    macs = [layer_counts(layer, 90 * 120).macs for layer in layers]
    assert macs == [11_059_200, 24_883_200, 11_059_200] and sum(macs) == 47_001_600
    # The same three are in the loop of a network of 64 channels on the finest map.
    arch = zoo.named("itnet", K, iterations=1)
    specs = {s.name: s for s in zoo.blocks(arch)}
    ours = [specs["block_03"].layer(f"scale_0_conv{j}") for j in (1, 2, 3)]
    assert [layer_counts(layer, 90 * 120).macs for layer in ours] == macs


def test_graph_by_hand():
    arch = zoo.named("itnet", K, iterations=7, scales=1)
    found = itnet.account(arch, (64, 64), 7)
    grid = 64  # 8 x 8 cells
    assert found.nodes == 32 * 32 * 16 + 16 * 16 * 32 + grid * (64 + 64 + 16 + 16 + 64 + K)
    data = 9 * (3 * 16 * 1024 + 16 * 32 * 256 + 32 * 64 * grid)
    one_pass = grid * (128 * 64 + 64 * 16 + 9 * 16 * 16 + 16 * 64)
    assert found.edges == data + one_pass + grid * 64 * K
    assert found.macs == data + 7 * one_pass + grid * 64 * K
    assert found.depth == 3 + 7 * 4 + 1


@pytest.mark.parametrize("sharing", SHARING)
def test_counts_equal_what_runs(sharing):
    arch = network(sharing, 6)
    shapes = jax.eval_shape(lambda: zoo.init(arch, jax.random.PRNGKey(0)))
    jaxpr = jax.make_jaxpr(zoo.module(arch).apply)(shapes, image(1)).jaxpr
    counts = count(zoo.blocks(arch), *SIZE)
    assert counts.macs == jaxpr_macs(jaxpr) == itnet.account(arch, SIZE, 6).macs
    assert counts.params == sum(x.size for x in jax.tree.leaves(shapes["params"]))


# --- I3 (ties), I5 ---


def untied(variables, iterations):
    """The variables of the unshared network that repeat those of the shared one."""
    name = "block_03"
    params = dict(variables["params"])
    params[name] = jax.tree.map(lambda x: jnp.stack([x] * iterations), params[name])
    return {**variables, "params": params}


@functools.cache
def learnt(sharing):
    """`loss_and_gradient` of a network of three passes."""
    return loss_and_gradient(*made(sharing)[::2])


def loss_and_gradient(arch, variables):
    """In training mode, over the answers after all passes; the gradient and the statistics after."""
    module, every = zoo.module(arch), tuple(range(1, itnet.num_iterations(arch) + 1))
    weights = jnp.arange(1.0, len(every) + 1)

    def loss(params):
        (logits, _), updated = module.apply(
            {**variables, "params": params}, image(), every, True,
            method="answers", mutable=["batch_stats"], rngs={"dropout": jax.random.PRNGKey(0)},
        )  # fmt: skip
        scores = jax.nn.log_softmax(logits)[..., 0].mean((1, 2, 3))
        return jnp.sum(weights * scores), (logits, updated["batch_stats"])

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=CHEAP)
    (_, (logits, stats)), gradient = run(variables["params"])
    return logits, stats, gradient


def test_shared_weights_equal_tied_copies_and_gather_their_gradients():
    variables = made("weights")[2]
    logits, stats, gradient = learnt("weights")
    own = network("nothing")
    its_logits, its_stats, its_gradient = loss_and_gradient(own, untied(variables, 3))
    np.testing.assert_allclose(logits, its_logits, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(stats, its_stats, rtol=1e-4, atol=1e-5)
    per_copy = its_gradient["block_03"]
    norms = [np.linalg.norm(per_copy["fuse"]["kernel"][n]) for n in range(3)]
    assert min(norms) > 0  # each copy learns
    summed = {**its_gradient, "block_03": jax.tree.map(lambda x: x.sum(0), per_copy)}
    chex.assert_trees_all_close(gradient, summed, rtol=2e-3, atol=2e-5)


def test_gradient_equals_the_unrolling():
    """Through the rematerialised loop, with the statistics of the batch, beside one without remat or scan."""
    arch, _, variables = made("weights")

    def by_hand(params):
        module, x = zoo.module(arch), image()
        d, _ = module.apply(
            {**variables, "params": params}, x, 0, 3, True, method="run", mutable=["batch_stats"]
        )[0]
        h, total = jnp.zeros_like(d), 0.0
        for n in range(3):
            parts = itnet.of_pass(arch, {**variables, "params": params}, n)
            h, _ = module.apply(
                parts, d, h, True,
                method=lambda m, d, h, train: m.block_03.once(d, h, train), mutable=["batch_stats"],
            )  # fmt: skip
            y = module.apply(parts, "head", {"block_03": h}, method="score")
            total += (n + 1) * jax.nn.log_softmax(y)[..., 0].mean()
        return total

    expected = jax.jit(jax.grad(by_hand), compiler_options=CHEAP)(variables["params"])
    found = learnt("weights")[2]
    chex.assert_trees_all_close(found, expected, rtol=2e-3, atol=2e-5)


# --- Statistics ---


def test_each_pass_moves_its_own_statistics_and_one_set_moves_with_every_pass():
    _, stats, _ = learnt("weights")
    before = made("weights")[2]["batch_stats"]["block_03"]["fuse"]["norm"]["mean"]
    after = stats["block_03"]["fuse"]["norm"]["mean"]
    moved = np.asarray(after - before)
    assert np.all(np.abs(moved).max(axis=1) > 0) and not np.allclose(moved[0], moved[1])

    arch, _, variables = made("everything")
    # The same start for every pass, so that the runs below differ in nothing else.
    _, one, _ = learnt("everything")
    keep = arch.numbers.norm_momentum
    start = {**variables, "batch_stats": dict(variables["batch_stats"])}
    start["batch_stats"]["block_03"] = jax.tree.map(
        lambda x: jnp.stack([x] * 3), variables["batch_stats"]["block_03"]
    )
    _, apart, _ = loss_and_gradient(network("weights"), start)
    old = variables["batch_stats"]["block_03"]["fuse"]["norm"]["mean"]
    seen = (apart["block_03"]["fuse"]["norm"]["mean"] - keep * old[None]) / (1 - keep)
    expected = old
    for mean in seen:
        expected = keep * expected + (1 - keep) * mean
    np.testing.assert_allclose(one["block_03"]["fuse"]["norm"]["mean"], expected, rtol=1e-3)


def test_a_frozen_loop_keeps_its_statistics():
    arch, _, variables = made()
    module = zoo.module(arch, frozen=("block_03",))
    _, updated = module.apply(
        variables, image(), (1, 3), True,
        method="answers", mutable=["batch_stats"], rngs={"dropout": jax.random.PRNGKey(0)},
    )  # fmt: skip
    chex.assert_trees_all_equal(
        updated["batch_stats"]["block_03"], variables["batch_stats"]["block_03"]
    )


@pytest.mark.parametrize("sharing", SHARING)
def test_folding_keeps_shared_kernels_single_and_the_answers(sharing):
    arch, _, variables = made(sharing)
    folded, arrays = fold(arch, variables)
    shapes = jax.eval_shape(lambda: zoo.init(folded, jax.random.PRNGKey(0)))
    chex.assert_trees_all_equal_shapes(arrays, dict(shapes))
    assert folded.numbers.norm == FOLDED
    kept = set(arrays["batch_stats"])
    assert kept == ({"block_03"} if sharing == "weights" else set())
    found = run_answers(folded, (1, 2, 3))(arrays)
    np.testing.assert_allclose(found, answers(sharing), rtol=1e-4, atol=1e-4)
    whole, few = itnet.with_iterations(folded, arrays, 2)
    again = run_answers(whole, (1, 2))(few)
    np.testing.assert_allclose(again, found[:2], rtol=1e-5, atol=1e-5)


# --- I8 ---


def equations(jaxpr) -> int:
    """Of a program and of those inside it."""
    inner = jax.tree.leaves(
        [list(eqn.params.values()) for eqn in jaxpr.eqns],
        is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr"),
    )
    found = [getattr(p, "jaxpr", p) for p in inner if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
    return len(jaxpr.eqns) + sum(map(equations, found))


@pytest.mark.parametrize("sharing", SHARING)
def test_the_program_does_not_grow_with_the_passes(sharing):
    def size(iterations):
        arch = network(sharing, iterations)
        shapes = jax.eval_shape(lambda: zoo.init(arch, jax.random.PRNGKey(0)))
        module, every = zoo.module(arch), tuple(range(1, iterations + 1))

        def total(params, stats):
            (logits, _), _ = module.apply(
                {"params": params, "batch_stats": stats}, image(), every, True,
                method="answers", mutable=["batch_stats"], rngs={"dropout": jax.random.PRNGKey(0)},
            )  # fmt: skip
            return logits.sum()

        backward = jax.make_jaxpr(jax.grad(total))(shapes["params"], shapes["batch_stats"])
        forward = jax.make_jaxpr(module.apply)(shapes, image())
        return equations(forward.jaxpr), equations(backward.jaxpr)

    assert size(3) == size(17)


# --- I10 ---


@pytest.mark.parametrize("sharing", ("weights", "everything"))
def test_states_stay_bounded_far_beyond_the_trained_passes(sharing):
    """The fused map lies in [0, 6], so max |h| has a bound that no number of passes moves.

    Per scale at most 6 + sum |kernel * gain| * what conv2 can give, worked out from the weights; random statistics.
    """
    arch, _, variables = made(sharing)
    far, parts = itnet.with_iterations(arch, variables, 400)
    states = zoo.module(far).apply(parts, image(), method=lambda m, x: m.block_03.states(m.data(x)))
    peaks = np.abs(np.asarray(states)).max(axis=(1, 2, 3, 4))
    assert np.all(np.isfinite(peaks)) and peaks[-1] > 0
    assert peaks[3:].max() <= 3 * peaks[2]
    assert peaks.max() <= bound(arch, variables)


def bound(arch, variables) -> float:
    """The largest value that a state can have."""
    variables = jax.device_get(variables)
    params, stats = (variables[kind]["block_03"] for kind in ("params", "batch_stats"))
    total = 0.0
    for i in range(2):
        most = 6.0
        for j in (1, 2, 3):
            name = f"scale_{i}_conv{j}"
            norm = params[name]["norm"]
            running = jax.tree.map(lambda x: np.asarray(x).reshape(-1, x.shape[-1]), stats[name])
            gain = norm["scale"][None] / np.sqrt(running["norm"]["var"] + arch.numbers.norm_eps)
            reach = np.abs(params[name]["kernel"]).sum((0, 1, 2)) * most
            y = (reach[None] + np.abs(running["norm"]["mean"])) * np.abs(gain)
            most = float((y + np.abs(norm["bias"])[None]).max())
        total += 6.0 + most
    return total


# --- Values and mistakes ---


@pytest.mark.parametrize("sharing", SHARING)
def test_json_round_trip_and_names(sharing):
    arch = network(sharing, 9, output_stride=4, scales=1, reduction=2, compute="bfloat16")
    assert from_json(to_json(arch)) == arch and arch.family == "itnet"
    specs = zoo.blocks(arch)
    assert [s.out_stride for s in specs] == [2, 4, 4, 4]
    assert {x.repeats for x in specs[2].layers} == {9}
    shapes = jax.eval_shape(lambda: zoo.init(arch, jax.random.PRNGKey(0)))
    logits = jax.eval_shape(zoo.module(arch).apply, shapes, image()).logits
    assert logits.shape == (B, 10, 14, K) and logits.dtype == jnp.float32


def test_a_shared_head_reads_every_pass_with_the_images_together():
    """The order in which passes and images lie in the head's batch does not show."""
    arch, module, variables = made()
    one, _ = module.apply(variables, image()[:1], (1, 3), method="answers")
    np.testing.assert_allclose(one[:, 0], answers()[[0, 2], 0], rtol=1e-4, atol=1e-4)


def broken(old, new):
    text = to_json(network())
    assert old in text
    return lambda: zoo.module(from_json(text.replace(old, new)))


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda: network(iterations=0), "itnet.iterations: got 0; expected 1 to 1000"),
        (lambda: network(sharing="weight"), "did you mean 'weights'"),
        (lambda: network(scales=0), "itnet.scales: got 0"),
        (lambda: network(reduction=0), "itnet.reduction: got 0"),
        (lambda: network(output_stride=16), "output_stride of itnet: got 16"),
        (lambda: zoo.named("fcn_resnet18", K, iterations=2), "'iterations'"),
        (lambda: BlockArch("loop", (8,), repeats=0), "repeats: got 0; expected 1 to 1000"),
        (broken('"repeats": 3', '"repeats": 0'), "repeats: got 0"),
        (broken('"kind": "loop"', '"kind": "basic"'), "block_03"),
        (broken('"kind": "conv_stem",\n    "repeats": 1', '"kind": "conv_stem",\n    "repeats": 2'),
         "repeats of block_00"),
        (broken('"block_03"', '"block_02"'), "one loop, the last block, and a head on block_03"),
        (lambda: itnet.with_iterations(*made()[::2], 0), "repeats: got 0"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(act, words):
    with pytest.raises(UserError) as error:
        act()
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_loop_that_narrows_is_refused():
    loop = BlockArch("loop", (8, 8, 8, 16), repeats=2)
    arch = network()
    blocks = (*arch.backbone.blocks[:-1], loop)
    wrong = dataclasses.replace(arch, backbone=dataclasses.replace(arch.backbone, blocks=blocks))
    with pytest.raises(UserError, match="a result of the 8 channels that it reads"):
        zoo.blocks(wrong)


def test_kernels_of_a_layer_count_once_unless_each_pass_has_one():
    layer = LayerSpec("a", 4, 8, (3, 3), 1, 1, 1, False, True, 1, repeats=5)
    own = dataclasses.replace(layer, own="all")
    assert layer_counts(layer, 10).macs == layer_counts(own, 10).macs == 5 * 10 * 9 * 32
    assert layer_counts(layer, 10).params == 9 * 32 + 16
    assert layer_counts(own, 10).params == 5 * (9 * 32 + 16)
