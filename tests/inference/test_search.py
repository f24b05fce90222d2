"""The search equals a plain double loop, and answers what was asked."""

import itertools
import time

import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.inference.search import ANYTIME, BUDGETED, FINAL, INPUT, Evidence, Search

POINTS = (0, 0, 1, 1, 2, 3)  # heads behind three blocks, and the final one
IMAGE = (0.0, 0.3, 0.7, 1.01)


def made(points=POINTS, images=5, classes=3, pixel=(0.5, 0.9), seed=0):
    """Counts that get better with depth; the last class is nowhere."""
    rng = np.random.default_rng(seed)
    heads = len(points)
    union = rng.integers(20, 60, (heads, images, classes))
    union[..., -1] = 0
    share = (
        rng.uniform(0.3, 0.6, (heads, images, classes))
        + 0.4 * np.arange(heads)[:, None, None] / heads
    )
    hit = (union * share).astype(np.int64)
    confidence = rng.uniform(0, 1, (heads - 1, len(pixel), images)).astype(np.float32)
    return Evidence(hit, union, confidence, pixel, points)


def path_cost(chain, place, setting):
    """Blocks up to a head's point, and the heads tried so far; any-time answers pay for all of them."""
    place = len(chain) - 1 if setting == ANYTIME else place
    blocks = 10.0 * (1 + POINTS[chain[place]]) if max(chain) < len(POINTS) else 99.0
    return blocks + sum(1.0 + 0.1 * h for h in chain[: place + 1])


def miou_of(evidence, leaves_at):
    """Pooled over images, each with the counts of the head that it left at."""
    rows = np.arange(len(leaves_at))
    hit, union = evidence.hit[leaves_at, rows].sum(0), evidence.union[leaves_at, rows].sum(0)
    return np.mean([h / u for h, u in zip(hit, union, strict=True) if u])


def brute_force(evidence):
    """(setting, heads, pixel, image) -> (mIoU, cost), image by image."""
    final, found = len(POINTS) - 1, {}
    images = evidence.hit.shape[1]

    def add(setting, heads, pixel=(), image=()):
        leaves_at, costs = [], []
        for m in range(images):
            place = len(heads) - 1
            for i, (p, t) in enumerate(zip(pixel, image, strict=True)):
                if evidence.confidence[heads[i], evidence.pixel.index(p), m] >= np.float32(t):
                    place = i
                    break
            leaves_at.append(heads[place])
            costs.append(path_cost(heads, place, setting))
        found[setting, heads, pixel, image] = miou_of(evidence, leaves_at), np.mean(costs)

    add(FINAL, (final,))
    for h in range(final):
        add(BUDGETED, (h,))
    early = range(final)
    for size in (1, 2):
        for heads in itertools.product(early, repeat=size):
            if any(POINTS[a] >= POINTS[b] for a, b in itertools.pairwise(heads)):
                continue
            add(ANYTIME, (*heads, final))
            for last in range(final + 1):
                if POINTS[last] <= POINTS[heads[-1]]:
                    continue
                for pixel in itertools.product(evidence.pixel, repeat=size):
                    for image in itertools.product(IMAGE, repeat=size):
                        add(INPUT, (*heads, last), pixel, image)
    return found


@pytest.fixture(scope="module")
def both():
    evidence = made()
    return Search(evidence, path_cost, image=IMAGE), brute_force(evidence)


def test_every_configuration_is_there_with_its_scores(both):
    search, expected = both
    told = {}
    for family in search._families:
        for i in range(len(family.miou)):
            told[family.setting, *family.tell(i)] = family.miou[i], family.cost[i]
    assert told.keys() == expected.keys() and search.count == len(expected)
    keys = list(expected)
    np.testing.assert_allclose([told[k] for k in keys], [expected[k] for k in keys], rtol=1e-12)
    assert search.by_gates[2] == sum(len(k[2]) == 2 for k in keys)


