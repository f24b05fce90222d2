"""Names, splits, labels and the Split object."""

import os
import shutil
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import datasets, images, toy_street
from jaxseg.data.spec import distinct_colors
from jaxseg.errors import UserError
from tests.data import raw


def test_unknown_names_get_the_nearest(tmp_path):
    with pytest.raises(UserError, match="did you mean 'camvid_drives'"):
        datasets.describe("camvid_drive")
    root = raw.make_folder(tmp_path / "raw")
    with pytest.raises(UserError, match="'trian'.*did you mean 'train'"):
        datasets.open_split("folder", "trian", dir=str(root), cache_dir=str(tmp_path / "cache"))


def test_a_missing_camvid_says_the_layout_and_how_to_get_it(tmp_path):
    for name in ("camvid", "camvid_drives"):
        for dir in ("", str(tmp_path / "nowhere")):
            with pytest.raises(UserError, match="trainannot/.*prepare --config=.*--download"):
                datasets.open_split(name, "train", dir=dir)


def test_cache_root_follows_the_environment(monkeypatch):
    assert str(datasets.cache_root("/a/b")) == "/a/b"
    monkeypatch.setenv("JAXSEG_CACHE", "/c")
    assert str(datasets.cache_root()) == "/c"
    monkeypatch.delenv("JAXSEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/d")
    assert str(datasets.cache_root()) == "/d/jaxseg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert str(datasets.cache_root()) == os.path.expanduser("~/.cache/jaxseg")


@pytest.mark.parametrize("decoded", [True, False])
def test_folder_gives_what_was_written(tmp_path, decoded):
    root = raw.make_folder(tmp_path / "raw")
    split = datasets.open_split(
        "folder", "train", dir=str(root), cache_dir=str(tmp_path / "c"), decoded_cache=decoded
    )
    assert split.name == "train" and len(split) == 4 and split.names == ["0", "1", "2", "3"]
    assert split.spec.class_names == ("class_0", "class_1", "class_2")
    for i, name in enumerate(split.names):
        example = split[i]
        label = np.array(Image.open(root / "labels" / "train" / f"{name}.png"))
        assert example["name"] == name and example["label"].dtype == np.uint8
        np.testing.assert_array_equal(example["label"], label)
        assert tuple(split.sizes_px[i]) == label.shape == example["image"].shape[:2]
        if name != "1":
            image = np.array(Image.open(root / "images" / "train" / f"{name}.png"))
            np.testing.assert_array_equal(example["image"], image)
    np.testing.assert_array_equal(split[-1]["image"], split[3]["image"])
    for outside in (4, -5):
        with pytest.raises(IndexError):
            split[outside]


def test_a_split_travels_as_paths(tmp_path):
    root = raw.make_folder(tmp_path / "raw")
    for decoded in (True, False):
        split = datasets.open_split(
            "folder", "val", dir=str(root), cache_dir=str(tmp_path / "c"), decoded_cache=decoded
        )
        first = split[0]["image"]
        packed = ForkingPickler.dumps(split)
        assert len(packed) < 8000
        np.testing.assert_array_equal(ForkingPickler.loads(packed)[0]["image"], first)


def test_camvid_void_is_ignored_and_any_split_may_be_missing(tmp_path):
    root = raw.make_camvid(tmp_path / "raw", splits=(("val", 2),))
    assert datasets.describe("camvid", str(root)).splits == ("val",)
    split = datasets.open_split("camvid", "val", dir=str(root), cache_dir=str(tmp_path / "c"))
    expected = raw.picture(1, classes=12)[1]
    assert (expected == 11).any()
    np.testing.assert_array_equal(split[1]["label"], np.where(expected == 11, 255, expected))
    with pytest.raises(UserError, match="'train'"):
        datasets.open_split("camvid", "train", dir=str(root), cache_dir=str(tmp_path / "c"))
    shutil.rmtree(root / "valannot")
    with pytest.raises(UserError, match="lacks valannot/"):
        datasets.describe("camvid", str(root))


def test_camvid_drives_refuses_other_counts(tmp_path):
    root = raw.make_camvid(tmp_path / "raw")
    with pytest.raises(UserError, match="3 images; expected 198"):
        datasets.open_split("camvid_drives", "train", dir=str(root), cache_dir=str(tmp_path / "c"))


def test_drives_are_told_by_name():
    frames = {
        "0001TP_006690": "train",
        "0016E5_00360": "train",
        "0016E5_00390": "calib",
        "0016E5_02400": "calib",
        "0016E5_02430": "train",
        "0006R0_f00930": "test",
    }
    assert {frame: datasets.drive_split(frame) for frame in frames} == frames


def test_palette_and_few_bit_labels_are_read_as_numbers(tmp_path):
    label = raw.picture(0, classes=4)[1]
    palette = Image.fromarray(label).convert("P")
    palette.putdata([int(v) for v in label.ravel()])
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    palette.save(tmp_path / "palette.png")
    Image.fromarray(label > 1).save(tmp_path / "one.png")
    read = {p.stem: images.decode_label(p.read_bytes()) for p in tmp_path.glob("*.png")}
    np.testing.assert_array_equal(read["palette"], label)
    np.testing.assert_array_equal(read["one"], label > 1)


def test_classes_txt(tmp_path):
    root = raw.make_folder(tmp_path / "raw")
    (root / "classes.txt").write_text("road 1 2 3\ntraffic sign\n\nsky 7 8 9\n")
    spec = datasets.describe("folder", str(root))
    assert spec.class_names == ("road", "traffic sign", "sky")
    assert spec.class_colors == ((1, 2, 3), distinct_colors(3)[1], (7, 8, 9))
    assert len(set(distinct_colors(254))) == 254
    for text, message in (
        ("a\na\n", "twice"),
        ("", "0 classes"),
        ("a 1 2 300\n", "line 1"),
        ("a\n" * 255, "255 classes"),
    ):
        (root / "classes.txt").write_text(text)
        with pytest.raises(UserError, match=message):
            datasets.describe("folder", str(root))
    # Fewer classes than the labels hold: the file and its values are named.
    (root / "classes.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"labels/train/0.png: wrong label values 2 .*data check"):
        datasets.prepare("folder", dir=str(root), cache_dir=str(tmp_path / "c"))


def test_read_image_for_prediction(tmp_path):
    image = raw.picture(0)[0]
    raw.write(tmp_path / "grey.png", image[..., 0])
    assert images.read_image(tmp_path / "grey.png").shape == (24, 32, 3)
    raw.write(tmp_path / "a.png", image)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), image)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:-30])
    (tmp_path / "huge.png").write_bytes(raw.png_header_only(50_000, 50_000))
    (tmp_path / "c.txt").write_text("no image")
    for name in ("b.png", "huge.png", "c.txt", "none.png"):
        with pytest.raises(UserError, match=name):
            images.read_image(tmp_path / name)
    np.testing.assert_array_equal(images.decode_image(images.encode_png(image)), image)


def test_toy_street_is_stored_without_loss(monkeypatch, tmp_path):
    monkeypatch.setattr(toy_street, "SPLITS", {"train": 2, "calib": 1, "val": 1, "test": 1})
    split = datasets.open_split("toy_street", "train", cache_dir=str(tmp_path))
    image, label = toy_street.sample("train", 1)
    np.testing.assert_array_equal(split[1]["image"], image)
    np.testing.assert_array_equal(split[1]["label"], label)
    assert split.names == ["train_0000", "train_0001"]
    assert split.spec.splits == ("train", "calib", "val", "test")
