"""Cityscapes, PASCAL VOC 2012 and ADE20K: their layouts, numberings and rules, on tiny folders."""

import numpy as np
import pytest

from jaxseg.data import check, datasets
from jaxseg.data.builders import ade20k, cityscapes, voc2012
from jaxseg.data.images import decode_label
from jaxseg.errors import UserError
from jaxseg.types import IGNORE_LABEL
from tests.data import raw

MAKE = {
    "cityscapes": raw.make_cityscapes,
    "voc2012": lambda root: raw.make_voc2012(root, "names"),
    "ade20k": lambda root: raw.make_ade20k(root, 1, 0),
    "ade20k_shifted": lambda root: raw.make_ade20k(root, 0, 255),
}


def opened(name, split, root, cache):
    return datasets.open_split(name, split, dir=str(root), cache_dir=str(cache))


@pytest.mark.parametrize("name", MAKE)
def test_splits_hold_the_mapped_labels_of_the_raw_files(name, tmp_path):
    root = MAKE[name](tmp_path / "raw")
    found = datasets.raw_folder(name, str(root))
    assert found.problems == []
    for split in datasets.describe(name, str(root)).splits:
        examples = opened(name, split, root, tmp_path / "cache")
        assert len(examples) == len(found.pairs[split]) > 0
        for i, pair in enumerate(found.pairs[split]):
            raw_label = decode_label((found.root / pair.label).read_bytes())
            np.testing.assert_array_equal(examples[i]["label"], found.spec.label_map[raw_label])
            assert examples[i]["name"] == pair.name
    assert check.check(name, str(root)).problems == []


@pytest.mark.parametrize(
    "name, count", [("cityscapes", 19), ("voc2012", 21), ("ade20k", 150), ("ade20k_shifted", 150)]
)
def test_classes_are_named_once_and_every_one_can_occur(name, count):
    spec = datasets.describe(name)
    assert spec.num_classes == count == len(set(spec.class_names)) == len(spec.class_colors)
    assert all(0 <= value <= 255 for color in spec.class_colors for value in color)
    used = spec.label_map[spec.allowed]
    assert set(used) == {*range(count), IGNORE_LABEL}
    for k in range(count):
        assert np.sum(spec.label_map == k) == 1


@pytest.mark.parametrize("name", MAKE)
def test_the_wrong_folder_gets_the_layout(name, tmp_path):
    for where in ("", str(tmp_path), str(tmp_path / "none")):
        with pytest.raises(UserError, match="expected .*") as error:
            opened(name, "train", where, tmp_path / "cache")
        assert "\n" not in str(error.value) and "data.dir holds no" in str(error.value)


# --- Cityscapes ---


def test_cityscapes_ids_are_those_of_the_authors_table():
    table = cityscapes.spec().label_map
    # By hand from the published table: (label id, name).
    pairs = {7: "road", 8: "sidewalk", 11: "building", 17: "pole", 20: "traffic sign", 23: "sky"}
    pairs |= {24: "person", 25: "rider", 26: "car", 28: "bus", 31: "train", 33: "bicycle"}
    for label_id, name in pairs.items():
        assert cityscapes.spec().class_names[table[label_id]] == name
    # unlabeled .. ground, parking, rail track, guard rail, bridge, tunnel, polegroup, caravan, trailer, plate
    for label_id in (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255):
        assert table[label_id] == IGNORE_LABEL
    assert not cityscapes.spec().allowed[34:255].any()


def test_cityscapes_goes_by_city_and_misses_no_partner(tmp_path):
    root = raw.make_cityscapes(tmp_path)
    names = [pair.name for pair in cityscapes.raw_folder(root).pairs["train"]]
    assert (
        names
        == sorted(names)
        == [
            "traincity0_000000_000019",
            "traincity0_000002_000019",
            "traincity1_000001_000019",
        ]
    )
    (root / "gtFine/train/traincity1/traincity1_000001_000019_gtFine_labelIds.png").unlink()
    (root / "leftImg8bit/val/valcity0/valcity0_000000_000019_leftImg8bit.png").unlink()
    found = cityscapes.raw_folder(root).problems
    assert sorted(problem.what for problem in found) == [
        "no image of this name in leftImg8bit/val/",
        "no label of this name in gtFine/train/",
    ]


def test_cityscapes_has_no_test_split(tmp_path):
    root = raw.make_cityscapes(tmp_path / "raw", (("train", 1), ("test", 1)))
    with pytest.raises(UserError, match="unknown split of cityscapes: got 'test'"):
        opened("cityscapes", "test", root, tmp_path / "cache")


