"""Windows, mirror images and scales: what they must equal, what they must cover, what they must not change."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.inference.augmented import (
    PLAIN,
    Mode,
    augmented,
    flipped,
    multi_scale,
    window_starts,
    windowed,
)
from jaxseg.inference.evaluation import evaluate
from jaxseg.inference.predictor import Model, make_predict, make_score
from jaxseg.models import zoo
from tests.fakes import batch, small_arch
from tests.inference.test_artifact import CARD

MODES = (
    Mode(window_px=(32, 40)),
    Mode(window_px=(40, 32), window_overlap_frac=0.7, flip=True),
    Mode(flip=True),
    Mode(scales=(0.5, 1.0, 1.6), flip=True),
    Mode(window_px=(32, 32), window_overlap_frac=0.0, flip=True, scales=(0.75, 1.25)),
)
KERNEL = np.random.default_rng(1).normal(size=(5, 5, 3, 4)).astype(np.float32)
IMAGE = np.random.default_rng(0).integers(0, 256, (2, 50, 70, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    arch = small_arch()
    variables = jax.jit(lambda key: zoo.init(arch, key))(jax.random.PRNGKey(0))
    return Model(arch, variables, CARD)


def per_pixel(image):
    """A network without neighbours: three linear scores of a pixel's colour."""
    matrix = jnp.array([[0.3, -0.2, 0.05], [-0.1, 0.25, 0.1], [0.02, 0.1, -0.3]])
    return jnp.asarray(image, jnp.float32) / 16.0 @ matrix


def neighbours(image):
    """A network that sees neighbours and its own borders, and has no symmetry: it tells any wrong view."""
    x = jnp.asarray(image, jnp.float32) / 255.0
    scores = jax.lax.conv_general_dilated(
        x, KERNEL, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return scores + jnp.mean(x)


def probabilities(scores):
    """In float64."""
    scores = np.asarray(scores, np.float64)
    exp = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


# --- where windows lie ---


def test_windows_cover_every_pixel_and_nothing_beyond():
    sizes, windows, overlaps = range(1, 90, 4), (32, 33, 40, 64), (0, 0.1, 1 / 3, 0.5, 0.75, 0.999)
    for length, window, overlap in itertools.product(sizes, windows, overlaps):
        starts = window_starts(length, window, overlap)
        if window >= length:
            assert starts == (0,)
            continue
        assert starts[0] == 0 and starts[-1] + window == length
        steps = np.diff(starts)
        # The overlap is at least the one asked for, to the rounding of the step.
        assert (steps > 0).all() and (steps <= max(1, window * (1 - overlap) + 0.5)).all()


def test_windows_by_hand():
    assert window_starts(96, 48, 1 / 3) == (0, 32, 48)
    assert window_starts(100, 40, 0) == (0, 40, 60)
    assert window_starts(80, 40, 0) == (0, 40)
    assert window_starts(41, 40, 0.5) == (0, 1)
    assert window_starts(40, 40, 0.5) == (0,)


# --- what each is, written out ---


def test_windowed_is_the_mean_probability_over_the_windows_that_see_a_pixel():
    total, times = np.zeros((2, 50, 70, 4)), np.zeros((50, 70, 1))
    for y, x in itertools.product((0, 16, 18), (0, 20, 30)):  # 32x40, half overlapping
        crop = IMAGE[:, y : y + 32, x : x + 40]
        total[:, y : y + 32, x : x + 40] += probabilities(neighbours(crop))
        times[y : y + 32, x : x + 40] += 1
    got = jax.jit(windowed(neighbours, (32, 40), 0.5))(IMAGE)
    np.testing.assert_allclose(np.exp(got), total / times, atol=2e-6)
    # The means of probabilities are probabilities.
    np.testing.assert_allclose(np.exp(got).sum(axis=-1), 1.0, rtol=1e-5)


def test_flipped_is_the_mean_probability():
    mirrored = probabilities(neighbours(IMAGE[:, :, ::-1]))[:, :, ::-1]
    want = (probabilities(neighbours(IMAGE)) + mirrored) / 2
    np.testing.assert_allclose(np.exp(jax.jit(flipped(neighbours))(IMAGE)), want, atol=2e-6)


def resize64(x, size):
    """Bilinear, half-pixel centres, one output pixel at a time, float64."""
    x = np.asarray(x, np.float64)
    out = np.empty((len(x), *size, x.shape[3]))
    for i, j in np.ndindex(*size):
        corners = []
        for k, n, m in ((i, x.shape[1], size[0]), (j, x.shape[2], size[1])):
            centre = max((k + 0.5) * n / m - 0.5, 0.0)
            low = min(int(centre), n - 1)
            corners.append(((low, 1 - (centre - low)), (min(low + 1, n - 1), centre - low)))
        out[:, i, j] = sum(wy * wx * x[:, y, x_] for y, wy in corners[0] for x_, wx in corners[1])
    return out


def test_multi_scale_is_the_mean_probability_of_scores_resized_back():
    image = IMAGE[:, :13, :18]
    want = 0.0
    for size in ((7, 9), (13, 18), (20, 27)):  # 0.5, 1, 1.5: 6.5 and 19.5 are rounded up
        view = image if size == (13, 18) else resize64(image, size)
        want = want + probabilities(resize64(neighbours(view), (13, 18))) / 3
    got = jax.jit(multi_scale(neighbours, (0.5, 1.0, 1.5)))(image)
    np.testing.assert_allclose(np.exp(got), want, atol=1e-5)


def test_windows_keep_their_size_at_every_scale():
    seen = set()

    def spy(image):
        seen.add(image.shape[1:3])
        return neighbours(image)

    mode = Mode(window_px=(32, 40), flip=True, scales=(0.5, 1.0, 2.0))
    jax.eval_shape(augmented(spy, mode), IMAGE)
    assert seen == {(25, 35), (32, 40)}  # half the image is smaller than the window


def test_nothing_underflows_where_windows_are_very_sure():
    def sure(image):
        return per_pixel(image) * 1000.0

    got = jax.jit(windowed(sure, (32, 40), 0.5))(IMAGE)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, jax.nn.log_softmax(sure(IMAGE)), rtol=1e-5, atol=0.1)


