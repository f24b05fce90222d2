"""Batches of slimmed data are a pure function of (seed, t), whatever makes them."""

from dataclasses import replace
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

from jaxseg.data import dance_plan
from jaxseg.data.dance import DataSlimming
from jaxseg.data.dance_plan import SlimPlan, crop_px
from jaxseg.data.pipeline import train_stream
from jaxseg.data.plan import TrainPlan
from jaxseg.data.transforms import Augment, shrink
from jaxseg.errors import UserError
from tests.data.test_dance import OFF, USUAL, uniform
from tests.fakes import FakeSplit

AUGMENT = Augment(0.5, 2.0, 0.5, 0.3, 0.5)


def slim(n=23, batch=4, seed=3, size_px=(32, 48), q=None, settings=USUAL, stride=8):
    q = uniform(n) if q is None else q
    return SlimPlan(n, batch, seed, size_px, q=tuple(q), slimming=settings, stride=stride)


def assert_equal_plans(first, second):
    for a, b in zip(first, second, strict=True):
        assert (a.step, a.epoch, a.size_px, a.shrink) == (b.step, b.epoch, b.size_px, b.shrink)
        for x, y in ((a.indices, b.indices), (a.weight, b.weight), (a.drawn, b.drawn)):
            np.testing.assert_array_equal(x, y)


def test_sizes_of_crops():
    assert [crop_px((192, 256), r, 16) for r in (0.5, 0.75, 1.0)] == [
        (96, 128),
        (144, 192),
        (192, 256),
    ]
    assert crop_px((360, 480), 0.75, 16) == (272, 368)  # 270 and 360: nearest, of two the greater
    assert crop_px((44, 44), 0.95, 16) == (32, 32)  # never larger than the crop
    assert crop_px((41, 47), 1.0, 16) == (41, 47)  # as it is
    with pytest.raises(UserError, match="output stride of 16 px") as error:
        slim(size_px=(32, 48), settings=DataSlimming(ratios=(0.2, 1.0), edges=(0.5,)), stride=16)
    assert "0.2 of crops of 32 x 48 px" in str(error.value)


def test_nothing_to_train_on_is_refused():
    settings = DataSlimming(tau_drop=1.0, drop_rule="step", d_max=1.0)
    with pytest.raises(UserError, match="drops all 23 images"):
        slim(settings=settings)
    some = replace(settings, tau_drop=0.99)
    assert slim(settings=some, q=[*uniform(22), 1.0]).steps_in(9) == 2


# --- The plan ---


def test_a_batch_is_of_one_size_and_full():
    plan = slim()
    sizes = {0.5: (16, 24), 0.75: (24, 40), 1.0: (32, 48)}
    assert plan.sizes_px() == sizes
    seen = set()
    for step in range(60):
        batch = plan.at(step)
        assert batch.step == step and batch.indices.shape == (4,)
        assert batch.indices.dtype == np.int32 and batch.weight.dtype == np.float32
        q = uniform(23)[batch.indices]
        assert {sizes[r] for r in USUAL.ratio(q)} == {batch.size_px}
        assert batch.shrink == (batch.size_px[0] / 32, batch.size_px[1] / 48)
        np.testing.assert_array_equal(batch.weight, USUAL.weights(q))
        assert (batch.drawn <= batch.epoch).all()
        seen.add(batch.size_px)
    assert seen == set(sizes.values())


def test_what_is_kept_is_seen_once_and_soon():
    """Every (epoch, image) that is kept comes exactly once, those that fill no batch in a later one."""
    plan = slim()
    epochs = 12
    batches = [plan.at(t) for t in range(plan.steps_in(epochs))]
    seen = [
        pair for b in batches for pair in zip(b.drawn.tolist(), b.indices.tolist(), strict=True)
    ]
    kept = {(e, i) for e in range(epochs) for i in np.flatnonzero(plan.kept(e)).tolist()}
    assert len(seen) == len(set(seen)) and set(seen) <= kept
    waiting = kept - set(seen)
    assert len(waiting) <= 3 * 3  # B - 1 of each size at most
    assert [b.epoch for b in batches] == sorted(b.epoch for b in batches)


def test_the_order_of_sizes_is_shuffled():
    plan = slim(n=240, batch=4)
    orders = [
        [plan.at(t).size_px for t in range(plan.steps_in(e), plan.steps_in(e + 1))]
        for e in range(3)
    ]
    assert all(order != sorted(order) for order in orders)
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("warm", [0, 2])
def test_a_batch_depends_on_its_number_only(warm):
    settings = replace(USUAL, warm_epochs=warm)
    forward = [slim(settings=settings).at(t) for t in range(40)]
    # Another object with equal values, asked backwards; a copy as a worker has it; a run that goes on.
    other = slim(settings=settings, n=23)
    copy = ForkingPickler.loads(ForkingPickler.dumps(other))
    for plan in (other, copy):
        dance_plan._epochs.cache_clear()
        assert_equal_plans([plan.at(t) for t in reversed(range(40))][::-1], forward)
    dance_plan._epochs.cache_clear()
    assert_equal_plans([copy.at(37)], forward[37:38])
    assert any((slim(seed=4).at(t).indices != forward[t].indices).any() for t in range(3))


