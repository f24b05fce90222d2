"""PASCAL VOC 2012 segmentation (Everingham et al.), with the augmented training list where it is present.

`JPEGImages/`, `SegmentationClass/` (palette PNGs: the index is the class, 255 the border that is ignored) and
`ImageSets/Segmentation/{train,val}.txt` in VOCdevkit/VOC2012; `data.dir` may be that folder or one above it. 20 classes
and the background, which is a class of its own.

The augmented list (Hariharan et al., SBD; 10,582 images) is the split `trainaug`: `trainaug.txt` or `train_aug.txt`
in `ImageSets/Segmentation/`, its labels in `SegmentationClassAug/`, in the two forms in which it goes around: a name a
line, or the paths of image and label. An image that is in val too is a problem.

Get it from host.robots.ox.ac.uk/pascal/VOC/voc2012; the images come from flickr, under its terms.
"""

from pathlib import Path

import tensorflow_datasets as tfds

from jaxseg.data.builders.base import FolderBuilder
from jaxseg.data.pairs import Pair, Problem, RawFolder
from jaxseg.data.spec import DatasetSpec, distinct_colors, identity_map
from jaxseg.errors import UserError
from jaxseg.types import IGNORE_LABEL

LISTS = "ImageSets/Segmentation"
AUGMENTED = ("trainaug", "train_aug")
LAYOUT = f"VOC2012 with JPEGImages/, SegmentationClass/ and {LISTS}/train.txt, val.txt"
CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


class Voc2012(FolderBuilder, skip_registration=True):
    """VOC 2012, segmentation task."""

    VERSION = tfds.core.Version("1.0.0")


def spec(splits: tuple[str, ...] = ("train", "val", "trainaug")) -> DatasetSpec:
    """Classes, colours and label values; `splits` are those present."""
    return DatasetSpec(
        name="voc2012",
        class_names=CLASSES,
        # The published map is the usual one, with black for the background.
        class_colors=((0, 0, 0), *distinct_colors(len(CLASSES) - 1)),
        splits=splits,
        label_map=identity_map(len(CLASSES), IGNORE_LABEL),
    )


def raw_folder(dir: str | Path) -> RawFolder:
    """What of VOC 2012 lies in `dir`.

    Raises:
        UserError: no such folder, not the layout, or a list that cannot be read.
    """
    places = [Path(dir) / p for p in ("", "VOC2012", "VOCdevkit/VOC2012")] if dir else []
    roots = [root for root in places if (root / LISTS).is_dir()]
    if not roots:
        raise UserError("data.dir holds no VOC 2012", got=repr(str(dir)), expected=LAYOUT)
    root = roots[0]
    lists = {split: root / LISTS / f"{split}.txt" for split in ("train", "val")}
    for name in AUGMENTED:
        if (root / LISTS / f"{name}.txt").is_file():
            lists.setdefault("trainaug", root / LISTS / f"{name}.txt")
    names = {split: _names(path) for split, path in lists.items() if path.is_file()}
    if not names:
        raise UserError(f"{root / LISTS} holds no list", expected="train.txt and val.txt")
    pairs: dict[str, list[Pair]] = {}
    problems: list[Problem] = []
    for split, listed in names.items():
        pairs[split] = []
        for name in listed:
            pair = Pair(name, f"JPEGImages/{name}.jpg", _label(root, split, name))
            gone = [file for file in (pair.image, pair.label) if not (root / file).is_file()]
            problems += [Problem(file, f"missing, listed in {lists[split].name}") for file in gone]
            if not gone:
                pairs[split].append(pair)
    # A model trained on these would have seen what it is tested on.
    for split in names.keys() - {"val"}:
        for name in sorted(set(names[split]) & set(names.get("val", ()))):
            problems.append(Problem(f"{LISTS}/{lists[split].name}", f"{name} is in val.txt too"))
    return RawFolder(root, spec(tuple(names)), pairs, problems)


def _label(root: Path, split: str, name: str) -> str:
    augmented = f"SegmentationClassAug/{name}.png"
    if split == "trainaug" and (root / augmented).is_file():
        return augmented
    return f"SegmentationClass/{name}.png"


def _names(path: Path) -> list[str]:
    """Of the images in a list: a line is a name, or begins with the path of the image."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}", got=error, expected="UTF-8 text") from error
    return [Path(line.split()[0]).stem for line in lines if line.strip()]
