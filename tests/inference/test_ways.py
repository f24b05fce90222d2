"""The ways of `--mode` against the parts that they are made of."""

import dataclasses

import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.inference.artifact import Card
from jaxseg.inference.augmented import Mode
from jaxseg.inference.exits import NEVER, Policy
from jaxseg.inference.predictor import Model, labels_only
from jaxseg.inference.ways import InputDependent, Way, parts
from jaxseg.models import mess
from jaxseg.models.mess import ExitDesign
from tests.inference.test_multi_exit import MEAN, PIXEL, SIZE, STD, B, K, mixed_limits, network


def model():
    arch, variables, *_ = network()
    names = tuple(f"class {k}" for k in range(K))
    return Model(arch, variables, Card(names, ((0, 0, 0),) * K, MEAN, STD, {}, {}))


def close(found, expected):
    """Folded norms and other batch sizes round differently: pixels on borders may turn."""
    assert np.mean(np.asarray(found) == expected) > 0.99


def test_parts_answer_like_the_exits():
    images, maps = network()[2:4]
    each = parts(model(), Way("anytime"))
    assert list(each) == ["after_block_03", "after_block_06", "final"]
    for part, expected in zip(each.values(), maps, strict=True):
        close(part(images), expected)
    (budgeted,) = parts(model(), Way("budgeted", (0,))).values()
    assert budgeted.arch == each["after_block_03"].arch
    (final,) = parts(model(), Way()).values()
    assert final.arch == each["final"].arch and not final.arch.exits


def test_input_dependent_counts_who_left_where():
    images, maps, scores = network()[2:]
    limits = mixed_limits()
    way = Way("input", (), Policy(), (PIXEL,), tuple(map(float, limits.image)))
    routed = InputDependent.of(model(), way)
    sure = scores >= np.asarray(limits.image)[:, None]
    taken = np.where(sure.any(0), sure.argmax(0), 2)
    close(routed(images), maps[taken, np.arange(B)])
    counts = np.bincount(taken, minlength=3)
    assert routed.left == counts.tolist()
    for i in range(2):
        close(routed(images[i]), maps[taken[i], i])
    left = counts + np.bincount(taken[:2], minlength=3)
    assert routed.left == left.tolist()
    record = routed.record(SIZE)
    paths = mess.costs(routed.arch, SIZE).paths((0, 1, 2))
    np.testing.assert_allclose(record["mean_macs"], np.dot(paths, left) / left.sum())
    assert [row["frac_taken"] for row in record["exits"]] == (left / left.sum()).tolist()
    assert all(row["latency_ms"] > 0 for row in record["exits"])
    assert routed.left == left.tolist()  # what is timed is not counted


def test_padding_of_a_batch_is_not_run():
    images = network()[2]
    way = Way("input", (0,), pixel=(PIXEL,), image=(NEVER,))
    routed = InputDependent.of(model(), way)
    weight = np.array([1, 1, 0, 0, 0, 0, 0], np.float32)
    labels, *_ = labels_only(routed)(None, {"image": images, "label": None, "weight": weight})
    assert routed.left == [0, 2] and not labels[2:].any() and labels.shape == (B, *SIZE)


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda m: Way("inputs"), "did you mean 'input'"),
        (lambda m: Way.from_dict({"chosen": [0.5]}), "eval.exits.chosen: got .*whole numbers"),
        (lambda m: Way.from_dict({"chosen": [True]}), "eval.exits.chosen: got .*whole numbers"),
        (lambda m: Way.from_dict({"pixel": ["a"]}), "eval.exits.pixel: got .* expected numbers"),
        (lambda m: Way("input").limits(m.arch), "eval.exits.image: got 0 thresholds; expected 2"),
        *(
            (
                lambda m, mode=mode, chosen=chosen: parts(m, Way(mode, chosen, image=(0.5,))),
                "eval.exits.chosen: got ",
            )
            for mode in ("final", "budgeted", "anytime", "input")
            for chosen in ((2,), (7, 0), (1, 0), (-1,), (0, 0))
        ),
        (
            lambda m: Way("budgeted").exits(dataclasses.replace(m.arch, exits=())),
            "a model without early exits",
        ),
        (
            lambda m: Way("anytime").exits(
                mess.with_exits(m.arch, ("block_03",), (ExitDesign(), ExitDesign(2)))
            ),
            "2 exits behind 1 blocks",
        ),
        (
            lambda m: InputDependent.of(
                dataclasses.replace(m, mode=Mode(flip=True)), Way("input", image=(0.1, 0.2))
            ),
            "without flip and scales",
        ),
    ],
)
def test_mistakes_are_one_line(act, words):
    with pytest.raises(UserError, match=words) as error:
        act(model())
    assert "\n" not in str(error.value)
