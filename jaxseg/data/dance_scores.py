"""After DANCE (2107.07706): how complex an image is, and its rank among the others.

Which measure the paper uses is not known to us; all of these, the ranks and their defaults are our choices. On CamVid
the measures that look at the image find the dusk drive and not the simple scenes, so ranks are taken within groups
(drives, cities) where the data set names them, and `label_boundary` is always worth a look.

A score is computed once per image and kept beside the prepared copy of the set.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from jaxseg.data.progress import Tell, reporting
from jaxseg.data.spec import DatasetSpec
from jaxseg.errors import UserError, unknown_name
from jaxseg.outside import read_object, write_file
from jaxseg.types import IGNORE_LABEL

VERSION = 1
"""Of the measures: raised when one of them changes, so that no old score is read."""

LUMA, WHITE = np.array([[299.0, 587.0, 114.0]]), 255_000
JPEG_QUALITY = 75
GLOBAL, WITHIN_GROUP, MINMAX = RANKS = ("global", "within_group", "minmax")
MIDDLE = 0.5
"""The q of an image that nothing can be compared with."""


# --- Measures ---


def luma(image: np.ndarray) -> np.ndarray:
    """Whole numbers 299 R + 587 G + 114 B of a uint8 [H, W, 3] RGB image, float32 [H, W], exact; 255000 is white."""
    return cv2.transform(image.astype(np.float32), LUMA)


def mean_gradient(plane: np.ndarray) -> float:
    """Mean magnitude of the Sobel gradient (3x3, no 1/8, edges repeated) of a float [H, W] plane.

    Exact up to the root where the plane holds whole numbers as `luma` does, so that all processes of a run agree.
    """
    plane = plane.astype(np.float32)
    x, y = (
        cv2.Sobel(plane, cv2.CV_32F, dx, 1 - dx, ksize=3, borderType=cv2.BORDER_REPLICATE)
        for dx in (1, 0)
    )
    # Not cv2.magnitude, whose last bits depend on where in memory the arrays lie.
    x, y = x.astype(np.float64), y.astype(np.float64)
    return float(np.mean(np.sqrt(x * x + y * y)))


def spatial_information(image: np.ndarray, label: np.ndarray) -> float:
    """`mean_gradient` of the luma in [0, 1] (after Yu & Winkler 2013, 'SI mean'; scale and borders are ours)."""
    del label
    return mean_gradient(luma(image)) / WHITE


def label_boundary(image: np.ndarray, label: np.ndarray) -> float:
    """Share of the pixels whose right or lower neighbour has another class; neither of the two void."""
    del image
    valid = label != IGNORE_LABEL
    border = np.zeros(label.shape, bool)
    border[:, :-1] |= (label[:, :-1] != label[:, 1:]) & valid[:, :-1] & valid[:, 1:]
    border[:-1] |= (label[:-1] != label[1:]) & valid[:-1] & valid[1:]
    return float(np.mean(border))


def entropy(image: np.ndarray, label: np.ndarray) -> float:
    """Entropy of the luma's histogram of 256 bins, in bits."""
    del label
    values = np.rint(luma(image) * 255 / WHITE).astype(np.int64)
    shares = np.bincount(values.ravel(), minlength=256) / values.size
    shares = shares[shares > 0]
    return float(-np.sum(shares * np.log2(shares)) + 0.0)


def jpeg(image: np.ndarray, label: np.ndarray) -> float:
    """Bytes per pixel as a JPEG of quality `JPEG_QUALITY`."""
    del label
    swapped = np.ascontiguousarray(image[..., ::-1])
    done, data = cv2.imencode(".jpg", swapped, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise RuntimeError(f"OpenCV cannot encode an array of shape {image.shape}")
    return len(data) / (image.shape[0] * image.shape[1])


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "spatial_information": spatial_information,
    "label_boundary": label_boundary,
    "entropy": entropy,
    "jpeg": jpeg,
}
"""Name -> (image uint8 [H, W, 3], label uint8 [H, W]) -> complexity, 0 or more."""

NEEDS_LABELS = ("label_boundary",)
"""Those that cannot be had of an image alone."""


# --- Ranks ---


def ranks(scores: Sequence[float], kind: str, groups: Sequence[str] = ()) -> np.ndarray:
    """The q of every image of a training set, float64 [N] in [0, 1]; 0 = the simplest.

    Args:
        scores: N complexities.
        kind: 'global': rank / (N - 1), ties share their average rank; 'within_group': that, within each group;
            'minmax': (score - least) / (greatest - least).
        groups: N names of groups; empty = one group.

    Raises:
        UserError: unknown kind.
    """
    if kind not in RANKS:
        raise unknown_name("dance.data.rank", kind, RANKS)
    values = np.asarray(scores, np.float64)
    if kind != WITHIN_GROUP or not len(groups):
        return unseen(values, values, kind)
    q = np.empty(len(values))
    for group in sorted(set(groups)):
        rows = np.flatnonzero(np.asarray(groups) == group)
        q[rows] = unseen(values[rows], values[rows], GLOBAL)
    return q


