"""Every loss of the registry: its definition, its gradient, what must not matter, and the step over devices."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxseg import defaults, sections
from jaxseg.errors import UserError
from jaxseg.objectives import losses
from jaxseg.training import steps
from jaxseg.training.loss import TERMS, Loss
from jaxseg.training.parallel import Parallel
from jaxseg.types import IGNORE_LABEL, Outputs
from tests.fakes import NUM_CLASSES, batch, small_arch
from tests.objectives import reference
from tests.training.test_steps import make_phase, take

EACH = pytest.mark.parametrize("name", sorted(TERMS))
OPTIONS = {
    "class_weights": (0.5, 1.0, 2.0, 0.1),
    "label_smoothing": 0.1,
    "ohem_keep_frac": 0.25,
    "focal_gamma": 1.5,
}


def arguments(name, loss):
    """What the registry passes to the loss `name`."""
    return {key: getattr(loss, attribute) for key, attribute in TERMS[name].options.items()}


def value(name, *example, **options):
    """(sum, count) of the loss `name`."""
    return _compiled(name, tuple(options.items()))(*example)[0]


def slope(name, *example, **options):
    """(sum, gradient of it by the logits) of the loss `name`."""
    (total, _), grad = _compiled(name, tuple(options.items()))(*example)
    return total, grad


@functools.cache
def _compiled(name, options):
    def total(logits, label, weight):
        pair = TERMS[name].value(logits, label, weight, **arguments(name, Loss(**dict(options))))
        return pair[0], pair

    def run(*example):
        (_, pair), grad = jax.value_and_grad(total, has_aux=True)(*example)
        return pair, grad

    return jax.jit(run)


@pytest.fixture
def example():
    """Three images of four classes: one half void, one without class 3, one padding with labels left in."""
    rng = np.random.default_rng(7)
    label = rng.integers(0, 4, (3, 5, 6)).astype(np.uint8)
    label[0, :3] = IGNORE_LABEL
    label[1] %= 3
    weight = np.array([1.0, 0.5, 0.0], np.float32)
    return rng.normal(0, 2, (3, 5, 6, 4)).astype(np.float32), label, weight


@EACH
@pytest.mark.parametrize(
    "options",
    [{}, OPTIONS, {"ohem_threshold": 0.2}, {**OPTIONS, "per_image": True}],
    ids=["", "all", "few", "per image"],
)
def test_value_and_count_are_those_of_the_definition(name, options, example):
    loss = Loss(**options)
    want = reference.LOSSES[name](*example, **arguments(name, loss))
    np.testing.assert_allclose(value(name, *example, **options), want, rtol=2e-6)
    logits, label, weight = example
    count = TERMS[name].count(label, weight, loss)
    np.testing.assert_allclose(count, want[1], rtol=1e-6)


@EACH
@pytest.mark.parametrize(
    "options", [{}, {**OPTIONS, "per_image": True}, OPTIONS], ids=["", "per image", "all"]
)
def test_gradient_is_that_of_the_definition(name, options, example):
    """Central differences of the float64 definition along random directions."""
    logits, label, weight = example
    _, grad = slope(name, *example, **options)
    of = functools.partial(reference.LOSSES[name], **arguments(name, Loss(**options)))
    rng, step = np.random.default_rng(0), 1e-6
    for _ in range(4):
        along = rng.normal(size=logits.shape)
        ends = [of(logits + sign * step * along, label, weight)[0] for sign in (1, -1)]
        want = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(np.sum(grad * along), want, rtol=1e-4, atol=1e-6)


@EACH
def test_a_certain_and_right_answer_costs_nothing(name, example):
    _, label, weight = example
    logits = 200.0 * jnp.eye(4)[np.minimum(label, 3)]
    total, grad = slope(name, logits, label, weight)
    assert float(total) == 0.0
    np.testing.assert_allclose(grad, 0.0, atol=1e-7)


@EACH
def test_all_void_is_zero_with_zero_gradient(name, example):
    logits, label, weight = example
    void = np.full_like(label, IGNORE_LABEL)
    for z in (logits, np.full_like(logits, np.inf)):
        total, grad = slope(name, z, void, weight)
        assert float(total) == 0.0 and not np.any(np.asarray(grad))
    assert float(value(name, logits, void, weight)[1]) == 0.0


@EACH
@pytest.mark.parametrize("junk", [np.inf, -np.inf, np.nan, 1e30])
def test_void_and_padding_do_not_matter_in_value_and_gradient(name, junk, example):
    logits, label, weight = example
    spoiled = logits.copy()
    spoiled[label == IGNORE_LABEL] = junk
    spoiled[weight == 0] = junk
    clean, dirty = slope(name, *example), slope(name, spoiled, label, weight)
    chex.assert_trees_all_equal(clean, dirty)
    assert not np.any(np.asarray(dirty[1])[label == IGNORE_LABEL])
    alone = reference.LOSSES[name](logits[:2], label[:2], weight[:2], **arguments(name, Loss()))
    np.testing.assert_allclose(value(name, spoiled, label, weight), alone, rtol=2e-6)


@EACH
@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0, 1e30])
def test_value_and_gradient_are_finite(name, scale, example):
    """All equal, ordinary, saturated and absurd answers, the label's class never predicted among them."""
    logits, label, weight = example
    total, grad = slope(name, logits * np.float32(scale), label, weight)
    assert np.isfinite(total) and np.isfinite(grad).all()


