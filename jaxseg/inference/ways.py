"""The ways to run one trained network: what `--mode` chooses.

Of networks with exits (MESS, 2106.03527, section 3.4) and of loops (after ItNet, 2101.08685): there passes
stand for exits. Of any network whose training slimmed the data: smaller sizes for simple images (after DANCE).
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxseg.arch import Arch
from jaxseg.errors import UserError, short, unknown_name
from jaxseg.inference import itnet, multi_exit
from jaxseg.inference.artifact import Card
from jaxseg.inference.augmented import PLAIN
from jaxseg.inference.exits import NEVER, Policy, Thresholds, limits_for
from jaxseg.inference.own_size import OwnSize
from jaxseg.inference.predictor import Model
from jaxseg.models import mess
from jaxseg.models.folding import fold
from jaxseg.models.itnet import check_iterations, is_looped, num_iterations, with_iterations

WAYS = ("final", "budgeted", "anytime", "input", "deadline", "slim")
FINAL, BUDGETED, ANYTIME, INPUT, DEADLINE, SLIM = WAYS


def answers_early(arch: Arch) -> bool:
    """Whether a network has answers before the final one."""
    return bool(arch.exits) or is_looped(arch)


@dataclass(frozen=True)
class Way:
    """How a network with exits, or a loop, answers.

    name:   'final' (the original network), 'budgeted' (the part up to the last chosen exit), 'anytime' (every chosen
            exit, then the final answer), 'input' (each image leaves at the first chosen exit that is sure of it),
            'deadline' (as many passes as there is time for; loops only), 'slim' (simple images at a smaller size, of
            any network that was trained so; see `own_size`).
    chosen: indices of exits, in order, at most one behind a block; empty = all, where there is one behind each. Of a
            loop: passes, from 1; empty = all.
    policy: of 'input'. pixel, image: its thresholds, per chosen early exit; one may stand for all.
    deadline_ms: of 'deadline', from image to label map on the host.
    """

    name: str = FINAL
    chosen: tuple[int, ...] = ()
    policy: Policy = field(default_factory=Policy)
    pixel: tuple[float, ...] = (0.9,)
    image: tuple[float, ...] = ()
    deadline_ms: float = 0.0

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
            "deadline_ms": self.deadline_ms,
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
            whole = key == "chosen"
            types = (int,) if whole else (int, float)
            if not isinstance(values, list | tuple) or any(type(x) not in types for x in values):
                expected = "whole numbers" if whole else "numbers"
                raise UserError(f"eval.exits.{key}", got=short(values), expected=expected)
        values = {k: tuple(v) for k, v in lists.items()}
        if "deadline_ms" in section:
            values["deadline_ms"] = float(section["deadline_ms"])
        return cls(str(section.get("mode", FINAL)), policy=Policy(**policy), **values)

    def exits(self, arch: Arch) -> tuple[int, ...]:
        """The chosen early exits of `arch`; UserError if there are none, several behind one block, or out of order.

        Of a loop the chosen passes; its last one is no early exit, but may end a budget.
        """
        if self.name == DEADLINE and not is_looped(arch):
            raise UserError("mode deadline", got="a model without a loop", expected="an itnet")
        if is_looped(arch) and not arch.exits:
            most = num_iterations(arch)
            chosen = self.chosen or tuple(range(1, most + 1))
            check_iterations("eval.exits.chosen", chosen, most)
            return chosen if self.name == BUDGETED else tuple(n for n in chosen if n < most)
        if not arch.exits:
            raise UserError(
                f"mode {self.name}", got="a model without early exits", expected="mode final"
            )
        chosen, count = self.chosen or tuple(range(len(arch.exits))), len(arch.exits)
        if not all(0 <= i < count for i in chosen):
            raise UserError("eval.exits.chosen", got=chosen, expected=f"indices, 0 to {count - 1}")
        places = [mess.exit_block(arch, i) for i in chosen]
        if self.chosen and places != sorted(set(places)):
            raise UserError(
                "eval.exits.chosen",
                got=chosen,
                expected="at most one behind each block, in the order of the backbone",
            )
        if len(set(places)) < len(places):
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
        if len(self.image) not in (1, count):
            raise UserError(
                "eval.exits.image",
                got=f"{len(self.image)} thresholds",
                expected=f"{count}, one per exit, or one for all",
            )
        image = self.image * count if len(self.image) == 1 else self.image
        pixel = self.pixel[0] if len(self.pixel) == 1 else self.pixel
        return limits_for(arch.numbers, pixel, image)

    def network(self, arch: Arch, variables: dict[str, Any]) -> tuple[Arch, dict[str, Any]]:
        """The part of a network that this way needs."""
        if self.chosen and answers_early(arch):
            self.exits(arch)  # a mistake is one in every mode
        if not arch.exits and self.name == FINAL:
            return arch, variables
        if self.name == FINAL:
            return mess.sub_network(arch, variables, (), final=True)
        chosen = self.exits(arch)
        if is_looped(arch) and not arch.exits:
            if self.name == BUDGETED:
                return with_iterations(arch, variables, chosen[-1])
            return arch, variables
        if self.name == BUDGETED:
            return mess.sub_network(arch, variables, chosen[-1:], final=False)
        return mess.sub_network(arch, variables, chosen, final=True)


@dataclass(frozen=True)
class InputDependent:
    """A network whose images leave where they are sure; called like a `Model`, and counts who left where.

    arch, variables: as `Way.network` gives them. limits: one threshold per early exit of it.
    chosen: the passes that are early exits, of a loop.
    answered: the exit that answered each image so far; the final answer counts as one more.
    """

    arch: Arch
    variables: dict[str, Any]
    card: Card
    policy: Policy
    limits: Thresholds
    chosen: tuple[int, ...]
    answered: list[int] = field(default_factory=list)

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
        chosen = way.exits(model.arch)
        return cls(arch, jax.device_put(variables), model.card, way.policy, limits, chosen)

    @property
    def left(self) -> list[int]:
        """Per exit, the final answer last, how many images it answered so far."""
        return np.bincount(self.answered, minlength=len(self.chosen) + 1).tolist()

    @cached_property
    def compiled(self) -> tuple[Callable, Callable]:
        """(one, many), see `multi_exit`."""
        if not self.arch.exits:
            cut = self.arch, self.card.mean, self.card.std, self.policy, self.chosen
            return itnet.answer_one(*cut), multi_exit.answer_many(itnet.cut(*cut))
        segments = multi_exit.cut(self.arch, self.card.mean, self.card.std, self.policy)
        return multi_exit.answer_one(segments), multi_exit.answer_many(segments)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Image uint8 [B, H, W, 3] or [H, W, 3] -> label map(s); one image in one program, more in segments."""
        image = np.asarray(image)
        batch = image if image.ndim == 4 else image[None]
        run = self.compiled[len(batch) > 1]
        labels, taken = run(self.variables, batch, self.limits)
        self.answered.extend(np.asarray(taken).tolist())
        labels = np.asarray(labels)
        return labels if image.ndim == 4 else labels[0]

    def path_ms(self, size_px: tuple[int, int], rounds: int = 20) -> list[float]:
        """Median milliseconds of one image of size_px = (H, W) by where it leaves, uint8 image to uint8 label map.

        In the very program that decides: thresholds that nothing reaches before the exit, and one that all reach there.
        """
        image = np.random.default_rng(0).integers(0, 256, (1, *size_px, 3), np.uint8)
        run, early = self.compiled[0], len(self.chosen)
        numbers = self.arch.numbers
        paths = [
            limits_for(numbers, 0.5, [NEVER] * i + [0.0] * (early - i)) for i in range(early + 1)
        ]
        times = np.empty((rounds + 1, len(paths)))
        for r in range(rounds + 1):
            for i, limits in enumerate(paths):
                begin_s = time.perf_counter()
                np.asarray(run(self.variables, image, limits).labels)
                times[r, i] = 1e3 * (time.perf_counter() - begin_s)
        return np.median(times[1:], axis=0).tolist()  # the first compiles

    def record(self, size_px: tuple[int, int]) -> dict[str, Any]:
        """Who left where, and what an image cost on average: MACs executed at size_px = (H, W), time on this device."""
        if self.arch.exits:
            costs = mess.costs(self.arch, size_px)
            names = [f"after_{head.inputs[0]}" for head in self.arch.exits]
        else:
            costs = itnet.costs(self.arch, size_px, self.chosen)
            names = [f"pass_{n}" for n in self.chosen]
        paths = costs.paths(range(len(self.left)))
        total = max(sum(self.left), 1)
        share = [count / total for count in self.left]
        rows = zip((*names, "final"), paths, self.path_ms(size_px), share, strict=True)
        return {
            "exits": [
                {"name": name, "macs": macs, "latency_ms": ms, "frac_taken": taken}
                for name, macs, ms, taken in rows
            ],
            "mean_macs": sum(c * s for c, s in zip(paths, share, strict=True)),
            "final_only_macs": costs.final_only(),
        }


