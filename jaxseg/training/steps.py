"""The supervised train step: pure, the same under jit over a mesh and under pmap."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxseg.arch import Arch
from jaxseg.errors import UserError
from jaxseg.layers.normalise import network_input
from jaxseg.models import zoo
from jaxseg.objectives import losses, metrics
from jaxseg.training import partition
from jaxseg.training.fixed_point import stored_grids
from jaxseg.training.loss import Loss as Loss
from jaxseg.training.loss import Objective
from jaxseg.training.optim import apply_direction, direction, learning_rates
from jaxseg.training.optim import learning_rate as learning_rate
from jaxseg.training.phases import Phase, Step
from jaxseg.training.state import TrainState
from jaxseg.types import Array, Batch

UPDATE = 1_000_003
"""Folded into a step's key for what is random in an update."""


class Now(NamedTuple):
    """What is the same for all devices and micro-batches of an update.

    phase_step: int32 scalar, updates done in the phase. key: random key of the update.
    """

    phase_step: Array
    key: Array


Forward = Callable[..., tuple[dict[str, Array], Array, dict[str, Any]]]
"""(module, loss, variables, image, batch, key, now) -> (sums, prediction, batch_stats), arguments as `whole`."""

Penalty = Callable[[dict[str, Any], Now], Array]
"""(trained parameters, now) -> what is added to the loss once per update."""


def whole(
    module: Any,
    loss: Objective,
    variables: dict[str, Any],
    image: Array,
    batch: Batch,
    key: Array,
    now: Now,
) -> tuple[dict[str, Array], Array, dict[str, Any]]:
    """The whole network in training mode, then the loss of its answers.

    Args:
        module: of the architecture, what is frozen frozen.
        loss: what is minimised.
        variables: params and batch_stats of everything.
        image: [B, H, W, 3], normalised.
        batch: labels and weights.
        key: of this micro-batch on this device.
        now: of the update.

    Returns:
        The loss's (sums, prediction), and all running statistics after.
    """
    outputs, updated = module.apply(
        variables, image, train=True, mutable=["batch_stats"], rngs={"dropout": key}
    )
    return *loss(outputs, batch), updated.get("batch_stats", variables["batch_stats"])


