"""IoU by hand, against pixel-by-pixel counting, and the void rule."""

import jax
import numpy as np

from jaxseg.objectives import metrics
from jaxseg.types import IGNORE_LABEL


def test_hand_computed():
    label = np.array([[0, 0, 1, 1], [2, 2, IGNORE_LABEL, 1]], np.uint8)
    prediction = np.array([[0, 1, 1, 1], [2, 0, 2, 0]], np.uint8)
    confusion = metrics.confusion_matrix(label, prediction, 4)
    np.testing.assert_array_equal(
        confusion, [[1, 1, 0, 0], [1, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    )
    scores = metrics.scores_from_confusion(confusion)
    assert scores["iou"] == [1 / 4, 2 / 4, 1 / 2, None]  # class 3 is absent from both
    np.testing.assert_allclose(scores["miou"], (0.25 + 0.5 + 0.5) / 3)
    np.testing.assert_allclose(scores["macc"], (1 / 2 + 2 / 3 + 1 / 2) / 3)
    np.testing.assert_allclose(scores["aacc"], 4 / 7)


def test_a_class_only_predicted_counts_as_zero():
    label, prediction = np.zeros((1, 4), np.uint8), np.array([[0, 0, 1, 1]], np.uint8)
    scores = metrics.scores_from_confusion(metrics.confusion_matrix(label, prediction, 3))
    assert scores["iou"] == [0.5, 0.0, None]
    assert scores["miou"] == 0.25


def test_nothing_labelled_has_no_score():
    label = np.full((2, 2), IGNORE_LABEL, np.uint8)
    scores = metrics.scores_from_confusion(metrics.confusion_matrix(label, label * 0, 2))
    assert scores["miou"] is None and scores["aacc"] is None


def test_counts_beyond_float32_stay_exact():
    confusion = np.array([[2**24 + 1, 0], [0, 1]], np.int64)
    assert metrics.scores_from_confusion(confusion + confusion)["miou"] == 1.0
    assert (confusion + confusion)[0, 0] == 2**25 + 2


def test_device_sums_equal_the_confusion_matrix():
    rng = np.random.default_rng(0)
    label = rng.choice([0, 1, 2, 3, IGNORE_LABEL], (3, 9, 11)).astype(np.uint8)
    prediction = rng.integers(0, 4, (3, 9, 11)).astype(np.uint8)
    confusion = metrics.confusion_matrix(label, prediction, 4)
    sums = metrics.class_sums(label, prediction, 4)
    np.testing.assert_array_equal(sums["hit"], np.diagonal(confusion))
    np.testing.assert_array_equal(sums["true"], confusion.sum(axis=1))
    np.testing.assert_array_equal(sums["predicted"], confusion.sum(axis=0))
    assert metrics.scores(**sums) == metrics.scores_from_confusion(confusion)


def test_sums_of_a_step_are_the_same_with_64_bits():
    rng = np.random.default_rng(0)
    label = np.where(rng.random((2, 9, 7)) < 0.2, IGNORE_LABEL, rng.integers(0, 4, (2, 9, 7)))
    label, prediction = label.astype(np.uint8), rng.integers(0, 4, (2, 9, 7)).astype(np.int32)
    with jax.enable_x64(True):
        wide = jax.jit(metrics.class_sums, static_argnums=2)(label, prediction, 4)
    for name, value in metrics.class_sums(label, prediction, 4).items():
        assert wide[name].dtype == value.dtype == np.int32
        np.testing.assert_array_equal(wide[name], value)
