"""Segmentation metrics from sums and counts.

Void rule: pixels whose ground truth is IGNORE_LABEL are left out; the network predicts K classes, never
void. mIoU is taken from ONE confusion matrix over the whole split at the label's own resolution; a class
absent from labels and predictions alike has no IoU (None) and is left out of the mean.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.types import IGNORE_LABEL, Array

UNROLLED = 32
"""Classes up to which the search for the best is one pass."""


def confusion_matrix(label: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Host side, int64 (float32 stops counting at 2^24 pixels, eight 2048x1024 images).

    Args:
        label: integer, any shape, ids 0..K-1 or IGNORE_LABEL.
        prediction: integer, same shape, ids 0..K-1.
        num_classes: K.

    Returns:
        int64 [K, K]; rows are the truth, columns the prediction.
    """
    valid = label != IGNORE_LABEL
    pairs = label[valid].astype(np.int64) * num_classes + prediction[valid]
    counts = np.bincount(pairs, minlength=num_classes * num_classes)
    return counts.reshape(num_classes, num_classes)


def class_sums(label: Array, prediction: Array, num_classes: int) -> dict[str, Array]:
    """Device side: the 3K sums that give IoU, of one batch.

    int32 is enough for one batch (2^31 pixels); the host adds batches up in int64.

    Args:
        label: integer [B, H, W], ids 0..K-1 or IGNORE_LABEL.
        prediction: integer [B, H, W], ids 0..K-1.
        num_classes: K.

    Returns:
        {'hit', 'true', 'predicted'}, each int32 [K].
    """
    counted = jnp.where(label == IGNORE_LABEL, IGNORE_LABEL, prediction).astype(label.dtype)
    hit, true, predicted = lax.platform_dependent(
        label,
        counted,
        cpu=functools.partial(_sums_from_pairs, num_classes=num_classes),
        default=functools.partial(_sums_by_class, num_classes=num_classes),
    )
    return {"hit": hit, "true": true, "predicted": predicted}


def _sums_from_pairs(label: Array, counted: Array, num_classes: int) -> tuple[Array, Array, Array]:
    """Adds 1 to one cell per pixel: 0.8 ms for [4, 360, 480] and 11 classes on 2 CPU cores, class by class 30 ms."""
    void = num_classes * num_classes
    pair = label.astype(jnp.int32) * num_classes + counted
    pair = jnp.where(label < num_classes, pair, void).reshape(-1)
    pairs = jnp.zeros(void + 1, jnp.int32).at[pair].add(1)
    pairs = pairs[:-1].reshape(num_classes, num_classes)
    true, predicted = (jnp.sum(pairs, axis=axis, dtype=jnp.int32) for axis in (1, 0))
    return jnp.diagonal(pairs), true, predicted


def _sums_by_class(label: Array, counted: Array, num_classes: int) -> tuple[Array, Array, Array]:
    """Without a scatter, which accelerators do one after the other."""
    hit = jnp.where(counted == label, label, IGNORE_LABEL)

    def each(map_: Array) -> Array:
        sums = [jnp.sum(map_ == k, dtype=jnp.int32) for k in range(num_classes)]
        return jnp.stack(sums)

    return each(hit), each(label), each(counted)


def best_class(logits: Array) -> Array:
    """arg-max over the last axis of [B, H, W, K], int32 [B, H, W]; of equals the first.

    Plane after plane: XLA's own reduction to an index goes pixel by pixel on CPU.
    """
    planes = jnp.moveaxis(logits, -1, 0)
    if len(planes) > UNROLLED:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    top, best = planes[0], jnp.zeros(planes.shape[1:], jnp.int32)
    for k in range(1, len(planes)):
        best = jnp.where(planes[k] > top, k, best)
        top = jnp.maximum(top, planes[k])
    return best


def scores(hit: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """mIoU, mean class accuracy, pixel accuracy and IoU per class, from sums over a whole split.

    Args:
        hit: [K] pixels of class k predicted as k.
        true: [K] pixels whose truth is k.
        predicted: [K] pixels predicted as k.

    Returns:
        {'miou', 'macc', 'aacc': float or None, 'iou': list of K floats or None}, all in [0, 1].
    """
    hit, true, predicted = (np.asarray(x, np.float64) for x in (hit, true, predicted))
    union = true + predicted - hit
    iou = np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)
    accuracy = np.divide(hit, true, out=np.full_like(hit, np.nan), where=true > 0)

    def mean(values: np.ndarray) -> float | None:
        known = values[~np.isnan(values)]
        return float(known.mean()) if known.size else None

    return {
        "miou": mean(iou),
        "macc": mean(accuracy),
        "aacc": float(hit.sum() / true.sum()) if true.sum() > 0 else None,
        "iou": [None if np.isnan(x) else float(x) for x in iou],
    }


def scores_from_confusion(confusion: np.ndarray) -> dict[str, Any]:
    """`scores` of a confusion matrix int64 [K, K] (rows truth, columns prediction)."""
    return scores(np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0))
