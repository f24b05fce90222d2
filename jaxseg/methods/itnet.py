"""After ItNet (Pfeil, 2101.08685): the loss over the answers of several passes, as a function on phases.

L = sum_n v_n L(y_n) / sum_n v_n over chosen passes n, L any loss of the library. Which passes and which weights is our
choice: the paper's are not known.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxseg.arch import Arch
from jaxseg.errors import UserError
from jaxseg.layers.resize import resize_bilinear
from jaxseg.models.itnet import check_iterations, num_iterations
from jaxseg.objectives.metrics import best_class
from jaxseg.training.loss import Loss
from jaxseg.training.phases import Phase
from jaxseg.training.steps import Now
from jaxseg.types import Array, Batch, Outputs


@dataclass(frozen=True)
class Settings:
    """Which answers are trained.

    exits:   passes, from 1, in order; empty = all.
    weights: v_n, one per exit, 0 or more; empty = 1 each. An exit of weight 0 does not run.
    """

    exits: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()

    def __post_init__(self):
        for weight in self.weights:
            if not 0 <= weight < math.inf:
                raise UserError("itnet.exit_weights", got=weight, expected="numbers of 0 or more")

    def of(self, arch: Arch) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """(passes that are trained, their shares of the loss, which sum to 1).

        Raises:
            UserError: an exit that the network does not have, another number of weights, or no weight above 0.
        """
        total = num_iterations(arch)
        exits = self.exits or tuple(range(1, total + 1))
        check_iterations("itnet.exits", exits, total)
        weights = self.weights or (1.0,) * len(exits)
        if len(weights) != len(exits) or not sum(weights) > 0:
            raise UserError(
                "itnet.exit_weights",
                got=weights,
                expected=f"{len(exits)} numbers, one per exit, at least one above 0",
            )
        used = [(n, v / sum(weights)) for n, v in zip(exits, weights, strict=True) if v > 0]
        return tuple(n for n, _ in used), tuple(v for _, v in used)


def deep_supervision(phases: Sequence[Phase], arch: Arch, settings: Settings) -> tuple[Phase, ...]:
    """The run with every phase's loss over the chosen passes.

    Args:
        phases: a run; `make_step` of each takes the keyword `forward` of `steps.supervised`.
        arch: of the run.
        settings: of the method.

    Raises:
        UserError: see `Settings.of`.
    """
    iterations, shares = settings.of(arch)
    forward = functools.partial(answered, iterations=iterations, shares=shares)
    return tuple(
        replace(phase, make_step=functools.partial(phase.make_step, forward=forward))
        for phase in phases
    )


def answered(
    module: Any,
    loss: Loss,
    variables: dict[str, Any],
    image: Array,
    batch: Batch,
    key: Array,
    now: Now,
    *,
    iterations: tuple[int, ...],
    shares: tuple[float, ...],
) -> tuple[dict[str, Array], Array, dict[str, Any]]:
    """A `steps.Forward`: the weighted sums of the losses of several passes; the prediction is the last one's.

    Answers leave the network on its own grid. They are brought to the labels' one at a time, on the way back too, so
    that neither program nor memory grows with maps of full size per pass.
    """
    (logits, aux), updated = module.apply(
        variables, image, iterations, True,
        method="answers", mutable=["batch_stats"], rngs={"dropout": key},
    )  # fmt: skip
    last = logits[-1]
    if len(iterations) == 1:
        totals, prediction = loss(Outputs(last, {}, {}), batch)
    else:

        @jax.checkpoint
        def visit(totals: dict[str, Array], answer: tuple[Array, Array]):
            sums, _ = loss(Outputs(answer[0], {}, {}), batch)
            return {n: totals[n] + answer[1] * sums[n] for n in totals}, None

        nothing = {name: jnp.zeros(()) for name in loss.names}
        totals, _ = jax.lax.scan(visit, nothing, (logits, jnp.asarray(shares, jnp.float32)))
        full = resize_bilinear(jax.lax.stop_gradient(last), batch["label"].shape[1:3])
        prediction = best_class(full)
    for answer in aux.values():
        sums, _ = loss(Outputs(answer, {}, {}), batch)
        totals = {n: totals[n] + loss.aux_weight * sums[n] for n in totals}
    return totals, prediction, updated.get("batch_stats", variables["batch_stats"])
