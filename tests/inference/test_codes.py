"""Answers of int8 networks in all the ways there are, by exits and by passes: to the last bit."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxseg.conversion.calibrated import calibrated
from jaxseg.errors import UserError
from jaxseg.inference import itnet, labelling, multi_exit
from jaxseg.inference.artifact import Card
from jaxseg.inference.augmented import Mode
from jaxseg.inference.exits import NEVER, WHOLE, Policy, image_confidence, limits_for
from jaxseg.inference.exported import exported
from jaxseg.inference.predictor import Model, make_predict, make_score
from jaxseg.inference.ways import AnyTime, InputDependent, Way, parts, routed
from jaxseg.models import mess, zoo
from jaxseg.models.itnet import with_iterations
from jaxseg.quant import codes, reference, scaling
from tests.conversion.runs import interpreted
from tests.conversion.test_check import plausible
from tests.conversion.test_exact import beginning, network
from tests.fakes import small_arch
from tests.models.test_zoo import filled

MEAN, STD = (0.5,) * 3, (0.25,) * 3
FOREIGN = re.compile(r"[x<](?:b?f(?:16|32|64)|i64)>")
"""Types that no value in a program of ours may have."""
PADDING = re.compile(r"padding = dense<[^:]*> : tensor<\d+x2xi64>")
"""Says how an operation is done, in StableHLO's own numbers; no value of the program."""


@pytest.fixture(autouse=True, scope="module")
def _cheap():
    """Half the time to compile, also where no options can be given."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# --- Networks with exits ---

SIZE, B = (34, 44), 6


def pixels():
    images = np.random.default_rng(3).integers(0, 256, (B, *SIZE, 3), np.uint8)
    images[::2] //= 3  # duller, so that confidences differ
    return images


def card(arch):
    names = tuple(f"class {k}" for k in range(arch.num_classes))
    return Card(names, ((0, 0, 0),) * len(names), MEAN, STD, {}, {})


def converted(arch):
    return calibrated(arch, jax.device_get(filled(arch)), MEAN, STD, lambda: [pixels()])


@functools.cache
def small_codes():
    return converted(small_arch())


@functools.cache
def with_exits():
    """An int8 network of three blocks with a head behind each."""
    arch = mess.with_exits(small_arch(), ("block_00", "block_01"), (mess.ExitDesign(4),), width=0.5)
    arch, variables = converted(arch)
    return Model(arch, variables, card(arch))


@functools.cache
def by_hand():
    """Scores of every head from the interpreter, the final ones last: int64 [B, h, w, K] each."""
    model = with_exits()
    found = interpreted(model.arch, model.variables, pixels(), MEAN, STD)
    last = {block.name: block.ops[-1].name for block in zoo.blocks(model.arch)}
    return [found[name, last[name]].astype(np.int8) for name in ("exit_0", "exit_1", "head")]


POLICIES = {
    "smooth": Policy(),
    "rough": Policy(smooth=False, reach=2),
    "mean": Policy(measure="mean"),
}


def mixed(policy, pixel=0.6):
    """(thresholds of images with which some leave everywhere, the exit of each image)."""
    model = with_exits()
    step = model.arch.numbers
    limit = limits_for(step, pixel, (0.5, 0.5)).pixel
    sure = [image_confidence(x, policy, p, step) for x, p in zip(by_hand(), limit, strict=False)]
    sure = np.stack(sure)
    first = np.sort(sure[0])[-2]
    second = np.median(sure[1][sure[0] < first])
    image = ((first - 0.5) / WHOLE, (second - 0.5) / WHOLE)
    leaves = sure >= np.array([[first], [second]])
    return image, np.where(leaves.any(0), leaves.argmax(0), 2)


@pytest.mark.parametrize("name", POLICIES)
def test_images_leave_where_they_are_sure(name):
    """One by one, together, and as the interpreter's scores say: the same exits, the same labels."""
    policy, model = POLICIES[name], with_exits()
    image, taken = mixed(policy)
    assert set(taken) == {0, 1, 2}
    labels = [reference.labels(x, SIZE) for x in by_hand()]
    expected = np.stack([labels[exit_][i] for i, exit_ in enumerate(taken)])
    limits = limits_for(model.arch.numbers, 0.6, image)
    segments = multi_exit.cut(model.arch, MEAN, STD, policy)
    many = multi_exit.answer_many(segments)(model.variables, pixels(), limits)
    np.testing.assert_array_equal(many.taken, taken)
    np.testing.assert_array_equal(many.labels, expected)
    one = multi_exit.answer_one(segments)
    for i in range(B):
        answer = one(model.variables, pixels()[i : i + 1], limits)
        assert answer.taken[0] == taken[i]
        np.testing.assert_array_equal(answer.labels[0], expected[i])
    way = Way("input", (), policy, (0.6,), image)
    found = routed(model, way)
    np.testing.assert_array_equal(found(pixels()), expected)
    assert found.left == np.bincount(taken, minlength=3).tolist()


