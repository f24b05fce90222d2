"""Two ways to answer, timed image by image in turn: what a deployment promises is held against what it does."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg.arch import Arch
from jaxseg.inference.artifact import Card
from jaxseg.inference.predictor import Model
from jaxseg.inference.ways import ANYTIME, INPUT, AnyTime, InputDependent, Way


class Timed(NamedTuple):
    """A network, and how it answers."""

    arch: Arch
    variables: dict[str, Any]
    way: Way


def side_by_side(
    one: Timed, other: Timed, card: Card, images: Sequence[np.ndarray], *, rounds: int = 5
) -> dict[str, Any]:
    """Batch 1, host uint8 image to host uint8 label map (any-time: to the last of all maps), compilation excluded.

    Args:
        one, other: what is compared.
        card: how images are normalised.
        images: uint8 [H, W, 3], real ones, since the time may depend on them.
        rounds: each image, by both, in turn; its median counts.

    Returns:
        'mean_ms' of `one` over images and 'final_only_mean_ms' of `other`, their 'ratio_measured', and
        'taken_measured', the share of images that left at each exit of `one`.
    """
    runs = [_answers(timed, card) for timed in (one, other)]
    times = np.empty((rounds, len(images), 2))
    for i, image in enumerate(images):
        for run in runs:
            run(image)  # compiles for a new size
        for r in range(rounds):
            for which, run in enumerate(runs):
                begin_s = time.perf_counter()
                run(image)
                times[r, i, which] = 1e3 * (time.perf_counter() - begin_s)
    mine, theirs = np.median(times, axis=0).mean(axis=0)
    all_stay = [0] * len(one.arch.exits) + [len(images)]
    left = np.array(getattr(runs[0], "left", all_stay), float)
    return {
        "mean_ms": float(mine),
        "final_only_mean_ms": float(theirs),
        "ratio_measured": float(mine / theirs),
        "taken_measured": (left / left.sum()).tolist(),
        "timed_images": len(images),
    }


def _answers(timed: Timed, card: Card) -> Any:
    model = Model(timed.arch, timed.variables, card)
    kinds = {INPUT: InputDependent, ANYTIME: AnyTime}
    return kinds[timed.way.name].of(model, timed.way) if timed.way.name in kinds else model
