"""Early-bird tickets (You et al., 1909.11957; the lab of DANCE): channels go as soon as it is settled which.

That is long before the weights are.

The published recipe: one global threshold on the scales of norms, the masks of the last 5 epochs, and a ticket is drawn
when the newest differs from each of the 4 before it in at most a tenth of the channels. Masks are kept in the state, so
a resumed run decides as the first one did.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxseg.arch import Arch
from jaxseg.conversion import slimming
from jaxseg.conversion.channels import Channels, Space
from jaxseg.models import zoo
from jaxseg.training.phases import Phase, Step
from jaxseg.training.state import TrainState
from jaxseg.types import Array

LOOKS = 5
"""Masks that are compared."""

MASKS = "early_bird_masks"
"""In the state's `extra`: int8 [LOOKS, N], newest first; 1 = would stay, 0 = would go, -1 = not looked yet."""

Enter = Callable[[Arch, TrainState], tuple[Arch, TrainState]]


def gated(
    pieces: Sequence[Phase],
    spaces: tuple[Space, ...],
    left: Sequence[int],
    share: float,
    *,
    every: int,
) -> tuple[Phase, ...]:
    """The pieces of a stretch, all but the last of which end as soon as what the next event would leave is stable.

    Args:
        pieces: an event at the beginning of each but the first. Their `steps` are when they end at the latest.
        spaces: of the channels that are looked at.
        left: how many channels of all together each event leaves, one fewer than pieces.
        share: of the masks' entries that may differ.
        every: steps from one look to the next.
    """
    waiting = [
        replace(
            piece,
            on_enter=functools.partial(_forget, spaces=spaces, then=piece.on_enter),
            make_step=functools.partial(
                _looking, make_step=piece.make_step, spaces=spaces, left=number, every=every
            ),
            until=functools.partial(is_stable, share=share),
            until_every=every,
        )
        for piece, number in zip(pieces[:-1], left, strict=True)
    ]
    last = replace(pieces[-1], on_enter=functools.partial(_stop, then=pieces[-1].on_enter))
    return (*waiting, last)


def largest(scores: Mapping[Space, Array], left: int) -> Array:
    """1 for the `left` largest of all spaces together, ties by order, else 0: int8 [N]."""
    values = jnp.concatenate([jnp.asarray(x, jnp.float32) for x in scores.values()])
    order = jnp.argsort(values, stable=True, descending=True)
    return jnp.zeros(values.shape, jnp.int8).at[order[:left]].set(1)


def is_stable(state: TrainState, *, share: float) -> bool:
    """Whether the newest mask differs in at most this share from each of the others; no, while there are too few."""
    masks = np.asarray(state.extra[MASKS])
    distances = np.mean(masks[1:] != masks[0], axis=1)
    return bool((masks >= 0).all() and (distances <= share).all())


def _forget(
    arch: Arch, state: TrainState, *, spaces: tuple[Space, ...], then: Enter | None
) -> tuple[Arch, TrainState]:
    """An event, if there is one, and no mask has been seen."""
    arch, state = then(arch, state) if then else (arch, state)
    total = sum(map(Channels(zoo.blocks(arch)).size, spaces))
    masks = jnp.full((LOOKS, total), -1, jnp.int8)
    return arch, state.replace(extra={**state.extra, MASKS: masks})


def _stop(arch: Arch, state: TrainState, *, then: Enter) -> tuple[Arch, TrainState]:
    """The last event; nothing is looked at any more."""
    arch, state = then(arch, state)
    return arch, state.replace(extra={k: v for k, v in state.extra.items() if k != MASKS})


def _looking(
    arch: Arch,
    phase: Phase,
    *,
    make_step: Callable[..., Step],
    spaces: tuple[Space, ...],
    left: int,
    every: int,
    **options: Any,
) -> Step:
    """The phase's step; after every so many the newest mask moves in and the oldest out."""
    inner = make_step(arch, phase, **options)
    channels = Channels(zoo.blocks(arch))

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
        after, sums = inner(state, batch)
        masks, due = after.extra[MASKS], after.phase_step % every == 0
        newest = largest(slimming.mean_scales(channels, after.params, spaces), left)
        masks = jnp.where(due, jnp.concatenate([newest[None], masks[:-1]]), masks)
        return after.replace(extra={**after.extra, MASKS: masks}), sums

    return step