def test_drops_are_as_frequent_as_they_should_be():
    """T9: each fifth of the low ranks, within three standard errors; and the seed fixes the draw."""
    q, epochs = np.tile(np.linspace(0.01, 0.39, 20), 10), 100
    plan = slim(n=200, batch=8, q=q)
    kept = np.mean([plan.kept(e) for e in range(epochs)], axis=0)
    for low in np.arange(0, 0.4, 0.08):
        here = (q >= low) & (q < low + 0.08)
        want = 1 - USUAL.drop(q[here])
        error = np.sqrt((want * (1 - want)).sum() / epochs) / here.sum()
        assert abs(kept[here].mean() - want.mean()) <= 3 * error
    # The same images as the batches show.
    steps = plan.steps_in(epochs)
    counts = np.bincount(np.concatenate([plan.at(t).indices for t in range(steps)]), minlength=200)
    assert abs(counts.sum() - epochs * kept.sum()) <= 3 * 7
    assert (slim(n=200, batch=8, q=q).kept(5) == plan.kept(5)).all()
    assert (slim(n=200, batch=8, q=q, seed=4).kept(5) != plan.kept(5)).any()


def test_switched_off_it_is_the_plain_plan():
    plain = TrainPlan(23, 4, 3, (32, 48))
    off, weighed = slim(settings=OFF), slim(settings=replace(OFF, w_min=0.5))
    assert off.steps_in(7) == 7 * plain.steps_per_epoch
    for t in range(30):
        want = plain.at(t)
        for plan in (off, weighed):
            got = plan.at(t)
            assert (got.step, got.epoch, got.size_px, got.shrink) == (
                t,
                want.epoch,
                (32, 48),
                (1, 1),
            )
            np.testing.assert_array_equal(got.indices, want.indices)
            assert got.drawn is None
        assert (off.at(t).weight == 1).all()
        assert weighed.at(t).weight.mean() == pytest.approx(1, abs=1e-6)


def test_the_first_epochs_are_plain():
    plain, plan = TrainPlan(23, 4, 3, (32, 48)), slim(settings=replace(USUAL, warm_epochs=2))
    assert plan.steps_in(1) == 5 and plan.steps_in(2) == 10 and plan.steps_in(3) > 10
    for t in range(10):
        np.testing.assert_array_equal(plan.at(t).indices, plain.at(t).indices)
        assert plan.at(t).weight is None and plan.at(t).size_px == (32, 48)
    assert plan.at(10).epoch == 2 and plan.at(10).drawn.min() == 2
    assert {plan.at(t).size_px for t in range(10, 30)} == {(16, 24), (24, 40), (32, 48)}


# --- Batches ---


def batches(plan, *, start=0, stop=12, **options):
    split = FakeSplit("train", 23)
    with train_stream(split, plan, AUGMENT, seed=1, start=start, stop=stop, **options) as stream:
        return list(stream)


def assert_equal(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_resuming_change_no_batch(workers):
    whole = batches(slim())
    assert_equal(whole[5:], batches(slim(), start=5, num_workers=workers))


def test_batches_equal_the_plain_ones_when_off():
    plain = batches(TrainPlan(23, 4, 3, (32, 48)))
    assert_equal(plain, batches(slim(settings=OFF)))
    warm = slim(settings=replace(USUAL, warm_epochs=3))
    assert_equal(plain, batches(warm))


def test_what_a_slimmed_batch_is():
    plan, split = slim(), FakeSplit("train", 23)
    for t, batch in enumerate(batches(plan)):
        want = plan.at(t)
        assert batch["image"].shape == (4, *want.size_px, 3)
        np.testing.assert_array_equal(batch["index"], want.indices)
        np.testing.assert_array_equal(batch["weight"], want.weight)
        for i, index in enumerate(want.indices.tolist()):
            example = split[index]
            small = shrink(example["image"], example["label"], want.shrink)
            rng = np.random.default_rng((1, int(want.drawn[i]), index))
            image, label = AUGMENT(*small, size_px=want.size_px, rng=rng)
            if (want.indices == index).sum() == 1:
                np.testing.assert_array_equal(batch["image"][i], image)
                np.testing.assert_array_equal(batch["label"][i], label)


def test_hosts_share_out_slimmed_batches():
    whole = batches(slim())
    parts = [batches(slim(), process_index=i, process_count=2) for i in range(2)]
    joined = [
        {key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*parts, strict=True)
    ]
    assert_equal(whole, joined)


def test_a_smaller_crop_shows_the_same_share_of_the_scene():
    """Left half black, right half white, crops of the whole: the border stays in the middle, void stays void."""
    image, label = np.zeros((32, 48, 3), np.uint8), np.zeros((32, 48), np.uint8)
    image[:, 24:], label[:, 24:], label[:8] = 255, 7, 255
    for factors in ((0.5, 0.5), (0.75, 0.75), (24 / 32, 40 / 48)):
        size = tuple(round(s * f) for s, f in zip((32, 48), factors, strict=True))
        small, labels = shrink(image, label, factors)
        assert small.shape == (*size, 3) and labels.shape == size
        assert set(np.unique(labels)) == {0, 7, 255}
        assert (labels[: size[0] // 4] == 255).all() and (labels[size[0] // 4 :] != 255).all()
        seen, cut = Augment()(small, labels, size_px=size, rng=np.random.default_rng(0))
        np.testing.assert_array_equal(seen, small)
        assert (cut == 255).mean() == pytest.approx(0.25) and seen.mean() == pytest.approx(
            127.5, abs=1
        )
    assert shrink(image, label, (1.0, 1.0))[0] is image
    stripes = np.tile(np.array([0, 255], np.uint8)[:, None], (16, 48, 3)).reshape(32, 48, 3)
    assert set(np.unique(shrink(stripes, label, (0.5, 0.5))[0])) <= {127, 128}  # anti-aliased
