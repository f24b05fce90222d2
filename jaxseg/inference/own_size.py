"""Each image answered at a size of its own, by its complexity: data slimming (after DANCE, 2107.07706) in use."""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxseg.arch import Arch, count
from jaxseg.data.dance_sizes import SizeRule
from jaxseg.errors import UserError
from jaxseg.inference.artifact import Card
from jaxseg.inference.augmented import PLAIN
from jaxseg.inference.predictor import Model, make_resized
from jaxseg.models import zoo
from jaxseg.models.folding import fold


@dataclass
class OwnSize:
    """A network that sees simple images smaller; called like a `Model`, one image after another.

    arch, variables: batch norm folded, on the device.
    rule: which size an image has.
    seen: how many images of each (H, W) were answered at each (h, w), so far.
    """

    arch: Arch
    variables: dict[str, Any]
    card: Card
    rule: SizeRule
    seen: Counter[tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=Counter)

    @classmethod
    def of(cls, model: Model) -> "OwnSize":
        """From a model whose card says how sizes go with complexity.

        Raises:
            UserError: it does not, or the model answers from windows, mirror image or scales.
        """
        if not model.card.sizes:
            raise UserError(
                "mode slim",
                got="a model that says no sizes by complexity",
                expected="one trained with dance.data.ratios by a measure of images",
            )
        if model.mode != PLAIN:
            raise UserError(
                "mode slim", got=model.mode, expected="whole images, without flip and scales"
            )
        arch, variables = fold(model.arch, model.variables)
        rule = SizeRule.from_dict(model.card.sizes)
        return cls(arch, jax.device_put(variables), model.card, rule)

    @cached_property
    def _predict(self) -> Any:
        return make_resized(self.arch, self.card.mean, self.card.std)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Image uint8 [B, H, W, 3] or [H, W, 3] -> label map(s) at its full size."""
        image = np.asarray(image)
        if image.ndim == 4:
            return np.stack([self(one) for one in image])
        size_px = image.shape[:2]
        small = self.rule.smaller(image)
        self.seen[size_px, small.shape[:2]] += 1
        return np.asarray(self._predict(self.variables, small[None], size_px))[0]

    def record(self, size_px: tuple[int, int]) -> dict[str, Any]:
        """What became of the images: MACs of the mean image, and share and MACs of each size, smallest first."""
        del size_px  # of others; here every image says its own
        total, blocks = sum(self.seen.values()), zoo.blocks(self.arch)
        sizes = Counter[tuple[int, int]]()
        for (_, small), number in self.seen.items():
            sizes[small] += number
        rows = [
            {"size_px": list(small), "frac": number / total, "macs": count(blocks, *small).macs}
            for small, number in sorted(sizes.items())
        ]
        return {"macs": sum(row["frac"] * row["macs"] for row in rows), "sizes": rows}
