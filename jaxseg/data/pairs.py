"""One image with its label, as files: found, and inspected for everything that training could not use."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxseg.data import images
from jaxseg.data.images import BadImage
from jaxseg.data.spec import DatasetSpec
from jaxseg.outside import read_file


class Problem(NamedTuple):
    """One thing that is wrong with one file (path relative to the raw folder)."""

    file: str
    what: str


class Pair(NamedTuple):
    """An example on disk: its name, and the paths of image and label relative to the raw folder."""

    name: str
    image: str
    label: str


class View(NamedTuple):
    """A split that is made of rows of a stored one, so that no image is stored twice.

    stored: the split it is taken from. rows: int [N], of it.
    fault:  why it must not be opened as it is; '' = nothing wrong.
    """

    stored: str
    rows: np.ndarray
    fault: str = ""


Verdict = tuple[list[Problem], list[str]]
"""Problems, and notes: what is worth knowing and keeps nobody from training."""


@dataclass(frozen=True)
class RawFolder:
    """A raw data set as found on disk; nothing is decoded yet.

    root:     the folder. spec: what it holds.
    pairs:    stored split -> examples in a fixed order. problems: files without a partner.
    views:    those splits of `spec` that are rows of a stored one; the others are stored under their name.
    sources:  files that say what the set holds besides images and labels, relative to the folder.
    notes:    as in Verdict.
    verdict:  stored split -> int64 [256], pixels by raw label value; gives what only they can tell.
    """

    root: Path
    spec: DatasetSpec
    pairs: dict[str, Sequence[Pair]]
    problems: list[Problem] = field(default_factory=list)
    views: dict[str, View] = field(default_factory=dict)
    sources: Sequence[str] = ()
    notes: Sequence[str] = ()
    verdict: Callable[[dict[str, np.ndarray]], Verdict] = lambda values: ([], [])

    @property
    def num_images(self) -> dict[str, int]:
        """Images of each split that can be opened."""
        counts = {split: len(pairs) for split, pairs in self.pairs.items()}
        counts |= {split: len(view.rows) for split, view in self.views.items()}
        return {split: counts[split] for split in self.spec.splits}


class Inspected(NamedTuple):
    """What inspecting a pair found.

    problems: empty if the pair is fit for training.
    size_px:  (height, width) of the image, (0, 0) if unknown.
    values:   int64 [256], how often each raw label value occurs; zeros if the label is not readable.
    """

    problems: list[Problem]
    size_px: tuple[int, int]
    values: np.ndarray


def inspect(root: Path, pair: Pair, allowed: np.ndarray) -> Inspected:
    """Reads and decodes both files of a pair, never raising for what is in them.

    Args:
        root: the raw folder.
        pair: of it.
        allowed: bool [256], raw label values that may occur.
    """
    problems: list[Problem] = []
    values = np.zeros(256, np.int64)
    if not pair.name.isprintable():
        problems.append(Problem(pair.image, "name with bytes that are no text"))
    image = _open(root, pair.image, problems)
    label = _open(root, pair.label, problems)
    size_px = (0, 0) if image is None else (image[1].height_px, image[1].width_px)
    if image is not None:
        faults = images.image_faults(image[1])
        problems += [Problem(pair.image, what) for what in faults]
        if not faults:
            _try(images.decode_image, image, pair.image, problems)
    if label is not None:
        faults = images.label_faults(label[1])
        problems += [Problem(pair.label, what) for what in faults]
        pixels = None if faults else _try(images.decode_label, label, pair.label, problems)
        if pixels is not None:
            values = np.bincount(pixels.ravel(), minlength=256)
            problems += wrong_values(pair.label, values, allowed)
        size = (label[1].height_px, label[1].width_px)
        if image is not None and size != size_px:
            what = f"label is {size[1]}x{size[0]} px, its image {size_px[1]}x{size_px[0]} px"
            problems.append(Problem(pair.label, what))
    return Inspected(problems, size_px, values)


def wrong_values(file: str, values: np.ndarray, allowed: np.ndarray) -> list[Problem]:
    """At most one problem: the values that must not occur, with their counts of pixels, most frequent first."""
    wrong = [int(v) for v in np.flatnonzero(np.where(allowed, 0, values))]
    if not wrong:
        return []
    wrong.sort(key=lambda v: -values[v])
    shown = ", ".join(f"{v} ({values[v]} px)" for v in wrong[:5])
    more = f" and {len(wrong) - 5} more values" if len(wrong) > 5 else ""
    return [Problem(file, f"wrong label values {shown}{more}; allowed: {ranges(allowed)}")]


def ranges(allowed: np.ndarray) -> str:
    """The true positions of bool [256] as text, such as '0..10, 255'."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], allowed.astype(np.int8), [0]))))
    spans = [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]
    return ", ".join(f"{a}..{b}" if a < b else f"{a}" for a, b in spans)


