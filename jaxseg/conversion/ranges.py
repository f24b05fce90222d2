"""How large the values of a network are on some images: histograms, and the range that follows from one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.arch import Arch
from jaxseg.conversion.steps import GATE_STEP, THE_IMAGE, Value, Values, deployed_blocks
from jaxseg.errors import UserError, unknown_name
from jaxseg.layers.normalise import network_input
from jaxseg.models import zoo
from jaxseg.models.block import SEEN, results
from jaxseg.types import Array

BINS = 2048
PERCENTILE = 0.9999
"""Share of values that the range of 'percentile' holds."""

SHARES = np.linspace(0.1, 1.0, 181)
"""Of the largest value, tried as the range by 'mse'."""


@dataclass(frozen=True)
class Histogram:
    """Of absolute values: `counts` int64 [BINS] over equal bins up to `most`."""

    most: float
    counts: np.ndarray

    def range(self, method: str) -> float:
        """Up to where values are told apart; larger ones are clipped. 1 where all are 0.

        Args:
            method: 'minmax': all; 'percentile': `PERCENTILE` of them; 'mse': so that the mean squared error of 127
                steps is least.
        """
        if method not in METHODS:
            raise unknown_name("calibration", method, METHODS)
        return METHODS[method](self) if self.most > 0 else 1.0

    def minmax(self) -> float:
        return self.most

    def percentile(self) -> float:
        share = np.cumsum(self.counts) / self.counts.sum()
        return float(self.most * (np.searchsorted(share, PERCENTILE) + 1) / BINS)

    def mse(self) -> float:
        # Zeros (behind ReLU half of all) are exact whatever the step is; so is nothing else in the first bin.
        centre = (np.arange(BINS) + 0.5) * self.most / BINS
        counts = self.counts.astype(float)
        reach = SHARES[:, None] * self.most
        beyond = np.maximum(centre - reach, 0.0)
        inside = np.where(centre <= reach, (reach / 127) ** 2 / 12, beyond**2)
        inside[:, 0] = 0.0
        return float(self.most * SHARES[np.argmin(inside @ counts)])


METHODS: dict[str, Callable[[Histogram], float]] = {
    "minmax": Histogram.minmax,
    "percentile": Histogram.percentile,
    "mse": Histogram.mse,
}


def observe(
    arch: Arch,
    variables: dict[str, Any],
    mean: Sequence[float],
    std: Sequence[float],
    batches: Callable[[], Iterable[np.ndarray]],
) -> dict[Value, Histogram]:
    """Runs a network twice over some images: first for the largest values, then for histograms up to them.

    Args:
        arch, variables: float, without auxiliary heads.
        mean, std: of images scaled to [0, 1].
        batches: called twice, gives the same uint8 images [B, H, W, 3] both times.

    Returns:
        Of every value but the image, whose range is known. Passes of a loop are one.

    Raises:
        UserError: a value that is no number, by the name of its operation.
    """
    module = zoo.module(arch)
    names = [(block.name, op.name) for block in deployed_blocks(arch) for op in block.ops]

    def seen(variables: Any, image: Array) -> dict[Value, Array]:
        x = network_input(image, mean, std, arch.numbers)
        _, found = module.apply(variables, x, mutable=[SEEN])
        return {(block, op): jnp.abs(results(found, block, op)) for block, op in names}

    @jax.jit
    def largest(variables: Any, image: Array) -> list[Array]:
        return [jnp.max(x) for x in seen(variables, image).values()]

    @jax.jit
    def counted(variables: Any, image: Array, most: list[Array]) -> list[Array]:
        def bins(x: Array, top: Array) -> Array:
            place = jnp.minimum((x * (BINS / jnp.maximum(top, 1e-30))).astype(jnp.int32), BINS - 1)
            return jnp.bincount(place.reshape(-1), length=BINS)

        return [bins(x, top) for x, top in zip(seen(variables, image).values(), most, strict=True)]

    variables = jax.device_put(variables)
    most = np.zeros(len(names), np.float32)
    for image in batches():
        most = np.maximum(most, np.asarray(largest(variables, image)))
    for (block, op), value in zip(names, most, strict=True):
        if not np.isfinite(value):
            raise UserError(f"values of {block}/{op}", got=value, expected="finite numbers")
    counts = np.zeros((len(names), BINS), np.int64)
    tops = [jnp.float32(x) for x in most]
    for image in batches():
        counts += np.asarray(counted(variables, image, tops)).astype(np.int64)
    return {n: Histogram(float(m), c) for n, m, c in zip(names, most, counts, strict=True)}


def image_range(mean: Sequence[float], std: Sequence[float]) -> float:
    """The largest absolute value of a normalised image."""
    mean, std = np.asarray(mean), np.asarray(std)
    return float(np.max(np.maximum(mean, 1 - mean) / std))


def steps(
    arch: Arch,
    found: dict[Value, Histogram],
    mean: Sequence[float],
    std: Sequence[float],
    method: str,
) -> dict[Value, float]:
    """The step of every value: the largest range of those that share it, over 127."""
    values = Values(deployed_blocks(arch))
    ranges = {value: histogram.range(method) for value, histogram in found.items()}
    ranges[THE_IMAGE] = image_range(mean, std)
    groups, most = values.groups(), {}
    for value, root in groups.items():
        most[root] = max(most.get(root, 0.0), ranges[value])
    made = {value: most[root] / 127 for value, root in groups.items()}
    return made | dict.fromkeys(values.gates(), GATE_STEP)
