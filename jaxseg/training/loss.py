"""What is minimised: a weighted sum of losses from a registry, again a (sum, count) pair.

Each loss is psum(sum) / psum(count) over the whole batch, and every count follows from labels and weights
alone, so micro-batches and devices have the right denominators before the first forward pass.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxseg.errors import UserError, unknown_name
from jaxseg.layers.resize import resize_bilinear
from jaxseg.objectives import losses, metrics, regions
from jaxseg.types import Array, Batch, Outputs


def count_pixels(label: Array, image_weight: Array, loss: "Loss") -> Array:
    """Valid pixels, each with the weight of its image and class; float32 scalar."""
    return jnp.sum(losses.pixel_weights(label, image_weight, loss.class_weights))


def count_images(label: Array, image_weight: Array, loss: "Loss") -> Array:
    """Images with a valid pixel, each with its weight; float32 scalar."""
    return jnp.sum(losses.image_weights(label, image_weight))


def count_cross_entropy(label: Array, image_weight: Array, loss: "Loss") -> Array:
    """Pixels, or images where the mean is taken per image first; float32 scalar."""
    return (count_images if loss.per_image else count_pixels)(label, image_weight, loss)


class Term(NamedTuple):
    """One loss that can be named in a config.

    value:   (logits [B, H, W, K], label [B, H, W], image weight [B], **options) -> (sum, count).
    count:   (label, image weight, Loss) -> that same count.
    options: argument of `value` -> field of `Loss`.
    """

    value: Callable[..., tuple[Array, Array]]
    count: Callable[[Array, Array, "Loss"], Array]
    options: Mapping[str, str]


TERMS: dict[str, Term] = {
    "cross_entropy": Term(
        losses.cross_entropy,
        count_cross_entropy,
        {
            "class_weights": "class_weights",
            "label_smoothing": "label_smoothing",
            "per_image": "per_image",
        },
    ),
    "focal": Term(
        losses.focal, count_pixels, {"class_weights": "class_weights", "gamma": "focal_gamma"}
    ),
    "ohem": Term(
        losses.ohem,
        count_images,
        {
            "class_weights": "class_weights",
            "threshold": "ohem_threshold",
            "keep_frac": "ohem_keep_frac",
        },
    ),
    "dice": Term(regions.dice, count_images, {}),
    "tversky": Term(
        regions.tversky, count_images, {"alpha": "tversky_alpha", "beta": "tversky_beta"}
    ),
    "lovasz": Term(regions.lovasz_softmax, count_images, {}),
}
"""A new loss is one entry here, with its weight (and options) in `defaults.py`."""


RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "label_smoothing": (lambda x: 0 <= x < 1, "a number in [0, 1)"),
    "aux_weight": (lambda x: 0 <= x < math.inf, "0 or more"),
    "ohem.threshold": (lambda x: 0 <= x <= 1, "a number in [0, 1]"),
    "ohem.keep_frac": (lambda x: 0 < x <= 1, "a number in (0, 1]"),
    "focal.gamma": (lambda x: 0 <= x < math.inf, "0 or more"),
    "tversky.alpha": (lambda x: 0 <= x < math.inf, "0 or more"),
    "tversky.beta": (lambda x: 0 < x < math.inf, "a number above 0"),
}


class Objective(Protocol):
    """What a step minimises; `Loss` is the usual one, methods bring their own.

    counts:   batch -> name -> denominator, from labels and weights alone.
    __call__: (outputs, batch) -> (name -> sum, prediction int32 [B, H, W]).
    pooled:   (sums, counts), both of all devices -> (sum, count) of the whole; linear in the sums.
    logged:   the same -> metric sums.
    """

    def counts(self, batch: Batch) -> dict[str, Array]: ...

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[dict[str, Array], Array]: ...

    def pooled(self, totals: dict[str, Array], counts: dict[str, Array]) -> tuple[Array, Array]: ...

    def logged(self, totals: dict[str, Array], counts: dict[str, Array]) -> dict[str, Array]: ...


@dataclass(frozen=True)
class Loss:
    """sum_i weights[i] L_i of the final answer, plus `aux_weight` times that of every auxiliary head.

    weights:         name in `TERMS` -> 0 or more. A loss of weight 0 is not traced and costs nothing.
    class_weights:   K positive numbers, or empty; for cross-entropy, focal and OHEM.
    label_smoothing: in [0, 1); for cross-entropy.
    per_image:       for cross-entropy: the mean over each image's pixels first, then over images by their weights.
    aux_weight:      weight of auxiliary heads.
    ohem_*, focal_*, tversky_*: see `objectives/`.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"cross_entropy": 1.0})
    class_weights: tuple[float, ...] = ()
    label_smoothing: float = 0.0
    per_image: bool = False
    aux_weight: float = 0.4
    ohem_threshold: float = 0.7
    ohem_keep_frac: float = 0.0625
    focal_gamma: float = 2.0
    tversky_alpha: float = 0.3
    tversky_beta: float = 0.7

    def __post_init__(self):
        for name, weight in self.weights.items():
            if name not in TERMS:
                raise unknown_name("loss in loss.weights", name, TERMS)
            _check(f"loss.weights.{name}", weight, 0 <= weight < math.inf, "0 or more")
        _check("loss.weights", dict(self.weights), bool(self.names), "at least one above 0")
        weights = self.class_weights
        _check("loss.class_weights", weights, all(w > 0 for w in weights), "positive numbers only")
        for key, (holds, expected) in RANGES.items():
            value = getattr(self, key.replace(".", "_"))
            _check(f"loss.{key}", value, holds(value), expected)

    @property
    def names(self) -> tuple[str, ...]:
        """The losses of weight above 0, in the registry's order."""
        return tuple(name for name in TERMS if self.weights.get(name, 0) > 0)

    def counts(self, batch: Batch) -> dict[str, Array]:
        """Name -> denominator, float32 scalar; from labels and weights alone."""
        return {n: TERMS[n].count(batch["label"], batch["weight"], self) for n in self.names}

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[dict[str, Array], Array]:
        """(name -> sum, prediction int32 [B, H, W]), answers resized to the label's grid first."""
        size = batch["label"].shape[1:3]

        def one(logits: Array) -> dict[str, Array]:
            return {n: self._sum(n, logits, batch) for n in self.names}

        full = resize_bilinear(outputs.logits, size)
        totals = one(full)
        for name in sorted(outputs.aux):
            aux = one(resize_bilinear(outputs.aux[name], size))
            totals = {n: totals[n] + self.aux_weight * aux[n] for n in self.names}
        return totals, metrics.best_class(jax.lax.stop_gradient(full))

    def pooled(self, totals: dict[str, Array], counts: dict[str, Array]) -> tuple[Array, Array]:
        """The weighted sum of all losses as one (sum, count) pair, with the count of the first of them.

        Args:
            totals: name -> sum, as `__call__` gives it, added up over devices (and micro-batches).
            counts: name -> count of the whole batch.

        Returns:
            (sum, count), float32 scalars; sum is linear in `totals`.
        """
        first, *others = self.names
        total = self.weights[first] * totals[first]
        for name in others:
            value = losses.mean(totals[name], counts[name])
            total = total + self.weights[name] * value * counts[first]
        return total, counts[first]

    def logged(self, totals: dict[str, Array], counts: dict[str, Array]) -> dict[str, Array]:
        """`loss_sum` and `loss_count` of the whole, and `loss_sum/dice` and so on where losses are combined."""
        total, count = self.pooled(totals, counts)
        sums = {"loss_sum": total, "loss_count": count}
        if len(self.names) > 1:
            sums |= {f"loss_sum/{n}": totals[n] for n in self.names}
            sums |= {f"loss_count/{n}": counts[n] for n in self.names}
        return sums

    def _sum(self, name: str, logits: Array, batch: Batch) -> Array:
        term = TERMS[name]
        options = {key: getattr(self, attribute) for key, attribute in term.options.items()}
        return term.value(logits, batch["label"], batch["weight"], **options)[0]


def _check(what: str, got: Any, holds: bool, expected: str) -> None:
    if not holds:
        raise UserError(what, got=got, expected=expected)
