"""After DANCE (Li et al., 2107.07706): the network is slimmed while it trains, as a function on phases.

The paper's body is not available; this is the same lab's public recipe (network slimming, early-bird tickets) as the
specification of the project sets it down: scales of norms are drawn to 0 by their absolute values, and in some events
the channels with the least scales are really removed, from parameters, statistics, averages and the optimiser's
moments alike. What becomes of the data is `data.dance`.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import jax.numpy as jnp

from jaxseg.arch import Arch
from jaxseg.conversion import slimming
from jaxseg.conversion.channels import Channels, Space
from jaxseg.errors import UserError, unknown_name
from jaxseg.methods import early_bird
from jaxseg.models import zoo
from jaxseg.training.phases import Phase
from jaxseg.training.state import TrainState
from jaxseg.training.steps import Now
from jaxseg.types import Array

MULTI_SCALE, ALL = SCOPES = ("multi_scale", "all")

MODULES = (
    ("deeplabv3*", "aspp_*"),
    ("mess_dlb", "aspp_*"),
    ("psp", "bin_*"),
    ("dappm", "*"),
    ("context", "*"),
    ("guided", "*"),
    ("loop*", "scale_[1-9]*"),
)
"""Kinds of blocks and heads, and their layers, that look at several scales; globs."""

FULL_DATA = 0.6042
"""Mean of the squared ratio under the default data slimming: there the coupling leaves the share as it is."""

MOST = 0.8
"""Share of channels that the coupling may come to."""


@dataclass(frozen=True)
class Settings:
    """How a network is slimmed.

    share:  of the channels in scope that are gone at the end (p_final); 0 = the network stays as it is.
    events: K, in which they go, an equal part in each.
    done:   fraction of the phase after which the last has gone.
    multiple: of channels, that a layer in scope comes to where it loses any: devices calculate by so many at a time.
    scope:  'multi_scale': those of modules that look at several scales; 'all': wherever a norm judges channels.
    l1:     weight of the sum of absolute scales in the loss, in scope; 0 = none.
    stable: 0: events come at fixed times, evenly spread. Else an event comes as soon as what would go by it has hardly
            changed (see `early_bird`), by at most this share; those that have not come by then come at `done`.
    look_every: steps from one look to the next; 0 = an epoch.
    """

    share: float = 0.0
    events: int = 5
    done: float = 0.5
    multiple: int = 1
    scope: str = MULTI_SCALE
    l1: float = 0.0
    stable: float = 0.0
    look_every: int = 0

    def __post_init__(self):
        if not 0 <= self.share < 1:
            raise UserError("dance.network.share", got=self.share, expected="a number in [0, 1)")
        if not 1 <= self.events <= 100:
            raise UserError("dance.network.events", got=self.events, expected="1 to 100")
        if not 0 < self.done < 1:
            raise UserError(
                "dance.network.done", got=self.done, expected="a number in (0, 1): training goes on"
            )
        if not 1 <= self.multiple <= 1024:
            raise UserError("dance.network.multiple", got=self.multiple, expected="1 to 1024")
        if not 0 <= self.l1 < math.inf:
            raise UserError("dance.network.l1", got=self.l1, expected="0 or more")
        if not 0 <= self.stable < 1:
            raise UserError("dance.network.stable", got=self.stable, expected="a number in [0, 1)")
        if self.look_every < 0:
            raise UserError("dance.network.look_every", got=self.look_every, expected="0 or more")
        if self.scope not in SCOPES:
            raise unknown_name("dance.network.scope", self.scope, SCOPES)

    @property
    def off(self) -> bool:
        """Whether nothing changes."""
        return self.share == 0 and self.l1 == 0


def coupled(share: float, mean_square_ratio: float) -> float:
    """The share of channels that goes with a data slimming whose squared ratios have this mean.

    Full-size images leave the network whole, those of the default data slimming give the share itself.
    """
    return min(max(share * (1 - mean_square_ratio) / (1 - FULL_DATA), 0.0), MOST)


def in_scope(arch: Arch, scope: str) -> tuple[Space, ...]:
    """The spaces of channels that a scope means, of backbone and head.

    Raises:
        UserError: none.
    """
    channels = Channels(zoo.blocks(arch))
    kinds = {block.name: block.kind for block in channels.blocks}

    def meant(block: str, layer: str) -> bool:
        if not (block == "head" or block.startswith("block_")):
            return False
        return scope == ALL or any(
            fnmatchcase(kinds[block], kind) and fnmatchcase(layer, name) for kind, name in MODULES
        )

    found = tuple(space for space in slimming.prunable(channels) if meant(*space))
    if not found:
        raise UserError(
            "dance.network.scope",
            got=f"{scope}, of which {arch.head.kind} on {arch.backbone.name} has no channels with norms",
            expected="another scope or network",
            do="choose --config.dance.network.scope=all" if scope != ALL else "",
        )
    return found


def slimmed(phases: Sequence[Phase], arch: Arch, settings: Settings) -> tuple[Phase, ...]:
    """The run with its longest phase that trains everything cut into pieces, each beginning with an event.

    Args:
        phases: a run.
        arch: of the run's beginning.
        settings: of the method.

    Raises:
        UserError: no phase that trains everything, or one of fewer steps than events.
    """
    if settings.off:
        return tuple(phases)
    spaces = in_scope(arch, settings.scope)
    whole = [phase for phase in phases if phase.trainable == ("*",)]
    if not whole:
        raise UserError(
            "dance.network.share", got="no phase that trains everything", expected="one"
        )
    longest = max(whole, key=lambda phase: phase.steps)
    if settings.l1:
        penalty = functools.partial(
            absolute_scales, layers=_layers(arch, spaces), weight=settings.l1
        )
        make_step = functools.partial(longest.make_step, penalty=penalty)
    else:
        make_step = longest.make_step
    main = replace(longest, make_step=make_step)
    pieces = _pieces(main, arch, spaces, settings) if settings.share else (main,)
    return tuple(piece for phase in phases for piece in (pieces if phase is longest else (phase,)))


def _pieces(
    phase: Phase, arch: Arch, spaces: tuple[Space, ...], settings: Settings
) -> tuple[Phase, ...]:
    ends = [
        round(phase.steps * settings.done * k / settings.events) for k in range(settings.events + 1)
    ]
    edges = sorted({*ends, phase.steps})
    if len(set(ends)) <= settings.events:
        raise UserError(
            "dance.network.events",
            got=settings.events,
            expected=f"fewer than {phase.steps * settings.done:.0f} steps of phase {phase.name}",
        )
    channels = Channels(zoo.blocks(arch))
    most = max(map(channels.size, spaces))
    if settings.multiple >= most:
        raise UserError(
            "dance.network.multiple",
            got=settings.multiple,
            expected=f"fewer than {most}, the most channels that a layer in scope has",
        )
    total = sum(map(channels.size, spaces))
    left = [
        total - math.floor(settings.share * k / settings.events * total)
        for k in range(settings.events + 1)
    ]
    pieces = [replace(phase, steps=edges[1], span=phase.schedule_steps)]
    for k in range(1, len(edges) - 1):
        event = functools.partial(remove, spaces=spaces, left=left[k], multiple=settings.multiple)
        pieces.append(
            replace(
                pieces[0],
                name=f"{phase.name}_slim_{k}",
                steps=edges[k + 1],
                on_enter=event,
                goes_on=True,
                fresh_optimiser=False,
            )
        )
    if settings.stable:
        every = settings.look_every or phase.plan.steps_per_epoch
        waiting = [replace(piece, steps=ends[-1]) for piece in pieces[:-1]]
        pieces = early_bird.gated(
            (*waiting, pieces[-1]), spaces, left[1:], settings.stable, every=every
        )
    return tuple(pieces)


def remove(
    arch: Arch, state: TrainState, *, spaces: Sequence[Space], left: int, multiple: int = 1
) -> tuple[Arch, TrainState]:
    """An event: channels go until `left` are there; pure in the state, so a resumed run does the same again.

    Args:
        arch, state: of the moment; optimiser and averages are cut along.
        spaces: from which channels go.
        left: of all of them together. A space keeps one channel, and a block its structure; then more are left.
        multiple: what a space that loses any comes to; then `left` is met to half of it.
    """
    channels = Channels(zoo.blocks(arch))
    have = sum(map(channels.size, spaces))
    scores = slimming.importance(channels, state.params, spaces)
    keep = slimming.keep_largest(scores, max(have - left, 0), multiple)
    keep = slimming.separated(arch, keep, scores, multiple)
    small = slimming.shrunk(arch, keep)
    cut = functools.partial(slimming.cut, arch, keep)
    state = state.replace(
        params=cut(state.params),
        batch_stats=cut(state.batch_stats),
        opt_state=cut(state.opt_state),
        ema=None if state.ema is None else cut(state.ema),
    )
    return small, state


def absolute_scales(
    params: Mapping[str, Any],
    now: Now | None = None,
    *,
    layers: Sequence[tuple[str, str]],
    weight: float,
) -> Array:
    """Weight * sum of |scale| over norms: what draws unneeded channels to 0."""
    del now  # the same in every update
    scales = [jnp.abs(params[b][n]["norm"]["scale"]) for b, n in layers if b in params]
    return weight * sum((jnp.sum(s) for s in scales), jnp.zeros(()))


def _layers(arch: Arch, spaces: Sequence[Space]) -> tuple[tuple[str, str], ...]:
    channels = Channels(zoo.blocks(arch))
    return tuple(
        (block.name, layer.name)
        for space in spaces
        for block, layer in channels.layers(space)
        if layer.norm
    )