def supervised(
    arch: Arch,
    phase: Phase,
    *,
    loss: Objective,
    mean: Sequence[float],
    std: Sequence[float],
    ema_decay: float = 0.0,
    accumulate: int = 1,
    axis_name: str | None = None,
    forward: Forward = whole,
    penalty: Penalty | None = None,
) -> Step:
    """Makes the step of a plainly supervised phase.

    Every device runs it on its own images; `axis_name` makes sums, counts and batch norm statistics global.

    An update whose loss, gradient or statistics are no number is skipped: `step` and `phase_step` move on, and with
    them batches, randomness and learning rate; weights, statistics, optimiser state and averages stay as they were. The
    step's sums are then zero, and `skipped` is 1.

    Args:
        arch: architecture in force.
        phase: what is trained, with which optimiser and schedule.
        loss: what is minimised; its counts are taken over the whole batch, on all devices.
        mean, std: per channel, of images scaled to [0, 1].
        ema_decay: decay of the average of weights and statistics, 0 = none.
        accumulate: micro-batches per update; the loss still has the whole batch's denominator, batch norm
            sees one micro-batch at a time. Unrolled: XLA's convolution gradients are slow inside a scan.
        axis_name: of the axis of devices, or None for one device.
        forward: which parts of the network run, and what of them the loss sees.
        penalty: added to the loss once per update; not logged.
    """
    names = [spec.name for spec in zoo.blocks(arch)]
    module = zoo.module(
        arch, axis_name=axis_name, frozen=partition.frozen_names(names, phase.trainable)
    )
    tx = direction(phase.optim)
    rates_at = learning_rates(phase.optim, phase.schedule_steps)
    stored = stored_grids(arch, phase.optim.updates)

    def psum(tree: Any) -> Any:
        return jax.lax.psum(tree, axis_name) if axis_name else tree

    def pmean(tree: Any) -> Any:
        return jax.lax.pmean(tree, axis_name) if axis_name else tree

    def share(trained, frozen, stats, batch, key, now, counts):
        """One micro-batch: its share of the loss, and what comes along."""
        variables = {"params": partition.merge(trained, frozen), "batch_stats": stats}
        image = network_input(batch["image"], mean, std, arch.numbers)
        totals, prediction, stats = forward(module, loss, variables, image, batch, key, now)
        totals = psum(totals)
        sums = metrics.class_sums(batch["label"], prediction, arch.num_classes)
        value = losses.mean(*loss.pooled(totals, counts))
        if penalty is not None:
            value = value + penalty(trained, now) / accumulate
        return value, (totals, sums, stats)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)
        update_key = jax.random.fold_in(key, UPDATE)  # the same on all devices
        now = Now(state.phase_step, update_key)
        if axis_name:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        trained, frozen = partition.split(state.params, phase.trainable)
        # The denominators need labels only, so they are known before the first micro-batch.
        counts = psum(loss.counts(batch))

        stats, grads, totals, sums = state.batch_stats, None, None, None
        for i, micro in enumerate(_micro_batches(batch, accumulate)):
            if grads is not None:
                # Ties the next forward pass to this gradient, so that only one set of activations lives.
                micro, grads = jax.lax.optimization_barrier((micro, grads))
            (_, (part, part_sums, stats)), part_grads = jax.value_and_grad(share, has_aux=True)(
                trained, frozen, stats, micro, jax.random.fold_in(key, i), now, counts
            )
            add = lambda a, b: b if a is None else jax.tree.map(jnp.add, a, b)  # noqa: E731
            grads, totals, sums = add(grads, part_grads), add(totals, part), add(sums, part_sums)
        grads = pmean(grads)
        norm = optax.tree.norm(grads)
        # A variance can overflow where loss and gradient do not.
        moved, _ = partition.split(stats, phase.trainable)
        finite = _all_finite(
            [norm, loss.logged(totals, counts)["loss_sum"], *jax.tree.leaves(moved)]
        )

        rates = {name: at(state.phase_step) for name, at in rates_at.items()}
        updates, opt_state = tx.update(grads, state.opt_state, trained, key=update_key)
        trained = apply_direction(phase.optim, trained, updates, rates, stored)
        new = state.replace(
            step=state.step + 1,
            phase_step=state.phase_step + 1,
            params=partition.merge(trained, frozen),
            batch_stats=stats,
            opt_state=opt_state,
        )
        if state.ema is not None:
            new = new.replace(ema=_average(state.ema, new, phase, ema_decay))
        told = {
            **loss.logged(totals, counts),
            "grad_norm_sum": norm,
            "rate_sum": rates[""],
            "steps": jnp.ones((), jnp.int32),
            **psum(sums),
        }
        told = jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), told)
        return _only_if(finite, new, state), {**told, "skipped": (~finite).astype(jnp.int32)}

    return step


def _all_finite(arrays: Sequence[Array]) -> Array:
    """Whether no value of any array is infinite or no number; bool scalar.

    All of the new state depends on it. As a chain of `and`s XLA works it out again in front of every leaf (on CPU
    behind an optimization barrier too), which takes minutes to compile where there are hundreds; a product of vectors
    stays one operation.
    """
    bad = (~jnp.isfinite(jnp.concatenate([x.ravel() for x in arrays]))).astype(jnp.float32)
    return jnp.vdot(bad, bad) == 0


def _only_if(finite: Array, new: TrainState, old: TrainState) -> TrainState:
    """`new`, or where the update is to be skipped `old` with its counters moved on."""
    kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    return kept.replace(step=new.step, phase_step=new.phase_step)


def _micro_batches(batch: Batch, parts: int) -> list[Batch]:
    """The batch cut into `parts` equal pieces along B."""
    size = batch["image"].shape[0]
    if size % parts:
        raise UserError(
            "accumulate", got=parts, expected=f"a divisor of the {size} images on each device"
        )
    cut: Callable[[Array, int], Array] = lambda x, i: x[i * size // parts : (i + 1) * size // parts]  # noqa: E731
    return [{k: cut(v, i) for k, v in batch.items()} for i in range(parts)]


def _average(ema: dict, state: TrainState, phase: Phase, decay: float) -> dict:
    """Exponential average of trained parts; young averages forget their random start faster.

    A part that learnt before goes on with the average it has, whatever phase it is in.
    """
    new = {"params": state.params, "batch_stats": state.batch_stats}

    def part(kind: str, name: str) -> Any:
        if not partition.is_trainable(name, phase.trainable):
            return ema[kind][name]
        begins = partition.is_trainable(name, phase.begins)
        t = (state.phase_step if begins else state.step).astype(jnp.float32)
        own = jnp.minimum(decay, (1.0 + t) / (10.0 + t))
        mix = lambda a, b: own * a + (1.0 - own) * b  # noqa: E731
        return jax.tree.map(mix, ema[kind][name], new[kind][name])

    return {kind: {name: part(kind, name) for name in ema[kind]} for kind in ema}