def unseen(score: np.ndarray, training: np.ndarray, kind: str) -> np.ndarray:
    """The q of images that need not be of the training set, each on its own: float64 of the shape of `score`.

    Read off the distribution of the training scores, linear in between, 0 and 1 beyond. What group such an image would
    belong to is not known, so 'within_group' is 'global' here.

    Args:
        score: complexity or complexities.
        training: N complexities of the training set, in any order.
        kind: as for `ranks`.
    """
    values, at = _distribution(training, kind)
    if len(values) == 1:
        return np.full(np.shape(score), MIDDLE)
    return np.interp(score, values, at, left=0.0, right=1.0)


def score_at(q: np.ndarray, training: np.ndarray, kind: str) -> np.ndarray:
    """The inverse of `unseen`: the complexity from which on an image has at least the rank q, float64 of its shape."""
    values, at = _distribution(training, kind)
    if len(values) == 1:
        return np.where(np.asarray(q) <= MIDDLE, -np.inf, np.inf)
    return np.interp(q, at, values)


def _distribution(training: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The different scores, rising, and their ranks."""
    values, counts = np.unique(training, return_counts=True)
    if len(values) == 1:
        return values, np.array([MIDDLE])
    if kind == MINMAX:
        return values, (values - values[0]) / (values[-1] - values[0])
    # Equal scores share the mean of the places that they take.
    return values, (np.cumsum(counts) - (counts + 1) / 2) / (counts.sum() - 1)


# --- Of a whole split ---


class Examples(Protocol):
    """What is asked of a split. `folder`: of its prepared copy; None = nowhere to keep scores."""

    name: str
    spec: DatasetSpec
    names: list[str]
    folder: Path | None

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> dict: ...


class Scores(NamedTuple):
    """Complexities of a split: float64 [N], and the names of the images' groups."""

    values: np.ndarray
    groups: tuple[str, ...]


def scores(split: Examples, measure: str, *, on_progress: Tell | None = None) -> Scores:
    """Complexity of every image of a split; worked out once, then read from the prepared copy.

    Args:
        split: its prepared copy is named after the data, so what lies beside it belongs to them.
        measure: name in MEASURES.
        on_progress: as for `datasets.open_split`.

    Raises:
        UserError: unknown measure, an unreadable image, or a disk that is full.
    """
    if measure not in MEASURES:
        raise unknown_name("dance.data.measure", measure, MEASURES)
    groups = tuple(split.spec.group(name) for name in split.names)
    file = _file(split, measure)
    values = _read(file, len(split)) if file else None
    if values is None:
        values = _measure(split, measure, on_progress)
        if file:
            _write(file, values)
    return Scores(values, groups)


def ranked(
    split: Examples, measure: str, kind: str, *, on_progress: Tell | None = None
) -> tuple[Scores, np.ndarray]:
    """The scores of a split's images, and their ranks among each other, float64 [N]; see `scores` and `ranks`."""
    found = scores(split, measure, on_progress=on_progress)
    return found, ranks(found.values, kind, found.groups)


def _measure(split: Examples, measure: str, on_progress: Tell | None) -> np.ndarray:
    def one(i: int) -> float:
        example = split[i]
        return MEASURES[measure](example["image"], example["label"])

    found: list[float] = []
    with (
        reporting(on_progress, f"complexity of {split.spec.name}") as tell,
        ThreadPoolExecutor(2) as threads,
    ):
        for done, value in enumerate(threads.map(one, range(len(split))), 1):
            found.append(value)
            tell(f"{measure} of {split.name}", done, len(split))
    return np.array(found)


def _file(split: Examples, measure: str) -> Path | None:
    """Where scores are kept: another set, split, order of images or version is another file."""
    if split.folder is None:
        return None
    facts = [str(VERSION), split.folder.name, split.name, *split.names]
    digest = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]
    return split.folder / "complexity" / f"{split.name}-{measure}-{digest}.json"


def _read(file: Path, count: int) -> np.ndarray | None:
    """What `_write` wrote; None where there is nothing, or nothing of use: it is made anew then."""
    try:
        found = read_object(file, max_bytes=64 * count + 1024).get("scores")
    except (OSError, UserError):
        return None
    sound = isinstance(found, list) and len(found) == count
    if not sound or not all(type(x) is float and 0 <= x < math.inf for x in found):
        return None
    return np.array(found)


def _write(file: Path, values: np.ndarray) -> None:
    try:
        file.parent.mkdir(exist_ok=True)
        write_file(file, json.dumps({"scores": values.tolist()}).encode())
    except OSError as error:
        raise UserError(
            f"cannot write {file}",
            got=error.strerror,
            do="choose another place with data.cache_dir or make room",
        ) from error
