"""After DANCE (2107.07706), the half about data, as a function on phases: their plans become `SlimPlan`s.

What is done to images is in `data/dance.py` and `data/dance_plan.py`; here is only what of it belongs to a run.
"""

from collections.abc import Sequence
from dataclasses import replace

from jaxseg.arch import Arch
from jaxseg.data.dance import DataSlimming
from jaxseg.data.dance_plan import SlimPlan
from jaxseg.models import zoo
from jaxseg.training.phases import Phase


def output_stride(arch: Arch) -> int:
    """The coarsest grid of the backbone, in px of the image: sides of smaller crops are multiples of it."""
    return max(spec.out_stride for spec in zoo.blocks(arch) if spec.role == "backbone")


def slimmed(
    phases: Sequence[Phase], arch: Arch, settings: DataSlimming, q: Sequence[float] = ()
) -> tuple[Phase, ...]:
    """The run with slimmed batches in every phase; `warm_epochs` are those of the first phase.

    A phase keeps its length in steps. Slimmed epochs have fewer batches, so it sees more of them; a run of so many
    epochs has `SlimPlan.steps_in(epochs)` steps.

    Args:
        phases: a run with plain plans.
        arch: of the first phase, for its stride.
        settings: of the method.
        q: ranks of the training images; empty = all 1, for a run that is only looked at.

    Raises:
        UserError: a crop that is smaller than the network's stride, or nothing is kept.
    """
    stride = output_stride(arch)

    def slim(phase: Phase, own: DataSlimming) -> Phase:
        plain = phase.plan
        ranks = tuple(map(float, q)) or (1.0,) * plain.num_examples
        return replace(phase, plan=SlimPlan(**vars(plain), q=ranks, slimming=own, stride=stride))

    later = replace(settings, warm_epochs=0)
    return tuple(slim(phase, later if i else settings) for i, phase in enumerate(phases))
