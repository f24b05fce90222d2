"""The generated set is the same everywhere, and it is a set one can learn from."""

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from jaxseg.data import toy_street
from jaxseg.data.toy_street import classes
from jaxseg.types import IGNORE_LABEL

# Another digest is another data set: raise VERSION with it.
DIGEST = "f36f6b9d47f32ed5f8024f32349f48760dd95401fbe0ebffe82788066876c1e4"
DIGEST_OF_FIRST = "b65d33fc31705d9d771555fd272efb5204fa0e61f8fe775cd4e506377396622d"
FIRST = {"train": 5, "calib": 5, "val": 5, "test": 5}

# Shares of pixels by class: least and greatest.
SHARES = {
    "Sky": (0.10, 0.28),
    "Building": (0.12, 0.30),
    "Pole": (0.008, 0.04),
    "Road": (0.20, 0.40),
    "Pavement": (0.04, 0.14),
    "Tree": (0.06, 0.2),
    "SignSymbol": (0.004, 0.03),
    "Fence": (0.008, 0.05),
    "Car": (0.04, 0.14),
    "Pedestrian": (0.004, 0.03),
    "Bicyclist": (0.004, 0.03),
}


@pytest.fixture(scope="module")
def seen() -> list[tuple[np.ndarray, np.ndarray]]:
    """120 examples of the validation and test split."""
    keys = [("val", i) for i in range(60)] + [("test", i) for i in range(60)]
    return [toy_street.sample(*key) for key in keys]


@pytest.fixture(scope="module")
def counts(seen) -> np.ndarray:
    """int64 [120, 256]: pixels by label value."""
    return np.stack([np.bincount(label.ravel(), minlength=256) for _, label in seen])


def test_the_first_examples_are_pinned():
    assert toy_street.digest(FIRST) == DIGEST_OF_FIRST


@pytest.mark.slow
def test_all_examples_are_pinned():
    # Takes some 20 s on two cores.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        assert toy_street.digest(pool=pool) == DIGEST


def test_shapes_types_and_label_values(seen):
    for image, label in seen:
        assert image.shape == (toy_street.HEIGHT_PX, toy_street.WIDTH_PX, 3)
        assert image.dtype == label.dtype == np.uint8
        assert label.shape == image.shape[:2]
        assert image.flags.c_contiguous and label.flags.c_contiguous
        values = set(np.unique(label).tolist())
        assert values <= {*range(len(toy_street.CLASS_NAMES)), IGNORE_LABEL}


def test_an_example_depends_on_nothing_but_its_key():
    image, label = toy_street.sample("val", 3)
    np.random.seed(1)
    toy_street.sample("train", 9)
    again = toy_street.sample("val", 3)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(label, again[1])


def test_no_two_examples_are_the_same():
    keys = [(split, i) for split in toy_street.SPLITS for i in range(8)]
    assert len({toy_street.sample(*key)[0].tobytes() for key in keys}) == len(keys)


@pytest.mark.parametrize(("split", "index"), [("val", -1), ("val", 100), ("test", 500)])
def test_examples_end(split, index):
    with pytest.raises(IndexError, match=split):
        toy_street.sample(split, index)


def test_each_class_has_its_share_of_pixels(counts):
    shares = counts.sum(0) / counts.sum()
    for number, name in enumerate(toy_street.CLASS_NAMES):
        low, high = SHARES[name]
        assert low < shares[number] < high, (name, shares[number])
    # Borders are void as in PASCAL VOC, which has some 5 %; with more and smaller things here, more.
    assert 0.04 < shares[IGNORE_LABEL] < 0.10


def test_each_class_is_in_two_of_five_images(counts):
    in_images = (counts > 0).mean(0)
    for number, name in enumerate(toy_street.CLASS_NAMES):
        assert in_images[number] >= 0.4, (name, in_images[number])
    for common in (classes.SKY, classes.ROAD, classes.BUILDING):
        assert in_images[common] >= 0.85


def test_rare_classes_are_big_now_and_then(counts):
    # 150 pixels are a pedestrian of some 10 x 30.
    for rare in (classes.POLE, classes.SIGN, classes.FENCE, classes.PEDESTRIAN, classes.BICYCLIST):
        assert (counts[:, rare] >= 150).mean() > 0.25


def test_there_are_thin_poles(seen):
    runs = [run for _, label in seen for run in _runs_px(label == classes.POLE)]
    assert np.mean(np.array(runs) <= 2) > 0.05
    assert np.mean(np.array(runs) >= 4) > 0.05


def _runs_px(mask: np.ndarray) -> list[int]:
    """Widths of horizontal runs."""
    padded = np.pad(mask.astype(np.int8), ((0, 0), (1, 1)))
    step = np.diff(padded, axis=1).ravel()
    return (np.flatnonzero(step == -1) - np.flatnonzero(step == 1)).tolist()


def test_horizon_and_layout_vary(seen):
    lowest_sky = [np.flatnonzero((label == classes.SKY).any(1)).max(initial=0) for _, label in seen]
    assert np.ptp(np.percentile(lowest_sky, (10, 90))) > 0.15 * toy_street.HEIGHT_PX
    middle = [label[-40, toy_street.WIDTH_PX // 2] for _, label in seen]
    assert np.mean(np.array(middle) == classes.ROAD) < 0.9


def test_brightness_varies(seen):
    means = [image.mean() for image, _ in seen]
    assert min(means) < 70 and max(means) > 140


def test_it_needs_no_jax():
    code = "import sys, jaxseg.data.toy_street; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
