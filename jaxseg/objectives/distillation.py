"""Learning from labels and from a teacher's answer: positive filtering distillation, and what it is compared with.

MESS (Kouris et al., 2106.03527, eq. 3): of a student's pixel, alpha times the cross-entropy with the label where the
teacher is right, and (1 - alpha) times the divergence from the teacher, KL(teacher || student), temperature 1.
"""

import jax
import jax.numpy as jnp

from jaxseg.objectives.losses import is_label
from jaxseg.objectives.metrics import best_class
from jaxseg.types import Array


def kept_pixels(teacher: Array, label: Array) -> Array:
    """Where the teacher is right: bool [B, H, W] from logits [B, H, W, K] and labels; never where void."""
    return best_class(teacher).astype(jnp.int32) == label.astype(jnp.int32)


def distillation(
    logits: Array, teacher: Array, label: Array, label_weight: Array, teacher_weight: Array
) -> tuple[Array, Array]:
    """Sums of cross-entropy and divergence over pixels; one pass forward, one backward for both.

    Args:
        logits: [B, H, W, K], any float dtype.
        teacher: the same; has no gradient.
        label: integer [B, H, W]; what it says where `label_weight` is 0 plays no part.
        label_weight: float32 [B, H, W], weight of each pixel's cross-entropy.
        teacher_weight: float32 [B, H, W], weight of each pixel's KL(teacher || student).

    Returns:
        (sum of weighted cross-entropy, sum of weighted divergence), float32 scalars.
    """
    planes = jnp.moveaxis(logits.astype(jnp.float32), -1, 1)
    target = jax.lax.stop_gradient(jnp.moveaxis(teacher.astype(jnp.float32), -1, 1))
    return _sums(planes, jax.nn.log_softmax(target, axis=1), label, label_weight, teacher_weight)


@jax.custom_vjp
def _sums(planes, log_target, label, label_weight, teacher_weight):
    return _sums_forward(planes, log_target, label, label_weight, teacher_weight)[0]


def _sums_forward(planes, log_target, label, label_weight, teacher_weight):
    log_own = jax.nn.log_softmax(planes, axis=1)
    at_label = jnp.sum(jnp.where(is_label(label, planes.shape[1]), log_own, 0.0), axis=1)
    apart = jnp.sum(jnp.exp(log_target) * (log_target - log_own), axis=1)
    # Where a weight is 0 the value is 0, whatever the logits are there.
    weighted = lambda value, weight: jnp.sum(jnp.where(weight > 0, value * weight, 0.0))  # noqa: E731
    sums = weighted(-at_label, label_weight), weighted(apart, teacher_weight)
    return sums, (log_own, log_target, label, label_weight, teacher_weight)


def _sums_backward(saved, cotangents):
    log_own, log_target, label, label_weight, teacher_weight = saved
    by_label = (cotangents[0] * label_weight)[:, None]
    by_teacher = (cotangents[1] * teacher_weight)[:, None]
    true = is_label(label, log_own.shape[1])
    gradient = by_label * (jnp.exp(log_own) - true)
    gradient += by_teacher * (jnp.exp(log_own) - jnp.exp(log_target))
    counted = (by_label != 0) | (by_teacher != 0)
    return jnp.where(counted, gradient, 0.0), None, None, None, None


_sums.defvjp(_sums_forward, _sums_backward)
