"""A loop that stops: where it is sure, after a number of passes, at a deadline; the same answers as one whole run."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.inference import exits, itnet, multi_exit
from jaxseg.inference.artifact import Card, load_model, save_model
from jaxseg.inference.augmented import Mode
from jaxseg.inference.evaluation import evaluate, evaluate_each
from jaxseg.inference.exits import NEVER, Policy, thresholds
from jaxseg.inference.itnet import Pace, Punctual
from jaxseg.inference.labelling import labels_at
from jaxseg.inference.predictor import Model, make_score
from jaxseg.inference.ways import InputDependent, Way, parts, routed
from jaxseg.layers.normalise import normalise
from jaxseg.models import zoo
from jaxseg.models.itnet import account, num_iterations, with_iterations
from tests.inference.test_multi_exit import between
from tests.models.test_zoo import filled, small

K, B, SIZE, N = 5, 6, (40, 56), 4
MEAN, STD = (0.5,) * 3, (0.25,) * 3
PIXEL = 0.99


@functools.cache
def network():
    """(arch, variables, images, answers [N, B, h, w, K], label maps [N, B, H, W], confidences [N - 1, B])."""
    arch = zoo.named("itnet", K, width=0.125, iterations=N, dropout=0.0)
    variables = jax.device_get(filled(arch))
    images = np.random.default_rng(3).integers(0, 256, (B, *SIZE, 3), np.uint8)
    images[::2] //= 3

    @jax.jit
    def everything(variables, images):
        x = normalise(images, MEAN, STD, jnp.float32)
        answers, _ = zoo.module(arch).apply(variables, x, (1, 2, 3, 4), method="answers")
        scores = [exits.image_confidence(x, Policy(), PIXEL) for x in answers[:-1]]
        return answers, jnp.stack([labels_at(x, SIZE) for x in answers]), jnp.stack(scores)

    return arch, variables, images, *jax.device_get(everything(variables, images))


@functools.cache
def model():
    arch, variables, *_ = network()
    names = tuple(f"class {k}" for k in range(K))
    return Model(arch, variables, Card(names, ((0, 0, 0),) * K, MEAN, STD, {}, {}))


@functools.cache
def mixed():
    """Thresholds of the passes 1 and 3 with which images leave at both and at the end."""
    scores = network()[-1]
    first = between(scores[0])
    return first, between(scores[2, scores[0] < first])


def expected(limits):
    """The pass that answers each image, from 1."""
    scores = network()[-1][[0, 2]]
    sure = scores >= np.asarray(limits)[:, None]
    return np.where(sure.any(0), np.array([1, 3])[sure.argmax(0)], N)


def same(labels, taken, images=range(B)):
    """Programs of other shapes round differently: a few pixels on borders may turn."""
    maps = network()[4]
    for row, i in enumerate(images):
        assert np.mean(np.asarray(labels)[row] == maps[taken[i] - 1, i]) > 0.99


@functools.cache
def until():
    return itnet.answer_until(network()[0], MEAN, STD)


# --- One program ---


def test_the_loop_ends_after_as_many_passes_as_asked():
    _, variables, images, *_ = network()
    nothing = thresholds(1.0, (NEVER,))
    for n in (1, 3, N):
        labels, taken = until()(variables, images, nothing, jnp.int32(n))
        np.testing.assert_array_equal(taken, n)
        same(labels, np.full(B, n))
    far, more = with_iterations(network()[0], variables, 3 * N)
    labels, taken = until()(variables, images, nothing, jnp.int32(3 * N))
    np.testing.assert_array_equal(taken, 3 * N)
    x = normalise(images, MEAN, STD, jnp.float32)
    logits = zoo.module(far).apply(more, x).logits
    assert np.all(np.isfinite(logits))
    assert np.mean(labels == labels_at(logits, SIZE)) > 0.99
    assert until()._cache_size() == 1  # the number of passes is an argument


def test_each_image_leaves_where_it_is_sure():
    _, variables, images, *_ = network()
    taken = expected(mixed())
    assert set(taken) == {1, 3, N}
    limits = itnet.per_pass((1, 3), thresholds(PIXEL, mixed()), N)
    labels, found = until()(variables, images, limits, jnp.int32(N))
    np.testing.assert_array_equal(found, taken)
    same(labels, taken)
    for i in range(3):
        labels, found = until()(variables, images[i : i + 1], limits, jnp.int32(N))
        assert found[0] == taken[i]
        same(labels, taken, (i,))


def test_passes_behind_the_answer_do_not_run():
    """Convolutions of the loop stand in the body of one `while` alone, and its condition asks who is still there."""
    arch, variables, images, *_ = network()
    args = variables, images[:1], thresholds(PIXEL, (0.5,) * N), jnp.int32(N)
    jaxpr = jax.make_jaxpr(until())(*args).jaxpr

    def loops(jaxpr):
        found = [eqn for eqn in jaxpr.eqns if eqn.primitive.name in ("while", "scan")]
        for eqn in jaxpr.eqns:
            for inner in jax.tree.leaves(list(eqn.params.values())):
                if eqn.primitive.name in ("pjit", "jit") and hasattr(inner, "jaxpr"):
                    found += loops(inner.jaxpr)
        return found

    (loop,) = loops(jaxpr)
    assert loop.primitive.name == "while"
    # The same program under a clock that no machine's load can move: passes counted by a callback.
    seen = []
    run = arch_with_callback(seen)
    run(variables, images[:1], thresholds(PIXEL, (NEVER, 0.0)), jnp.int32(N))
    jax.effects_barrier()
    assert seen == [0, 1]


def arch_with_callback(seen):
    """`answer_until` with a note of every pass that really runs."""
    arch = network()[0]
    original = itnet.of_pass

    def noted(arch, variables, n):
        jax.debug.callback(lambda n: seen.append(int(n)), n)
        return original(arch, variables, n)

    def run(*args):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(itnet, "of_pass", noted)
            return itnet.answer_until(arch, MEAN, STD)(*args)

    return run


def test_the_record_of_outputs_is_that_of_networks_with_exits():
    answers, scores = network()[3], network()[5]
    outputs = itnet.outputs(answers)
    assert list(outputs.exits) == ["exit_0", "exit_1", "exit_2"]
    np.testing.assert_array_equal(exits.stacked(outputs), answers)
    limits = thresholds(PIXEL, (mixed()[0], NEVER, mixed()[1]))
    found = exits.route(exits.stacked(outputs), Policy(), limits)
    np.testing.assert_array_equal(found.taken + 1, expected(mixed()))
    np.testing.assert_allclose(found.scores, scores, atol=0.02)


# --- Segments ---


def test_segments_are_one_function_and_leave_images_behind():
    arch, variables, images, *_ = network()
    segments = itnet.cut(arch, MEAN, STD, Policy(), (1, 2, 3))
    assert len(set(segments.runs)) == 1 and len(segments.runs) == N
    ran = []
    cut = itnet.cut(arch, MEAN, STD, Policy(), (1, 3))
    many = multi_exit.answer_many(cut, executed=lambda i, n: ran.append((i, n)))
    answer = many(variables, images, thresholds(PIXEL, mixed()))
    taken = expected(mixed())
    np.testing.assert_array_equal(answer.taken, np.searchsorted([1, 3, N], taken))
    same(answer.labels, taken)
    left = [B, np.sum(taken > 1), np.sum(taken > 3)]
    assert ran == [(i, min(multi_exit.bucket(int(n)), B)) for i, n in enumerate(left)]


def test_maps_get_better_one_at_a_time():
    arch, variables, images, *_ = network()
    run = multi_exit.any_time(itnet.cut(arch, MEAN, STD, Policy(), (1, 2, 3)))
    for n, labels in enumerate(run(variables, images), start=1):
        same(labels, np.full(B, n))
    assert n == N


# --- Ways ---


def test_ways_of_a_loop():
    images = network()[2]
    each = parts(model(), Way("anytime", (1, 3)))
    assert list(each) == ["pass_1", "pass_3", "final"]
    for part, n in zip(each.values(), (1, 3, N), strict=True):
        assert num_iterations(part.arch) == n
        same(part(images), np.full(B, n))
    (budgeted,) = parts(model(), Way("budgeted", (2,))).values()
    assert num_iterations(budgeted.arch) == 2
    assert list(parts(model(), Way("anytime"))) == ["pass_1", "pass_2", "pass_3", "final"]
    (final,) = parts(model(), Way()).values()
    assert final.arch == model().arch and routed(model(), Way()) is None


def test_input_dependent_counts_who_left_where():
    images = network()[2]
    way = Way("input", (1, 3), Policy(), (PIXEL,), mixed())
    found = routed(model(), way)
    assert isinstance(found, InputDependent)
    taken = expected(mixed())
    same(found(images), taken)
    counts = [int(np.sum(taken == n)) for n in (1, 3, N)]
    assert found.left == counts
    same(found(images[0])[None], taken, (0,))
    record = found.record(SIZE)
    assert [row["name"] for row in record["exits"]] == ["pass_1", "pass_3", "final"]
    # Leaving after a pass costs its account, and the answers before it that were not sure enough.
    head = 5 * 7 * 8 * K
    alone = [account(model().arch, SIZE, n).macs for n in (1, 3, N)]
    assert [row["macs"] for row in record["exits"]] == [alone[i] + i * head for i in range(3)]
    assert record["final_only_macs"] == account(model().arch, SIZE, N).macs


def test_one_threshold_may_stand_for_all():
    way = Way("input", image=(0.5,))
    np.testing.assert_allclose(way.limits(model().arch).image, [0.5] * 3)


def test_all_passes_are_scored_in_one_run():
    arch, variables, images, *_ = network()
    label = np.random.default_rng(0).integers(0, K, (B, *SIZE)).astype(np.uint8)
    label[:, :9] = 255
    weight = np.ones(B, np.float32)
    weight[-1], label[-1] = 0, 255
    batch = {"image": images, "label": label, "weight": weight}
    score = itnet.make_scores(arch, MEAN, STD, (1, 3))
    seen = []
    found = evaluate_each(
        score, variables, [batch], K, 2, watch=lambda batch, labels: seen.append(labels)
    )
    same(seen[0], np.full(B, 3))
    for n, tally in zip((1, 3), found, strict=True):
        part, few = with_iterations(arch, variables, n)
        alone = evaluate(make_score(part, MEAN, STD), few, [batch], K)
        assert tally.num_images == alone.num_images == B - 1
        assert np.abs(tally.confusion - alone.confusion).sum() <= 0.01 * alone.confusion.sum()
        np.testing.assert_allclose(tally.loss_sum, alone.loss_sum, rtol=1e-4)
        assert tally.loss_count == alone.loss_count == alone.confusion.sum()


# --- Deadlines ---


def test_passes_that_there_is_time_for():
    pace = Pace(10.0, 2.0)
    found = [pace.passes(ms, 8) for ms in (0.1, 10.0, 11.9, 12.0, 17.0, 24.0, 1e9)]
    assert found == [1, 1, 1, 2, 4, 8, 8]
    assert Pace(1.0, 0.0).passes(2.0, 8) == 8


def test_a_deadline_that_nothing_can_meet_gets_an_answer_marked_as_late():
    images = network()[2]
    late = routed(model(), Way("deadline", deadline_ms=1e-3))
    assert isinstance(late, Punctual)
    same(late(images[:2]), np.full(B, 1), (0, 1))
    assert [(one.passes, one.late) for one in late.done] == [(1, True)] * 2
    record = late.record(SIZE)
    assert record["late_frac"] == 1.0 and record["mean_passes"] == 1.0
    assert record["exits"][0]["macs"] == account(model().arch, SIZE, 1).macs


def test_a_generous_deadline_gets_all_passes_and_keeps_it():
    images = network()[2]
    ample = Punctual.of(model(), 1e6)
    same(ample(images[0])[None], np.full(B, N), (0,))
    assert ample.done[0].passes == N and not ample.done[0].late
    pace = ample.paces[SIZE]
    assert pace.first_ms > 0 and pace.pass_ms >= 0


def test_a_device_that_slows_down_is_noticed_and_one_interruption_is_not(monkeypatch):
    clock, slow = {"s": 0.0}, [1.0]

    def program(variables, image, limits, last):
        clock["s"] += slow[0] * (10 + 2 * (int(last) - 1)) / 1e3
        return SimpleNamespace(labels=np.zeros((1, *SIZE), np.uint8))

    monkeypatch.setattr(itnet.time, "perf_counter", lambda: clock["s"])
    one = Punctual.of(model(), 10 + 2 * (N - 1) + 1e-6)
    one.compiled = program
    image = np.zeros((*SIZE, 3), np.uint8)

    def passes(times):
        for _ in range(times):
            one(image)
        return [(x.passes, x.late) for x in one.done[-times:]]

    assert passes(5) == [(N, False)] * 5
    slow[0] = 3.0
    assert passes(1) == [(N, True)]
    slow[0] = 1.0
    assert passes(1) == [(N, False)]
    slow[0] = 1.3
    assert passes(1) == [(N, True)]
    passes(2)
    assert passes(50) == [(2, False)] * 50  # 1.3 * 12 ms
    slow[0] = 0.5  # never more haste than was measured
    assert passes(60)[-1] == (N, False)
    assert one.pace(SIZE) == pytest.approx(Pace(10.0, 2.0))


# --- The folder, and mistakes ---


def test_the_folder_holds_the_graph_once(tmp_path):
    arch, variables, images, *_ = network()
    save_model(tmp_path / "m", arch, variables, model().card)
    sizes = {}
    for n in (2, 8):
        save_model(tmp_path / str(n), *with_iterations(arch, variables, n), model().card)
        sizes[n] = (tmp_path / str(n) / "variables.safetensors").stat().st_size
    back = Model(*load_model(tmp_path / "m"))
    assert back.arch == arch
    same(back(images), np.full(B, N))
    floats = sum(layer.out_channels for layer in zoo.blocks(arch)[-2].layers)
    assert (
        sizes[8] - sizes[2] <= 6 * 2 * 4 * floats + 400
    )  # means and variances, and digits of their shapes


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda m: Way("budgeted", (5,)).network(m.arch, m.variables), "got (5,); expected 1 to 4"),
        (lambda m: Way("anytime", (0, 1)).exits(m.arch), "eval.exits.chosen: got (0, 1)"),
        (lambda m: Way("input", (3, 1)).exits(m.arch), "each once, in order"),
        (lambda m: Way("input").limits(m.arch), "got 0 thresholds; expected 3, one per exit"),
        (lambda m: Way("input", image=(0.1, 0.2)).limits(m.arch), "got 2 thresholds"),
        (lambda m: routed(m, Way("deadline")), "eval.exits.deadline_ms: got 0.0"),
        (lambda m: Punctual.of(m, float("nan")), "eval.exits.deadline_ms: got nan"),
        (lambda m: Punctual.of(Model(m.arch, m.variables, m.card, Mode(flip=True)), 5.0), "flip"),
        (
            lambda m: routed(
                Model(small("fcn_resnet18")[0], {}, m.card), Way("deadline", deadline_ms=1.0)
            ),
            "a model without a loop",
        ),
    ],
)
def test_mistakes_are_one_line(act, words):
    with pytest.raises(UserError) as error:
        act(model())
    assert words in str(error.value) and "\n" not in str(error.value)
