"""Boundary F1 and mIoU against their definitions in plain Python: sets of pixels, all pairs of distances, floats."""

import math

import numpy as np
import pytest

from jaxseg.objectives.boundary import BoundaryTally, boundary_f1
from jaxseg.objectives.metrics import confusion_matrix, scores_from_confusion
from jaxseg.types import IGNORE_LABEL

VOID = IGNORE_LABEL


# --- the definitions, with nothing of ours ---


def cells(a):
    return [(y, x) for y in range(a.shape[0]) for x in range(a.shape[1])]


def gap(p, q):
    return math.sqrt((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2)


def filled(label, t):
    """Void between two classes that are together at most 2 t away becomes the nearer (the lower of two)."""
    members = {}
    for p in cells(label):
        members.setdefault(int(label[p]), []).append(p)
    void = members.pop(VOID, [])
    out = label.copy()
    for p in void:
        near = sorted((min(gap(p, q) for q in where), k) for k, where in members.items())
        if len(near) > 1 and near[0][0] + near[1][0] <= 2 * t:
            out[p] = near[0][1]
    return out


def outline(ids, truth, k):
    """Pixels of k beside a pixel of another class, where the truth knows both."""
    found = set()
    for y, x in cells(ids):
        if ids[y, x] != k or truth[y, x] == VOID:
            continue
        for q in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= q[0] < ids.shape[0] and 0 <= q[1] < ids.shape[1]
            if inside and ids[q] != k and truth[q] != VOID:
                found.add((y, x))
    return found


def f1_by_definition(label, prediction, num_classes, t):
    truth = filled(label, t)
    result = []
    for k in range(num_classes):
        true, predicted = outline(truth, truth, k), outline(prediction, truth, k)
        if not true and not predicted:
            result.append(math.nan)
        elif not true or not predicted:
            result.append(0.0)
        else:
            p = sum(min(gap(a, b) for b in true) <= t for a in predicted) / len(predicted)
            r = sum(min(gap(a, b) for b in predicted) <= t for a in true) / len(true)
            result.append(2 * p * r / (p + r) if p + r else 0.0)
    return result


def miou_by_definition(labels, predictions, num_classes):
    ious = []
    for k in range(num_classes):
        both = either = 0
        for label, prediction in zip(labels, predictions, strict=True):
            for p in cells(label):
                if label[p] != VOID:
                    both += int(label[p] == k and prediction[p] == k)
                    either += int(label[p] == k or prediction[p] == k)
        ious.append(both / either if either else None)
    known = [x for x in ious if x is not None]
    return sum(known) / len(known) if known else None, ious


# --- maps ---


def blobs(rng, size, num_classes, cell=5):
    """Patches of classes with ragged edges."""
    coarse = rng.integers(0, num_classes, (size[0] // cell + 1, size[1] // cell + 1))
    ids = coarse.repeat(cell, 0).repeat(cell, 1)[: size[0], : size[1]].astype(np.uint8)
    noise = rng.random(size) < 0.03
    return np.where(noise, rng.integers(0, num_classes, size), ids).astype(np.uint8)


def shaken(rng, ids, num_classes):
    """A prediction like the truth: shifted, some patches wrong."""
    moved = np.roll(ids, rng.integers(-2, 3, 2), axis=(0, 1))
    other = blobs(rng, ids.shape, num_classes)
    return np.where(blobs(rng, ids.shape, 4) == 0, other, moved)


def with_void(rng, ids):
    """Seams between classes, a wide region, single pixels."""
    out = ids.copy()
    border = np.zeros(ids.shape, bool)
    border[1:] |= ids[1:] != ids[:-1]
    border[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    out[border & (blobs(rng, ids.shape, 2, cell=8) == 0)] = VOID
    y, x = (int(rng.integers(0, n - 6)) for n in ids.shape)
    out[y : y + 6, x : x + 9] = VOID
    out[rng.random(ids.shape) < 0.02] = VOID
    return out


@pytest.mark.parametrize("t", [0.0, 1.0, 1.5, math.sqrt(5), 3.0])
@pytest.mark.parametrize("void", [False, True])
def test_equals_the_definition_on_random_maps(t, void):
    rng = np.random.default_rng(int(10 * t) + void)
    spread = []
    for size in ((17, 23), (24, 19)):
        truth = blobs(rng, size, 4)
        prediction = shaken(rng, truth, 4)
        label = with_void(rng, truth) if void else truth
        got = boundary_f1(label, prediction, 5, t)
        want = f1_by_definition(label, prediction, 5, t)
        np.testing.assert_allclose(got, want, rtol=1e-12)
        assert math.isnan(got[4])
        spread += list(got[:4])
    # A comparison of zeros and ones only would say little.
    assert any(0 < x < 1 for x in spread)


def test_miou_equals_the_definition():
    rng = np.random.default_rng(3)
    truths = [blobs(rng, size, 4) for size in ((17, 23), (24, 19), (9, 30))]
    predictions = [shaken(rng, truth, 4) for truth in truths]
    labels = [with_void(rng, truth) for truth in truths]
    confusion = sum(
        confusion_matrix(label, p, 6) for label, p in zip(labels, predictions, strict=True)
    )
    got = scores_from_confusion(confusion)
    miou, ious = miou_by_definition(labels, predictions, 6)
    assert got["miou"] == pytest.approx(miou, rel=1e-12)
    assert got["iou"] == pytest.approx(ious)
    assert ious[5] is None and 0 < miou < 1


# --- by hand ---


def half(width, at, void=()):
    """Class 0 left of column `at`, class 1 from there on; 20 rows."""
    ids = np.zeros((20, width), np.uint8)
    ids[:, at:] = 1
    ids[:, list(void)] = VOID
    return ids


def test_a_shift_counts_up_to_the_tolerance_and_not_beyond():
    truth = half(30, 15)
    for shift in (0, 1, 2, 3):
        want = 1.0 if shift <= 2 else 0.0
        np.testing.assert_array_equal(boundary_f1(truth, half(30, 15 + shift), 2, 2.0), [want] * 2)


def test_precision_and_recall_by_hand():
    """Truth: one vertical border. Prediction: that border, and a second one far away that is not there."""
    truth, prediction = half(40, 10), half(40, 10)
    prediction[:, 30:] = 0
    # Class 1: 20 of 40 predicted pixels are right, all 20 true ones found: 2 * 0.5 * 1 / 1.5. Class 0 alike.
    np.testing.assert_allclose(boundary_f1(truth, prediction, 2, 2.0), [2 / 3, 2 / 3])
    # The other way round precision and recall change places, and F1 stays.
    np.testing.assert_allclose(boundary_f1(prediction, truth, 2, 2.0), [2 / 3, 2 / 3])


def test_classes_without_boundary_are_left_out_and_invented_ones_are_wrong():
    flat = np.zeros((20, 30), np.uint8)
    assert np.isnan(boundary_f1(flat, flat, 3, 2.0)).all()  # the frame of the image is no boundary
    f1 = boundary_f1(flat, half(30, 15), 3, 2.0)
    assert f1[0] == f1[1] == 0.0 and math.isnan(f1[2])
    f1 = boundary_f1(half(30, 15), flat, 3, 2.0)
    assert f1[0] == f1[1] == 0.0 and math.isnan(f1[2])


def test_the_rule_of_void():
    # A seam one pixel wide is a border: met, and missed.
    seam = half(30, 15, void=[15])
    np.testing.assert_array_equal(boundary_f1(seam, half(30, 15), 2, 2.0), [1, 1])
    np.testing.assert_array_equal(boundary_f1(seam, half(30, 22), 2, 2.0), [0, 0])
    # Up to 2 t - 1 = 3 px of it; then it is void, and what touches only void counts for nothing.
    assert boundary_f1(half(30, 14, void=range(14, 17)), half(30, 15), 2, 2.0)[1] == 1.0
    wide = half(30, 14, void=range(14, 18))
    assert np.isnan(boundary_f1(wide, half(30, 15), 2, 2.0)).all()
    # A predicted border that the truth knows nothing of lies in void; outside it is wrong.
    hidden = np.zeros((20, 30), np.uint8)
    hidden[:, 10:20] = VOID
    assert np.isnan(boundary_f1(hidden, half(30, 15), 2, 2.0)).all()
    assert boundary_f1(hidden, half(30, 25), 2, 2.0)[0] == 0.0
    nothing = np.full((20, 30), VOID, np.uint8)
    assert np.isnan(boundary_f1(nothing, half(30, 15), 2, 2.0)).all()


def test_means_go_over_images_first_then_over_classes():
    tally = BoundaryTally(4, tolerance_frac=2.01 / math.hypot(20, 30))
    truth, third = half(30, 15), half(30, 15)
    third[:10, :5] = 2
    tally.add(truth, half(30, 15))
    tally.add(truth, half(30, 20))
    tally.add(third, third)
    scores = tally.scores()
    assert scores["per_class_boundary_f1"] == pytest.approx([2 / 3, 2 / 3, 1.0, None])
    assert scores["boundary_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1.0) / 3)
    assert scores["boundary_tolerance_px"] == pytest.approx((2.01, 2.01))


def test_the_tolerance_follows_the_size_of_the_image():
    tally = BoundaryTally(2)
    assert tally.scores() == {
        "boundary_f1": None,
        "per_class_boundary_f1": [None, None],
        "boundary_tolerance_px": None,
    }
    tally.add(np.zeros((300, 400), np.uint8), np.zeros((300, 400), np.uint8))
    tally.add(np.zeros((30, 40), np.uint8), np.zeros((30, 40), np.uint8))
    assert tally.scores()["boundary_tolerance_px"] == pytest.approx((0.375, 3.75))


def test_distances_stay_exact_on_large_images():
    """Far pixels: OpenCV's float32 distances are turned back into whole squares."""
    truth, prediction = np.zeros((2, 1024, 2048), np.uint8)
    truth[0, 0] = prediction[1000, 2000] = 1
    far = math.sqrt(1000**2 + 2000**2)
    # Class 1's outline is its one pixel; at its exact distance it is met, a hair before it is not.
    assert boundary_f1(truth, prediction, 2, far * (1 + 1e-12))[1] == 1.0
    assert boundary_f1(truth, prediction, 2, far * (1 - 1e-9))[1] == 0.0
