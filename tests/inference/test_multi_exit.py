"""Skipping is real, and what is answered is what the exit says (M7, M10)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.arch import Counts
from jaxseg.errors import UserError
from jaxseg.inference import multi_exit
from jaxseg.inference.exits import NEVER, Policy, image_confidence, thresholds
from jaxseg.inference.labelling import labels_at
from jaxseg.layers.normalise import normalise
from jaxseg.models import mess, zoo
from jaxseg.models.mess import DLB, ExitDesign
from tests.models.test_zoo import K, filled

MEAN, STD = (0.5,) * 3, (0.25,) * 3
B, SIZE = 7, (64, 96)
PIXEL = 0.99  # a random network is sure of most pixels


@functools.cache
def network():
    """(arch, variables, images, label maps of every exit [E, B, H, W], confidences [E - 1, B])."""
    plain = zoo.named("deeplabv3plus_resnet18", K, width=0.125)
    arch = mess.with_exits(plain, ("block_03", "block_06"), (ExitDesign(2, 1),))
    variables = filled(arch)
    images = np.random.default_rng(3).integers(0, 256, (B, *SIZE, 3), np.uint8)
    images[::2] //= 3  # some duller than others, so that confidences differ

    @jax.jit
    def everything(variables, images):
        outputs = zoo.module(arch).apply(variables, normalise(images, MEAN, STD, jnp.float32))
        maps = [labels_at(x, SIZE) for x in (*outputs.exits.values(), outputs.logits)]
        scores = [image_confidence(x, Policy(), PIXEL) for x in outputs.exits.values()]
        return jnp.stack(maps), jnp.stack(scores)

    return arch, variables, images, *jax.device_get(everything(variables, images))


def expected_exits(scores, limits):
    sure = scores >= np.asarray(limits.image)[:, None]
    return np.where(sure.any(0), sure.argmax(0), len(scores))


def between(values):
    """A threshold in the widest gap between `values`, so that no rounding decides."""
    values = np.sort(values)
    i = int(np.diff(values).argmax())
    return float(values[i : i + 2].mean())


def mixed_limits():
    """Thresholds with which images leave at every exit."""
    scores = network()[-1]
    first = between(scores[0])
    return thresholds(PIXEL, (first, between(scores[1, scores[0] < first])))


def check(answer, maps, taken):
    np.testing.assert_array_equal(answer.taken, taken)
    for image, exit_ in enumerate(taken):
        # Programs of another batch size round differently: a few pixels on borders may turn.
        same = np.mean(np.asarray(answer.labels)[image] == maps[exit_, image])
        assert same > 0.995


LIMITS = {
    "first": lambda: thresholds(PIXEL, (0.0, 0.0)),
    "never": lambda: thresholds(PIXEL, (NEVER, NEVER)),
    "second": lambda: thresholds(PIXEL, (NEVER, 0.0)),
    "mixed": mixed_limits,
}


@functools.cache
def compiled():
    arch = network()[0]
    segments, calls = multi_exit.cut(arch, MEAN, STD), []
    many = multi_exit.answer_many(segments, executed=lambda *told: calls.append(told))
    return multi_exit.answer_one(segments), many, calls


@pytest.mark.parametrize("name", LIMITS)
def test_batches_lose_those_that_leave(name):
    """The segments that ran are those up to the last exit taken, on as few images as are left (in powers of two)."""
    arch, variables, images, maps, scores = network()
    _, many, calls = compiled()
    limits = LIMITS[name]()
    taken = expected_exits(scores, limits)
    calls.clear()
    check(many(variables, images, limits), maps, taken)
    assert calls[0] == (0, B) and len(calls) == taken.max() + 1
    for segment, rows in calls[1:]:
        left = int((taken >= segment).sum())
        assert rows == min(multi_exit.bucket(left), B)
    if name == "mixed":
        assert set(taken) == {0, 1, 2}


@pytest.mark.parametrize("name", LIMITS)
def test_one_image_in_one_program(name):
    _, variables, images, maps, scores = network()
    one = compiled()[0]
    limits = LIMITS[name]()
    taken = expected_exits(scores, limits)
    for image in range(B):
        answer = one(variables, images[image : image + 1], limits)
        check(answer, maps[:, image : image + 1], taken[image : image + 1])


def test_later_layers_of_one_image_are_inside_conditions():
    """Outside of any condition there are the convolutions up to the first exit, and no other."""
    arch, variables, images, *_ = network()
    segments = multi_exit.cut(arch, MEAN, STD)
    jaxpr = jax.make_jaxpr(multi_exit.answer_one(segments))(
        variables, images[:1], thresholds(PIXEL, (0.5, 0.5))
    )

    def products(jaxpr, inside):
        """Convolutions and products outside and inside of conditions."""
        found = np.zeros(2, int)
        for eqn in jaxpr.eqns:
            if eqn.params.get("name") == "_resize_planes":
                continue
            if eqn.primitive.name in ("conv_general_dilated", "dot_general"):
                found[inside] += 1
            inner = inside or eqn.primitive.name == "cond"
            leaves = jax.tree.leaves(
                list(eqn.params.values()),
                is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr"),
            )
            for leaf in leaves:
                if hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr"):
                    found += products(getattr(leaf, "jaxpr", leaf), int(inner))
        return found

    first, _ = mess.sub_network(arch, variables, (0,), final=False)
    layers = sum(len(spec.layers) for spec in zoo.blocks(first))
    everything = sum(len(spec.layers) for spec in zoo.blocks(arch))
    found = products(jaxpr.jaxpr, 0)
    assert found[0] == layers and found.sum() == everything


def test_any_time_maps_come_one_by_one():
    arch, variables, images, maps, _ = network()
    segments = multi_exit.cut(arch, MEAN, STD)
    answers = multi_exit.any_time(segments)(variables, images)
    for exit_ in range(3):
        assert np.mean(np.asarray(next(answers)) == maps[exit_]) > 0.995
    with pytest.raises(StopIteration):
        next(answers)


def test_what_ran_costs_what_the_formula_says():
    """M7: the mean of executed MACs per image equals table 1's formula with the measured shares."""
    arch, variables, images, _, scores = network()
    limits = mixed_limits()
    costs = mess.costs(arch, SIZE)
    taken = multi_exit.answer_many(multi_exit.cut(arch, MEAN, STD))(variables, images, limits).taken
    np.testing.assert_array_equal(taken, expected_exits(scores, limits))
    paths = costs.paths((0, 1, 2))
    past = [np.mean(taken > n) for n in range(3)]
    np.testing.assert_allclose(
        costs.input_dependent((0, 1, 2), past), np.mean([paths[n] for n in taken]), rtol=1e-12
    )
    budget, _ = mess.sub_network(arch, variables, (0,), final=False)
    assert paths[0] == mess.costs(budget, SIZE).final_only()
    assert isinstance(mess.cumulative(arch, SIZE)[0], Counts)


def test_mistakes_are_one_line():
    arch, *_ = network()
    several = mess.with_exits(arch, ("block_03",), (ExitDesign(), ExitDesign(kind=DLB)))
    for wrong in (several, zoo.named("fcn_resnet18", K)):
        with pytest.raises(UserError, match="each behind another block"):
            multi_exit.cut(wrong, MEAN, STD)
