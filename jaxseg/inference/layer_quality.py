"""What is left of a float network in the int8 one that was made from it, operation by operation."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxseg.arch import Arch
from jaxseg.conversion.steps import Value, deployed_blocks
from jaxseg.errors import UserError
from jaxseg.inference.to_codes import Images
from jaxseg.layers.codes import SCALES
from jaxseg.layers.normalise import network_input
from jaxseg.models import zoo
from jaxseg.models.block import SEEN, results
from jaxseg.models.folding import fold
from jaxseg.numbers import NumbersArch
from jaxseg.types import Array

IMAGES = 8
MOST_DB = 120.0
"""Beyond it the codes are the float network's own values: what differs is the rounding of its arithmetic."""

Network = tuple[Arch, dict[str, Any]]


class Quality(NamedTuple):
    """What codes keep of one operation of the float network.

    weight_bits: of the narrowest codes that hold the weights, sign included; None where there are none.
    result_bits: the same of its result on the sample.
    saturated:   share of the result's codes at -127 or at the upper bound: 127, behind ReLU6 the code of 6.
    snr_db:      of ||x||^2 / ||x - s c||^2, x being the float network's result, c the codes and s = <x, c> / <c, c>;
                 `MOST_DB` at most; None where x is 0.
    """

    weight_bits: int | None
    result_bits: int
    saturated: float
    snr_db: float | None


class Tally:
    """Counts one operation's results over images."""

    def __init__(self, upper: np.ndarray | int = 127):
        """Upper: the largest code; in a loop that of every pass, [N]."""
        self._upper = np.reshape(upper, (-1, 1, 1, 1, 1)) if np.ndim(upper) else upper
        self._xx = self._xc = self._cc = 0.0
        self._at = self._of = self._most = 0

    def add(self, x: np.ndarray, c: np.ndarray) -> None:
        """The float result [.., B, h, w, C] and its codes."""
        self._at += int(np.sum((c == -127) | (c >= self._upper)))
        self._of += c.size
        x, c = np.ravel(x).astype(np.float64), np.ravel(c).astype(np.float64)
        self._most = max(self._most, int(np.abs(c).max()))
        self._xx, self._xc, self._cc = self._xx + x @ x, self._xc + x @ c, self._cc + c @ c

    def quality(self, weights: np.ndarray | None = None) -> Quality:
        """Of all that was added; weights: the operation's codes, where it has some."""
        kernel = None if weights is None else int(np.abs(weights.astype(int)).max())
        both = [None if most is None else most.bit_length() + 1 for most in (kernel, self._most)]
        return Quality(*both, self._at / self._of, self._snr_db())

    def _snr_db(self) -> float | None:
        # ||x - s c||^2 at the best s, from sums over all images.
        noise = self._xx - (self._xc**2 / self._cc if self._cc else 0.0)
        floor = self._xx * 10 ** (-MOST_DB / 10)
        return float(10 * np.log10(self._xx / max(noise, floor))) if self._xx else None


def check(arch: Arch, beside: Arch) -> None:
    """Raises a UserError unless `arch` is an int8 network and `beside` a float one of the same operations."""
    if not arch.numbers.in_codes:
        raise UserError(
            "--beside",
            got=f"a network in {arch.numbers.compute} as --workdir",
            expected="an int8 network",
            do="make it with deploy --numbers=int8",
        )
    if beside.numbers.in_codes:
        raise UserError("--beside", got="an int8 network", expected="the float one before it")
    one, other = (replace(a, aux=(), numbers=NumbersArch()) for a in (arch, beside))
    if one != other:
        raise UserError(
            "--beside",
            got="another architecture than that of --workdir",
            expected="the folder that --workdir was made from",
        )


def sample(split: Images, most: int = IMAGES) -> list[np.ndarray]:
    """Some images of a split, evenly spread: uint8 [H, W, 3].

    Raises:
        UserError: there are none.
    """
    if not len(split):
        raise UserError("split holds no images", do="choose another with --split")
    indices = np.unique(np.linspace(0, len(split) - 1, min(most, len(split))).astype(int))
    return [split[int(i)]["image"] for i in indices]


def as_float(arch: Arch, variables: dict[str, Any]) -> Network:
    """A trained network as conversion reads it: in float32, norms folded, without auxiliary heads."""
    return fold(replace(arch, aux=(), numbers=replace(arch.numbers, compute="float32")), variables)


def qualities(
    codes: Network,
    floating: Network,
    mean: Sequence[float],
    std: Sequence[float],
    images: Sequence[np.ndarray],
) -> dict[Value, Quality]:
    """Runs an int8 network and a float one (see `as_float`) on images uint8 [H, W, 3]; each size compiles once."""
    arch, variables = codes
    values = [(block.name, op.name) for block in deployed_blocks(arch) for op in block.ops]
    leaves = {v: variables[SCALES].get(v[0], {}).get(v[1], {}) for v in values}
    tallies = {v: Tally(np.asarray(leaves[v].get("top", 127), int)) for v in values}
    see = [_seen(*network, mean, std, values) for network in (floating, codes)]
    for image in images:
        both = zip(*(one(image[None]) for one in see), strict=True)
        for value, (x, c) in zip(values, both, strict=True):
            tallies[value].add(np.asarray(x), np.asarray(c))
    kernels = variables["params"]
    weights = {v: kernels.get(v[0], {}).get(v[1], {}).get("kernel") for v in values}
    return {value: tally.quality(weights[value]) for value, tally in tallies.items()}


def _seen(
    arch: Arch, variables: Any, mean: Sequence[float], std: Sequence[float], values: list[Value]
) -> Callable[[np.ndarray], list[Array]]:
    """An image [1, H, W, 3] to the results of all operations."""

    @jax.jit
    def run(variables: Any, image: Array) -> list[Array]:
        x = network_input(image, mean, std, arch.numbers)
        found = zoo.module(arch).apply(variables, x, mutable=[SEEN])[1]
        return [results(found, *value) for value in values]

    return functools.partial(run, jax.device_put(variables))
