"""Our protocol over CamVid's files: whole drives are held out, since the val frames are a clip out of a training drive.

train = 0001TP and 0016E5 without calib, calib = 0016E5_00390 .. 02400 (68 frames), test = the unseen drive 0006R0
(101 frames), all out of the published train folder. val is the published val folder where present: close to train
(1 s away from training frames), good for watching a run and for nothing else.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxseg.data.builders import camvid
from jaxseg.data.pairs import RawFolder, View
from jaxseg.data.spec import DatasetSpec
from jaxseg.errors import UserError

DRIVES = {"train": 198, "calib": 68, "test": 101}
"""Frames by split that there must be."""


def drive_split(frame: str) -> str:
    """The split that a frame of the published train folder belongs to."""
    drive, _, number = frame.partition("_")
    if drive == "0006R0":
        return "test"
    digits = number.lstrip("f")
    in_calib = drive == "0016E5" and digits.isdecimal() and 390 <= int(digits) <= 2400
    return "calib" if in_calib else "train"


def spec(published: DatasetSpec | None = None) -> DatasetSpec:
    """Classes, colours and label values of CamVid with our splits; UserError without its train."""
    published = published or camvid.spec()
    if "train" not in published.splits:
        raise UserError("camvid_drives needs the train folder of CamVid", got=published.splits)
    kept = ("val",) if "val" in published.splits else ()
    return replace(published, name="camvid_drives", splits=(*DRIVES, *kept))


def raw_folder(dir: str | Path) -> RawFolder:
    """CamVid as found in `dir`, our splits as views of its train.

    Raises:
        UserError: no CamVid, or no train folder.
    """
    raw = camvid.raw_folder(dir)
    ours = spec(raw.spec)
    of_frame = np.array([drive_split(pair.name) for pair in raw.pairs["train"]])
    return replace(raw, spec=ours, views={split: _view(of_frame, split) for split in DRIVES})


def _view(of_frame: np.ndarray, split: str) -> View:
    rows = np.flatnonzero(of_frame == split)
    fault = f"got {len(rows)} frames; expected {DRIVES[split]}: the 367 published frames in train/"
    return View("train", rows, "" if len(rows) == DRIVES[split] else fault)
