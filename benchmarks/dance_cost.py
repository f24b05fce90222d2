"""Training MACs of a slimmed run before it is run, and how long another one may be for as many."""

import functools
from collections.abc import Sequence

import numpy as np

from jaxseg.arch import train_macs
from jaxseg.models import zoo
from jaxseg.training.plan import Plan

STEP = 5
"""Lengths of runs are multiples of it."""


def forecast(plan: Plan, fractions: Sequence[float], most: int) -> np.ndarray:
    """Training MACs of the first 1, 2, .. steps, were the network whole: float64 [most], times what is left of it.

    Args:
        plan: batches are those of its first phase.
        fractions: MACs of the network in the run's pieces (see `dance.slimmed`) to those in the first; (1,) = whole.
        most: steps of the longest run that is asked for. Element n - 1 is of a run of n steps in all.
    """
    batches, blocks = plan.phases[0].plan, zoo.blocks(plan.arch)
    cost = functools.cache(lambda size: train_macs(blocks, *size, lambda _: True))
    per_step = [batches.batch_size * cost(batches.at(step).size_px) for step in range(most)]
    up_to = np.concatenate([[0.0], np.cumsum(np.array(per_step, np.float64))])
    settings = plan.config["dance"]["network"]
    total = []
    for steps in range(1, most + 1):
        done, events = settings["done"], settings["events"]
        ends = [round(steps * done * k / events) for k in range(1, len(fractions))]
        edges = np.array([0, *ends, steps])
        total.append(np.diff(up_to[edges]) @ np.array(fractions))
    return np.array(total)


def steps_for(plan: Plan, fractions: Sequence[float], budget: float) -> int:
    """The length, a multiple of STEP, whose forecast comes nearest to a budget of MACs; at most 10000."""
    most = 500
    while (total := forecast(plan, fractions, most))[-1] < budget and most < 10_000:
        most *= 2
    lengths = np.arange(STEP, most + 1, STEP)
    return int(lengths[np.argmin(np.abs(total[lengths - 1] - budget))])