def test_entropy_is_refused_in_one_line():
    way = Way("input", policy=Policy("entropy"), image=(0.5,))
    with pytest.raises(UserError, match="confidence of an int8 network: got entropy") as error:
        InputDependent.of(with_exits(), way)(pixels())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("image, exit_", [((0.0, 0.0), 0), ((NEVER, 0.0), 1), ((NEVER, NEVER), 2)])
def test_the_limits_of_the_policy(image, exit_):
    found = InputDependent.of(with_exits(), Way("input", (), Policy(), (0.5,), image))
    np.testing.assert_array_equal(found(pixels()), reference.labels(by_hand()[exit_], SIZE))
    assert found.left[exit_] == B


def test_parts_and_any_time():
    labels = [reference.labels(x, SIZE) for x in by_hand()]
    each = parts(with_exits(), Way("anytime"))
    for part, expected in zip(each.values(), labels, strict=True):
        assert part.arch.numbers.in_codes
        np.testing.assert_array_equal(part(pixels()), expected)
    turns = AnyTime.of(with_exits(), Way("anytime")).answers(pixels())
    for found, expected in zip(turns, labels, strict=True):
        np.testing.assert_array_equal(found, expected)
    (budgeted,) = parts(with_exits(), Way("budgeted", (1,))).values()
    np.testing.assert_array_equal(budgeted(pixels()), labels[1])
    assert len(budgeted.arch.backbone.blocks) == 2


# --- Loops ---

N = 4


@functools.cache
def loop(sharing="weights"):
    arch = zoo.named(
        "itnet",
        5,
        width=0.125,
        iterations=N,
        output_stride=4,
        scales=2,
        sharing=sharing,
        dropout=0.0,
    )
    arch, variables = converted(arch)
    return Model(arch, variables, card(arch))


@functools.cache
def passes(sharing="weights"):
    """Labels after every pass, by the interpreter: uint8 [N, B, H, W]; scores [N, B, h, w, K]."""
    model, found = loop(sharing), []
    for n in range(1, N + 1):
        arch, variables = with_iterations(model.arch, model.variables, n)
        variables = jax.device_get(variables)
        found.append(interpreted(arch, variables, pixels(), MEAN, STD)["head", "logits"])
    return np.stack([reference.labels(x, SIZE) for x in found]), np.stack(found).astype(np.int8)


