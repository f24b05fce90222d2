"""Complexity against values worked out by hand, ranks, and what is kept on disk."""

import json

import numpy as np
import pytest

from jaxseg.data import dance_scores, datasets
from jaxseg.data.builders import camvid, cityscapes
from jaxseg.data.dance_scores import MEASURES, mean_gradient, ranks, scores, unseen
from jaxseg.errors import UserError
from tests.data import raw
from tests.fakes import FakeSplit

TINY = np.array([[0, 0.2, 0.4, 0.6], [0.1, 0.9, 0.3, 0.5], [0.8, 0.7, 0.2, 0.1], [0, 0.4, 0.6, 1]])


def board(cell):
    rows = np.arange(32) // cell
    return (rows[:, None] + rows) % 2


def dot():
    plane = np.zeros((5, 5))
    plane[2, 2] = 1
    return plane


GOLDEN = {
    "constant": (np.full((7, 9), 0.3), 0.0),
    "ramp": (np.tile(np.arange(5) / 4, (4, 1)), 1.6),
    "step": (np.tile(np.arange(8) >= 4, (8, 1)), 1.0),
    "dot": (dot(), 0.546274),
    "tiny": (TINY, 1.756764),
    "tiny, brighter": (TINY + 0.1, 1.756764),
    "tiny, doubled": (2 * TINY, 2 * 1.756764),
    "board 1": (board(1), 0.011049),
    "board 2": (board(2), 2.954672),
    "board 4": (board(4), 2.510129),
    "board 8": (board(8), 1.318187),
    "long ramp": (np.tile(np.arange(32) / 31, (32, 1)), 0.25),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values_of_spatial_information(name):
    plane, want = GOLDEN[name]
    assert mean_gradient(plane) == pytest.approx(want, abs=1e-6)
    if name == "constant":
        assert mean_gradient(plane) == 0


def test_spatial_information_is_that_of_the_luma():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 11, 3), np.uint8)
    y = image.astype(np.float64) @ [0.299, 0.587, 0.114] / 255
    pad = np.pad(y, 1, mode="edge")
    at = lambda dy, dx: pad[1 + dy : 10 + dy, 1 + dx : 12 + dx]  # noqa: E731
    gx = sum(w * (at(d, 1) - at(d, -1)) for d, w in ((-1, 1), (0, 2), (1, 1)))
    gy = sum(w * (at(1, d) - at(-1, d)) for d, w in ((-1, 1), (0, 2), (1, 1)))
    got = MEASURES["spatial_information"](image, np.zeros((9, 11), np.uint8))
    assert got == pytest.approx(np.hypot(gx, gy).mean(), abs=1e-6)


def test_label_boundary_by_hand():
    of = lambda label: dance_scores.label_boundary(None, label)  # noqa: E731
    halves = np.zeros((6, 8), np.uint8)
    halves[:, 4:] = 1
    assert of(halves) == 1 / 8 and of(halves.T) == 1 / 8 and of(halves * 0) == 0
    halves[:, 3] = 255  # a seam of void, as around objects: nothing touches any more
    assert of(halves) == 0


