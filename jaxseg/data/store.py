"""Prepared copies on disk: where they lie, and how they come to be whole or not at all.

<cache root>/prepared/<set>/<fingerprint>/
    index.json              splits with names and sizes; written last, before the folder gets its name
    <set>/<version>/        TFDS: dataset_info.json, features.json, ArrayRecord files
    decoded/<split>/        optional: images.bin and labels.bin, raw uint8 one after another

A folder is made under a temporary name and renamed, so whatever has its final name is complete. A lock keeps
two processes from doing the same work twice; without one (some network disks) the second simply loses the race.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxseg import outside
from jaxseg.data.images import MAX_PIXELS
from jaxseg.errors import UserError

SCHEMA = 1
UNFINISHED = ".unfinished-"
MAX_INDEX_BYTES = 2**28


def cache_root(cache_dir: str | Path = "") -> Path:
    """`cache_dir`, or $JAXSEG_CACHE, or $XDG_CACHE_HOME/jaxseg, or ~/.cache/jaxseg."""
    if cache_dir:
        return Path(cache_dir).expanduser()
    if os.environ.get("JAXSEG_CACHE"):
        return Path(os.environ["JAXSEG_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "jaxseg"


def fingerprint(root: Path, files: Iterable[str], *facts: str) -> str:
    """Sixteen bytes in hex over the sorted (relative path, size, mtime_ns) of raw files, and other facts.

    Raises:
        UserError: a file is gone.
    """
    digest = hashlib.sha256()
    for file in sorted(files):
        try:
            status = (root / file).stat()
        except OSError as error:
            raise UserError(f"cannot read {root / file}", got=error.strerror) from error
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    digest.update("\0".join((str(SCHEMA), *facts)).encode())
    return digest.hexdigest()[:32]


def make_once(final: Path, make: Callable[[Path], None]) -> Path:
    """`final` as filled by `make(temporary folder)`; made only if it is not there.

    Interrupted at any moment, nothing is left under the final name; what an interrupted attempt left under a
    temporary name is removed by the next. If another process finishes first, its result is kept.

    Raises:
        UserError: the disk is full or not writable.
        Whatever `make` raises.
    """
    if final.is_dir():
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with _lock(final) as locked:
            if final.is_dir():
                return final
            prefix = f"{UNFINISHED}{final.name}-"
            if locked:
                for left_over in final.parent.glob(f"{prefix}*"):
                    shutil.rmtree(left_over, ignore_errors=True)
            staging = Path(tempfile.mkdtemp(prefix=prefix, dir=final.parent))
            try:
                make(staging)
                _flush(staging)
                _rename(staging, final)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write {final}",
            got=error.strerror or error,
            do="choose another place with data.cache_dir or make room",
        ) from error
    return final


def write_index(folder: Path, tfds_folder: str, splits: dict[str, dict[str, list[Any]]]) -> None:
    """Writes index.json: where TFDS's files are and, by split, the columns name, height_px, width_px."""
    record = {"schema": SCHEMA, "tfds": tfds_folder, "splits": splits}
    (folder / "index.json").write_text(json.dumps(record))


def read_index(folder: Path) -> dict[str, Any]:
    """What `write_index` wrote, every value checked: sizes become offsets into files, and a name a folder.

    Raises:
        UserError: it is not readable, or says what cannot be.
    """
    try:
        index = outside.read_object(folder / "index.json", max_bytes=MAX_INDEX_BYTES)
    except (OSError, UserError) as error:
        raise damaged(folder) from error
    tfds_folder, splits = index.get("tfds"), index.get("splits")
    inside = isinstance(tfds_folder, str) and re.fullmatch(r"\w+/\d+\.\d+\.\d+", tfds_folder)
    if not inside or not isinstance(splits, dict) or not all(map(_are_columns, splits.values())):
        raise damaged(folder)
    return index


def _are_columns(columns: Any) -> bool:
    """Whether these are as many names as heights and widths, of images that could have been read."""
    if not isinstance(columns, dict) or columns.keys() != {"name", "height_px", "width_px"}:
        return False
    if not all(isinstance(column, list) for column in columns.values()):
        return False
    names, heights, widths = (columns[k] for k in ("name", "height_px", "width_px"))
    return (
        len(names) == len(heights) == len(widths)
        and all(type(name) is str for name in names)
        and all(type(side) is int and side > 0 for side in (*heights, *widths))
        and all(h * w <= MAX_PIXELS for h, w in zip(heights, widths, strict=True))
    )


def damaged(folder: Path) -> UserError:
    """The error for a prepared copy that cannot be read."""
    return UserError(
        f"prepared copy in {folder} is damaged", do="remove that folder; it is made anew"
    )


@contextlib.contextmanager
def _lock(final: Path) -> Iterator[bool]:
    """Holds the lock of `final` while inside; False where the file system has no locks."""
    with open(final.parent / f".lock-{final.name}", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            locked = True
        except OSError:
            locked = False
        # Closing the file, or dying, gives the lock back.
        yield locked


def _flush(folder: Path) -> None:
    """Onto the disk before the rename: after a power cut a name must not stand for half a file."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _rename(staging: Path, final: Path) -> None:
    try:
        staging.rename(final)
    except OSError as error:
        # Another process without our lock was faster; its copy is as good.
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