@pytest.mark.parametrize("sharing", ["weights", "everything", "nothing"])
def test_a_loop_that_is_not_stopped_is_the_network(sharing):
    model = loop(sharing)
    until = itnet.answer_until(model.arch, MEAN, STD)
    nothing = limits_for(model.arch.numbers, 1.0, (NEVER,))
    labels, _ = passes(sharing)
    for n in (1, 3, N):
        answer = until(model.variables, pixels(), nothing, jnp.int32(n))
        np.testing.assert_array_equal(answer.taken, n)
        np.testing.assert_array_equal(answer.labels, labels[n - 1])
    assert until._cache_size() == 1
    np.testing.assert_array_equal(model(pixels()), labels[-1])
    if sharing != "weights":
        return
    (budgeted,) = parts(model, Way("budgeted", (2,))).values()
    np.testing.assert_array_equal(budgeted(pixels()), labels[1])
    far, more = with_iterations(model.arch, model.variables, N + 3)
    beyond = until(model.variables, pixels(), nothing, jnp.int32(N + 3))
    np.testing.assert_array_equal(beyond.labels, make_predict(far, MEAN, STD)(more, pixels()))


def test_a_loop_stops_where_it_is_sure():
    model, (labels, scores) = loop(), passes()
    limit = limits_for(model.arch.numbers, 0.6, (0.5,)).pixel[0]
    policy = Policy(measure="mean")
    sure = np.stack(
        [image_confidence(scores[i], policy, limit, model.arch.numbers) for i in (0, 2)]
    )
    first = np.sort(sure[0])[-2]
    second = np.median(sure[1][sure[0] < first])
    image = ((first - 0.5) / WHOLE, (second - 0.5) / WHOLE)
    leaves = sure >= np.array([[first], [second]])
    taken = np.where(leaves.any(0), leaves.argmax(0), 2)
    assert set(taken) == {0, 1, 2}
    expected = np.stack([labels[(0, 2, N - 1)[t]][i] for i, t in enumerate(taken)])
    found = routed(model, Way("input", (1, 3), policy, (0.6,), image))
    np.testing.assert_array_equal(found(pixels()), expected)  # in segments
    assert found.left == np.bincount(taken, minlength=3).tolist()
    for i in range(B):
        np.testing.assert_array_equal(found(pixels()[i]), expected[i])  # in one program
    assert found.left == (2 * np.bincount(taken, minlength=3)).tolist()


def test_a_deadline_far_away_is_the_whole_network():
    found = itnet.Punctual.of(loop(), 1e6)
    found.pace(SIZE, rounds=1)
    np.testing.assert_array_equal(found(pixels()[0]), passes()[0][-1][0])
    assert found.done[0].passes == N and not found.done[0].late


def batch():
    label = np.random.default_rng(0).integers(0, 3, (B, *SIZE)).astype(np.uint8)
    label[:, :9] = 255
    return {"image": pixels(), "label": label, "weight": np.ones(B, np.float32)}


def test_losses_are_of_what_codes_stand_for():
    """Cross-entropy of scores in float32; labels as ever."""
    arch, variables = small_codes()
    labels, total, count = make_score(arch, MEAN, STD)(variables, batch())
    scores = interpreted(arch, variables, pixels(), MEAN, STD)["head", "logits"]
    np.testing.assert_array_equal(labels, reference.labels(scores, SIZE))
    full = labelling.resize_bilinear(jnp.asarray(scores, jnp.float32), SIZE)
    full = np.asarray(full, np.float64) * arch.numbers.codes.score_step
    label, known = batch()["label"], batch()["label"] < 255
    log = full - full.max(-1, keepdims=True)
    log -= np.log(np.exp(log).sum(-1, keepdims=True))
    picked = np.take_along_axis(log, np.where(known, label, 0)[..., None].astype(int), -1)[..., 0]
    assert int(count) == known.sum()
    np.testing.assert_allclose(float(total), -picked[known].sum(), rtol=1e-4)


def test_all_passes_are_scored_in_one_run():
    model = loop()
    labels, totals, _ = itnet.make_scores(model.arch, MEAN, STD, (1, 3))(model.variables, batch())
    np.testing.assert_array_equal(labels, passes()[0][[0, 2]])
    assert np.all(np.isfinite(totals)) and totals[0] != totals[1]


