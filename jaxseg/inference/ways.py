"""Four ways to run one trained multi-exit network (MESS, 2106.03527, section 3.4): what `--mode` chooses."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxseg.arch import Arch
from jaxseg.errors import UserError, unknown_name
from jaxseg.inference import multi_exit
from jaxseg.inference.artifact import Card
from jaxseg.inference.augmented import PLAIN
from jaxseg.inference.exits import Policy, Thresholds, thresholds
from jaxseg.inference.predictor import Model, Score
from jaxseg.models import mess
from jaxseg.models.folding import fold
from jaxseg.types import Batch

FINAL, BUDGETED, ANYTIME, INPUT = WAYS = ("final", "budgeted", "anytime", "input")


@dataclass(frozen=True)
class Way:
    """How a network with exits answers.

    name:   'final' (the original network), 'budgeted' (the part up to the last chosen exit), 'anytime' (every chosen
            exit, then the final answer), 'input' (each image leaves at the first chosen exit that is sure of it).
    chosen: indices of exits, in order, at most one behind a block; empty = all, where there is one behind each.
    policy: of 'input'. pixel, image: its thresholds, per chosen exit; of `pixel` one may stand for all.
    """

    name: str = FINAL
    chosen: tuple[int, ...] = ()
    policy: Policy = field(default_factory=Policy)
    pixel: tuple[float, ...] = (0.9,)
    image: tuple[float, ...] = ()

    def __post_init__(self):
        if self.name not in WAYS:
            raise unknown_name("mode", self.name, WAYS)

    def to_dict(self) -> dict[str, Any]:
        """The section `eval.exits` that says so."""
        policy = {k: getattr(self.policy, k) for k in ("confidence", "measure", "smooth")}
        return {
            "mode": self.name,
            "chosen": list(self.chosen),
            **policy,
            "pixel": list(self.pixel),
            "image": list(self.image),
        }

    @classmethod
    def from_dict(cls, section: dict[str, Any]) -> "Way":
        """The inverse; what is missing is as in a fresh `Way`.

        Raises:
            UserError: not such a section.
        """
        if not isinstance(section, dict):
            raise UserError("eval.exits", got=repr(section), expected="an object")
        policy = {k: section[k] for k in ("confidence", "measure", "smooth") if k in section}
        lists = {k: section[k] for k in ("chosen", "pixel", "image") if k in section}
        for key, values in lists.items():
            if not isinstance(values, list | tuple) or not all(
                isinstance(x, int | float) for x in values
            ):
                raise UserError(f"eval.exits.{key}", got=repr(values), expected="numbers")
        tuples = {k: tuple(v) for k, v in lists.items()}
        return cls(str(section.get("mode", FINAL)), policy=Policy(**policy), **tuples)

    def exits(self, arch: Arch) -> tuple[int, ...]:
        """The chosen exits of `arch`; UserError if there are none, or several behind one block."""
        if not arch.exits:
            raise UserError(
                f"mode {self.name}", got="a model without early exits", expected="mode final"
            )
        chosen = self.chosen or tuple(range(len(arch.exits)))
        places = [mess.exit_block(arch, i) for i in chosen if 0 <= i < len(arch.exits)]
        if not self.chosen and len(set(places)) < len(places):
            first = [places.index(place) for place in sorted(set(places))]
            raise UserError(
                f"mode {self.name}",
                got=f"{len(places)} exits behind {len(first)} blocks",
                expected="one of each block",
                do=f"choose, such as --config.eval.exits.chosen={tuple(first)}",
            )
        return chosen

    def limits(self, arch: Arch) -> Thresholds:
        """The thresholds of the chosen exits; UserError unless there is one for each."""
        count = len(self.exits(arch))
        if len(self.image) != count:
            raise UserError(
                "eval.exits.image",
                got=f"{len(self.image)} thresholds",
                expected=f"{count}, one per exit",
            )
        pixel = self.pixel[0] if len(self.pixel) == 1 else self.pixel
        return thresholds(pixel, self.image)

    def network(self, arch: Arch, variables: dict[str, Any]) -> tuple[Arch, dict[str, Any]]:
        """The part of a network that this way needs."""
        if not arch.exits and self.name == FINAL:
            return arch, variables
        if self.name == FINAL:
            return mess.sub_network(arch, variables, (), final=True)
        chosen = self.exits(arch)
        if self.name == BUDGETED:
            return mess.sub_network(arch, variables, chosen[-1:], final=False)
        return mess.sub_network(arch, variables, chosen, final=True)


@dataclass(frozen=True)
class InputDependent:
    """A network whose images leave where they are sure; called like a `Model`, and counts who left where.

    arch, variables: as `Way.network` gives them. limits: one threshold per early exit of it.
    left: per exit, the final answer last, how many images it answered so far.
    """

    arch: Arch
    variables: dict[str, Any]
    card: Card
    policy: Policy
    limits: Thresholds
    left: list[int]

    @classmethod
    def of(cls, model: Model, way: Way) -> "InputDependent":
        """From a model with exits.

        Raises:
            UserError: no exits, other thresholds than exits, or a model that answers from windows, mirror image or
                scales: then there is no one confidence of an image.
        """
        limits = way.limits(model.arch)
        if model.mode != PLAIN:
            raise UserError(
                "mode input", got=model.mode, expected="whole images, without flip and scales"
            )
        arch, variables = fold(*way.network(model.arch, model.variables))
        left = [0] * (len(arch.exits) + 1)
        return cls(arch, jax.device_put(variables), model.card, way.policy, limits, left)

    @cached_property
    def compiled(self) -> tuple[Callable, Callable]:
        """(one, many), see `multi_exit`."""
        segments = multi_exit.cut(self.arch, self.card.mean, self.card.std, self.policy)
        return multi_exit.answer_one(segments), multi_exit.answer_many(segments)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Image uint8 [B, H, W, 3] or [H, W, 3] -> label map(s); one image in one program, more in segments."""
        image = np.asarray(image)
        batch = image if image.ndim == 4 else image[None]
        run = self.compiled[len(batch) > 1]
        labels, taken = run(self.variables, batch, self.limits)
        for exit_ in np.asarray(taken):
            self.left[exit_] += 1
        labels = np.asarray(labels)
        return labels if image.ndim == 4 else labels[0]

    def score(self) -> Score:
        """For `evaluation.evaluate`: label maps, and no loss, since later scores do not exist. Padding is not run."""

        def scored(variables: Any, batch: Batch) -> tuple[np.ndarray, float, float]:
            image, real = np.asarray(batch["image"]), np.asarray(batch["weight"]) > 0
            labels = np.zeros(image.shape[:3], np.uint8)
            labels[real] = self(image[real])
            return labels, 0.0, 0.0

        return scored

    def record(self, size_px: tuple[int, int]) -> dict[str, Any]:
        """Who left where, and what an image cost on average: MACs executed at size_px = (H, W)."""
        costs = mess.costs(self.arch, size_px)
        paths = costs.paths(range(len(self.left)))
        total = max(sum(self.left), 1)
        share = [count / total for count in self.left]
        names = [*(f"after_{head.inputs[0]}" for head in self.arch.exits), "final"]
        rows = zip(names, paths, share, strict=True)
        return {
            "exits": [{"name": n, "macs": c, "frac_taken": s} for n, c, s in rows],
            "mean_macs": sum(c * s for c, s in zip(paths, share, strict=True)),
            "final_only_macs": costs.final_only(),
        }


def parts(model: Model, way: Way) -> dict[str, Model]:
    """The models whose answers make up a way that is not 'input': '' -> the one, or a name -> each, in order."""
    if way.name != ANYTIME:
        arch, variables = way.network(model.arch, model.variables)
        return {"": replace(model, arch=arch, variables=variables)}
    arch, variables = way.network(model.arch, model.variables)
    cuts = {f"after_{head.inputs[0]}": ((i,), False) for i, head in enumerate(arch.exits)}
    cuts |= {"final": ((), True)}
    networks = {
        name: mess.sub_network(arch, variables, chosen, final=final)
        for name, (chosen, final) in cuts.items()
    }
    return {name: replace(model, arch=a, variables=v) for name, (a, v) in networks.items()}