def test_the_other_measures():
    flat = np.full((64, 64, 3), 77, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    two = flat.copy()
    two[:32] = 200
    label = np.zeros((64, 64), np.uint8)
    assert MEASURES["entropy"](flat, label) == 0
    assert MEASURES["entropy"](two, label) == pytest.approx(1.0)
    for name in ("entropy", "jpeg", "spatial_information"):
        low, middle, high = (MEASURES[name](x, label) for x in (flat, two, noise))
        assert low < middle < high, name
    # Neither is changed, and a read-only image of a mapped file is as good.
    noise.flags.writeable = False
    assert all(MEASURES[name](noise, label) >= 0 for name in MEASURES)


def test_ranks_by_hand():
    assert ranks([3.0, 1.0, 2.0, 5.0, 4.0], "global").tolist() == [0.5, 0, 0.25, 1, 0.75]
    assert ranks([1.0, 2.0, 2.0, 3.0], "global").tolist() == [0, 0.5, 0.5, 1]
    assert ranks([1.0, 2.0, 5.0], "minmax").tolist() == [0, 0.25, 1]
    groups = ["a", "b", "a", "b", "c"]
    assert ranks([1.0, 30.0, 2.0, 20.0, 9.0], "within_group", groups).tolist() == [0, 1, 1, 0, 0.5]
    assert ranks([1.0, 3.0, 2.0], "within_group").tolist() == [0, 1, 0.5]
    for kind in dance_scores.RANKS:
        assert ranks([7.0], kind).tolist() == [0.5] == ranks([7.0, 7.0], kind).tolist()[:1]
    with pytest.raises(UserError, match="did you mean 'global'"):
        ranks([1.0], "globl")


def test_an_unseen_image_is_ranked_among_the_training_images_alone():
    """T8: other test images, and the order of either, do not matter."""
    rng = np.random.default_rng(0)
    training, test = rng.random(50).round(1), rng.random(9)
    for kind in dance_scores.RANKS:
        whole = unseen(test, training, kind)
        alone = [float(unseen(x, training, kind)) for x in test]
        assert whole.tolist() == alone
        assert (unseen(test, training[::-1], kind) == whole).all()
        assert (np.diff(unseen(np.sort(test), training, kind)) >= 0).all()
        assert unseen(np.array([-5.0, 5.0]), training, kind).tolist() == [0, 1]
    for kind in ("global", "minmax"):
        np.testing.assert_array_equal(unseen(training, training, kind), ranks(training, kind))
    assert float(unseen(2.5, np.array([1.0, 2.0, 3.0]), "global")) == 0.75


def test_groups_are_named_by_the_data_set():
    assert camvid.spec().group("0006R0_f00930") == "0006R0"
    assert cityscapes.spec().group("aachen_000000_000019") == "aachen"
    assert datasets.describe("camvid_drives").group("0016E5_00390") == "0016E5"
    assert datasets.describe("toy_street").group("train_0001") == ""


def test_scores_are_made_once_and_kept_beside_the_prepared_copy(tmp_path, monkeypatch):
    root = raw.make_camvid(tmp_path / "raw", (("train", 5), ("val", 2)))
    split = datasets.open_split("camvid", "train", dir=str(root), cache_dir=str(tmp_path / "c"))
    first = scores(split, "spatial_information")
    want = [dance_scores.spatial_information(split[i]["image"], None) for i in range(5)]
    assert first.values.tolist() == want and first.groups == ("0001TP",) * 5
    (file,) = (split.folder / "complexity").iterdir()
    calls = []
    monkeypatch.setitem(MEASURES, "spatial_information", lambda *x: calls.append(1) or 0.5)
    assert scores(split, "spatial_information").values.tolist() == want and not calls
    # Another measure or split is another file; what is no list of scores is made anew.
    scores(split, "label_boundary")
    val = datasets.open_split("camvid", "val", dir=str(root), cache_dir=str(tmp_path / "c"))
    assert len(scores(val, "spatial_information").values) == 2
    assert len(list(file.parent.iterdir())) == 3
    for bad in ("", "[1]", '{"scores": [1.0]}', json.dumps({"scores": [0.5] * 4 + [-1.0]})):
        file.write_text(bad)
        assert scores(split, "spatial_information").values.tolist() == [0.5] * 5
        assert json.loads(file.read_text()) == {"scores": [0.5] * 5}
    with pytest.raises(UserError, match="did you mean 'entropy'"):
        scores(split, "entrpy")


def test_a_split_without_a_folder_is_measured_every_time():
    assert len(scores(FakeSplit(n=3), "jpeg").values) == 3


@pytest.mark.slow
def test_camvid_s_dusk_drive_is_at_the_low_end(tmp_path):
    """What the specification measured: medians 0.08, 0.78 and 0.53, and spread within groups."""
    raw.camvid_dir()
    split = datasets.open_split(
        "camvid", "train", dir=str(raw.camvid_dir()), cache_dir=str(tmp_path), decoded_cache=False
    )
    found = scores(split, "spatial_information")
    drives = np.array(found.groups)
    q = ranks(found.values, "global")
    medians = [np.median(q[drives == d]) for d in ("0001TP", "0006R0", "0016E5")]
    np.testing.assert_allclose(medians, (0.08, 0.78, 0.53), atol=0.006)
    inside = ranks(found.values, "within_group", found.groups)
    assert all(np.median(inside[drives == d]) == pytest.approx(0.5, abs=0.01) for d in set(drives))


def test_scores_do_not_depend_on_where_an_image_lies_in_memory():
    """Else processes of one run could rank images differently."""
    image, label = raw.picture(1)
    want = {name: measure(image, label) for name, measure in MEASURES.items()}
    for offset in range(17):
        moved = np.empty(image.size + 64, np.uint8)[offset : offset + image.size]
        moved = moved.reshape(image.shape)
        moved[:] = image
        assert {name: measure(moved, label) for name, measure in MEASURES.items()} == want