def match(
    root: Path, image_dir: str, label_dir: str, *, by_stem: bool
) -> tuple[list[Pair], list[Problem]]:
    """Pairs up the files of two folders, sorted by name; those without a partner are problems.

    Args:
        root: the raw folder. image_dir, label_dir: of it.
        by_stem: whether `a.jpg` and `a.png` belong together (else names must be equal).
    """
    problems: list[Problem] = []

    def listing(folder: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in sorted((root / folder).iterdir()):
            if not path.is_file() or path.name.startswith("."):
                continue
            file, key = f"{folder}/{path.name}", path.stem if by_stem else path.name
            if key in found:
                problems.append(Problem(file, f"same name as {found[key]}"))
            found.setdefault(key, file)
        return found

    pairs, lonely = pair_up(listing(image_dir), listing(label_dir), image_dir, label_dir)
    return pairs, problems + lonely


def pair_up(
    images_of: Mapping[str, str], labels_of: Mapping[str, str], image_dir: str, label_dir: str
) -> tuple[list[Pair], list[Problem]]:
    """Pairs of files with one name, sorted by it; those without a partner are problems.

    Args:
        images_of, labels_of: name -> file.
        image_dir, label_dir: where partners were looked for, to say so.
    """
    problems: list[Problem] = []
    for key in sorted(images_of.keys() ^ labels_of.keys()):
        if key in images_of:
            problems.append(Problem(images_of[key], f"no label of this name in {label_dir}/"))
        else:
            problems.append(Problem(labels_of[key], f"no image of this name in {image_dir}/"))
    shared = sorted(images_of.keys() & labels_of.keys())
    return [Pair(key, images_of[key], labels_of[key]) for key in shared], problems


def other_counts(raw: RawFolder, published: Mapping[str, int]) -> list[str]:
    """A note for every split that has not as many images as were published."""
    return [
        f"{split} has {count} images, {published[split]} were published"
        for split, count in raw.num_images.items()
        if count != published.get(split, count)
    ]


def _open(root: Path, file: str, problems: list[Problem]) -> tuple[bytes, images.Header] | None:
    """Bytes and header, or None with the problem noted where nothing may be decoded."""
    try:
        data = read_file(root / file, max_bytes=images.MAX_FILE_BYTES)
        header = images.read_header(data)
    except OSError as error:
        problems.append(Problem(file, f"cannot be read ({error.strerror})"))
        return None
    except BadImage as error:
        problems.append(Problem(file, str(error)))
        return None
    faults = images.size_faults(header)
    problems += [Problem(file, what) for what in faults]
    return None if faults else (data, header)


def _try(
    decode: Callable[[bytes], np.ndarray],
    opened: tuple[bytes, images.Header],
    file: str,
    problems: list[Problem],
) -> np.ndarray | None:
    data, header = opened
    try:
        pixels = decode(data)
        images.check_size(pixels, header)
        return pixels
    except BadImage as error:
        problems.append(Problem(file, str(error)))
        return None
