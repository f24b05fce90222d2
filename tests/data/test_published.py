"""Cityscapes, PASCAL VOC 2012 and ADE20K: their layouts, numberings and rules, on tiny folders."""

import re
import shutil

import numpy as np
import pytest

from jaxseg.data import check, datasets
from jaxseg.data.builders import ade20k, cityscapes, voc2012
from jaxseg.data.images import decode_image, decode_label
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


def pairs_of(found, split):
    """The pairs that a split must consist of, from the folder's own lists."""
    if split not in found.views:
        return found.pairs[split]
    stored, rows, _ = found.views[split]
    return [found.pairs[stored][row] for row in rows]


@pytest.mark.parametrize("name", MAKE)
def test_splits_hold_the_mapped_labels_of_the_raw_files(name, tmp_path):
    root = MAKE[name](tmp_path / "raw")
    found = datasets.raw_folder(name, str(root))
    assert found.problems == []
    for split in datasets.describe(name, str(root)).splits:
        examples = opened(name, split, root, tmp_path / "cache")
        pairs = pairs_of(found, split)
        assert len(examples) == len(pairs) == found.num_images[split] > 0
        for i, pair in enumerate(pairs):
            raw_label = decode_label((found.root / pair.label).read_bytes())
            np.testing.assert_array_equal(examples[i]["label"], found.spec.label_map[raw_label])
            image = decode_image((found.root / pair.image).read_bytes())
            np.testing.assert_array_equal(examples[i]["image"], image)
            assert examples[i]["name"] == pair.name and examples.name == split
    report = check.check(name, str(root))
    assert report.problems == [] and report.num_images == found.num_images
    assert f"note: {report.notes[0]}" in check.render(report).splitlines()


@pytest.mark.parametrize(
    "name, count", [("cityscapes", 19), ("voc2012", 21), ("ade20k", 150), ("ade20k_shifted", 150)]
)
def test_classes_are_named_once_and_every_one_can_occur(name, count):
    spec = datasets.describe(name)
    assert spec.num_classes == count == len(set(spec.class_names)) == len(spec.class_colors)
    assert all(0 <= value <= 255 for color in spec.class_colors for value in color)
    # ADE20K's own colours repeat one.
    assert len(set(spec.class_colors)) == (149 if count == 150 else count)
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
    # unlabeled .. ground, parking, rail track, guard rail, bridge, tunnel, polegroup, caravan, trailer
    for label_id in (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30):
        assert table[label_id] == IGNORE_LABEL
    # Not even 255: the authors draw nothing where the id is negative.
    assert not cityscapes.spec().allowed[34:].any()


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


def test_a_frame_in_the_wrong_city_is_no_partner(tmp_path):
    root = raw.make_cityscapes(tmp_path)
    name = "traincity1_000001_000019_gtFine_labelIds.png"
    (root / "gtFine/train/traincity1" / name).rename(root / "gtFine/train/traincity0" / name)
    assert len(cityscapes.raw_folder(root).problems) == 2


def to_train_ids(root, hide_label_ids):
    """What the authors' script makes of every label, by a table written down from theirs."""
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    for path in root.glob("gtFine/*/*/*_labelIds.png"):
        label = decode_label(path.read_bytes())
        made = np.full_like(label, 255)
        for train_id, label_id in enumerate(ids):
            made[label == label_id] = train_id
        raw.write(path.with_name(path.name.replace("_labelIds", "_labelTrainIds")), made)
        if hide_label_ids:
            path.unlink()


def test_cityscapes_train_ids_are_read_only_where_there_is_nothing_else(tmp_path):
    labels = []
    for step, hide in enumerate((None, False, True)):
        root = raw.make_cityscapes(tmp_path / f"raw{step}")
        if hide is not None:
            to_train_ids(root, hide)
        found = cityscapes.raw_folder(root)
        assert found.problems == []
        assert all(("TrainIds" in p.label) == bool(hide) for p in found.pairs["train"])
        assert any("TrainIds" in note for note in check.check("cityscapes", str(root)).notes) == (
            bool(hide)
        )
        labels.append(opened("cityscapes", "train", root, tmp_path / "cache")[1]["label"])
    np.testing.assert_array_equal(labels[0], labels[1])
    np.testing.assert_array_equal(labels[0], labels[2])


