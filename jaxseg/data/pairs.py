"""One image with its label, as files: found, and inspected for everything that training could not use."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxseg.data import images
from jaxseg.data.images import BadImage
from jaxseg.data.spec import DatasetSpec


class Problem(NamedTuple):
    """One thing that is wrong with one file (path relative to the raw folder)."""

    file: str
    what: str


class Pair(NamedTuple):
    """An example on disk: its name, and the paths of image and label relative to the raw folder."""

    name: str
    image: str
    label: str


@dataclass(frozen=True)
class RawFolder:
    """A raw data set as found on disk; nothing is decoded yet.

    root:     the folder. spec: what it holds.
    pairs:    split -> examples in a fixed order. problems: files without a partner.
    verdict:  int64 [256], pixels by raw label value over the whole set -> what is wrong with that.
    """

    root: Path
    spec: DatasetSpec
    pairs: dict[str, Sequence[Pair]]
    problems: list[Problem] = field(default_factory=list)
    verdict: Callable[[np.ndarray], list[Problem]] = lambda values: []


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
    image = _open(root, pair.image, problems)
    label = _open(root, pair.label, problems)
    size_px = (0, 0) if image is None else (image[1].height_px, image[1].width_px)
    if image is not None:
        faults = images.image_faults(image[1])
        problems += [Problem(pair.image, what) for what in faults]
        if not faults:
            _try(images.decode_image, image[0], pair.image, problems)
    if label is not None:
        faults = images.label_faults(label[1])
        problems += [Problem(pair.label, what) for what in faults]
        pixels = None if faults else _try(images.decode_label, label[0], pair.label, problems)
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


def _open(root: Path, file: str, problems: list[Problem]) -> tuple[bytes, images.Header] | None:
    """Bytes and header, or None with the problem noted where nothing may be decoded."""
    try:
        data = (root / file).read_bytes()
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


def _try(decode, data: bytes, file: str, problems: list[Problem]) -> np.ndarray | None:
    try:
        return decode(data)
    except BadImage as error:
        problems.append(Problem(file, str(error)))
        return None