@EACH
def test_one_pixel_image(name):
    """All four classes have p = 1/4."""
    logits, label = np.zeros((1, 1, 1, 4), np.float32), np.full((1, 1, 1), 2, np.uint8)
    want = {
        "cross_entropy": np.log(4),
        "focal": 0.75**2 * np.log(4),
        "ohem": np.log(4),
        "dice": 1 - 0.5 / 1.25,
        "tversky": 1 - 0.25 / (0.25 + 0.7 * 0.75),
        "lovasz": 0.75,
    }[name]
    total, count = value(name, logits, label, np.ones(1, np.float32))
    np.testing.assert_allclose(total / count, want, rtol=1e-6)


class Pointwise(nn.Module):
    """One answer at half size, without anything that couples images."""

    @nn.compact
    def __call__(self, image, train=False):
        return Outputs(nn.Conv(NUM_CLASSES, (1, 1), name="head")(image[:, ::2, ::2]), {}, {})

    def start(self, key):
        return {**self.init(key, jnp.zeros((1, 4, 4, 3))), "batch_stats": {}}


ALL = {name: 0.5 + i for i, name in enumerate(TERMS)}


def means(logits, label, weight, psum=lambda x: x):
    """Every loss on its own: name -> (value, gradient by the logits)."""

    def one(name, per_image=False):
        loss = Loss({name: 1.0}, (0.5, 1.0, 2.0), label_smoothing=0.1, per_image=per_image)
        data = {"label": label, "weight": weight}
        counts = psum(loss.counts(data))
        total = lambda z: loss.pooled(loss(Outputs(z, {}, {}), data)[0], counts)[0]  # noqa: E731
        value, grad = jax.value_and_grad(total)(logits)
        return psum(value) / counts[name], grad / counts[name]

    return {name: one(name) for name in TERMS} | {"per image": one("cross_entropy", True)}


def test_per_image_an_image_counts_the_same_at_every_size():
    """T7 of DANCE: under a 1x1 convolution an image and its enlarged copy pull alike; pooled, four times as much."""
    rng = np.random.default_rng(5)
    image = rng.normal(size=(8, 8, 3)).astype(np.float32)
    label = rng.integers(0, NUM_CLASSES, (8, 8)).astype(np.uint8)
    label[:3, :5] = IGNORE_LABEL
    images, labels = np.zeros((2, 16, 16, 3), np.float32), np.full((2, 16, 16), IGNORE_LABEL)
    images[0, :8, :8], labels[0, :8, :8] = image, label
    images[1], labels[1] = image.repeat(2, 0).repeat(2, 1), label.repeat(2, 0).repeat(2, 1)
    kernel = rng.normal(size=(3, NUM_CLASSES)).astype(np.float32)

    def pull(which, per_image):
        weight = np.eye(2, dtype=np.float32)[which]
        total = lambda k: losses.cross_entropy(images @ k, labels, weight, per_image=per_image)[0]  # noqa: E731
        return jax.value_and_grad(total)(kernel)

    chex.assert_trees_all_close(pull(0, True), pull(1, True), rtol=1e-5, atol=1e-7)
    small, large = pull(0, False), pull(1, False)
    np.testing.assert_allclose(4 * small[0], large[0], rtol=1e-5)