# --- what must not change ---


def test_plain_is_the_score_function_itself(model):
    assert augmented(neighbours, PLAIN) is neighbours
    assert augmented(neighbours, Mode(window_overlap_frac=0.9)) is neighbours
    plain = make_predict(model.arch, CARD.mean, CARD.std).lower(model.variables, IMAGE)
    default = make_predict(model.arch, CARD.mean, CARD.std, Mode(scales=(1,))).lower(
        model.variables, IMAGE
    )
    assert plain.as_text() == default.as_text()


@pytest.mark.parametrize("window", [(50, 70), (64, 512)])
def test_a_window_as_large_as_the_image_is_the_whole_image(model, window):
    np.testing.assert_array_equal(windowed(neighbours, window, 0.5)(IMAGE), neighbours(IMAGE))
    host = batch(2, 50, 70)
    plain = make_score(model.arch, CARD.mean, CARD.std)(model.variables, host)
    one = make_score(model.arch, CARD.mean, CARD.std, Mode(window_px=window))(model.variables, host)
    for got, want in zip(one, plain, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("mode", [m for m in MODES if m.scales == (1.0,)], ids=str)
def test_a_network_without_neighbours_does_not_notice_windows_and_mirrors(mode):
    got = jax.jit(augmented(per_pixel, mode))(IMAGE)
    want = jax.nn.log_softmax(per_pixel(IMAGE))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-5)
    np.testing.assert_array_equal(np.argmax(got, -1), np.argmax(want, -1))


def test_scales_leave_a_picture_of_one_colour_alone():
    image = np.full((1, 40, 48, 3), (200, 30, 90), np.uint8)
    got = jax.jit(augmented(per_pixel, MODES[-1]))(image)
    np.testing.assert_allclose(got, jax.nn.log_softmax(per_pixel(image)), rtol=1e-4, atol=1e-4)


def test_the_mirror_image_has_the_mirrored_answer(model):
    mirrored = IMAGE[:, :, ::-1]
    flip = jax.jit(flipped(neighbours))
    np.testing.assert_array_equal(flip(mirrored), flip(IMAGE)[:, :, ::-1])
    predict = make_predict(model.arch, CARD.mean, CARD.std, Mode(flip=True))
    straight = np.asarray(predict(model.variables, IMAGE))
    assert (straight[:, :, ::-1] != straight).any()
    np.testing.assert_array_equal(predict(model.variables, mirrored), straight[:, :, ::-1])
    # Without it the network does care.
    assert (np.asarray(model(mirrored))[:, :, ::-1] != model(IMAGE)).any()


