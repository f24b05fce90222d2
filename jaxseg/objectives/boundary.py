"""Boundary F1 of label maps (the BF score of Csurka et al., BMVC 2013, section 3.2); host side.

For class k of one image, with tolerance t:
    precision = share of predicted boundary pixels of k within t of a true boundary pixel of k,
    recall    = share of true boundary pixels of k within t of a predicted boundary pixel of k,
    F1        = 2 precision recall / (precision + recall), 0 where nothing matches,
distances Euclidean between pixel centres, t = 0.75 % of the image's diagonal as in MATLAB's `bfscore`. A class with
no boundary in truth and prediction of an image has no F1 there. Means are taken over images per class first, then
over classes, as mIoU treats classes alike.

Choices that the paper leaves open:
- A boundary pixel of k is a pixel of k with a 4-neighbour of another class. The frame of the image is no boundary.
- Void: a pair of neighbours of which one is void in the truth makes no boundary, in truth or prediction: what
  touches only void counts for nothing.
- Void seams: many sets (PASCAL VOC, toy_street) draw a thin void line along every border of classes, and would
  have no boundary left. So a void pixel whose distances to the nearest two classes sum up to 2 t or less (a seam up
  to 2 t - 1 px wide) first becomes the nearest class, the lower id of two equally near; wider void stays void.
"""

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from jaxseg.types import IGNORE_LABEL


@dataclass
class BoundaryTally:
    """Sums over images: F1 and the number of images that have one, per class.

    num_classes:    K.
    tolerance_frac: t in diagonals of the image.
    """

    num_classes: int
    tolerance_frac: float = 0.0075
    f1_sum: np.ndarray = field(init=False)
    f1_count: np.ndarray = field(init=False)
    tolerance_px: tuple[float, float] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.f1_sum = np.zeros(self.num_classes, np.float64)
        self.f1_count = np.zeros(self.num_classes, np.int64)

    def add(self, label: np.ndarray, prediction: np.ndarray) -> None:
        """One image: label uint8 [H, W], ids or IGNORE_LABEL; prediction uint8 [H, W], ids."""
        tolerance_px = self.tolerance_frac * float(np.hypot(*label.shape))
        f1 = boundary_f1(label, prediction, self.num_classes, tolerance_px)
        smallest, largest = self.tolerance_px or (tolerance_px, tolerance_px)
        self.tolerance_px = min(smallest, tolerance_px), max(largest, tolerance_px)
        self.f1_sum += np.nan_to_num(f1)
        self.f1_count += ~np.isnan(f1)

    def scores(self) -> dict[str, Any]:
        """boundary_f1 (mean over classes), per_class_boundary_f1 (K values), both in [0, 1] or None where no image
        has a boundary; boundary_tolerance_px: (smallest, largest) over the images.
        """
        known = self.f1_count > 0
        f1 = self.f1_sum / np.maximum(self.f1_count, 1)
        return {
            "boundary_f1": float(f1[known].mean()) if known.any() else None,
            "per_class_boundary_f1": [
                float(x) if k else None for x, k in zip(f1, known, strict=True)
            ],
            "boundary_tolerance_px": self.tolerance_px,
        }


def boundary_f1(
    label: np.ndarray, prediction: np.ndarray, num_classes: int, tolerance_px: float
) -> np.ndarray:
    """F1 per class of one image.

    Args:
        label: uint8 [H, W], ids 0..K-1 or IGNORE_LABEL.
        prediction: uint8 [H, W], ids 0..K-1.
        num_classes: K.
        tolerance_px: t, 0 or more.

    Returns:
        float64 [K]; NaN for a class with no boundary in truth and prediction.
    """
    truth = close_seams(label, tolerance_px)
    known = truth != IGNORE_LABEL
    true_ids = np.where(boundaries(truth, known), truth, IGNORE_LABEL)
    predicted_ids = np.where(boundaries(prediction, known), prediction, IGNORE_LABEL)
    f1 = np.full(num_classes, np.nan)
    for k in np.union1d(true_ids, predicted_ids):
        if k != IGNORE_LABEL:
            f1[k] = _f1(true_ids == k, predicted_ids == k, tolerance_px)
    return f1


def close_seams(label: np.ndarray, tolerance_px: float) -> np.ndarray:
    """The label map with thin void between two classes given to the nearest (see the head of this file)."""
    void = label == IGNORE_LABEL
    classes = np.setdiff1d(label, IGNORE_LABEL)
    if not void.any() or len(classes) < 2:
        return label
    nearest, second = np.full((2, *label.shape), np.inf)
    owner = label.copy()
    for k in classes:
        distance = _distance(label == k)
        owner = np.where(distance < nearest, k, owner)
        second = np.minimum(second, np.maximum(nearest, distance))
        nearest = np.minimum(nearest, distance)
    return np.where(void & (nearest + second <= 2 * tolerance_px), owner, label)


def boundaries(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Pixels with a 4-neighbour of another id, counting only pairs that are both `known`; all are [H, W]."""
    found = np.zeros(ids.shape, np.bool_)
    for one, other in (
        (np.s_[1:, :], np.s_[:-1, :]),
        (np.s_[:, 1:], np.s_[:, :-1]),
    ):
        differ = (ids[one] != ids[other]) & known[one] & known[other]
        found[one] |= differ
        found[other] |= differ
    return found


def _f1(true: np.ndarray, predicted: np.ndarray, tolerance_px: float) -> float:
    """Of two sets of pixels, bool [H, W], not both empty."""
    if not true.any() or not predicted.any():
        return 0.0
    # Distances between the two sets need no more of the image than the box around both.
    rows, columns = (np.flatnonzero((true | predicted).any(axis=axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    true, predicted = true[box], predicted[box]
    precision = float(np.mean(_distance(true)[predicted] <= tolerance_px))
    recall = float(np.mean(_distance(predicted)[true] <= tolerance_px))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _distance(members: np.ndarray) -> np.ndarray:
    """From each pixel to the nearest member, px, float64 [H, W]."""
    far = cv2.distanceTransform((~members).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # OpenCV answers in float32; squares of distances are whole numbers, which undoes its rounding.
    return np.sqrt(np.rint(np.square(far, dtype=np.float64)))