def test_cityscapes_train_ids_under_the_wrong_name_are_refused(tmp_path):
    root = raw.make_cityscapes(tmp_path / "raw")
    to_train_ids(root, hide_label_ids=True)
    for path in root.glob("gtFine/*/*/*_labelTrainIds.png"):
        path.rename(path.with_name(path.name.replace("_labelTrainIds", "_labelIds")))
    found = check.check("cityscapes", str(root)).problems
    assert len(found) == 5 and all("wrong label values 255" in p.what for p in found)


@pytest.mark.parametrize(
    "name, split, why",
    [
        ("cityscapes", "test", "not public.*expected one of train, val"),
        ("cityscapes", "train_extra", "coarse labels only"),
        ("voc2012", "test", "not public"),
        ("ade20k", "test", "not public"),
    ],
)
def test_what_a_set_does_not_have_is_said_before_anything_is_prepared(tmp_path, name, split, why):
    root = MAKE[name](tmp_path / "raw")
    with pytest.raises(UserError, match=f"{name} {split}: .*{why}"):
        opened(name, split, root, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_half_a_cityscapes_says_what_is_missing(tmp_path):
    root = raw.make_cityscapes(tmp_path, (("train", 1),))
    (root / "leftImg8bit/val").mkdir()
    with pytest.raises(UserError, match="lacks gtFine/val/"):
        cityscapes.raw_folder(root)


def test_an_id_beyond_the_authors_table_is_a_wrong_value(tmp_path):
    root = raw.make_cityscapes(tmp_path / "raw", (("train", 1),))
    label = root / "gtFine/train/traincity0/traincity0_000000_000019_gtFine_labelIds.png"
    raw.write(label, np.full((24, 32), 34, np.uint8))
    report = check.check("cityscapes", str(root))
    assert [p.what for p in report.problems] == ["wrong label values 34 (768 px); allowed: 0..33"]


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
    assert found.spec.splits == ("train", "val", "trainval")
    assert [p.name for p in pairs_of(found, "val")] == ["2007_000002", "2007_000003"]
    assert [p.name for p in pairs_of(found, "trainval")] == [f"2007_{i:06d}" for i in range(4)]
    # Nothing is stored twice, and an image that no list names is no problem.
    assert len(found.pairs["published"]) == 4 and found.problems == []


@pytest.mark.parametrize("form", ["names", "paths"])
def test_voc_augmented_list_uses_its_own_labels(tmp_path, form):
    found = voc2012.raw_folder(raw.make_voc2012(tmp_path, form))
    assert found.spec.splits == ("train", "val", "trainval", "trainaug") and found.problems == []
    assert [p.name for p in found.pairs["trainaug"]] == ["2007_000000", "2007_000004"]
    assert found.pairs["trainaug"][0].label == "SegmentationClassAug/2007_000000.png"
    assert pairs_of(found, "train")[0].label == "SegmentationClass/2007_000000.png"


def test_voc_augmented_list_under_its_other_name_and_without_some_labels(tmp_path):
    voc = raw.make_voc2012(tmp_path, "names") / "VOCdevkit/VOC2012"
    (voc / voc2012.LISTS / "trainaug.txt").rename(voc / voc2012.LISTS / "train_aug.txt")
    (voc / "SegmentationClassAug/2007_000000.png").unlink()
    found = voc2012.raw_folder(tmp_path)
    labels = [p.label for p in found.pairs["trainaug"]]
    assert found.problems == [] and labels == [
        "SegmentationClass/2007_000000.png",
        "SegmentationClassAug/2007_000004.png",
    ]


@pytest.mark.parametrize("gone", ["list", "labels"])
def test_voc_has_trainaug_only_with_its_list_and_labels(tmp_path, gone):
    voc = raw.make_voc2012(tmp_path, "names") / "VOCdevkit/VOC2012"
    if gone == "list":
        (voc / voc2012.LISTS / "trainaug.txt").unlink()
    else:
        shutil.rmtree(voc / "SegmentationClassAug")
    found = voc2012.raw_folder(tmp_path)
    assert "trainaug" not in found.spec.splits and found.problems == []
    with pytest.raises(UserError, match="voc2012 trainaug: it needs SegmentationClassAug/"):
        opened("voc2012", "trainaug", tmp_path, tmp_path / "cache")


def test_voc_palette_index_counts_and_not_its_colour(tmp_path):
    voc = raw.make_voc2012(tmp_path / "raw") / "VOCdevkit/VOC2012"
    label = np.zeros((24, 32), np.uint8)
    label[8:16], label[0] = 15, 255
    # 15 is shown in bicycle's colour here: what is shown does not matter.
    colors = [(0, 0, 0)] * 15 + [(0, 128, 0)] + [(1, 2, 3)] * 240
    raw.write_palette(voc / "SegmentationClass/2007_000000.png", label, colors)
    split = opened("voc2012", "train", tmp_path / "raw", tmp_path / "cache")
    np.testing.assert_array_equal(split[0]["label"], label)


@pytest.mark.parametrize(
    "line, what",
    [
        ("2007_000001", "line 3: 2007_000001 is listed twice"),
        ("/JPEGImages/a.jpg /SegmentationClassAug/b.png", "line 3: image and label differ in name"),
        ("2009_000009", "names JPEGImages/2009_000009.jpg, which is missing"),
    ],
)
def test_voc_lists_are_checked(tmp_path, line, what):
    raw.make_voc2012(tmp_path)
    path = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"
    path.write_text(path.read_text() + line + "\n")
    found = [tuple(p) for p in voc2012.raw_folder(tmp_path).problems]
    assert ("ImageSets/Segmentation/train.txt", what) in found
    with pytest.raises(UserError, match="problems in .*ImageSets/Segmentation/train.txt"):
        datasets.prepare("voc2012", dir=str(tmp_path), cache_dir=str(tmp_path / "cache"))


def test_voc_changed_lists_are_never_served_stale(tmp_path):
    raw.make_voc2012(tmp_path, "names")
    before = opened("voc2012", "train", tmp_path, tmp_path / "cache").names
    path = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"
    path.write_text(f"{before[1]}\n")
    assert opened("voc2012", "train", tmp_path, tmp_path / "cache").names == before[1:]


@pytest.mark.parametrize("split", ["train", "trainaug"])
def test_voc_val_images_in_a_training_list_are_a_problem(tmp_path, split):
    raw.make_voc2012(tmp_path, "names")
    path = tmp_path / f"VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt"
    path.write_text(path.read_text() + "2007_000003\n")
    assert [tuple(p) for p in voc2012.raw_folder(tmp_path).problems] == [
        (f"ImageSets/Segmentation/{split}.txt", "2007_000003 is in val.txt too")
    ]
    with pytest.raises(UserError, match="2007_000003 is in val.txt too"):
        datasets.prepare("voc2012", dir=str(tmp_path), cache_dir=str(tmp_path / "cache"))


def test_voc_files_that_are_listed_and_missing_are_named(tmp_path):
    raw.make_voc2012(tmp_path)
    (tmp_path / "VOCdevkit/VOC2012/SegmentationClass/2007_000001.png").unlink()
    assert [tuple(p) for p in voc2012.raw_folder(tmp_path).problems] == [
        (
            f"ImageSets/Segmentation/{split}.txt",
            "names SegmentationClass/2007_000001.png, which is missing",
        )
        for split in ("train", "trainval")
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
    # In the published table road and skyscraper are alike, and nothing else is.
    assert len(set(colors)) == 149 and colors[6] == colors[48] == (140, 140, 140)


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


def ade(root, train, val):
    """ADE20K with these raw values, 16 pixels each, in the labels of train and of val."""
    for folder, values in (("training", train), ("validation", val)):
        label = np.repeat(np.array(values, np.uint8), 16).reshape(-1, 8)
        label = np.concatenate([label, label[:1].repeat(8, 0)])
        raw.write(root / "annotations" / folder / "a.png", label)
        raw.write(root / "images" / folder / "a.jpg", np.zeros((*label.shape, 3), np.uint8))
    return root


SHIFTED = "255 occurs and 150 does not: shifted; use data.name=ade20k_shifted"
NOT_SHIFTED = r"255 \(ignored\) never occurs: not shifted; use data.name=ade20k"
MIXED = "150 and 255 both occur: published and shifted labels are mixed"
ASK = "neither 150 nor 255 occurs, so the numbering cannot be told"


@pytest.mark.parametrize(
    "name, train, val, problem, notes",
    [
        ("ade20k", (0, 1, 150), (1, 150), "", 0),
        ("ade20k", (0, 149, 255), (0, 149, 255), SHIFTED, 0),
        ("ade20k", (0, 150, 255), (0, 150), MIXED, 0),
        # One split tells nothing of the other: train could be either.
        ("ade20k", (0, 1, 149), (0, 1, 150), "", 1),
        ("ade20k", (0, 1, 149), (0, 1, 149), "", 2),
        ("ade20k", (0, 1, 149), (0, 1, 255), SHIFTED, 1),
        ("ade20k_shifted", (0, 149, 255), (0, 255), "", 0),
        ("ade20k_shifted", (0, 1, 150), (0, 1, 150), NOT_SHIFTED, 0),
        ("ade20k_shifted", (0, 150, 255), (0, 255), MIXED, 0),
        ("ade20k_shifted", (0, 1, 149), (0, 1, 255), NOT_SHIFTED, 0),
        ("ade20k_shifted", (0, 1, 149), (0, 1, 149), NOT_SHIFTED, 0),
    ],
)
def test_ade_numbering_is_never_taken_for_the_other_without_a_word(
    tmp_path, capsys, name, train, val, problem, notes
):
    root = ade(tmp_path / "raw", train, val)
    report = check.check(name, str(root))
    assert sum(ASK in note for note in report.notes) == notes
    if problem:
        assert re.search(problem, report.problems[0].what)
        with pytest.raises(UserError, match=problem):
            datasets.prepare(name, dir=str(root), cache_dir=str(tmp_path / "cache"))
    else:
        assert report.problems == []
        capsys.readouterr()
        datasets.prepare(name, dir=str(root), cache_dir=str(tmp_path / "cache"))
        said = capsys.readouterr()
        assert said.err.count(ASK) == notes and said.out == ""


def test_ade_wrong_values_and_missing_partners(tmp_path):
    root = ade(tmp_path, (0, 150, 151), (0, 150))
    raw.write(root / "images/training/lonely.jpg", np.zeros((16, 16, 3), np.uint8))
    assert [tuple(p) for p in check.check("ade20k", str(root)).problems] == [
        ("images/training/lonely.jpg", "no label of this name in annotations/training/"),
        ("annotations/training/a.png", "wrong label values 151 (16 px); allowed: 0..150"),
    ]


def info(names, head="Idx\tRatio\tTrain\tVal\tName\n"):
    rows = [f"{k} \t0.1\t9\t1\t{name}, another word \n" for k, name in enumerate(names, 1)]
    return head + "".join(rows)


def test_ade_own_table_must_agree_with_our_names(tmp_path):
    root, names = ade(tmp_path, (0, 150), (0, 150)), [name for name, _ in ade20k.CLASSES]
    path = root / "objectInfo150.txt"
    path.write_text(info(names))
    assert ade20k.published_folder(root).problems == []
    first = datasets.prepare("ade20k", dir=str(root), cache_dir=str(tmp_path / "cache"))
    path.write_text(info([*names[1:], names[0]]))
    found = ade20k.published_folder(root).problems
    assert len(found) == 150 and found[0].file == "objectInfo150.txt"
    assert "class 1 is ['building', 'another word'], not 'wall'" in found[0].what
    path.write_text(info(names[:-1]))
    assert "has 149 classes" in ade20k.published_folder(root).problems[0].what
    # The table is part of what was prepared: another one is another copy.
    path.write_text(info([f"{name}, more" for name in names]))
    again = datasets.prepare("ade20k", dir=str(root), cache_dir=str(tmp_path / "cache"))
    assert again != first
