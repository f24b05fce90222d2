"""PASCAL VOC 2012 segmentation (Everingham et al.), with the augmented training list where it is present.

`JPEGImages/`, `SegmentationClass/` (palette PNGs: the index is the class, 255 the border that is ignored) and
`ImageSets/Segmentation/{train,val,trainval}.txt` in VOCdevkit/VOC2012; `data.dir` may be that folder or one above it.
20 classes and the background, which is a class of its own.

The augmented list (Hariharan et al., SBD; 10,582 images) is the split `trainaug`: `trainaug.txt` or `train_aug.txt`
in `ImageSets/Segmentation/`, its labels in `SegmentationClassAug/` (else, by image, in `SegmentationClass/`). It goes
around in two forms, both are read: a name a line, or the paths of image and label. An image that is in val too is a
problem: a model trained on it would have seen what it is tested on.

Get it from host.robots.ox.ac.uk/pascal/VOC/voc2012; the images come from flickr, under its terms.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from jaxseg.data.builders.base import FolderBuilder
from jaxseg.data.pairs import Pair, Problem, RawFolder, View, other_counts
from jaxseg.data.spec import DatasetSpec, distinct_colors, identity_map
from jaxseg.errors import UserError
from jaxseg.outside import MAX_TEXT_BYTES, read_file
from jaxseg.types import IGNORE_LABEL

PUBLISHED = {"train": 1464, "val": 1449, "trainval": 2913, "trainaug": 10582}
LISTS = "ImageSets/Segmentation"
IMAGES, LABELS, AUGMENTED = "JPEGImages", "SegmentationClass", "SegmentationClassAug"
FILES = {
    "train": ("train.txt",),
    "val": ("val.txt",),
    "trainval": ("trainval.txt",),
    "trainaug": ("trainaug.txt", "train_aug.txt"),
}
"""Names under which the list of a split goes around."""
UNAVAILABLE = {
    "test": "its labels are not public",
    "trainaug": f"it needs {AUGMENTED}/ and {LISTS}/trainaug.txt or train_aug.txt",
}
LAYOUT = f"VOC2012 with {IMAGES}/, {LABELS}/ and {LISTS}/train.txt, val.txt"
CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


class Voc2012(FolderBuilder, skip_registration=True):
    """VOC 2012, segmentation task."""

    VERSION = tfds.core.Version("1.0.0")


def spec(splits: tuple[str, ...] = tuple(PUBLISHED)) -> DatasetSpec:
    """Classes, colours and label values; `splits` are those present."""
    return DatasetSpec(
        name="voc2012",
        class_names=CLASSES,
        # The published map is the usual one, with black for the background.
        class_colors=((0, 0, 0), *distinct_colors(len(CLASSES) - 1)),
        splits=splits,
        label_map=identity_map(len(CLASSES), IGNORE_LABEL),
        unavailable=UNAVAILABLE,
    )


def raw_folder(dir: str | Path) -> RawFolder:
    """What of VOC 2012 lies in `dir`. Its lists overlap, so train, val and trainval are views of all that they name.

    Raises:
        UserError: no such folder, not the layout, or a list that cannot be read.
    """
    places = [Path(dir) / p for p in ("", "VOC2012", "VOCdevkit/VOC2012")] if dir else []
    roots = [root for root in places if (root / LISTS).is_dir() and (root / IMAGES).is_dir()]
    if not roots:
        raise UserError("data.dir holds no VOC 2012", got=repr(str(dir)), expected=LAYOUT)
    root = roots[0]
    lists = _lists(root)
    if not lists:
        raise UserError(f"{root / LISTS} holds no list", expected="train.txt and val.txt")
    problems: list[Problem] = []
    names = {split: _names(root, file, problems) for split, file in lists.items()}
    problems += _leaks(lists, names)
    there = {folder: _stems(root / folder) for folder in (IMAGES, LABELS, AUGMENTED)}
    found = {split: _pairs(split, lists[split], names[split], there, problems) for split in lists}
    published = {k: v for split in lists if split != "trainaug" for k, v in found[split].items()}
    stored = {"published": [published[name] for name in sorted(published)]} if published else {}
    row = {pair.name: i for i, pair in enumerate(stored.get("published", ()))}
    views = {
        split: View("published", np.array([row[name] for name in found[split]], np.int64))
        for split in lists
        if split != "trainaug"
    }
    if "trainaug" in lists:
        stored["trainaug"] = list(found["trainaug"].values())
    sources = tuple(lists.values())
    raw = RawFolder(root, spec(tuple(lists)), stored, problems, views=views, sources=sources)
    return replace(raw, notes=other_counts(raw, PUBLISHED))


def _lists(root: Path) -> dict[str, str]:
    """Split -> its list, relative to the root, of those present; without its labels trainaug is not."""
    found: dict[str, str] = {}
    for split, files in FILES.items():
        if split == "trainaug" and not (root / AUGMENTED).is_dir():
            continue
        for file in files:
            if (root / LISTS / file).is_file():
                found.setdefault(split, f"{LISTS}/{file}")
    return found


def _names(root: Path, file: str, problems: list[Problem]) -> list[str]:
    """The images in a list, each once."""
    try:
        lines = read_file(root / file, max_bytes=MAX_TEXT_BYTES).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {root / file}", got=error, expected="UTF-8 text") from error
    names: dict[str, None] = {}
    for number, words in enumerate((line.split() for line in lines), 1):
        stems = [Path(word).stem for word in words]
        if len(set(stems)) > 1:
            problems.append(Problem(file, f"line {number}: image and label differ in name"))
        elif stems and stems[0] in names:
            problems.append(Problem(file, f"line {number}: {stems[0]} is listed twice"))
        names |= dict.fromkeys(stems[:1])
    if not names:
        problems.append(Problem(file, "lists no image"))
    return list(names)


def _pairs(
    split: str, file: str, names: list[str], there: dict[str, set[str]], problems: list[Problem]
) -> dict[str, Pair]:
    """Name -> files of what a list names; `there` has the names in every folder."""
    found = {}
    for name in names:
        labels = AUGMENTED if split == "trainaug" and name in there[AUGMENTED] else LABELS
        pair = Pair(name, f"{IMAGES}/{name}.jpg", f"{labels}/{name}.png")
        if name not in there[IMAGES]:
            # The list is named, since it can be read; it says what to look for.
            problems.append(Problem(file, f"names {pair.image}, which is missing"))
        elif name not in there[labels]:
            problems.append(Problem(file, f"names {pair.label}, which is missing"))
        else:
            found[name] = pair
    return found


def _leaks(lists: dict[str, str], names: dict[str, list[str]]) -> list[Problem]:
    """Images of val in a list to train on; trainval means to hold them."""
    val = set(names.get("val", ()))
    return [
        Problem(lists[split], f"{name} is in val.txt too")
        for split in ("train", "trainaug")
        for name in names.get(split, ())
        if name in val
    ]


def _stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir()} if folder.is_dir() else set()
