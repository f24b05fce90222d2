"""After GAS (Lin et al., 1909.06793): a search for the cells, as a phase before the run, which trains what it found.

In one backward pass on one batch the weights and the architecture parameters learn, each by its own optimiser, from

    cross-entropy of the sampled network + beta log(expected latency),    Z = softmax((alpha' + Gumbel) / temperature)

(single level; recalled). Norms of cells have no scale and bias meanwhile (SNAS code).
When the search is over every edge gets its best candidate by alpha', the module that guided the cells is dropped, and
training begins with new weights.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.arch import Arch
from jaxseg.data.plan import TrainPlan
from jaxseg.errors import UserError
from jaxseg.methods.gas_pictures import draw_alphas, draw_cells
from jaxseg.models import gas
from jaxseg.training import state as states
from jaxseg.training.optim import Optim
from jaxseg.training.phases import Phase
from jaxseg.training.state import TrainState
from jaxseg.training.steps import Now
from jaxseg.types import Array, Batch

PHASE = "search"


@dataclass(frozen=True)
class Settings:
    """How a network is searched.

    steps:       of the search.
    beta:        weight of the logarithm of the expected latency; 0 = latency does not matter.
    warmest, coldest: temperature of the sampling at the beginning and at the end, linear in between.
    weights, alphas: the two optimisers.
    crop_px:     crops of the search; (0, 0) = those of the run.
    batch_size:  of the search; 0 = that of the run.
    """

    steps: int
    beta: float = 0.005
    warmest: float = 1.0
    coldest: float = 0.03
    weights: Optim = Optim()
    alphas: Optim = Optim(name="adamw")
    crop_px: tuple[int, int] = (0, 0)
    batch_size: int = 0

    def __post_init__(self):
        if self.steps < 1:
            raise UserError("gas.search.steps", got=self.steps, expected="1 or more")
        if self.crop_px != (0, 0) and min(self.crop_px) < 1:
            raise UserError(
                "gas.crop_px", got=self.crop_px, expected="two numbers above 0, or (0, 0)"
            )
        if self.batch_size < 0:
            raise UserError("gas.batch_size", got=self.batch_size, expected="0 or more")
        if not 0 <= self.beta < float("inf"):
            raise UserError("gas.beta", got=self.beta, expected="0 or more")
        if not 0 < self.coldest <= self.warmest < float("inf"):
            raise UserError(
                "gas.temperatures",
                got=(self.warmest, self.coldest),
                expected="two numbers above 0, the first not the smaller",
            )

    def temperature(self, phase_step: Array) -> Array:
        """At an update of the search."""
        t = jnp.clip(phase_step.astype(jnp.float32) / max(self.steps - 1, 1), 0.0, 1.0)
        return self.warmest + (self.coldest - self.warmest) * t


def searched(
    phases: Sequence[Phase], arch: Arch, settings: Settings, table: np.ndarray, seed: int
) -> tuple[Phase, ...]:
    """The run with a search before it, the result of which is what it trains.

    Args:
        phases: a run; `make_step` of the first takes the keywords `forward` and `penalty` of `steps.supervised`.
        arch: the network with all candidates.
        settings: of the search.
        table: latencies [K, P, Q] in any unit, see `inference.edge_times`; of 'zero' 0.
        seed: of the weights that training begins with.
    """
    first = phases[0]
    sample = functools.partial(sampled, arch=arch, settings=settings)
    search = replace(
        first,
        name=PHASE,
        steps=settings.steps,
        make_step=functools.partial(
            first.make_step,
            forward=functools.partial(mixed, sample=sample),
            penalty=functools.partial(
                latency_penalty, sample=sample, table=table, beta=settings.beta
            ),
        ),
        plan=_plan(first.plan, settings),
        optim=replace(settings.weights, others=((gas.SEARCH, settings.alphas),)),
        trainable=("*",),
        on_enter=None,
        describe=functools.partial(describe, table=table),
    )
    then = replace(first, on_enter=functools.partial(derive, phase=first, seed=seed))
    return (search, then, *phases[1:])


def _plan(plan: TrainPlan, settings: Settings) -> TrainPlan:
    """The batches of the search."""
    size_px = plan.size_px if settings.crop_px == (0, 0) else settings.crop_px
    batch_size = settings.batch_size or plan.batch_size
    return replace(plan, seed=plan.seed + 999_983, size_px=size_px, batch_size=batch_size)


# --- The step ---


def sampled(search: Mapping[str, Array], now: Now, *, arch: Arch, settings: Settings) -> Array:
    """Z [K, P, Q] of an update: the same for all devices and micro-batches, the same wherever it is asked for."""
    logits = gas.guided(arch, dict(search))
    # Else XLA draws it again inside of each of the hundreds of loops that use an entry.
    return jax.lax.optimization_barrier(
        gas.sampled(logits, settings.temperature(now.phase_step), now.key)
    )


def mixed(
    module: Any,
    loss: Any,
    variables: dict[str, Any],
    image: Array,
    batch: Batch,
    key: Array,
    now: Now,
    *,
    sample: Any,
) -> tuple[dict[str, Array], Array, dict[str, Any]]:
    """A `steps.Forward`: the network with as much of every candidate as was sampled."""
    weights = sample(variables["params"][gas.SEARCH], now)
    outputs, updated = module.apply(
        {**variables, gas.MIXING: {"z": weights}},
        image,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": key},
    )
    return *loss(outputs, batch), updated.get("batch_stats", variables["batch_stats"])


def expected_latency(weights: Array, table: Array) -> Array:
    """LAT: the sum over cells, edges and candidates of weight times latency."""
    return jnp.sum(weights * table)


TINY = 1e-9
"""Of the largest latency there could be: less than this is as good as nothing."""


def latency_penalty(
    trained: dict[str, Any], now: Now, *, sample: Any, table: np.ndarray, beta: float
) -> Array:
    """Beta log LAT of this update's sample."""
    if not beta:
        return jnp.zeros(())
    # The unit only shifts the loss; so the largest sum is 1.
    unit = table / table.max(axis=-1).sum()
    weights = sample(trained[gas.SEARCH], now)
    return beta * jnp.log(expected_latency(weights, jnp.asarray(unit, jnp.float32)) + TINY)


# --- What it found ---


def derive(arch: Arch, state: TrainState, *, phase: Phase, seed: int) -> tuple[Arch, TrainState]:
    """The found network with new weights; counters and the run's key stay."""
    logits = np.asarray(gas.guided(arch, state.params[gas.SEARCH]))
    found = gas.derived(arch, gas.genotype(logits))
    fresh = states.create(found, phase, seed, ema=state.ema is not None)
    return found, fresh.replace(step=state.step, key=state.key)


def describe(arch: Arch, state: TrainState, *, table: np.ndarray) -> dict[str, Any]:
    """Entropy of the choices in bits, mean over edges; latency as expected and of what would be derived now, in the
    unit of the table; pictures of parameters and cells.
    """
    logits = np.asarray(gas.guided(arch, state.params[gas.SEARCH]), np.float64)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    entropy = -(shares * np.log2(np.maximum(shares, 1e-300))).sum(-1).mean()
    found = gas.genotype(logits)
    chosen = np.array([[gas.CANDIDATES.index(c) for c in cell] for cell in found])
    derived = np.take_along_axis(table, chosen[..., None], axis=-1).sum()
    return {
        "gas_entropy_bits": float(entropy),
        "gas_latency_expected": float((shares * table).sum()),
        "gas_latency_derived": float(derived),
        "gas_genotype": [list(cell) for cell in found],
        "pictures": {"alphas": draw_alphas(shares), "cells": draw_cells(found)},
    }
