"""The data sets by name: what they are, and their splits, prepared on first use.

    split = open_split("camvid", "train", dir="CamVid")
    split[0]   # {'image': uint8 [H, W, 3] RGB, 'label': uint8 [H, W], 'name': '0001TP_006690'}

`camvid_drives` is our protocol over the same files: whole drives are held out, since CamVid's val frames are one
short clip out of a training drive. train = 0001TP and 0016E5 without calib, calib = 0016E5_00390 .. 02400 (68
frames), test = the unseen drive 0006R0 (101 frames). Its val is the published val folder where present: close to
train (1 s away from training frames), good for watching a run and for nothing else.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data import preparation, store
from jaxseg.data.builders import camvid, toy_street
from jaxseg.data.builders import folder as folder_set
from jaxseg.data.progress import Tell
from jaxseg.data.spec import DatasetSpec
from jaxseg.data.split import Split
from jaxseg.data.store import cache_root
from jaxseg.errors import UserError, unknown_name

__all__ = ["NAMES", "DatasetSpec", "Split", "cache_root", "describe", "open_split", "prepare"]

NAMES = ("camvid", "camvid_drives", "folder", "toy_street")
DRIVES = {"train": 198, "calib": 68, "test": 101}
"""Frames by split that `camvid_drives` must have, all from the published train folder."""


def describe(name: str, dir: str = "") -> DatasetSpec:
    """Classes, colours and splits of a data set.

    Args:
        name: one of NAMES.
        dir: raw folder; needed for `folder`, and for CamVid to know the splits present.

    Raises:
        UserError: unknown name, or not the set's layout.
    """
    _known(name)
    if name == "toy_street":
        return toy_street.spec()
    if name == "folder":
        return folder_set.raw_folder(dir).spec
    spec = camvid.raw_folder(dir).spec if dir else camvid.spec()
    return _drives_spec(spec) if name == "camvid_drives" else spec


def prepare(
    name: str, *, dir: str = "", cache_dir: str = "", on_progress: Tell | None = None
) -> Path:
    """Makes the prepared copy if it is not there, and returns its folder.

    Raises:
        UserError: unknown name, wrong layout, bad files (counted, the first named), or a full disk.
    """
    return _prepare(name, dir, cache_dir, on_progress)[0]


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
    folder, spec = _prepare(name, dir, cache_dir, on_progress)
    if split not in spec.splits:
        error = unknown_name(f"split of {name}", split, spec.splits)
        raise error if not dir else UserError(f"{error}", do=f"those are the splits in {dir}")
    if name != "camvid_drives":
        return preparation.open_prepared(folder, spec, split, None, decoded_cache, on_progress)
    if split == "val":
        opened = preparation.open_prepared(folder, spec, "val", None, decoded_cache, on_progress)
    else:
        names = store.read_index(folder)["splits"]["train"]["name"]
        rows = np.flatnonzero([drive_split(frame) == split for frame in names])
        if len(rows) != DRIVES[split]:
            raise UserError(
                f"camvid_drives {split}",
                got=f"{len(rows)} frames",
                expected=f"{DRIVES[split]}: the 367 published frames in {dir}/train",
            )
        opened = preparation.open_prepared(folder, spec, "train", rows, decoded_cache, on_progress)
    opened.name = split
    return opened


def drive_split(frame: str) -> str:
    """The split of `camvid_drives` that a frame of the published train folder belongs to."""
    drive, _, number = frame.partition("_")
    if drive == "0006R0":
        return "test"
    digits = number.lstrip("f")
    in_calib = drive == "0016E5" and digits.isdecimal() and 390 <= int(digits) <= 2400
    return "calib" if in_calib else "train"


def _prepare(
    name: str, dir: str, cache_dir: str, on_progress: Tell | None
) -> tuple[Path, DatasetSpec]:
    _known(name)
    root = cache_root(cache_dir)
    if name == "toy_street":
        return preparation.prepare_toy_street(root, on_progress), toy_street.spec()
    if name == "folder":
        raw, builder = folder_set.raw_folder(dir), folder_set.Folder
    else:
        raw, builder = camvid.raw_folder(dir), camvid.Camvid
    spec = _drives_spec(raw.spec) if name == "camvid_drives" else raw.spec
    return preparation.prepare_raw(root, raw, builder, on_progress), spec


def _drives_spec(spec: DatasetSpec) -> DatasetSpec:
    if "train" not in spec.splits:
        raise UserError("camvid_drives needs the train folder of CamVid", got=spec.splits)
    extra = ("val",) if "val" in spec.splits else ()
    return replace(spec, name="camvid_drives", splits=(*DRIVES, *extra))


def _known(name: Any) -> None:
    if name not in NAMES:
        raise unknown_name("data set", name, NAMES)
