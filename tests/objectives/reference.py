"""The losses from their papers' definitions: float64, pixel by pixel, set by set.

Every function returns (sum, count) of logits [B, H, W, K], label [B, H, W] and image weights [B].
"""

import math

import numpy as np

from jaxseg.types import IGNORE_LABEL


def valid_pixels(z, label):
    """Per image, a list of (probabilities [K], label) of its valid pixels."""
    images = []
    for b in range(len(label)):
        pixels = []
        for y, x in np.ndindex(label.shape[1:]):
            if label[b, y, x] != IGNORE_LABEL:
                e = np.exp(z[b, y, x].astype(np.float64) - z[b, y, x].max())
                pixels.append((e / e.sum(), int(label[b, y, x])))
        images.append(pixels)
    return images


def per_pixel(value):
    """A loss that is a weighted mean over pixels."""

    def loss(z, label, image_weight, class_weights=(), **options):
        total = count = 0.0
        for pixels, weight in zip(valid_pixels(z, label), image_weight, strict=True):
            for p, k in pixels:
                w = float(weight) * (class_weights[k] if class_weights else 1.0)
                total, count = total + w * value(p, k, **options), count + w
        return total, count

    return loss


def per_image(value):
    """A loss that is a mean over images which have a valid pixel."""

    def loss(z, label, image_weight, **options):
        total = count = 0.0
        for pixels, weight in zip(valid_pixels(z, label), image_weight, strict=True):
            if pixels:
                total += float(weight) * value(pixels, **options)
                count += float(weight)
        return total, count

    return loss


def per_class(value):
    """A loss of an image that is a mean over the classes present in its labels."""

    def loss(pixels, **options):
        present = sorted({k for _, k in pixels})
        return sum(value(pixels, k, **options) for k in present) / len(present)

    return per_image(loss)


def _smoothed(p, k, label_smoothing=0.0):
    uniform = -sum(math.log(x) for x in p) / len(p)
    return (1 - label_smoothing) * -math.log(p[k]) + label_smoothing * uniform


def _hardest(pixels, class_weights=(), threshold=0.7, keep_frac=1 / 16):
    ranked = sorted(pixels, key=lambda pixel: pixel[0][pixel[1]])
    hard = [(p, k) for p, k in ranked if p[k] < threshold]
    kept = max(hard, ranked[: math.ceil(keep_frac * len(ranked))], key=len)
    weights = [class_weights[k] if class_weights else 1.0 for _, k in kept]
    losses = [-math.log(p[k]) for p, k in kept]
    return sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)


def _tversky(pixels, k, alpha=0.5, beta=0.5):
    hit = sum(p[k] for p, true in pixels if true == k)
    false_positive = sum(p[k] for p, true in pixels if true != k)
    false_negative = sum(1 - p[k] for p, true in pixels if true == k)
    return 1 - hit / (hit + alpha * false_positive + beta * false_negative)


def _dice(pixels, k):
    both = sum(p[k] * (true == k) for p, true in pixels)
    return 1 - 2 * both / (sum(p[k] for p, _ in pixels) + sum(true == k for _, true in pixels))


def jaccard_loss(missed, truth):
    """Loss of the set of mispredicted pixels (Berman et al., eq. 6): |M| / |{y = k} u M|."""
    return len(missed) / len(truth | missed)


def _lovasz(pixels, k):
    """The Lovasz extension of `jaccard_loss` at the errors (Berman et al., definition 2)."""
    truth = {i for i, (_, true) in enumerate(pixels) if true == k}
    errors = [1 - p[k] if i in truth else p[k] for i, (p, _) in enumerate(pixels)]
    missed, total = set(), 0.0
    for i in sorted(range(len(errors)), key=lambda i: -errors[i]):
        total += errors[i] * (jaccard_loss(missed | {i}, truth) - jaccard_loss(missed, truth))
        missed.add(i)
    return total


def _mean_pixel(pixels, class_weights=(), label_smoothing=0.0):
    weights = [class_weights[k] if class_weights else 1.0 for _, k in pixels]
    losses = [_smoothed(p, k, label_smoothing) for p, k in pixels]
    return sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)


def _cross_entropy(*example, per_image=False, **options):
    return _CROSS_ENTROPY[per_image](*example, **options)


_CROSS_ENTROPY = {False: per_pixel(_smoothed), True: per_image(_mean_pixel)}

LOSSES = {
    "cross_entropy": _cross_entropy,
    "focal": per_pixel(lambda p, k, gamma: -((1 - p[k]) ** gamma) * math.log(p[k])),
    "ohem": per_image(_hardest),
    "dice": per_class(_dice),
    "tversky": per_class(_tversky),
    "lovasz": per_class(_lovasz),
}
