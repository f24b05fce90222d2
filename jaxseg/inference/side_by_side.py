"""Two ways to answer, timed image by image in turn: what a deployment promises is held against what it does."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxseg.arch import Arch
from jaxseg.inference.artifact import Card
from jaxseg.inference.deployment import Routing, make_answers
from jaxseg.models.folding import fold


class Timed(NamedTuple):
    """A network and how it answers."""

    arch: Arch
    variables: dict[str, Any]
    routing: Routing


def side_by_side(
    one: Timed, other: Timed, card: Card, images: Sequence[np.ndarray], *, rounds: int = 5
) -> dict[str, Any]:
    """Batch 1, host uint8 image to host uint8 label map, compilation excluded.

    Args:
        one, other: what is compared.
        card: how images are normalised.
        images: uint8 [H, W, 3], real ones, since the time may depend on them.
        rounds: each image, by both, in turn; its median counts.

    Returns:
        'mean_ms' of `one` over images and 'final_only_mean_ms' of `other`, their 'ratio_measured', and 'taken', the
        share of images that left at each exit of `one`.
    """
    runs = []
    for timed in (one, other):
        arch, variables = fold(timed.arch, timed.variables)
        answers = make_answers(arch, card.mean, card.std, timed.routing)
        runs.append((answers, jax.device_put(variables)))
    times = np.empty((rounds, len(images), 2))
    left = np.zeros(len(one.arch.exits) + 1)
    for i, image in enumerate(images):
        for answers, variables in runs:
            answers(variables, image[None])  # compiles for a new size
        for r in range(rounds):
            for which, (answers, variables) in enumerate(runs):
                begin_s = time.perf_counter()
                _, taken = answers(variables, image[None])
                times[r, i, which] = 1e3 * (time.perf_counter() - begin_s)
                if r == which == 0:
                    left[taken[0]] += 1
    mine, theirs = np.median(times, axis=0).mean(axis=0)
    return {
        "mean_ms": float(mine),
        "final_only_mean_ms": float(theirs),
        "ratio_measured": float(mine / theirs),
        "taken_measured": (left / len(images)).tolist(),
        "timed_images": len(images),
    }