@dataclass(frozen=True)
class AnyTime:
    """A network that gives all of its answers in turn; called like a `Model`, it gives the last one.

    arch, variables: with exits, as `Way.network` gives them.
    """

    arch: Arch
    variables: dict[str, Any]
    card: Card

    @classmethod
    def of(cls, model: Model, way: Way) -> "AnyTime":
        """From a model with exits.

        Raises:
            UserError: no exits, or a model that answers from windows, mirror image or scales.
        """
        way.exits(model.arch)
        if model.mode != PLAIN:
            raise UserError(
                "mode anytime", got=model.mode, expected="whole images, without flip and scales"
            )
        arch, variables = fold(*way.network(model.arch, model.variables))
        return cls(arch, jax.device_put(variables), model.card)

    @cached_property
    def compiled(self) -> Callable:
        """See `multi_exit.any_time`."""
        return multi_exit.any_time(multi_exit.cut(self.arch, self.card.mean, self.card.std))

    def answers(self, image: np.ndarray) -> Iterator[np.ndarray]:
        """Image uint8 [B, H, W, 3] or [H, W, 3] -> its label map(s) on the host, one per exit, the final one last."""
        image = np.asarray(image)
        for labels in self.compiled(self.variables, image if image.ndim == 4 else image[None]):
            yield np.asarray(labels) if image.ndim == 4 else np.asarray(labels)[0]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The last of `answers`, all others made before it."""
        *_, last = self.answers(image)
        return last

    def times_ms(self, size_px: tuple[int, int], rounds: int = 20) -> list[float]:
        """Median milliseconds from one uint8 image of size_px = (H, W) to each of its label maps."""
        image = np.random.default_rng(0).integers(0, 256, (*size_px, 3), np.uint8)
        times = []
        for _ in range(rounds + 1):
            begin_s = time.perf_counter()
            times.append([1e3 * (time.perf_counter() - begin_s) for _ in self.answers(image)])
        return np.median(times[1:], axis=0).tolist()  # the first compiles

    def macs(self, size_px: tuple[int, int]) -> tuple[float, ...]:
        """Spent on one image of size_px = (H, W) when each answer is there, those before it included."""
        return mess.costs(self.arch, size_px).paths(range(len(self.arch.exits) + 1))


def routed(model: Model, way: Way) -> InputDependent | itnet.Punctual | OwnSize | None:
    """Who decides image by image, for the ways 'input', 'deadline' and 'slim'; None for the others, see `parts`."""
    if way.name == SLIM:
        arch, variables = replace(way, name=FINAL).network(model.arch, model.variables)
        return OwnSize.of(replace(model, arch=arch, variables=variables))
    if way.name == INPUT:
        return InputDependent.of(model, way)
    if way.name == DEADLINE:
        way.exits(model.arch)
        return itnet.Punctual.of(model, way.deadline_ms)
    return None


def parts(model: Model, way: Way) -> dict[str, Model]:
    """The models whose answers make up any other way: '' -> the one, or a name -> each, in order."""
    if way.name != ANYTIME:
        arch, variables = way.network(model.arch, model.variables)
        return {"": replace(model, arch=arch, variables=variables)}
    arch, variables = way.network(model.arch, model.variables)
    if is_looped(arch) and not arch.exits:
        networks = {f"pass_{n}": with_iterations(arch, variables, n) for n in way.exits(arch)}
        networks["final"] = arch, variables
        return {name: replace(model, arch=a, variables=v) for name, (a, v) in networks.items()}
    cuts = {f"after_{head.inputs[0]}": ((i,), False) for i, head in enumerate(arch.exits)}
    cuts |= {"final": ((), True)}
    networks = {
        name: mess.sub_network(arch, variables, chosen, final=final)
        for name, (chosen, final) in cuts.items()
    }
    return {name: replace(model, arch=a, variables=v) for name, (a, v) in networks.items()}
