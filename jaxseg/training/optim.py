"""Optimisers and learning-rate schedules.

An optimiser is split in two: `direction` (an optax transformation, no learning rate in it) and
`learning_rate` (a function of the step within the phase). The train step multiplies them, so the rate
never hides in optimiser state and a resumed or shortened run cannot drift from its schedule.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxseg.errors import UserError, unknown_name
from jaxseg.numbers import Grid
from jaxseg.training import fixed_point
from jaxseg.training.fixed_point import Updates, check_power_of_two
from jaxseg.types import Array

OPTIMISERS = ("sgd", "adamw")
SCHEDULES = ("poly", "cosine", "constant", "halving")


@dataclass(frozen=True)
class Optim:
    """What one phase optimises with.

    learning_rate: peak rate, of the heads.
    backbone_multiplier: rate of `block_*` relative to the heads.
    weight_decay: L2 added to the gradient for SGD, decoupled for AdamW; never on norms and biases.
    clip_norm: global gradient norm above which gradients are scaled down; 0 = off.
    warm_up_steps: linear from 0 to the peak, counted in steps of the phase.
    end_frac: last rate as a fraction of the peak.
    halve_at: fractions of the phase at which the schedule 'halving' halves the rate.
    updates:  grids of integer training; then rates must be powers of two.
    others:   (top-level name, optimiser) of parts that have one of their own, all of whose values are its own.
    """

    name: str = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    beta2: float = 0.999
    weight_decay: float = 1e-4
    clip_norm: float = 0.0
    backbone_multiplier: float = 1.0
    schedule: str = "poly"
    power: float = 0.9
    warm_up_steps: int = 0
    end_frac: float = 0.0
    halve_at: tuple[float, ...] = ()
    updates: Updates = Updates()
    others: tuple[tuple[str, "Optim"], ...] = ()

    def __post_init__(self):
        if self.name not in OPTIMISERS:
            raise unknown_name("optimiser", self.name, OPTIMISERS)
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        for field in ("learning_rate", "weight_decay", "clip_norm", "warm_up_steps"):
            if getattr(self, field) < 0:
                raise UserError(f"optim.{field}", got=getattr(self, field), expected="0 or more")
        marks = self.halve_at
        if list(marks) != sorted(marks) or not all(0 < mark < 1 for mark in marks):
            raise UserError("optim.halve_at", got=marks, expected="fractions in (0, 1), rising")
        if not self.updates.off:
            self._check_integer()

    def _check_integer(self) -> None:
        check_power_of_two("optim.learning_rate of integer training", self.learning_rate)
        check_power_of_two(
            "optim.backbone_multiplier of integer training", self.backbone_multiplier
        )
        for field, allowed in (
            ("name", ("sgd",)),
            ("schedule", ("halving", "constant")),
            ("warm_up_steps", (0,)),
            ("clip_norm", (0.0,)),
            ("nesterov", (False,)),
        ):
            if getattr(self, field) not in allowed:
                raise UserError(
                    f"optim.{field} of integer training",
                    got=getattr(self, field),
                    expected=" or ".join(map(str, allowed)),
                )


def learning_rate(optim: Optim, steps: int) -> Callable[[Array], Array]:
    """The schedule of a phase of `steps` steps: int32 step in phase -> float32 rate.

    poly: peak * (1 - t/T)^power; cosine: half a period; both after the warm-up and down to end_frac. halving: the peak
    times 2^-n from the n-th mark of halve_at on.
    """
    if optim.warm_up_steps >= max(steps, 1) and optim.warm_up_steps > 0:
        raise UserError(
            "optim.warm_up_steps", got=optim.warm_up_steps, expected=f"fewer than the {steps} steps"
        )
    span = max(steps - optim.warm_up_steps, 1)

    def rate(step: Array) -> Array:
        step = jnp.asarray(step, jnp.float32)
        if optim.schedule == "halving":
            passed = [step >= round(mark * steps) for mark in optim.halve_at]
            return math.prod([jnp.where(p, 0.5, 1.0) for p in passed], start=optim.learning_rate)
        t = jnp.clip((step - optim.warm_up_steps) / span, 0.0, 1.0)
        if optim.schedule == "poly":
            shape = (1.0 - t) ** optim.power
        elif optim.schedule == "cosine":
            shape = 0.5 * (1.0 + jnp.cos(jnp.pi * t))
        else:
            shape = jnp.ones_like(t)
        if optim.schedule != "constant":
            shape = optim.end_frac + (1.0 - optim.end_frac) * shape
        warm = jnp.clip((step + 1.0) / max(optim.warm_up_steps, 1), 0.0, 1.0)
        return optim.learning_rate * jnp.where(step < optim.warm_up_steps, warm, shape)

    return rate


def learning_rates(optim: Optim, steps: int) -> dict[str, Callable[[Array], Array]]:
    """Name of a part with an optimiser of its own -> its schedule; '' -> that of all others."""
    parts = {"": optim, **dict(optim.others)}
    return {name: learning_rate(one, steps) for name, one in parts.items()}


def direction(optim: Optim) -> optax.GradientTransformationExtraArgs:
    """Gradients -> ascent direction per unit of learning rate, for the trained half of the parameters.

    `update` takes the keyword `key`, a random key of the step.
    """
    if optim.others:
        own = dict(optim.others)
        each = {
            "": direction(replace(optim, others=())),
            **{n: direction(o) for n, o in own.items()},
        }
        return optax.multi_transform(
            each, lambda params: {n: n if n in own else "" for n in params}
        )

    def decayed(params):
        return jax.tree.map(lambda p: p.ndim > 1, params)

    decay = optax.add_decayed_weights(optim.weight_decay, mask=decayed)
    if not optim.updates.off:
        trace = fixed_point.rounded_trace(optim.momentum, optim.updates)
        inner = (fixed_point.rounded_gradients(optim.updates), *([trace] if optim.momentum else []))
        return optax.chain(*([decay] if optim.weight_decay else []), *inner)
    clip = optax.clip_by_global_norm(optim.clip_norm) if optim.clip_norm else optax.identity()
    if optim.name == "sgd":
        momentum = optax.trace(optim.momentum, nesterov=optim.nesterov)
        chain = optax.chain(clip, decay, momentum if optim.momentum else optax.identity())
    else:
        chain = optax.chain(clip, optax.scale_by_adam(b1=optim.momentum, b2=optim.beta2), decay)
    return optax.with_extra_args_support(chain)


def apply_direction(
    optim: Optim,
    params: dict[str, Any],
    updates: dict[str, Any],
    rates: Array | Mapping[str, Array],
    stored: Mapping[str, Grid] | None = None,
) -> dict[str, Any]:
    """Params - rate * multiplier * updates, rate and multiplier chosen by the top-level name.

    rates: see `learning_rates`, at this step; or one for all.
    stored: path -> grid of the parameters that are stored on one, see `fixed_point.stored_grids`.
    """

    def moved(path: Any, p: Array, u: Array) -> Array:
        top = path[0].key
        rate = rates.get(top, rates[""]) if isinstance(rates, Mapping) else rates
        step = rate * (optim.backbone_multiplier if top.startswith("block_") else 1.0) * u
        return fixed_point.moved(path, p, step, stored or {})

    return jax.tree_util.tree_map_with_path(moved, params, updates)
