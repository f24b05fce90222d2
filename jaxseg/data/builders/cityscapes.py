"""Cityscapes (Cordts et al., 1604.01685): `leftImg8bit/<split>/<city>/`, `gtFine/<split>/<city>/`, 2048x1024 px.

Labels are the published `*_gtFine_labelIds.png`; the usual 19 classes are made from them here, so the conversion
with the authors' scripts is not needed. Where no labelIds are left, the `*_gtFine_labelTrainIds.png` which those
scripts make are read instead; never both. Splits: train and val, fine labels only.

Get it from cityscapes-dataset.com after registration (leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip); its
licence allows non-commercial use.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from jaxseg.data.builders.base import FolderBuilder
from jaxseg.data.pairs import Pair, Problem, RawFolder, other_counts, pair_up
from jaxseg.data.spec import NOT_ALLOWED, DatasetSpec, identity_map
from jaxseg.errors import UserError
from jaxseg.types import IGNORE_LABEL

PUBLISHED = {"train": 2975, "val": 500}
UNAVAILABLE = {
    "test": "its labels are not public (all that its files hold is ignored)",
    "train_extra": "it has coarse labels only, which are not read",
}
IMAGE, LABEL, TRAIN_IDS = (
    "_leftImg8bit.png",
    "_gtFine_labelIds.png",
    "_gtFine_labelTrainIds.png",
)
LAYOUT = "a folder with leftImg8bit/<split>/<city>/*.png and gtFine/<split>/<city>/*_labelIds.png"

# In order of train id: name, colour, published label id.
CLASSES = (
    ("road", (128, 64, 128), 7),
    ("sidewalk", (244, 35, 232), 8),
    ("building", (70, 70, 70), 11),
    ("wall", (102, 102, 156), 12),
    ("fence", (190, 153, 153), 13),
    ("pole", (153, 153, 153), 17),
    ("traffic light", (250, 170, 30), 19),
    ("traffic sign", (220, 220, 0), 20),
    ("vegetation", (107, 142, 35), 21),
    ("terrain", (152, 251, 152), 22),
    ("sky", (70, 130, 180), 23),
    ("person", (220, 20, 60), 24),
    ("rider", (255, 0, 0), 25),
    ("car", (0, 0, 142), 26),
    ("truck", (0, 0, 70), 27),
    ("bus", (0, 60, 100), 28),
    ("train", (0, 80, 100), 31),
    ("motorcycle", (0, 0, 230), 32),
    ("bicycle", (119, 11, 32), 33),
)
LAST_ID = 33
"""Ids 0 to 33 occur; those that are no class (void, parking, caravan, ...) are ignored. License plates have the id
-1, and the authors do not draw what has a negative id: there the file holds what lies below, most often car. So 255
does not occur, and where it does, the file holds train ids under the wrong name."""


class Cityscapes(FolderBuilder, skip_registration=True):
    """Cityscapes with fine labels."""

    VERSION = tfds.core.Version("1.0.0")


def spec(splits: tuple[str, ...] = tuple(PUBLISHED), *, train_ids: bool = False) -> DatasetSpec:
    """Classes, colours and label values.

    Args:
        splits: those present.
        train_ids: whether labels are train ids (0..18, 255 ignored) and not the published label ids.
    """
    table = np.full(256, NOT_ALLOWED, np.uint8)
    table[: LAST_ID + 1] = IGNORE_LABEL
    for train_id, (_, _, label_id) in enumerate(CLASSES):
        table[label_id] = train_id
    return DatasetSpec(
        name="cityscapes",
        class_names=tuple(name for name, _, _ in CLASSES),
        class_colors=tuple(color for _, color, _ in CLASSES),
        splits=splits,
        label_map=identity_map(len(CLASSES), IGNORE_LABEL) if train_ids else table,
        unavailable=UNAVAILABLE,
        group_ends="_",  # cities
    )


def raw_folder(dir: str | Path) -> RawFolder:
    """What of Cityscapes lies in `dir`.

    Raises:
        UserError: no such folder, or no split in it.
    """
    root = Path(dir)
    present = tuple(
        split
        for split in PUBLISHED
        if dir and any((root / kind / split).is_dir() for kind in ("leftImg8bit", "gtFine"))
    )
    if not present:
        raise UserError("data.dir holds no Cityscapes", got=repr(str(dir)), expected=LAYOUT)
    train_ids = not any(_listing(root, f"gtFine/{split}", LABEL) for split in present)
    ending = TRAIN_IDS if train_ids else LABEL
    pairs: dict[str, list[Pair]] = {}
    problems: list[Problem] = []
    for split in present:
        images, labels = f"leftImg8bit/{split}", f"gtFine/{split}"
        for folder in (images, labels):
            if not (root / folder).is_dir():
                raise UserError(f"{root} lacks {folder}/", expected=LAYOUT)
        found, lonely = pair_up(
            _listing(root, images, IMAGE), _listing(root, labels, ending), images, labels
        )
        # Cities are part of the key, so that a frame in the wrong city is noticed, but not of the name.
        pairs[split] = [pair._replace(name=Path(pair.name).name) for pair in found]
        problems += lonely
    raw = RawFolder(root, spec(present, train_ids=train_ids), pairs, problems)
    notes = other_counts(raw, PUBLISHED)
    if train_ids and any(pairs.values()):
        notes.append(f"no file ends in {LABEL}; those in {TRAIN_IDS} are read")
    return replace(raw, notes=notes)


def _listing(root: Path, folder: str, ending: str) -> dict[str, str]:
    """'<city>/<name>' -> file, of those with an ending."""
    files = [path.relative_to(root) for path in (root / folder).glob(f"*/*{ending}")]
    return {
        f"{file.parent.name}/{file.name.removesuffix(ending)}": file.as_posix() for file in files
    }
