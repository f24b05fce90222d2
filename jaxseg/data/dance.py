"""Data slimming after DANCE (2107.07706): simple images are trained on smaller, skipped now and then, and count less.

Only the paper's abstract is known to us. That complexity steers size, dropping and weight is the paper's; the maps from
complexity to these three, and their defaults, are ours. Every map can be switched off alone. What becomes of them in
batches is in `dance_plan.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxseg.data.dance_scores import MEASURES, RANKS, WITHIN_GROUP
from jaxseg.errors import UserError, unknown_name

LINEAR, STEP = DROP_RULES = ("linear", "step")


@dataclass(frozen=True)
class DataSlimming:
    """What is done to an image of rank q in [0, 1], 0 the simplest (see `dance_scores.ranks`).

    measure:  of complexity, a name in `dance_scores.MEASURES`.
    rank:     'within_group' (drives, cities; where there are none it is the next), 'global' or 'minmax'.
    ratios:   R, ascending, of the sides of what is trained on to the full ones; (1.0,) = off.
    edges:    of q between the ratios, one fewer than these; an edge belongs to the greater ratio.
    tau_drop: images of q below it may be dropped; 0 = off.
    drop_rule: 'linear': an image of q = 0 is dropped with probability `d_max`, which falls to 0 at `tau_drop`;
              'step': every image of q below `tau_drop` is, and with tau_drop = 1 every image, so with d_max = 1 the
              simple ones always are, and with tau_drop = 1 complexity does not matter.
    d_max:    the greatest probability.
    w_min:    weight in the loss of the image that counts least, the greatest being 1, in (0, 1]; 1 = off.
    weight_sign: +1: complex images count more; -1: simple ones do. Which is the paper's is not known to us.
    warm_epochs: the run's first epochs, in which nothing is slimmed.
    shuffled: a control: the ranks are dealt out to the images at random, see `dealt`.
    """

    measure: str = "spatial_information"
    rank: str = WITHIN_GROUP
    ratios: tuple[float, ...] = (0.5, 0.75, 1.0)
    edges: tuple[float, ...] = (1 / 3, 2 / 3)
    tau_drop: float = 0.2
    drop_rule: str = LINEAR
    d_max: float = 0.5
    w_min: float = 0.5
    weight_sign: int = 1
    warm_epochs: int = 0
    shuffled: bool = False

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise unknown_name("dance.data.measure", self.measure, MEASURES)
        if self.rank not in RANKS:
            raise unknown_name("dance.data.rank", self.rank, RANKS)
        ratios, edges = self.ratios, self.edges
        inside = all(0 < r <= 1 for r in ratios)
        _check("ratios", ratios, ratios and inside and _ascend(ratios), "ascending, in (0, 1]")
        fits = len(edges) == len(ratios) - 1 and all(0 < e < 1 for e in edges) and _ascend(edges)
        _check("edges", edges, fits, f"{len(ratios) - 1} ascending numbers in (0, 1)")
        _check("tau_drop", self.tau_drop, 0 <= self.tau_drop <= 1, "a number in [0, 1]")
        if self.drop_rule not in DROP_RULES:
            raise unknown_name("dance.data.drop_rule", self.drop_rule, DROP_RULES)
        _check("d_max", self.d_max, 0 <= self.d_max <= 1, "a number in [0, 1]")
        _check("w_min", self.w_min, 0 < self.w_min <= 1, "a number in (0, 1]")
        _check("weight_sign", self.weight_sign, self.weight_sign in (1, -1), "1 or -1")
        _check("warm_epochs", self.warm_epochs, self.warm_epochs >= 0, "0 or more")

    @property
    def sorts(self) -> bool:
        """Whether epochs differ from plain ones in what is seen or how large; weights alone change neither."""
        return self.ratios != (1.0,) or (self.tau_drop > 0 and self.d_max > 0)

    @property
    def changes(self) -> bool:
        """Whether anything at all is switched on."""
        return self.sorts or self.w_min < 1

    def ratio(self, q: np.ndarray) -> np.ndarray:
        """Ratio of sides, float64 of the shape of q; never falls with q."""
        return np.asarray(self.ratios)[np.digitize(q, self.edges)]

    def drop(self, q: np.ndarray) -> np.ndarray:
        """Probability of being dropped, float64 of the shape of q; never rises with q."""
        q = np.asarray(q, np.float64)
        if not self.tau_drop:
            return np.zeros_like(q)
        if self.drop_rule == STEP:
            return self.d_max * ((q < self.tau_drop) | (self.tau_drop == 1))
        return self.d_max * np.maximum(0.0, (self.tau_drop - q) / self.tau_drop)

    def gain(self, q: np.ndarray) -> np.ndarray:
        """g(q) in [w_min, 1], float64 of the shape of q: the weight in the loss before a batch's mean is made 1."""
        q = np.asarray(q, np.float64)
        return self.w_min + (1 - self.w_min) * (q if self.weight_sign > 0 else 1 - q)

    def weights(self, q: np.ndarray) -> np.ndarray:
        """Weights in the loss of the images of batches, float32 of the shape of q [..., B].

        The mean of a batch is 1 but for rounding.
        """
        gain = self.gain(q)
        return (gain / gain.mean(axis=-1, keepdims=True)).astype(np.float32)

    def dealt(self, q: np.ndarray, seed: int) -> np.ndarray:
        """The ranks of the images as they are used: q itself, or where `shuffled` a permutation of it."""
        return np.random.default_rng(seed).permutation(q) if self.shuffled else q

    def mean_square_ratio(self, q: Sequence[float] = ()) -> float:
        """Mean of the squared ratio over images that are kept: what slimming the network is coupled to.

        Args:
            q: ranks, [N]; empty = evenly spread.
        """
        ranks = np.asarray(q, float) if len(q) else (np.arange(10_000) + 0.5) / 10_000
        kept = 1.0 - self.drop(ranks)
        return float(np.average(np.square(self.ratio(ranks)), weights=kept))

    def cost_frac(self, q: np.ndarray) -> float:
        """Pixels trained on per epoch in relation to plain epochs: mean of (1 - drop) ratio^2, for an endless run."""
        return float(np.mean((1 - self.drop(q)) * self.ratio(q) ** 2))


def configured(measure: str, **options: Any) -> DataSlimming | None:
    """The settings that a config gives; None where there is no measure.

    Args:
        measure: name in `dance_scores.MEASURES`, or '' = off.
        options: the other fields.

    Raises:
        UserError: a value that cannot be, or something switched on without a measure.
    """
    settings = DataSlimming(measure or "spatial_information", **options)
    if settings.changes and not measure:
        raise UserError(
            "dance.data.measure",
            got="''",
            expected="the measure of complexity that the other settings are about",
            do="give --config.dance.data.measure=spatial_information",
        )
    return settings if measure else None


def _ascend(values: tuple[float, ...]) -> bool:
    return all(a < b for a, b in zip(values, values[1:], strict=False))


def _check(key: str, got: object, holds: object, expected: str) -> None:
    if not holds:
        raise UserError(f"dance.data.{key}", got=got, expected=expected)
