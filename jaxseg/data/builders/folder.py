"""A user's own set: `images/<split>/` and `labels/<split>/`, matched by file stem; no code to write.

Images are PNG or JPEG of any size. Labels are PNG with class ids in the pixel values (a palette's indices
count, not its colours); 255 is ignored. An optional `classes.txt` has one class per line: `name` or `name r g b`.
"""

import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from jaxseg.data import images, store
from jaxseg.data.builders.base import FolderBuilder
from jaxseg.data.pairs import Pair, Problem, RawFolder, match
from jaxseg.data.spec import NOT_ALLOWED, DatasetSpec, distinct_colors, identity_map
from jaxseg.errors import UserError
from jaxseg.outside import MAX_TEXT_BYTES, read_file
from jaxseg.types import IGNORE_LABEL

LAYOUT = "a folder with images/<split>/ and labels/<split>/ (and classes.txt, optional)"
MAX_CLASSES = NOT_ALLOWED


class Folder(FolderBuilder, skip_registration=True):
    """A user's own folder of images and labels."""

    VERSION = tfds.core.Version("1.0.0")


def raw_folder(dir: str | Path) -> RawFolder:
    """What lies in `dir`. Without classes.txt every label is decoded once to count the classes.

    Raises:
        UserError: not the layout, or a bad classes.txt.
    """
    root = Path(dir)
    if not dir or not (root / "images").is_dir() or not (root / "labels").is_dir():
        raise UserError("data.dir holds no image folder", got=repr(str(dir)), expected=LAYOUT)
    found = {k: {p.name for p in (root / k).iterdir() if p.is_dir()} for k in ("images", "labels")}
    splits = tuple(sorted(found["images"] | found["labels"]))
    if not splits:
        raise UserError(f"{root}/images holds no split", expected=LAYOUT)
    pairs: dict[str, list[Pair]] = {}
    problems: list[Problem] = []
    for split in splits:
        for kind in ("images", "labels"):
            if split not in found[kind]:
                raise UserError(f"{root} lacks {kind}/{split}/", expected=LAYOUT)
        pairs[split], lonely = match(root, f"images/{split}", f"labels/{split}", by_stem=True)
        problems += lonely
    names, colors = _classes(root, pairs)
    label_map = identity_map(len(names), IGNORE_LABEL)
    return RawFolder(root, DatasetSpec("folder", names, colors, splits, label_map), pairs, problems)


def _classes(
    root: Path, pairs: dict[str, list[Pair]]
) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    path = root / "classes.txt"
    if not path.is_file():
        labels = tuple(pair.label for split in pairs.values() for pair in split)
        count = _count_classes(root, labels, store.fingerprint(root, labels))
        return tuple(f"class_{k}" for k in range(count)), distinct_colors(count)
    try:
        lines = read_file(path, max_bytes=MAX_TEXT_BYTES).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}", got=error, expected="UTF-8 text") from error
    rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    if not 1 <= len(rows) <= MAX_CLASSES:
        raise UserError(f"{path}", got=f"{len(rows)} classes", expected=f"1 to {MAX_CLASSES}")
    colors = list(distinct_colors(len(rows)))
    names = []
    for k, (number, words) in enumerate(rows):
        # A name may hold spaces, so the numbers are looked for at the end.
        last = words[-3:]
        if len(words) > 3 and all(w.isdecimal() and len(w) <= 9 for w in last):
            red, green, blue = (int(w) for w in last)
            if max(red, green, blue) > 255:
                raise UserError(
                    f"{path} line {number}", got=" ".join(last), expected="r g b of 0 to 255"
                )
            colors[k], words = (red, green, blue), words[:-3]
        names.append(" ".join(words))
    if strange := [name for name in names if not name.isprintable()]:
        raise UserError(f"{path}", got=repr(strange[0]), expected="names of printable characters")
    if len(set(names)) != len(names):
        twice = sorted({n for n in names if names.count(n) > 1})
        raise UserError(f"{path} names a class twice", got=", ".join(twice))
    return tuple(names), tuple(colors)


@functools.lru_cache(maxsize=4)
def _count_classes(root: Path, labels: tuple[str, ...], fingerprint: str) -> int:
    """1 + the largest value that is not IGNORE_LABEL. Bad files count for nothing: the check names them.

    A program asks several times (what are the classes, open train, open val); `fingerprint` is there so that the
    remembered answer is only for these very files.
    """
    del fingerprint

    def largest(file: str) -> int:
        try:
            data = read_file(root / file, max_bytes=images.MAX_FILE_BYTES)
            header = images.read_header(data)
            if images.size_faults(header) or images.label_faults(header):
                return -1
            seen = np.flatnonzero(np.bincount(images.decode_label(data).ravel(), minlength=256))
        except (OSError, images.BadImage):
            return -1
        return int(seen[seen < IGNORE_LABEL].max(initial=-1))

    with ThreadPoolExecutor(2) as threads:
        count = 1 + max(threads.map(largest, labels), default=-1)
    if not 1 <= count <= MAX_CLASSES:
        raise UserError(
            f"classes counted from {root}/labels",
            got=count,
            expected=f"1 to {MAX_CLASSES}",
            do="add classes.txt with one class name per line",
        )
    return count
