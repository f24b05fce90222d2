"""A loaded model as an int8 network: exactly where it was trained for that, else by looking at some images."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from jaxseg.arch import Arch
from jaxseg.conversion.calibrated import calibrated
from jaxseg.conversion.exact import exact, is_exact
from jaxseg.inference.artifact import Card

EXACT = "exact"
BATCH = 4
"""Images of one size that are looked at together."""


class Images(Protocol):
    """What a split is to us: a sequence of examples with an 'image', uint8 [H, W, 3]."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...


def to_codes(
    arch: Arch, variables: dict[str, Any], card: Card, split: Images, *, method: str, most: int
) -> tuple[Arch, dict[str, Any], dict[str, Any]]:
    """The int8 network, and how it came about.

    Args:
        arch, variables, card: of a trained model; an int8 network is returned as it is.
        split: whose images are looked at, evenly spread over it.
        method: of calibration, see `conversion.ranges`. most: how many images.

    Returns:
        (arch, variables, {'conversion': 'exact' or the method, 'images': how many were looked at}).
    """
    if arch.numbers.in_codes:
        return arch, variables, {"conversion": "was int8 before", "images": 0}
    if is_exact(arch):
        return *exact(arch, variables), {"conversion": EXACT, "images": 0}
    indices = np.unique(np.linspace(0, len(split) - 1, min(most, len(split))).astype(int))
    batches = _batches([split[int(i)]["image"] for i in indices])
    found = calibrated(arch, variables, card.mean, card.std, lambda: batches, method=method)
    return *found, {"conversion": method, "images": len(indices)}


def _batches(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """uint8 [B, H, W, 3], one size in each."""
    by_size: dict[tuple[int, ...], list[np.ndarray]] = {}
    for image in images:
        by_size.setdefault(image.shape, []).append(image)
    return [
        np.stack(same[i : i + BATCH])
        for same in by_size.values()
        for i in range(0, len(same), BATCH)
    ]
