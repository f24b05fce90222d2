"""Cityscapes (Cordts et al., 1604.01685): `leftImg8bit/<split>/<city>/`, `gtFine/<split>/<city>/`, 2048x1024 px.

Labels are the published `*_gtFine_labelIds.png`; the usual 19 classes are made from them here, so the conversion
with the authors' scripts is not needed. Splits: train and val, fine labels only. The labels of test are not public
(their files hold nothing but ignored values), and the coarse labels are not used.

Get it from cityscapes-dataset.com after registration (leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip); its
licence allows non-commercial use.
"""

from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from jaxseg.data.builders.base import FolderBuilder
from jaxseg.data.pairs import Pair, Problem, RawFolder, pair_up
from jaxseg.data.spec import NOT_ALLOWED, DatasetSpec
from jaxseg.errors import UserError
from jaxseg.types import IGNORE_LABEL

SPLITS = ("train", "val")
IMAGE, LABEL = "_leftImg8bit.png", "_gtFine_labelIds.png"
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
"""Ids 0 to 33 occur; those that are no class (void, parking, caravan, ...) are ignored, as is license plate (-1)."""


class Cityscapes(FolderBuilder, skip_registration=True):
    """Cityscapes with fine labels."""

    VERSION = tfds.core.Version("1.0.0")


def spec(splits: tuple[str, ...] = SPLITS) -> DatasetSpec:
    """Classes, colours and label values; `splits` are those present."""
    table = np.full(256, NOT_ALLOWED, np.uint8)
    table[: LAST_ID + 1] = IGNORE_LABEL
    table[255] = IGNORE_LABEL  # -1 in eight bits
    for train_id, (_, _, label_id) in enumerate(CLASSES):
        table[label_id] = train_id
    return DatasetSpec(
        name="cityscapes",
        class_names=tuple(name for name, _, _ in CLASSES),
        class_colors=tuple(color for _, color, _ in CLASSES),
        splits=splits,
        label_map=table,
    )


def raw_folder(dir: str | Path) -> RawFolder:
    """What of Cityscapes lies in `dir`.

    Raises:
        UserError: no such folder, or no split in it.
    """
    root = Path(dir)
    present = tuple(s for s in SPLITS if dir and (root / "leftImg8bit" / s).is_dir())
    if not present:
        raise UserError("data.dir holds no Cityscapes", got=repr(str(dir)), expected=LAYOUT)
    pairs: dict[str, list[Pair]] = {}
    problems: list[Problem] = []
    for split in present:
        folders = (f"leftImg8bit/{split}", f"gtFine/{split}")
        images, labels = (
            {path.name.removesuffix(end): path.relative_to(root).as_posix() for path in found}
            for end, found in (
                (end, (root / folder).glob(f"*/*{end}"))
                for end, folder in zip((IMAGE, LABEL), folders, strict=True)
            )
        )
        pairs[split], lonely = pair_up(images, labels, *folders)
        problems += lonely
    return RawFolder(root, spec(present), pairs, problems)
