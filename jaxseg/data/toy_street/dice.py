"""Draws that are the same on every machine: raw bits of PCG64, which numpy never changes.

The distributions of `numpy.random.Generator` may change between numpy versions, so they are not
used.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_POOL = 1024
_UNIT = 2.0**-53


class Dice:
    """A stream of draws that is a pure function of its key."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))
        self._pool: list[float] = []

    def unit(self) -> float:
        """Uniform in [0, 1)."""
        if not self._pool:
            raw = self._bits.random_raw(_POOL) >> np.uint64(11)
            self._pool = (raw.astype(np.float64) * _UNIT).tolist()
        return self._pool.pop()

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self.unit()

    def integer(self, low: int, high: int) -> int:
        """Uniform in low..high, both included."""
        return low + int(self.unit() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return self.unit() < probability

    def side(self) -> int:
        """-1 or 1."""
        return -1 if self.unit() < 0.5 else 1

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(self.unit() * len(options))]

    def weighted(self, weights: dict[T, int]) -> T:
        """A key, by weight."""
        left = self.unit() * sum(weights.values())
        for key, weight in weights.items():
            left -= weight
            if left < 0:
                return key
        return key

    def bytes(self, *shape: int) -> np.ndarray:
        """Uniform uint8 of that shape."""
        size = int(np.prod(shape))
        raw = self._bits.random_raw((size + 7) // 8).astype("<u8")
        return raw.view(np.uint8)[:size].reshape(shape)
