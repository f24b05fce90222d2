"""Class frequencies of a split, and class weights made from them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from jaxseg.data.split import Split
from jaxseg.errors import unknown_name

KINDS = {
    "inverse": "inverse: strongest, for large sets",
    "median": "median: as in SegNet",
    "root": "root: mild, what configs/quickstart.py has; begin with this one",
    "effective": "effective: of Cui et al.",
}
"""Of class weights -> what is said of them."""
EFFECTIVE_BETA = 0.999


@dataclass(frozen=True)
class Stats:
    """Counts over one split.

    name:          of the set and split. class_names: K names.
    num_pixels:    int64 [K], labelled pixels of each class.
    num_images:    int64 [K], images that contain the class.
    shared_pixels: int64 [K], labelled pixels (of all classes) in the images that contain the class.
    num_void:      ignored pixels. total_images: N.
    """

    name: str
    class_names: tuple[str, ...]
    num_pixels: np.ndarray
    num_images: np.ndarray
    shared_pixels: np.ndarray
    num_void: int
    total_images: int

    @property
    def void_frac(self) -> float:
        """Share of ignored pixels."""
        total = int(self.num_pixels.sum()) + self.num_void
        return self.num_void / total if total else 0.0


def stats(split: Split) -> Stats:
    """Counts every pixel of a split once."""
    num_classes = len(split.spec.class_names)
    pixels, present, shared = (np.zeros(num_classes, np.int64) for _ in range(3))
    num_void = 0

    def count(i: int) -> np.ndarray:
        return np.bincount(split[i]["label"].ravel(), minlength=256)

    with ThreadPoolExecutor(2) as threads:
        for values in threads.map(count, range(len(split))):
            ours = values[:num_classes]
            pixels += ours
            present += ours > 0
            shared += np.where(ours > 0, ours.sum(), 0)
            num_void += int(values[num_classes:].sum())
    name = f"{split.spec.name} {split.name}"
    return Stats(name, split.spec.class_names, pixels, present, shared, num_void, len(split))


def weights(counts: Stats, kind: str) -> np.ndarray:
    """Class weights float64 [K] with mean 1 over the classes that occur; 0 for those that do not.

    Args:
        counts: of the training split.
        kind: with n_c pixels of class c, N images, m_c images that contain c:
            'inverse':   1 / n_c.
            'median':    median(f) / f_c, f_c = n_c / labelled pixels of the images that contain c (median
                         frequency balancing, as in SegNet).
            'root':      1 / sqrt(n_c).
            'effective': (1 - b) / (1 - b^(n_c / N)), b = 0.999: the effective number of Cui et al. 2019 on
                         pixels per image.

    Raises:
        UserError: unknown kind.
    """
    if kind not in KINDS:
        raise unknown_name("kind of class weights", kind, KINDS)
    seen = counts.num_pixels > 0
    raw = np.zeros(len(seen))
    pixels = counts.num_pixels[seen].astype(np.float64)
    if kind == "inverse":
        raw[seen] = 1 / pixels
    elif kind == "median":
        # The median itself cancels when the mean is made 1.
        raw[seen] = counts.shared_pixels[seen] / pixels
    elif kind == "root":
        raw[seen] = 1 / np.sqrt(pixels)
    else:
        per_image = pixels / counts.total_images
        # expm1: for rare classes 1 - b^n is a difference of nearly equal numbers.
        raw[seen] = (1 - EFFECTIVE_BETA) / -np.expm1(per_image * np.log(EFFECTIVE_BETA))
    return raw * (seen.sum() / raw.sum()) if seen.any() else raw


def paste(counts: Stats, kind: str = "median") -> str:
    """A line for a config file."""
    numbers = ", ".join(f"{weight:.4f}" for weight in weights(counts, kind))
    comma = "," if len(counts.class_names) == 1 else ""
    return f"config.loss.class_weights = ({numbers}{comma})"


def render(counts: Stats) -> str:
    """The counts as a table, and a line to paste for each kind of weights."""
    total = max(int(counts.num_pixels.sum()) + counts.num_void, 1)
    rows = zip(counts.class_names, counts.num_pixels, counts.num_images, strict=True)
    wide = max(len("ignored"), *(len(name) for name in counts.class_names))
    lines = [f"{counts.name}: {counts.total_images} images"]
    lines += [f"  {'class':<{wide}} {'% of pixels':>12} {'pixels':>14} {'images':>8}"]
    lines += [f"  {n:<{wide}} {100 * p / total:12.3f} {p:14d} {m:8d}" for n, p, m in rows]
    lines += [f"  {'ignored':<{wide}} {100 * counts.void_frac:12.3f} {counts.num_void:14d}"]
    lines += ["class weights, one of them; as a flag: --config.loss.class_weights='(..)'"]
    for kind, words in KINDS.items():
        lines += [f"# {words}", paste(counts, kind)]
    return "\n".join(lines)