def test_padding_still_counts_for_nothing(model):
    score = make_score(model.arch, CARD.mean, CARD.std, MODES[-1])
    whole = batch(3, 50, 70)
    padded = {k: np.concatenate([v, v[:1]]) for k, v in whole.items()}
    padded["weight"] = np.array([1, 1, 1, 0], np.float32)
    padded["label"][1, 40:] = 255  # a smaller picture, padded below

    def pair(i, j):
        return {k: v[[i, j]] for k, v in padded.items()}

    tally = evaluate(score, model.variables, [pair(0, 1), pair(2, 3)], 3)
    # Each picture once, beside something else that has no weight.
    alone = [pair(i, 3) for i in range(3)]
    want = evaluate(score, model.variables, alone, 3)
    np.testing.assert_array_equal(tally.confusion, want.confusion)
    assert tally.num_images == want.num_images == 3
    assert tally.confusion.sum() == tally.loss_count == (padded["label"][:3] != 255).sum()
    np.testing.assert_allclose(tally.loss_sum, want.loss_sum, rtol=1e-5)
    # And the mode was no idle word: the loss is another one than the plain one.
    plain = make_score(model.arch, CARD.mean, CARD.std)
    other = evaluate(plain, model.variables, [pair(0, 1), pair(2, 3)], 3)
    assert abs(other.loss_sum - tally.loss_sum) > 1e-3


def test_modes_can_be_lowered_for_accelerators(model):
    predict = make_predict(model.arch, CARD.mean, CARD.std, MODES[1])
    exported = jax.export.export(predict, platforms=["cpu", "cuda", "tpu"])(model.variables, IMAGE)
    assert exported.out_avals[0].shape == IMAGE.shape[:3]


def test_the_program_holds_one_network_however_many_windows():
    """The windows are a loop: neither the program nor its memory grows with their number."""
    few, many = (jax.jit(windowed(neighbours, (32, 32), x)).lower(IMAGE) for x in (0.0, 0.9))
    assert len(window_starts(70, 32, 0.9)) > 4 * len(window_starts(70, 32, 0.0))
    assert [p.as_text().count("stablehlo.convolution") for p in (few, many)] == [1, 1]
    few, many = (p.compile().memory_analysis().temp_size_in_bytes for p in (few, many))
    assert many < 1.1 * few


# --- mistakes and records ---


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"window_px": (31, 64)}, "window_px: got .31, 64.; expected .height, width."),
        ({"window_px": (0, 64)}, "window_px"),
        ({"window_px": (-64, 64)}, "window_px"),
        ({"window_px": (64,)}, "window_px"),
        ({"window_px": (64.0, 64.0)}, "window_px"),
        (
            {"window_overlap_frac": 1.0},
            r"window_overlap_frac: got 1.0; expected a number in \[0, 1",
        ),
        ({"window_overlap_frac": -0.1}, "window_overlap_frac"),
        ({"window_overlap_frac": float("nan")}, "window_overlap_frac"),
        ({"flip": 1}, "flip"),
        ({"scales": ()}, "scales: got .*; expected one or more numbers from 1/16 to 16"),
        ({"scales": (1.0, 0.0)}, "scales"),
        ({"scales": (-1,)}, "scales"),
        ({"scales": (float("inf"),)}, "scales"),
        ({"scales": ("1",)}, "scales"),
        ({"scales": 1.0}, "scales"),
    ],
)
def test_mistakes_are_one_line(settings, says):
    with pytest.raises(UserError, match=says) as error:
        Mode(**settings)
    assert "\n" not in str(error.value)


def test_every_mode_tells_itself_apart():
    modes = (PLAIN, *MODES)
    assert len({str(m) for m in modes}) == len(modes)
    assert str(PLAIN) == "whole image, 1 scale, no flip"
    assert str(MODES[1]) == "windows of 40x32 px (overlap 0.7), 1 scale, flip"
    assert MODES[3].record() == {
        "description": "whole image, scales 0.5 1 1.6, flip",
        "window_px": (0, 0),
        "window_overlap_frac": None,
        "flip": True,
        "scales": (0.5, 1.0, 1.6),
    }
