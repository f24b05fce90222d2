"""Scores from stored answers equal those of running the assembled model (a part of M8)."""

import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.inference import calibration
from jaxseg.inference.multi_exit import answer_many, cut
from jaxseg.models import zoo
from jaxseg.objectives.metrics import confusion_matrix
from jaxseg.types import IGNORE_LABEL
from tests.inference.test_multi_exit import MEAN, PIXEL, STD, B, K, mixed_limits, network

PIXELS = (0.9, PIXEL)


def batches(real=B):
    """Two batches, the second with images that are padding."""
    images = network()[2]
    rng = np.random.default_rng(5)
    labels = rng.integers(0, K, images.shape[:3]).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = IGNORE_LABEL
    weight = np.ones(B, np.float32)
    weight[real:] = 0
    split = [slice(0, 4), slice(3, 7)]
    weights = [weight[:4], np.where(np.arange(3, 7) == 3, 0, weight[3:]).astype(np.float32)]
    return labels, [
        {"image": images[s], "label": labels[s], "weight": w}
        for s, w in zip(split, weights, strict=True)
    ]


def measured():
    arch, variables, *_ = network()
    return calibration.calibrate(arch, variables, batches()[1], mean=MEAN, std=STD, pixels=PIXELS)


def test_everything_is_kept_once_and_in_order():
    _, _, _, maps, scores = network()
    found, labels = measured(), batches()[0]
    assert found.confusion.shape == (B, 3, K, K) and found.confidence.shape == (B, 2, 2)
    np.testing.assert_allclose(found.confidence[:, :, 1].T, scores, atol=0.02)
    for image in range(B):
        for exit_ in range(3):
            expected = confusion_matrix(labels[image], maps[exit_, image], K)
            moved = np.abs(found.confusion[image, exit_] - expected).sum()
            assert moved <= 0.02 * expected.sum()
            assert found.confusion[image, exit_].sum() == expected.sum()


def test_a_configuration_scores_as_the_model_that_runs_it():
    arch, variables, images, *_ = network()
    found, (labels, _) = measured(), batches()
    limits = mixed_limits()
    chosen = (0, 1, 2)
    taken = calibration.take(found, chosen, (1, 1), np.asarray(limits.image))
    ran = answer_many(cut(arch, MEAN, STD))(variables, images, limits)
    np.testing.assert_array_equal(taken, ran.taken)
    assert set(taken) == {0, 1, 2}
    direct = confusion_matrix(labels, np.asarray(ran.labels), K)
    stored = calibration.pooled(found, chosen, taken)
    assert stored.sum() == direct.sum()
    assert np.abs(stored - direct).sum() <= 0.02 * direct.sum()


def test_two_exits_of_three_and_no_thresholds_at_all():
    found = measured()
    np.testing.assert_array_equal(calibration.take(found, (1,), (), ()), 0)
    np.testing.assert_array_equal(
        calibration.pooled(found, (1,), np.zeros(B, int)), found.confusion[:, 1].sum(0)
    )
    np.testing.assert_array_equal(calibration.take(found, (0, 2), (0,), (0.0,)), 0)
    np.testing.assert_array_equal(calibration.take(found, (0, 2), (0,), (1.01,)), 1)


def test_an_empty_set_is_one_line():
    arch, variables, *_ = network()
    with pytest.raises(UserError, match="calibration: got no image"):
        calibration.calibrate(arch, variables, [], mean=MEAN, std=STD)
    with pytest.raises(UserError, match="without early exits"):
        calibration.calibrate(zoo.named("fcn_resnet18", K), variables, [], mean=MEAN, std=STD)