def test_per_image_weights_are_those_of_images():
    """L = sum_i w_i mean_i / sum_i w_i, however much of an image is void."""
    data, weight = batch(), np.array([0.5, 1.0, 2.0, 0.5], np.float32)
    logits = np.random.default_rng(0).normal(size=(*data["label"].shape, NUM_CLASSES))
    each = [
        losses.mean(*losses.cross_entropy(logits[i : i + 1], data["label"][i : i + 1], np.ones(1)))
        for i in range(4)
    ]
    total, count = losses.cross_entropy(logits, data["label"], weight, per_image=True)
    np.testing.assert_allclose(total, np.sum(weight * np.array(each)), rtol=1e-5)
    assert float(count) == 4.0
    loss = Loss(per_image=True)
    assert float(loss.counts({**data, "weight": weight})["cross_entropy"]) == 4.0


def test_two_devices_equal_one_in_every_value_and_gradient():
    """Uneven void and image weights: means per device would be far off."""
    label, weight = batch()["label"], np.array([1.0, 0.25, 1.0, 0.0], np.float32)
    logits = np.random.default_rng(0).normal(0, 2, (*label.shape, NUM_CLASSES)).astype(np.float32)
    data = {"logits": logits, "label": label, "weight": weight}
    whole = jax.jit(means)(**data)
    for mode in ("jit", "pmap"):
        parallel = Parallel.over(mode, 4, jax.devices()[:2])
        cut = parallel.put_batch(data)
        if mode == "pmap":
            psum = functools.partial(jax.lax.psum, axis_name=parallel.axis_name)
            two = jax.pmap(lambda x, psum=psum: means(**x, psum=psum), parallel.axis_name)(cut)
            two = {n: (value[0], grad.reshape(logits.shape)) for n, (value, grad) in two.items()}
        else:
            two = jax.jit(means)(**cut)
        chex.assert_trees_all_close(
            jax.device_get(two), jax.device_get(whole), rtol=1e-5, atol=1e-9
        )
    assert all(value > 0 for value, _ in whole.values())


def test_a_step_on_devices_and_micro_batches_equals_the_whole(monkeypatch):
    """All losses at once, each with a weight of its own; each is logged, and their weighted sum."""
    monkeypatch.setattr(steps.zoo, "module", lambda arch, **_: Pointwise())
    monkeypatch.setattr(steps.zoo, "init", lambda arch, key: Pointwise().start(key))
    loss = Loss(weights=ALL, class_weights=(0.5, 1.0, 2.0), label_smoothing=0.1)
    data = batch()
    data["weight"] = np.array([1.0, 0.25, 1.0, 0.0], np.float32)
    arch = small_arch()
    go = lambda accumulate=1, **way: take(  # noqa: E731
        arch, make_phase(arch, loss=loss, accumulate=accumulate), data, ema=False, **way
    )
    whole, sums = go()
    terms = {n: sums[f"loss_sum/{n}"] / sums[f"loss_count/{n}"] for n in TERMS}
    want = sum(ALL[n] * terms[n] for n in TERMS)
    np.testing.assert_allclose(sums["loss_sum"] / sums["loss_count"], want, rtol=1e-5)
    for way in ({"devices": 2}, {"devices": 2, "mode": "pmap", "accumulate": 2}):
        other, other_sums = go(**way)
        chex.assert_trees_all_close(sums, other_sums, rtol=1e-4)
        chex.assert_trees_all_close(whole.params, other.params, rtol=1e-4, atol=1e-6)