def test_the_best_is_the_best(both):
    search, expected = both
    values = np.array(list(expected.values()))
    for limit in np.quantile(values[:, 1], [0.0, 0.2, 0.5, 1.0]):
        found = search.best(max_cost=limit)
        assert found.miou == pytest.approx(values[values[:, 1] <= limit + 1e-9, 0].max())
        assert found.cost <= limit + 1e-9
    for limit in np.quantile(values[:, 0], [0.0, 0.5, 0.9, 1.0]):
        found = search.best(min_miou=limit - 1e-12)
        assert found.cost == pytest.approx(values[values[:, 0] >= limit - 1e-9, 1].min())


def test_looser_limits_never_hurt(both):
    search, _ = both
    costs = [search.best(min_miou=x).cost for x in (0.6, 0.55, 0.5, 0.4)]
    assert costs == sorted(costs, reverse=True)
    mious = [search.best(max_cost=x).miou for x in (15, 25, 35, 60)]
    assert mious == sorted(mious)


def test_what_is_told_is_what_happens(both):
    search, expected = both
    for found in search.pareto():
        key = found.setting, found.heads, found.pixel, found.image
        assert (found.miou, found.cost) == pytest.approx(expected[key])
        paths = [path_cost(found.heads, i, found.setting) for i in range(len(found.heads))]
        assert sum(found.taken) == pytest.approx(1)
        assert np.dot(found.taken, paths) == pytest.approx(found.cost)


def test_the_front_is_beaten_by_nothing(both):
    search, expected = both
    front = search.pareto()
    assert [x.cost for x in front] == sorted(x.cost for x in front)
    values = np.array([v for k, v in expected.items() if k[0] != ANYTIME])
    for x in front:
        assert not ((values[:, 0] > x.miou + 1e-9) & (values[:, 1] <= x.cost)).any()


def test_limits_of_the_thresholds():
    """Everybody leaves at the first gate, or nobody does."""
    evidence = made()
    search = Search(evidence, path_cost, image=(0.0, 1.01), settings=(INPUT,), max_gates=1)
    told = {f.tell(i): (f.miou[i], f.cost[i]) for f in search._families for i in range(len(f.miou))}
    last = len(POINTS) - 1
    assert told[(0, last), (0.5,), (0.0,)] == pytest.approx(
        (evidence.miou(0), path_cost((0,), 0, INPUT))
    )
    assert told[(0, last), (0.5,), (1.01,)] == pytest.approx(
        (evidence.miou(last), path_cost((0, last), 1, INPUT))
    )


def test_an_impossible_wish_names_the_closest(both):
    search, expected = both
    most = max(v[0] for v in expected.values())
    with pytest.raises(UserError, match=f"closest one: mIoU {most:.4f}"):
        search.best(min_miou=0.99)
    least = min(v[1] for v in expected.values())
    with pytest.raises(UserError, match=f"at cost {least:.6g}"):
        search.best(max_cost=1.0)
    with pytest.raises(UserError, match="cost <= 1 and mIoU >= 0.5"):
        search.best(max_cost=1.0, min_miou=0.5)
    with pytest.raises(UserError, match="split with images"):
        made(images=0)


def test_a_large_space_in_seconds():
    """Two points of 16 heads, 6 x 22 thresholds: 4.5 million configurations of two gates, on 100 images."""
    points = (*[0] * 16, *[1] * 16, 2)
    evidence = made(points, images=100, classes=11, pixel=(0.5, 0.6, 0.7, 0.8, 0.9, 0.95))
    image = (*np.arange(0, 1.001, 0.05), 1.01)
    begin_s = time.monotonic()
    search = Search(evidence, lambda chain, place, setting: 1.0 + place, image=image)
    search.best(min_miou=0.5)
    search.pareto()
    assert search.count > 4_000_000 and search.by_gates[2] > search.count / 2
    assert time.monotonic() - begin_s < 60
