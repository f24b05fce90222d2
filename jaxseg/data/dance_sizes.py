"""Data slimming after DANCE (2107.07706) when a network is used: at which size an image is answered."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from jaxseg.data.dance import DataSlimming
from jaxseg.data.dance_plan import crop_px
from jaxseg.data.dance_scores import MEASURES, NEEDS_LABELS, score_at
from jaxseg.errors import UserError, short


@dataclass(frozen=True)
class SizeRule:
    """Sizes by complexity, as in training, but for any image on its own.

    measure: of complexity, a name in `dance_scores.MEASURES` that needs no label.
    ratios:  of sides, R of them, rising.
    limits:  R - 1 complexities between them, rising; a limit belongs to the greater ratio.
    stride:  sides of smaller images are multiples of it.
    """

    measure: str
    ratios: tuple[float, ...]
    limits: tuple[float, ...]
    stride: int

    def __post_init__(self) -> None:
        numbers = (*self.ratios, *self.limits)
        if (
            self.measure not in MEASURES
            or self.measure in NEEDS_LABELS
            or not all(type(x) is float and math.isfinite(x) for x in numbers)
            or not self.ratios
            or not all(0 < r <= 1 for r in self.ratios)
            or len(self.limits) != len(self.ratios) - 1
            or sorted(self.limits) != list(self.limits)
            or type(self.stride) is not int
            or not 1 <= self.stride <= 1024
        ):
            raise UserError(
                "sizes by complexity",
                got=short(asdict(self)),
                expected="a measure that needs no label, ratios in (0, 1], rising limits, a stride",
            )

    @classmethod
    def learnt(
        cls, settings: DataSlimming, scores: Sequence[float], stride: int
    ) -> "SizeRule | None":
        """The rule by which a run chose its sizes; None where it had one size, or chose by labels or at random.

        Args:
            settings: of the run.
            scores: complexities of its training images, [N]. With 'within_group' the rule is that of all images
                together, since the group of an image is not known.
            stride: of the network in px.
        """
        if settings.measure in NEEDS_LABELS or settings.shuffled or settings.ratios == (1.0,):
            return None
        limits = score_at(np.asarray(settings.edges), np.asarray(scores), settings.rank)
        if not np.isfinite(limits).all():  # all training images are equally complex
            return None
        return cls(
            settings.measure,
            tuple(map(float, settings.ratios)),
            tuple(map(float, limits)),
            stride,
        )

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "SizeRule":
        """The inverse of `to_dict`.

        Raises:
            UserError: no such record; it may come from anybody.
        """
        lists = {k: record.get(k) for k in ("ratios", "limits")}
        if set(record) != set(cls.__dataclass_fields__) or not all(
            isinstance(x, list) for x in lists.values()
        ):
            raise UserError("sizes by complexity", got=short(record), expected="a complete record")
        return cls(**{**record, **{k: tuple(v) for k, v in lists.items()}})

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "ratios": list(self.ratios), "limits": list(self.limits)}

    def ratio(self, image: np.ndarray) -> float:
        """Of a uint8 [H, W, 3] RGB image."""
        if len(self.ratios) == 1:
            return self.ratios[0]
        complexity = MEASURES[self.measure](image, np.empty(image.shape[:2], np.uint8))
        return self.ratios[int(np.digitize(complexity, self.limits))]

    def size_px(self, full_px: tuple[int, int], ratio: float) -> tuple[int, int]:
        """(h, w) at which an image of `full_px` is answered.

        Raises:
            UserError: it would be smaller than the network's stride.
        """
        return crop_px(full_px, ratio, self.stride)

    def smaller(self, image: np.ndarray) -> np.ndarray:
        """The image at its own size, by area means as in training; the image itself at ratio 1."""
        height, width = self.size_px(image.shape[:2], self.ratio(image))
        if (height, width) == image.shape[:2]:
            return image
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
