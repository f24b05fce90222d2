"""Augmentation: image and label stay together, crops are exact, randomness is the caller's."""

from dataclasses import replace

import numpy as np
import pytest

from jaxseg.data.transforms import Augment, jitter, pad, resize
from jaxseg.errors import UserError
from tests.data import raw

FILL = (9, 10, 11)
STRONG = Augment(0.5, 2.0, 0.5, 0.5, 0.5, FILL)


def rng(seed=0):
    return np.random.default_rng(seed)


def coordinates(height: int, width: int):
    """An image that holds its own coordinates, and a label that is a function of them."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([y, x, y ^ x], axis=-1), (y + x) % 7


@pytest.mark.parametrize("size", [(20, 30), (40, 50), (13, 61), (70, 20), (64, 64), (1, 1)])
def test_size_and_dtype(size):
    image, label = coordinates(40, 50)
    for seed in range(20):
        out, lab = STRONG(image, label, size_px=size, rng=rng(seed))
        assert out.shape == (*size, 3) and lab.shape == size
        assert out.dtype == lab.dtype == np.uint8
        assert out.flags.c_contiguous and lab.flags.c_contiguous


def test_crop_at_scale_one_is_exact_and_everywhere():
    image, label = coordinates(40, 50)
    corners = set()
    for seed in range(300):
        out, lab = Augment()(image, label, size_px=(36, 47), rng=rng(seed))
        y, x = int(out[0, 0, 0]), int(out[0, 0, 1])
        np.testing.assert_array_equal(out, image[y : y + 36, x : x + 47])
        np.testing.assert_array_equal(lab, label[y : y + 36, x : x + 47])
        corners.add((y, x))
    # Every one of the 5 x 4 places comes up.
    assert corners == {(y, x) for y in range(5) for x in range(4)}


def test_padding_at_scale_one_is_exact():
    image, label = coordinates(10, 50)
    image[..., 2] = 200
    starts = set()
    for seed in range(100):
        out, lab = Augment(fill=FILL)(image, label, size_px=(14, 50), rng=rng(seed))
        inside = lab[:, 0] != 255
        start = int(np.argmax(inside))
        assert inside.sum() == 10
        np.testing.assert_array_equal(out[start : start + 10], image)
        np.testing.assert_array_equal(lab[start : start + 10], label)
        assert (out[~inside] == FILL).all() and (lab[~inside] == 255).all()
        starts.add(start)
    assert starts == set(range(5))


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.3, 2.0, 3.7])
def test_image_and_label_stay_aligned(scale):
    # Vertical and horizontal edges: the class can be read off the image wherever it is not interpolated.
    image, label = raw.picture(3, 64, 96, classes=2)
    image[..., 1:] = image[..., :1]
    augment = Augment(scale, scale, flip_prob=0.5, fill=(200, 200, 200))
    for seed in range(10):
        out, lab = augment(image, label, size_px=(64, 96), rng=rng(seed))
        seen = lab != 255
        from_image = np.round(out[..., 0].astype(float) / 40)
        # Bilinear and nearest change sides at the same place, up to rounding at the very edge.
        assert (from_image == lab)[seen].mean() > (0.99 if scale > 1 else 0.96)
        assert ((out == 200).all(axis=-1) == ~seen).all()


def test_scale_is_as_asked():
    image, label = np.zeros((100, 100, 3), np.uint8), np.zeros((100, 100), np.uint8)
    label[:, 50:] = 1
    label[50:] += 2
    for scale in (0.5, 0.75):
        lab = Augment(scale, scale)(image, label, size_px=(100, 100), rng=rng())[1]
        assert (lab != 255).sum() == pytest.approx(1e4 * scale**2, rel=0.04)
    widths = []
    for seed in range(200):
        lab = Augment(0.2, 0.8)(image, label, size_px=(100, 100), rng=rng(seed))[1]
        widths.append((lab != 255).any(axis=0).sum())
    assert min(widths) < 25 and max(widths) > 75 and np.mean(widths) == pytest.approx(50, abs=4)


def test_labels_hold_values_of_the_source_only():
    label = np.where(rng().random((40, 50)) < 0.5, 3, 200).astype(np.uint8)
    image = coordinates(40, 50)[0]
    for seed in range(50):
        lab = STRONG(image, label, size_px=(33, 44), rng=rng(seed))[1]
        assert set(np.unique(lab)) <= {3, 200, 255}


def test_deterministic_and_inputs_are_left_alone():
    image, label = coordinates(40, 50)
    kept = image.copy(), label.copy()
    image.flags.writeable = label.flags.writeable = False
    first = STRONG(image, label, size_px=(32, 32), rng=rng(5))
    again = STRONG(image, label, size_px=(32, 32), rng=rng(5))
    other = STRONG(image, label, size_px=(32, 32), rng=rng(6))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()
    np.testing.assert_array_equal(image, kept[0])
    np.testing.assert_array_equal(label, kept[1])


def test_switching_one_change_leaves_the_others_as_they_were():
    image, label = coordinates(40, 50)
    labels = [
        replace(STRONG, **change)(image, label, size_px=(32, 32), rng=rng(5))[1]
        for change in ({}, {"color_jitter": 0.0}, {"blur_prob": 1.0})
    ]
    np.testing.assert_array_equal(labels[0], labels[1])
    np.testing.assert_array_equal(labels[0], labels[2])
    assert rng(5).bit_generator.state != _state_after(STRONG, image, label)
    assert _state_after(STRONG, image, label) == _state_after(Augment(), image, label)


def _state_after(augment, image, label):
    generator = rng(5)
    augment(image, label, size_px=(8, 8), rng=generator)
    return generator.bit_generator.state


def test_flip_is_exact_and_as_often_as_asked():
    image, label = coordinates(40, 50)
    out, lab = Augment(flip_prob=1.0)(image, label, size_px=(40, 50), rng=rng())
    np.testing.assert_array_equal(out, image[:, ::-1])
    np.testing.assert_array_equal(lab, label[:, ::-1])
    flips = [
        (Augment(flip_prob=0.25)(image, label, size_px=(40, 50), rng=rng(s))[0] != image).any()
        for s in range(400)
    ]
    assert np.mean(flips) == pytest.approx(0.25, abs=0.07)


def test_jitter_against_float64():
    image = rng().integers(0, 256, (20, 30, 3)).astype(np.uint8)
    brightness, contrast, saturation = 1.2, 0.7, 1.4
    luma = np.array([0.299, 0.587, 0.114])
    x = image.astype(float)
    grey = (x @ luma)[..., None]
    mean = (x @ luma).mean()
    x = grey + saturation * (x - grey)
    x = brightness * (mean + contrast * (x - mean))
    expected = np.clip(np.round(x), 0, 255)
    got = jitter(image, brightness, contrast, saturation)
    assert got.dtype == np.uint8
    assert np.abs(got - expected).max() <= 1 and (got == expected).mean() > 0.95
    np.testing.assert_array_equal(jitter(image, 1.0, 1.0, 1.0), image)


def test_blur_keeps_the_mean_and_takes_contrast():
    image = rng().integers(0, 256, (40, 50, 3)).astype(np.uint8)
    label = np.zeros((40, 50), np.uint8)
    out = Augment(blur_prob=1.0)(image, label, size_px=(40, 50), rng=rng())[0]
    assert out.mean() == pytest.approx(image.mean(), rel=0.02) and out.std() < 0.8 * image.std()


def test_colour_does_not_touch_the_padding():
    image, label = coordinates(10, 10)
    augment = Augment(color_jitter=1.0, blur_prob=1.0, fill=FILL)
    for seed in range(10):
        out, lab = augment(image, label, size_px=(20, 20), rng=rng(seed))
        assert (lab == 255).sum() == 300 and (out[lab == 255] == FILL).all()


def test_resize_and_pad():
    image, label = coordinates(10, 20)
    same = resize(image, label, (10, 20))
    assert same[0] is image and same[1] is label
    half = resize(image, label, (5, 10))
    # About pixel centres: the mean of 2x2 (half up) for the image, a pixel of each 2x2 for the label.
    np.testing.assert_array_equal(half[0][..., 0], image[::2, ::2, 0] + 1)
    blocks = label.reshape(5, 2, 10, 2).transpose(0, 2, 1, 3).reshape(5, 10, 4)
    assert (blocks == half[1][..., None]).any(axis=-1).all()
    out, lab = pad(image, label, (16, 32), FILL)
    np.testing.assert_array_equal(out[:10, :20], image)
    assert (out[10:] == FILL).all() and (lab[:, 20:] == 255).all()


def test_impossible_settings_are_refused():
    for change in (
        dict(scale_min=0.0),
        dict(scale_min=2.0),
        dict(flip_prob=1.5),
        dict(color_jitter=-0.1),
        dict(blur_prob=2.0),
    ):
        with pytest.raises(UserError, match=next(iter(change))):
            Augment(**change)
