"""The data sets by name: what they are, and their splits, prepared on first use.

split = open_split("camvid", "train", dir="CamVid")
split[0]   # {'image': uint8 [H, W, 3] RGB, 'label': uint8 [H, W], 'name': '0001TP_006690'}
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxseg.data import preparation
from jaxseg.data.builders import ade20k, camvid, camvid_drives, cityscapes, toy_street, voc2012
from jaxseg.data.builders import folder as folder_set
from jaxseg.data.builders.base import FolderBuilder
from jaxseg.data.pairs import RawFolder
from jaxseg.data.progress import Tell
from jaxseg.data.spec import DatasetSpec
from jaxseg.data.split import Split
from jaxseg.data.store import cache_root
from jaxseg.errors import UserError, unknown_name

__all__ = ["NAMES", "DatasetSpec", "Split", "cache_root", "describe", "open_split", "prepare"]


@dataclass(frozen=True)
class Entry:
    """A data set that lies in a raw folder.

    raw:     folder -> what lies in it; UserError if it has not the layout.
    builder: of its prepared copy.
    spec:    what is known without a folder, or None if nothing is.
    """

    raw: Callable[[str], RawFolder]
    builder: type[FolderBuilder]
    spec: Callable[[], DatasetSpec] | None


ENTRIES: dict[str, Entry] = {
    "ade20k": Entry(ade20k.published_folder, ade20k.Ade20k, ade20k.published_spec),
    "ade20k_shifted": Entry(ade20k.shifted_folder, ade20k.Ade20kShifted, ade20k.shifted_spec),
    "camvid": Entry(camvid.raw_folder, camvid.Camvid, camvid.spec),
    "camvid_drives": Entry(camvid_drives.raw_folder, camvid.Camvid, camvid_drives.spec),
    "cityscapes": Entry(cityscapes.raw_folder, cityscapes.Cityscapes, cityscapes.spec),
    "folder": Entry(folder_set.raw_folder, folder_set.Folder, None),
    "voc2012": Entry(voc2012.raw_folder, voc2012.Voc2012, voc2012.spec),
}
"""Every set but the generated one. A new set is a builder and a line here."""

NAMES = (*sorted(ENTRIES), toy_street.ToyStreet.name)
"""Every name that `config.data.name` may have."""


def raw_folder(name: str, dir: str) -> RawFolder | None:
    """What lies in the raw folder of a data set; None for the generated one, which has none.

    Raises:
        UserError: unknown name, or not the set's layout.
    """
    _known(name)
    return ENTRIES[name].raw(dir) if name in ENTRIES else None


def describe(name: str, dir: str = "") -> DatasetSpec:
    """Classes, colours and splits of a data set.

    Args:
        name: one of NAMES.
        dir: raw folder; needed for `folder`, and to know which splits are present.

    Raises:
        UserError: unknown name, or not the set's layout.
    """
    _known(name)
    if name not in ENTRIES:
        return toy_street.spec()
    entry = ENTRIES[name]
    return entry.spec() if entry.spec and not dir else entry.raw(dir).spec


def prepare(
    name: str, *, dir: str = "", cache_dir: str = "", on_progress: Tell | None = None
) -> Path:
    """Makes the prepared copy if it is not there, and returns its folder.

    Raises:
        UserError: unknown name, wrong layout, bad files (counted, the first named), or a full disk.
    """
    return _prepare(name, raw_folder(name, dir), cache_dir, on_progress)


def open_split(
    name: str,
    split: str,
    *,
    dir: str = "",
    cache_dir: str = "",
    decoded_cache: bool = True,
    on_progress: Tell | None = None,
) -> Split:
    """A split of a data set, prepared on first use.

    Args:
        name: one of NAMES.
        split: of the set.
        dir: raw folder in the set's published layout.
        cache_dir: where prepared copies are kept; '' as in `cache_root`.
        decoded_cache: keep decoded pixels in memory-mapped files as well.
        on_progress: (what, done, total), told during preparation; None shows it on stderr.

    Raises:
        UserError: unknown name or split, wrong layout, bad files, or a full disk.
    """
    raw = raw_folder(name, dir)
    spec = raw.spec if raw else describe(name)
    if split not in spec.splits:
        raise _no_such_split(name, split, spec, dir)
    stored, rows = split, None
    if raw and split in raw.views:
        stored, rows, fault = raw.views[split]
        if fault:
            raise UserError(f"{name} {split} in {dir}: {fault}")
    folder = _prepare(name, raw, cache_dir, on_progress)
    opened = preparation.open_prepared(folder, spec, stored, rows, decoded_cache, on_progress)
    opened.name = split
    return opened


def _prepare(name: str, raw: RawFolder | None, cache_dir: str, on_progress: Tell | None) -> Path:
    root = cache_root(cache_dir)
    if raw is None:
        return preparation.prepare_toy_street(root, on_progress)
    return preparation.prepare_raw(root, raw, ENTRIES[name].builder, on_progress)


def _no_such_split(name: str, split: str, spec: DatasetSpec, dir: str) -> UserError:
    if split in spec.unavailable:
        there = "one of " + ", ".join(spec.splits)
        return UserError(f"{name} {split}: {spec.unavailable[split]}", expected=there)
    if split == "calib":  # what `deploy` looks at unless told otherwise
        do = "put a tenth of the training images into images/calib and labels/calib, or give --split=val"
        return UserError(f"{name} has no split calib", got=", ".join(spec.splits), do=do)
    error = unknown_name(f"split of {name}", split, spec.splits)
    return UserError(f"{error}", do=f"those are the splits in {dir}") if dir else error


def _known(name: str) -> None:
    if name not in NAMES:
        raise unknown_name("data set", name, NAMES)
