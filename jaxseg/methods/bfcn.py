"""After BFCN (Wen et al., 1612.00212): networks of 1- and 2-bit kernels and activations, reached step by step.

    arch   = bfcn.architecture(arch, bits)       quantisers of DoReFa-Net in every convolution, see `quant.dorefa`
    phases = bfcn.decayed(phases, settings)      the last phase again and again, with fewer bits each time

Published: the bit widths, that a higher precision initialises the next lower one, float gradients. Recalled: the
ladder. Ours: how long its steps are and that their learning rate halves, 8 bits in the first block and the scores.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxseg.arch import Arch
from jaxseg.errors import UserError
from jaxseg.numbers import BitsArch
from jaxseg.training.phases import Phase
from jaxseg.training.state import TrainState


@dataclass(frozen=True)
class Settings:
    """How few bits, and how they are reached.

    bits:   of the network that the run ends with.
    ladder: 'weights/activations' of the stages before, such as '8/8', the first the whole run; () = trained directly.
    stage:  length of every later stage, as a share of the last phase.
    """

    bits: BitsArch
    ladder: tuple[str, ...] = ()
    stage: float = 1 / 3

    def __post_init__(self):
        if not 0 < self.stage <= 1:
            raise UserError("bfcn.stage", got=self.stage, expected="above 0, at most 1")
        if self.ladder and self.bits.off:
            raise UserError(
                "bfcn.ladder",
                got=self.ladder,
                expected="bfcn.weights and bfcn.activations below 32",
            )
        steps = self.stages
        for before, after in zip(steps, steps[1:], strict=False):
            if after.weights > before.weights or after.activations > before.activations:
                raise UserError(
                    "bfcn.ladder",
                    got=(*self.ladder, f"{self.bits.weights}/{self.bits.activations}"),
                    expected="no more bits than in the stage before",
                )

    @property
    def stages(self) -> tuple[BitsArch, ...]:
        """From first to last."""
        return (*(_parsed(text, self.bits) for text in self.ladder), self.bits)


def _parsed(text: str, like: BitsArch) -> BitsArch:
    weights, _, activations = text.partition("/")
    if not (weights.isdecimal() and activations.isdecimal()):
        raise UserError(
            "bfcn.ladder", got=repr(text), expected="'<weights>/<activations>', such as '8/8'"
        )
    found = replace(like, weights=int(weights), activations=int(activations))
    return BitsArch() if (found.weights, found.activations) == (32, 32) else found


def architecture(arch: Arch, bits: BitsArch) -> Arch:
    """The same network with so many bits."""
    return replace(arch, numbers=replace(arch.numbers, bits=bits))


def decayed(phases: Sequence[Phase], settings: Settings) -> tuple[Phase, ...]:
    """The run at the bits of the first stage, then its last phase shortened, once for every later stage.

    Args:
        phases: a run.
        settings: with a ladder; the network that the run begins with has the bits of its first stage.
    """
    last, made = phases[-1], []
    for i, bits in enumerate(settings.stages[1:], start=1):
        made.append(
            replace(
                last,
                name=f"{last.name}_w{bits.weights}a{bits.activations}",
                steps=max(1, round(settings.stage * last.steps)),
                plan=replace(last.plan, seed=last.plan.seed + 7919 * i),
                optim=replace(last.optim, learning_rate=last.optim.learning_rate / 2**i),
                on_enter=functools.partial(_enter, bits=bits),
            )
        )
    return (*phases, *made)


def _enter(arch: Arch, state: TrainState, *, bits: BitsArch) -> tuple[Arch, TrainState]:
    """Fewer bits; the weights are those that there are."""
    return architecture(arch, bits), state
