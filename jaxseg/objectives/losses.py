"""Losses as (sum, count) pairs, so that they stay right over devices, micro-batches and ragged batches.

Every loss here takes logits that already lie on the label's grid. The mean that is optimised is
`mean(psum(sum), psum(count))`; taking it per device first is wrong by 2-3x where void is spread unevenly.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxseg.types import IGNORE_LABEL, Array


def pixel_weights(
    label: Array, image_weight: Array, class_weights: Sequence[float] = (), *, num_classes: int
) -> Array:
    """Weight of every pixel in loss and count: image weight x class weight, 0 where void.

    Args:
        label: integer [B, H, W], ids 0..K-1 or IGNORE_LABEL.
        image_weight: float32 [B]; 0 leaves an image out (padding).
        class_weights: K positive numbers, or empty for all ones.
        num_classes: K.

    Returns:
        float32 [B, H, W].
    """
    valid = (label != IGNORE_LABEL).astype(jnp.float32)
    weights = valid * image_weight[:, None, None]
    if class_weights:
        table = jnp.asarray(class_weights, jnp.float32)
        weights = weights * table[jnp.minimum(label, num_classes - 1).astype(jnp.int32)]
    return weights


def cross_entropy(
    logits: Array,
    label: Array,
    image_weight: Array,
    *,
    class_weights: Sequence[float] = (),
    label_smoothing: float = 0.0,
) -> tuple[Array, Array]:
    """Softmax cross-entropy in float32.

    With smoothing s the target is (1 - s) on the label and s/K everywhere; the weight of a pixel is
    that of its label's class, in the sum as in the count (a weighted mean, as in PyTorch).

    Args:
        logits: [B, H, W, K], any float dtype.
        label: integer [B, H, W], ids 0..K-1 or IGNORE_LABEL.
        image_weight: float32 [B].
        class_weights: K positive numbers, or empty.
        label_smoothing: in [0, 1).

    Returns:
        (sum, count), float32 scalars. An all-void batch gives (0, 0), and a gradient of zero.
    """
    num_classes = logits.shape[-1]
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    # One-hot instead of a gather: its gradient is a product, not a slow scatter. Void is all zeros.
    one_hot = jax.nn.one_hot(label, num_classes, dtype=jnp.bool_)
    loss = -jnp.sum(jnp.where(one_hot, log_p, 0.0), axis=-1)
    if label_smoothing:
        loss = (1.0 - label_smoothing) * loss - label_smoothing * jnp.mean(log_p, axis=-1)
    weights = pixel_weights(label, image_weight, class_weights, num_classes=num_classes)
    # `where` and not a product alone: an infinite logit under void must not turn into 0 * inf = NaN.
    return jnp.sum(jnp.where(weights > 0, loss * weights, 0.0)), jnp.sum(weights)


def mean(total: Array, count: Array) -> Array:
    """`total / count`, and 0 where nothing was counted."""
    return total / jnp.where(count > 0, count, 1.0)