def test_an_id_beyond_the_authors_table_is_a_wrong_value(tmp_path):
    root = raw.make_cityscapes(tmp_path / "raw", (("train", 1),))
    label = root / "gtFine/train/traincity0/traincity0_000000_000019_gtFine_labelIds.png"
    raw.write(label, np.full((24, 32), 34, np.uint8))
    report = check.check("cityscapes", str(root))
    assert [p.what for p in report.problems] == [
        "wrong label values 34 (768 px); allowed: 0..33, 255"
    ]


# --- PASCAL VOC ---


def test_voc_colours_are_the_published_ones():
    colors = dict(zip(voc2012.CLASSES, voc2012.spec().class_colors, strict=True))
    published = {"background": (0, 0, 0), "aeroplane": (128, 0, 0), "bicycle": (0, 128, 0)}
    published |= {"bottle": (128, 0, 128), "person": (192, 128, 128), "tvmonitor": (0, 64, 128)}
    assert {name: colors[name] for name in published} == published
    assert len(set(colors.values())) == 21


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_is_found_from_above(tmp_path, below):
    raw.make_voc2012(tmp_path)
    found = voc2012.raw_folder(tmp_path / below)
    assert found.spec.splits == ("train", "val")
    assert [p.name for p in found.pairs["val"]] == ["2007_000002", "2007_000003"]


@pytest.mark.parametrize("form", ["names", "paths"])
def test_voc_augmented_list_uses_its_own_labels(tmp_path, form):
    found = voc2012.raw_folder(raw.make_voc2012(tmp_path, form))
    assert found.spec.splits == ("train", "val", "trainaug") and found.problems == []
    assert [p.name for p in found.pairs["trainaug"]] == ["2007_000000", "2007_000004"]
    assert found.pairs["trainaug"][0].label == "SegmentationClassAug/2007_000000.png"
    assert found.pairs["train"][0].label == "SegmentationClass/2007_000000.png"


def test_voc_val_images_in_a_training_list_are_a_problem(tmp_path):
    raw.make_voc2012(tmp_path, "names")
    path = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt"
    path.write_text(path.read_text() + "2007_000003\n")
    assert [tuple(p) for p in voc2012.raw_folder(tmp_path).problems] == [
        ("ImageSets/Segmentation/trainaug.txt", "2007_000003 is in val.txt too")
    ]
    with pytest.raises(UserError, match="2007_000003 is in val.txt too"):
        datasets.prepare("voc2012", dir=str(tmp_path), cache_dir=str(tmp_path / "cache"))


def test_voc_files_that_are_listed_and_missing_are_named(tmp_path):
    raw.make_voc2012(tmp_path)
    (tmp_path / "VOCdevkit/VOC2012/SegmentationClass/2007_000001.png").unlink()
    assert [tuple(p) for p in voc2012.raw_folder(tmp_path).problems] == [
        ("SegmentationClass/2007_000001.png", "missing, listed in train.txt")
    ]


# --- ADE20K ---


def test_ade_names_and_colours_at_some_published_places():
    names, colors = zip(*ade20k.CLASSES, strict=True)
    assert (names[0], names[12], names[44], names[149]) == (
        "wall",
        "person",
        "chest of drawers",
        "flag",
    )
    assert (colors[0], colors[12], colors[149]) == ((120, 120, 120), (150, 5, 61), (92, 0, 255))


def test_ade_numberings_meet_in_the_same_classes(tmp_path):
    spec = ade20k.published_spec()
    assert [spec.label_map[v] for v in (0, 1, 150)] == [IGNORE_LABEL, 0, 149]
    spec = ade20k.shifted_spec()
    assert [spec.label_map[v] for v in (0, 149, 255)] == [0, 149, IGNORE_LABEL]
    labels = []
    for name in ("ade20k", "ade20k_shifted"):
        root = MAKE[name](tmp_path / name)
        labels.append(opened(name, "val", root, tmp_path / "cache")[0]["label"])
    np.testing.assert_array_equal(*labels)


@pytest.mark.parametrize(
    "made, name, words",
    [
        ("ade20k", "ade20k_shifted", ["255 (ignored) never occurs", "data.name=ade20k"]),
        ("ade20k_shifted", "ade20k", ["wrong label values 255", "allowed: 0..150"]),
    ],
)
def test_the_other_ade_numbering_is_refused(tmp_path, made, name, words):
    root = MAKE[made](tmp_path / "raw")
    with pytest.raises(UserError) as error:
        datasets.prepare(name, dir=str(root), cache_dir=str(tmp_path / "cache"))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_ade_labels_without_any_zero_are_asked_about(tmp_path):
    root = raw.make_ade20k(tmp_path / "raw", 1, 1)
    found = [p.what for p in check.check("ade20k", str(root)).problems]
    assert any("0 (ignored) never occurs" in what for what in found)
