"""A run is a list of phases over one loop that knows no method.

A phase says which pure step is taken, what is trained, which batches it sees, how long it lasts, and how
the architecture and the state change on entering it. A method is a pure function `phases -> phases`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxseg.arch import Arch, from_json, to_plain
from jaxseg.data.plan import TrainPlan
from jaxseg.errors import UserError
from jaxseg.training.optim import Optim

Step = Callable[[Any, Any], tuple[Any, dict[str, Any]]]
"""Pure: (TrainState, Batch of device arrays) -> (TrainState, metric sums)."""


@dataclass(frozen=True)
class Phase:
    """One stretch of training.

    name:        unique within the run.
    steps:       length in updates; with `until`, the most it may last.
    make_step:   (arch, phase, axis_name=..) -> Step. Called once per entry, since the architecture may have changed.
    plan:        which examples at which size make up batch t, t counted from the start of the phase.
    optim:       the optimiser.
    trainable:   globs over top-level names; all else is frozen (no gradient, decay, EMA; eval-mode norm).
    begins:      globs over top-level names that learn for the first time here: their EMA is as young as the phase.
    on_enter:    pure (arch, state) -> (arch, state); may change the shapes of everything.
    until:       pure state -> bool, asked every `until_every` steps; True ends the phase early.
    fresh_optimiser: start with a new optimiser state. False keeps what `on_enter` returned.
    describe:    (arch, state) -> what to tell of it beside the scores at every evaluation: numbers by name, and
                 'pictures', uint8 [H, W, 3] by name.
    goes_on:     it is a piece of the same stretch as the phase before it: updates are counted on, so batches, learning
                 rates and `steps` are those of one phase, however long the pieces before it were.
    span:        length of the whole stretch, of which every piece must know; 0 = this phase is one.
    about:       words for who watches the run, such as what its loss and scores are of.
    """

    name: str
    steps: int
    make_step: Callable[..., Step]
    plan: TrainPlan
    optim: Optim
    trainable: tuple[str, ...] = ("*",)
    begins: tuple[str, ...] = ()
    on_enter: Callable[[Arch, Any], tuple[Arch, Any]] | None = None
    until: Callable[[Any], bool] | None = None
    until_every: int = 1
    fresh_optimiser: bool = True
    describe: Callable[[Arch, Any], dict[str, Any]] | None = None
    goes_on: bool = False
    span: int = 0
    about: str = ""

    def __post_init__(self):
        if self.steps < 1:
            raise UserError(f"phases.{self.name}.steps", got=self.steps, expected="1 or more")

    @property
    def schedule_steps(self) -> int:
        """Steps over which the learning rate runs its course."""
        return self.span or self.steps

    def is_over(self, state: Any, phase_step: int) -> bool:
        """Whether the phase has ended at update `phase_step` of its stretch; a function of the state alone,
        so that a resumed run decides as the first one did.
        """
        if phase_step >= self.steps:
            return True
        asked = self.until is not None and phase_step > 0 and phase_step % self.until_every == 0
        return asked and bool(self.until(state))


def total_steps(phases: Sequence[Phase]) -> int:
    """Updates of a whole run at the most."""
    pieces = zip(phases, [*phases[1:], None], strict=True)
    return sum(phase.steps for phase, after in pieces if not (after and after.goes_on))


@dataclass
class Journal:
    """What a checkpoint says of itself in JSON; read first, since the restore template follows from it.

    step:       updates done in the run.
    phase:      index of the phase in progress.
    phase_step: updates done in it, and in those that it goes on from.
    entered:    whether what happens at its start has happened.
    arch:       the architecture in force.
    train_macs: MACs spent so far (see `arch.train_macs` for the convention).
    evidence:   one record per ended phase: name, steps, why it ended.
    extra:      dtype and shape of every leaf of the state's `extra`, which no architecture tells.
    """

    step: int
    phase: int
    phase_step: int
    arch: Arch
    train_macs: int = 0
    evidence: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    entered: bool = False
    schema: int = 1

    def describe_extra(self, extra: dict[str, Any]) -> None:
        """Notes what the state's `extra` (nested dicts of arrays) looks like."""

        def describe(node: Any) -> Any:
            if isinstance(node, dict):
                return {k: describe(v) for k, v in node.items()}
            return [str(node.dtype), list(node.shape)]

        self.extra = describe(extra)

    def extra_template(self) -> dict[str, Any]:
        """The noted `extra` as a tree of jax.ShapeDtypeStruct."""

        def template(node: Any) -> Any:
            if isinstance(node, dict):
                return {k: template(v) for k, v in node.items()}
            return jax.ShapeDtypeStruct(tuple(node[1]), node[0])

        return template(self.extra)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "arch": to_plain(self.arch)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Journal":
        """The inverse of `to_dict`.

        Raises:
            UserError: a schema that this version does not read.
        """
        if record.get("schema") != 1:
            raise UserError("checkpoint journal schema", got=record.get("schema"), expected=1)
        # Journals of before phases went on from another do not say it.
        record = {"entered": record.get("phase_step", 0) > 0, **record}
        return cls(**{**record, "arch": from_json(json.dumps(record["arch"]))})
