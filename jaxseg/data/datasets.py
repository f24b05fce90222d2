"""The data sets by name: what they are, and their splits, prepared on first use.

    split = open_split("camvid", "train", dir="CamVid")
    split[0]   # {'image': uint8 [H, W, 3] RGB, 'label': uint8 [H, W], 'name': '0001TP_006690'}

`camvid_drives` is our protocol over the same files: whole drives are held out, since CamVid's val frames are one
short clip out of a training drive. train = 0001TP and 0016E5 without calib, calib = 0016E5_00390 .. 02400 (68
frames), test = the unseen drive 0006R0 (101 frames). Its val is the published val folder where present: close to
train (1 s away from training frames), good for watching a run and for nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxseg.data import preparation, store
from jaxseg.data.builders import ade20k, camvid, cityscapes, toy_street, voc2012
from jaxseg.data.builders import folder as folder_set
from jaxseg.data.builders.base import FolderBuilder
from jaxseg.data.pairs import RawFolder
from jaxseg.data.progress import Tell
from jaxseg.data.spec import DatasetSpec
from jaxseg.data.split import Split
from jaxseg.data.store import cache_root
from jaxseg.errors import UserError, unknown_name

__all__ = ["NAMES", "DatasetSpec", "Split", "cache_root", "describe", "open_split", "prepare"]

DRIVES = {"train": 198, "calib": 68, "test": 101}
"""Frames by split that `camvid_drives` must have, all from the published train folder."""


def drive_split(frame: str) -> str:
    """The split of `camvid_drives` that a frame of the published train folder belongs to."""
    drive, _, number = frame.partition("_")
    if drive == "0006R0":
        return "test"
    digits = number.lstrip("f")
    in_calib = drive == "0016E5" and digits.isdecimal() and 390 <= int(digits) <= 2400
    return "calib" if in_calib else "train"


@dataclass(frozen=True)
class Protocol:
    """Another division of a set's files into splits.

    stored: the published split that is divided.
    counts: split -> examples that it must have.
    split:  name of an example -> its split.
    kept:   published splits that stay as they are, where present.
    """

    stored: str
    counts: dict[str, int]
    split: Callable[[str], str]
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A data set that lies in a raw folder.

    raw:      folder -> what lies in it; UserError if it has not the layout.
    builder:  of its prepared copy.
    spec:     what is known without a folder, or None if nothing is.
    protocol: its division into splits, or None for the published one.
    """

    raw: Callable[[str], RawFolder]
    builder: type[FolderBuilder]
    spec: Callable[[], DatasetSpec] | None
    protocol: Protocol | None = None


ENTRIES: dict[str, Entry] = {
    "ade20k": Entry(ade20k.published_folder, ade20k.Ade20k, ade20k.published_spec),
    "ade20k_shifted": Entry(ade20k.shifted_folder, ade20k.Ade20kShifted, ade20k.shifted_spec),
    "camvid": Entry(camvid.raw_folder, camvid.Camvid, camvid.spec),
    "camvid_drives": Entry(
        camvid.raw_folder,
        camvid.Camvid,
        camvid.spec,
        Protocol("train", DRIVES, drive_split, kept=("val",)),
    ),
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
    return _with_protocol(name, entry.spec() if entry.spec and not dir else entry.raw(dir).spec)


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
    protocol = ENTRIES[name].protocol if name in ENTRIES else None
    stored, rows = split, None
    if protocol is not None and split in protocol.counts:
        stored, wanted = protocol.stored, protocol.counts[split]
        names = store.read_index(folder)["splits"][stored]["name"]
        rows = np.flatnonzero([protocol.split(example) == split for example in names])
        if len(rows) != wanted:
            raise UserError(
                f"{name} {split}",
                got=f"{len(rows)} images",
                expected=wanted,
                do=f"is every file of the published {stored} split in {dir}?",
            )
    opened = preparation.open_prepared(folder, spec, stored, rows, decoded_cache, on_progress)
    opened.name = split
    return opened


def _prepare(
    name: str, dir: str, cache_dir: str, on_progress: Tell | None
) -> tuple[Path, DatasetSpec]:
    raw, root = raw_folder(name, dir), cache_root(cache_dir)
    if raw is None:
        return preparation.prepare_toy_street(root, on_progress), toy_street.spec()
    spec = _with_protocol(name, raw.spec)
    return preparation.prepare_raw(root, raw, ENTRIES[name].builder, on_progress), spec


def _with_protocol(name: str, spec: DatasetSpec) -> DatasetSpec:
    """The spec of a set whose splits are divided in another way."""
    protocol = ENTRIES[name].protocol
    if protocol is None:
        return spec
    if protocol.stored not in spec.splits:
        raise UserError(f"{name} needs the published split {protocol.stored}", got=spec.splits)
    kept = tuple(split for split in protocol.kept if split in spec.splits)
    return replace(spec, name=name, splits=(*protocol.counts, *kept))


def _known(name: str) -> None:
    if name not in NAMES:
        raise unknown_name("data set", name, NAMES)