def test_averages_of_several_answers_are_over_what_codes_stand_for():
    """Mirror images: the mean of both probabilities, whose largest is the label."""
    arch, variables = small_codes()
    model, mean = Model(arch, variables, card(arch), Mode(flip=True)), 0
    for turn in (1, -1):
        image = pixels()[:, :, ::turn]
        codes = interpreted(arch, variables, image, MEAN, STD)["head", "logits"]
        scores = jnp.asarray(codes * arch.numbers.codes.score_step, jnp.float32)
        full = labelling.resize_bilinear(scores, SIZE)[:, :, ::turn]
        mean += np.asarray(jax.nn.softmax(full)) / 2
    chosen = np.take_along_axis(mean, model(pixels())[..., None].astype(int), -1)[..., 0]
    np.testing.assert_allclose(chosen, mean.max(-1), atol=1e-5)


def test_pixels_of_scaled_images_are_rounded():
    """Of what `Mode(scales=..)` hands to the network: 100.9 is nearer to 101 than to 100."""
    own = scaling.image_affine(MEAN, STD, 2.0**-7)
    image = np.full((1, 1, 1, 3), 100, np.uint8)
    above = codes.image_codes(jnp.asarray(image + 1), *own)
    np.testing.assert_array_equal(codes.image_codes(image + np.float32(0.9), *own), above)


# --- Elsewhere ---


@functools.cache
def elsewhere(name):
    """Int8 networks that need not answer: their programs are made, not run."""
    if name == "small":
        return small_codes()
    of = {
        "first blocks, depthwise": lambda: beginning("deeplabv3_mobilenet_v2"),
        "first blocks, same": lambda: beginning("deeplabv3_efficientnet_lite0"),
        "gate": lambda: network("lraspp_resnet18"),
        "loop": lambda: network("itnet", iterations=3),
    }
    arch = dataclasses.replace(of[name](), numbers=small_codes()[0].numbers)
    return arch, plausible(arch)


def grouped(text):
    """Convolutions in StableHLO: (their groups, type of what they give)."""
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    groups = (int(re.search(r"feature_group_count = (\d+)", line)[1]) for line in lines)
    results = (re.search(r"-> tensor<[0-9x]*x(\w+)>", line)[1] for line in lines)
    return list(zip(groups, results, strict=True))


@pytest.mark.parametrize(
    "name", ["small", "first blocks, depthwise", "first blocks, same", "gate", "loop"]
)
def test_programs_for_other_devices(name):
    """On GPUs integers have no convolution, least of all one in groups; nothing floats anywhere."""
    arch, variables = elsewhere(name)
    image = jax.ShapeDtypeStruct((2, 33, 65, 3), np.uint8)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)
    predict, found = make_predict(arch, MEAN, STD), {}
    for platform in ("cpu", "cuda", "tpu"):
        made = export.export(predict, platforms=(platform,))(shapes, image)
        assert made.out_avals[0].shape == (2, 33, 65) and made.out_avals[0].dtype == np.uint8
        found[platform] = made.mlir_module()
        assert not FOREIGN.search(PADDING.sub("", found[platform]))
    assert grouped(found["cuda"]) == []
    assert set(grouped(found["tpu"])) == {(1, "i32")}
    assert "custom_call" not in found["cuda"]


def test_a_file_for_every_platform_and_any_batch():
    arch, variables = small_codes()
    model = Model(arch, variables, card(arch))
    made = exported(model, *SIZE)
    assert made.platforms == ("cpu", "cuda", "tpu")
    call = export.deserialize(bytearray(made.serialize())).call
    for images in (pixels(), pixels()[:1]):
        np.testing.assert_array_equal(call(images), model(images))


def test_an_int8_network_is_not_trained():
    with pytest.raises(UserError, match="make it with `deploy`"):
        zoo.init(small_codes()[0], jax.random.PRNGKey(0))