def test_auxiliary_heads_weigh_as_told():
    loss = Loss(weights={"dice": 2.0, "focal": 1.0}, aux_weight=0.3)
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(4, 16, 16, NUM_CLASSES)).astype(np.float32) for _ in range(3)]
    alone = [loss(Outputs(z, {}, {}), batch())[0] for z in logits]
    got, _ = loss(Outputs(logits[0], {"aux_0": logits[1], "aux_1": logits[2]}, {}), batch())
    for name in ("dice", "focal"):
        want = alone[0][name] + 0.3 * (alone[1][name] + alone[2][name])
        np.testing.assert_allclose(got[name], want, rtol=1e-6)


def test_every_loss_falls():
    """Plain descent on one weight per colour and class, where classes are colours."""
    label = np.minimum(batch()["label"], NUM_CLASSES - 1)
    image, ones = np.eye(NUM_CLASSES, dtype=np.float32)[label], np.ones(4, np.float32)

    @jax.jit
    def descend():
        def one(name):
            term = lambda w: losses.mean(*TERMS[name].value(image @ w, label, ones))  # noqa: E731
            start = jnp.zeros((NUM_CLASSES, NUM_CLASSES))
            step = lambda i, w: w - 2.0 * jax.grad(term)(w)  # noqa: E731
            return term(start), term(jax.lax.fori_loop(0, 20, step, start))

        return {name: one(name) for name in TERMS}

    for name, (first, last) in descend().items():
        assert last < 0.5 * first, name


def test_a_weight_of_zero_is_not_traced():
    def program(**weights):
        outputs = Outputs(jnp.zeros((2, 4, 4, 3)), {}, {})
        data = batch(2, 8, 8)
        loss = Loss(weights=weights)
        return str(jax.make_jaxpr(lambda o: loss(o, data))(outputs))

    assert "sort[" in program(cross_entropy=1.0, lovasz=0.1)
    assert program(cross_entropy=1.0, lovasz=0.0, ohem=0.0) == program(cross_entropy=1.0)


def test_defaults_name_every_loss_and_mean_cross_entropy():
    section = defaults.get_config().loss
    assert set(section.weights) == set(TERMS)
    assert sections.loss(section) == Loss(weights=section.weights.to_dict())
    assert sections.loss(section).names == ("cross_entropy",)


def test_build_passes_every_setting():
    section = defaults.get_config().loss
    section.weights.update({"cross_entropy": 0.0, "ohem": 1.0, "lovasz": 0.25})
    section.ohem.threshold, section.ohem.keep_frac, section.focal.gamma = 0.5, 0.125, 3.0
    section.tversky.alpha, section.tversky.beta, section.aux_weight = 0.1, 0.9, 0.2
    loss = sections.loss(section)
    assert loss.names == ("ohem", "lovasz")
    assert (loss.ohem_threshold, loss.ohem_keep_frac, loss.focal_gamma) == (0.5, 0.125, 3.0)
    assert (loss.tversky_alpha, loss.tversky_beta, loss.aux_weight) == (0.1, 0.9, 0.2)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"weights": {"dcie": 1.0}}, "did you mean 'dice'"),
        ({"weights": {"dice": -1.0}}, "loss.weights.dice: got -1.0; expected 0 or more"),
        ({"weights": {"dice": float("nan")}}, "loss.weights.dice"),
        ({"weights": {"dice": 0.0}}, "at least one above 0"),
        ({"class_weights": (1.0, 0.0)}, "loss.class_weights"),
        ({"label_smoothing": 1.0}, "loss.label_smoothing"),
        ({"aux_weight": -1.0}, "loss.aux_weight"),
        ({"ohem_threshold": 1.5}, "loss.ohem.threshold"),
        ({"ohem_keep_frac": 0.0}, "loss.ohem.keep_frac"),
        ({"focal_gamma": -1.0}, "loss.focal.gamma"),
        ({"tversky_alpha": -0.1}, "loss.tversky.alpha"),
        ({"tversky_beta": 0.0}, "loss.tversky.beta"),
    ],
)
def test_mistakes_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Loss(**options)


def test_a_typo_in_the_config_is_refused():
    section = defaults.get_config().loss
    with pytest.raises(AttributeError, match="lovas"):
        section.weights.lovas = 1.0
