"""Counts and class weights against their formulas, by hand."""

import numpy as np
import pytest

from jaxseg.data import datasets, stats
from jaxseg.errors import UserError
from tests.data import raw

# Two images of 10 and 20 labelled pixels; class 2 occurs in the second only, class 3 never.
COUNTS = stats.Stats(
    name="made up",
    class_names=("a", "b", "c", "d"),
    num_pixels=np.array([12, 12, 6, 0]),
    num_images=np.array([2, 2, 1, 0]),
    shared_pixels=np.array([30, 30, 20, 0]),
    num_void=10,
    total_images=2,
)


def test_weights_by_hand():
    inverse = np.array([1 / 12, 1 / 12, 1 / 6])
    frequency = np.array([0.4, 0.4, 0.3])
    median = 0.4 / frequency
    beta = 0.999
    root = np.array([12, 12, 6]) ** -0.5
    effective = (1 - beta) / (1 - beta ** (np.array([12, 12, 6]) / 2))
    for kind, expected in (
        ("inverse", inverse),
        ("median", median),
        ("root", root),
        ("effective", effective),
    ):
        got = stats.weights(COUNTS, kind)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got[:3], expected / expected.mean(), rtol=1e-12)
        assert got[3] == 0


def test_effective_number_reaches_both_ends():
    # Few pixels: as inverse frequency. Very many: all classes equal.
    def of(*pixels):
        n = np.array(pixels)
        return stats.Stats("", ("a", "b"), n, np.array([1, 1]), n, 0, 1)

    few = stats.weights(of(1, 2), "effective")
    assert few[0] / few[1] == pytest.approx(2, rel=1e-3)
    many = stats.weights(of(10**5, 10**6), "effective")
    assert many[0] / many[1] == pytest.approx(1, rel=1e-12)


def test_unknown_kind():
    with pytest.raises(UserError, match="did you mean 'median'"):
        stats.weights(COUNTS, "medan")


def test_paste_is_a_line_that_python_reads_back():
    line = stats.paste(COUNTS, "median")
    name, _, numbers = line.partition(" = ")
    assert name == "config.loss.class_weights"
    read = [float(x) for x in numbers.strip("()").split(",")]
    np.testing.assert_allclose(read, stats.weights(COUNTS, "median"), atol=5e-5)
    text = stats.render(COUNTS)
    assert line in text and "25.000" in text and "void" not in text.splitlines()[1]


def test_counts_of_a_split(tmp_path):
    root = raw.make_folder(tmp_path / "raw")
    split = datasets.open_split("folder", "train", dir=str(root), cache_dir=str(tmp_path / "c"))
    got = stats.stats(split)
    labels = [split[i]["label"] for i in range(len(split))]
    flat = np.concatenate([label.ravel() for label in labels])
    np.testing.assert_array_equal(got.num_pixels, [(flat == k).sum() for k in range(3)])
    np.testing.assert_array_equal(got.num_images, [4, 4, 4])
    assert got.num_void == 4 and got.total_images == 4
    assert got.shared_pixels.tolist() == [int((flat != 255).sum())] * 3
    assert got.void_frac == pytest.approx(4 / flat.size)
    assert got.num_pixels.dtype == np.int64
