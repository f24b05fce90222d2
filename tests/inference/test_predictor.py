"""Label maps: equal to a plain float64-free reading of the network, any shape, whole folders."""

import tracemalloc

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.inference import folder as folders
from jaxseg.inference.evaluation import Album, evaluate
from jaxseg.inference.predictor import Model, make_score
from jaxseg.layers.resize import resize_bilinear
from jaxseg.models import zoo
from jaxseg.objectives.metrics import confusion_matrix
from tests.fakes import batch, small_arch
from tests.inference.test_artifact import CARD


@pytest.fixture(scope="module")
def model():
    arch = small_arch()
    return Model(arch, zoo.init(arch, jax.random.PRNGKey(0)), CARD)


def test_equals_the_network_step_by_step(model):
    image = batch(2, 36, 44)["image"]
    x = (image.astype(np.float32) / 255 - 0.5) / 0.25
    logits = zoo.module(model.arch).apply(model.variables, jnp.asarray(x)).logits
    want = np.argmax(np.asarray(resize_bilinear(logits, (36, 44))), axis=-1)
    np.testing.assert_array_equal(model(image), want)
    np.testing.assert_array_equal(model(image[1]), want[1])


@pytest.mark.parametrize(
    "bad", [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8)]
)
def test_other_arrays_are_refused(model, bad):
    with pytest.raises(UserError, match="expected uint8"):
        model(bad)


def test_evaluation_ignores_padding_and_counts_every_image(model):
    whole = batch(5, 32, 32)
    score = make_score(model.arch, CARD.mean, CARD.std)
    padded = {k: np.concatenate([v, v[:1]]) for k, v in whole.items()}
    padded["weight"] = np.array([1, 1, 1, 1, 1, 0], np.float32)
    cut = [{k: v[i : i + 2] for k, v in padded.items()} for i in (0, 2, 4)]
    album = Album(3)
    tally = evaluate(score, model.variables, cut, 3, watch=album)
    want = confusion_matrix(whole["label"], model(whole["image"]), 3)
    np.testing.assert_array_equal(tally.confusion, want)
    assert tally.num_images == 5 and len(album.images) == 3
    one = evaluate(score, model.variables, [whole], 3)
    np.testing.assert_allclose(tally.scores()["loss"], one.scores()["loss"], rtol=1e-5)


def test_a_folder_with_bad_files_is_finished_first(model, tmp_path):
    source = tmp_path / "in" / "deep"
    source.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, size in enumerate([(40, 48), (33, 41), (50, 37), (35, 70)]):
        cv2.imwrite(str(source / f"{i}.png"), rng.integers(0, 256, (*size, 3), np.uint8))
    (source / "1_broken.png").write_bytes(b"no picture")
    (source / "notes.txt").write_text("no picture either")
    done, failed = folders.predict_folder(model, tmp_path / "in", tmp_path / "out", say=print)
    assert done == 4 and [path.name for path, _ in failed] == ["1_broken.png"]
    for i, size in enumerate([(40, 48), (33, 41), (50, 37), (35, 70)]):
        label = cv2.imread(str(tmp_path / f"out/labels/deep/{i}.png"), cv2.IMREAD_UNCHANGED)
        assert label.shape == size and label.max() < 3
        overlay = cv2.imread(str(tmp_path / f"out/overlays/deep/{i}.png"))
        assert overlay.shape == (*size, 3)


def test_pictures_of_one_name_do_not_overwrite_each_other(model, tmp_path):
    for name in ("a.png", "a.jpg", "b.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((40, 48, 3), np.uint8))
    done, failed = folders.predict_folder(model, tmp_path, tmp_path / "out", say=print)
    assert (done, failed) == (3, [])
    assert {p.name for p in (tmp_path / "out/labels").iterdir()} == {
        "a.png.png",
        "a.jpg.png",
        "b.png",
    }


def test_nothing_to_segment_is_said(model, tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        folders.predict_folder(model, tmp_path, tmp_path / "out", say=print)
    with pytest.raises(UserError, match="existing file or folder"):
        folders.predict_folder(model, tmp_path / "nowhere", tmp_path / "out", say=print)


def test_memory_does_not_grow_with_the_number_of_images(model):
    score = make_score(model.arch, CARD.mean, CARD.std)

    def batches(n):
        for seed in range(n):
            yield batch(2, 64, 64, seed=seed)

    def peak_bytes(n):
        evaluate(score, model.variables, batches(2), 3)  # compiled, caches warm
        tracemalloc.start()
        tally = evaluate(score, model.variables, batches(n), 3, watch=Album(2))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert tally.num_images == 2 * n
        return peak

    few, many = peak_bytes(5), peak_bytes(100)
    one_batch = 2 * 64 * 64 * 4
    assert many < few + 2 * one_batch
