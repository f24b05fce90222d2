"""Ways to answer, timed image by image in turn: what a deployment promises is held against what it does."""

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
    """`one` held against `other`, see `in_turn`.

    Returns:
        'mean_ms' of `one` over images and 'final_only_mean_ms' of `other`, their 'ratio_measured', and
        'taken_measured', the share of images that left at each exit of `one`.
    """
    found, left = in_turn((one, other), card, images, rounds=rounds)
    mine, theirs = found.mean(axis=0)
    return {
        "mean_ms": float(mine),
        "final_only_mean_ms": float(theirs),
        "ratio_measured": float(mine / theirs),
        "taken_measured": left[0],
        "timed_images": len(images),
    }


def in_turn(
    ones: Sequence[Timed], card: Card, images: Sequence[np.ndarray], *, rounds: int = 5
) -> tuple[np.ndarray, list[list[float]]]:
    """Batch 1, host uint8 image to host uint8 label map (any-time: to the last of all maps), compilation excluded.

    Args:
        ones: what is compared.
        card: how images are normalised.
        images: uint8 [H, W, 3], real ones, since the time may depend on them.
        rounds: each image, by all, in turn; its median counts. The order is drawn anew every time, since
            the time of a network depends on the one before it (by up to a tenth among twelve).

    Returns:
        Milliseconds, float64 [images, ones], and of each the shares of images that left at its exits.
    """
    runs = [_answers(one, card) for one in ones]
    times = np.empty((rounds, len(images), len(runs)))
    rng = np.random.default_rng(0)
    for i, image in enumerate(images):
        for run in runs:
            run(image)  # compiles for a new size
        for r in range(rounds):
            for which in rng.permutation(len(runs)):
                begin_s = time.perf_counter()
                runs[which](image)
                times[r, i, which] = 1e3 * (time.perf_counter() - begin_s)
    left = [np.array(_left(*pair, len(images)), float) for pair in zip(runs, ones, strict=True)]
    return np.median(times, axis=0), [(x / x.sum()).tolist() for x in left]


def _left(run: Any, one: Timed, count: int) -> Any:
    """How many images left at each exit; those of a run that does not tell, at the end."""
    return getattr(run, "left", [0] * len(one.arch.exits) + [count])


def _answers(timed: Timed, card: Card) -> Any:
    model = Model(timed.arch, timed.variables, card)
    kinds = {INPUT: InputDependent, ANYTIME: AnyTime}
    return kinds[timed.way.name].of(model, timed.way) if timed.way.name in kinds else model
