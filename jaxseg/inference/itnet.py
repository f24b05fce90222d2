"""Running a network with a loop: until it is sure, for a number of passes, or until a deadline.

One compiled program does all three: a `while` loop whose last pass and thresholds are arguments. More passes than were
trained may be asked for; they have the running statistics of the last one.
"""

import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.arch import Arch, count
from jaxseg.errors import UserError
from jaxseg.inference.artifact import Card
from jaxseg.inference.augmented import PLAIN
from jaxseg.inference.exits import (
    NEVER,
    WHOLE,
    Policy,
    Thresholds,
    image_confidence,
    limits_for,
)
from jaxseg.inference.labelling import as_real, labels_at
from jaxseg.inference.multi_exit import Answer, Carry, Segments
from jaxseg.inference.predictor import Model, Score
from jaxseg.layers.normalise import network_input
from jaxseg.layers.resize import resize_bilinear
from jaxseg.models import zoo
from jaxseg.models.folding import fold
from jaxseg.models.itnet import account, loop_name, num_iterations, of_pass
from jaxseg.models.mess import Costs
from jaxseg.objectives import losses
from jaxseg.types import Array, Batch, Outputs

Until = Callable[[Any, Array, Thresholds, Array], Answer]


class _Parts(NamedTuple):
    """A looped network as functions of its variables."""

    data: Callable[[Any, Array], Array]
    once: Callable[[Any, Array, Array, Array], Array]
    score: Callable[[Any, Array], Array]


def _parts(arch: Arch, mean: Sequence[float], std: Sequence[float]) -> _Parts:
    module, last = zoo.module(arch), loop_name(arch)

    def data(variables: Any, image: Array) -> Array:
        x = network_input(image, mean, std, arch.numbers)
        return module.apply(variables, x, method="data")

    def once(variables: Any, d: Array, h: Array, n: Array) -> Array:
        return module.apply(of_pass(arch, variables, n), d, h, method="once")

    def score(variables: Any, h: Array) -> Array:
        return module.apply(variables, "head", {last: h}, method="score")

    return _Parts(data, once, score)


def outputs(logits: Array) -> Outputs:
    """The answers of several passes, [E, B, h, w, K], as the record that networks with exits give."""
    early = {f"exit_{i}": logits[i] for i in range(logits.shape[0] - 1)}
    return Outputs(logits[-1], {}, early)


# --- One program ---


def answer_until(
    arch: Arch, mean: Sequence[float], std: Sequence[float], policy: Policy | None = None
) -> Until:
    """Compiled (variables, image uint8 [B, H, W, 3], thresholds, last) -> Answer.

    An image leaves after the first pass that is sure of it, at `last` the latest; the loop ends when all have left. For
    B > 1 images that have left run along; `multi_exit.answer_many` with `cut` leaves them out. An answer and its
    confidence are computed only after passes with a threshold that can be reached, and after the last.

    Args of what is returned:
        thresholds: of the first L passes, float32 [L] (int8 networks: int32); later ones have none.
        last: int32, 1 or more.
        `Answer.taken` is the pass that answered, from 1.
    """
    parts, policy = _parts(arch, mean, std), policy or Policy()
    codes = arch.numbers.in_codes
    never = int(NEVER) * WHOLE if codes else NEVER

    def answer(variables: Any, image: Array, limits: Thresholds, last: Array) -> Answer:
        d = parts.data(variables, image)
        size, (known,) = image.shape[1:3], limits.image.shape

        def visit(state: tuple[Array, Array, Array, Array]):
            n, h, logits, taken = state
            h, n = parts.once(variables, d, h, n), n + 1
            final = n >= last
            pixel, least = (
                jnp.where(n <= known, x[jnp.minimum(n, known) - 1], never) for x in limits
            )

            def look() -> tuple[Array, Array]:
                scores = parts.score(variables, h)
                sure = final | (image_confidence(scores, policy, pixel, arch.numbers) >= least)
                leaves = (taken == 0) & sure
                return jnp.where(leaves[:, None, None, None], scores, logits), jnp.where(
                    leaves, n, taken
                )

            looks = final | (least < never)
            logits, taken = jax.lax.cond(looks, look, lambda: (logits, taken))
            return n, h, logits, taken

        grid = (*d.shape[:3], arch.num_classes)
        none = jnp.zeros(grid, jnp.int8 if codes else jnp.float32)
        first = jnp.int32(0), jnp.zeros_like(d), none, jnp.zeros(grid[0], jnp.int32)
        state = jax.lax.while_loop(lambda state: jnp.any(state[3] == 0), visit, first)
        return Answer(labels_at(state[2], size), state[3])

    return jax.jit(answer)


def per_pass(chosen: Sequence[int], limits: Thresholds, total: int) -> Thresholds:
    """Thresholds of the passes `chosen` as thresholds of all `total` passes, `NEVER` where there is none."""
    where, dtype = np.asarray(chosen, int) - 1, np.asarray(limits.image).dtype
    never = NEVER if dtype == np.float32 else NEVER * WHOLE
    pixel, image = np.ones(total, dtype), np.full(total, never, dtype)
    pixel[where], image[where] = limits.pixel, limits.image
    return Thresholds(pixel, image)


def answer_one(
    arch: Arch,
    mean: Sequence[float],
    std: Sequence[float],
    policy: Policy,
    chosen: Sequence[int],
) -> Callable[[Any, Array, Thresholds], Answer]:
    """As `multi_exit.answer_one`, with the passes `chosen` as early exits."""
    until, total = answer_until(arch, mean, std, policy), num_iterations(arch)
    ends = np.array([*chosen, total])

    def answer(variables: Any, image: Array, limits: Thresholds) -> Answer:
        labels, taken = until(variables, image, per_pass(chosen, limits, total), jnp.int32(total))
        return Answer(labels, np.searchsorted(ends, np.asarray(taken)).astype(np.int32))

    return answer


# --- In segments ---


def cut(
    arch: Arch,
    mean: Sequence[float],
    std: Sequence[float],
    policy: Policy,
    chosen: Sequence[int],
) -> Segments:
    """As `multi_exit.cut`, the network cut after the passes `chosen`; stretches of equal length are one function."""
    parts = _parts(arch, mean, std)

    def start(variables: Any, image: Array) -> Carry:
        d = parts.data(variables, image)
        # The number of passes done is the same for all images; it is theirs, so that they can be gathered.
        return (d, jnp.zeros_like(d), jnp.zeros(d.shape[0], jnp.int32)), {}

    @functools.cache
    def run_for(passes: int) -> Callable[[Any, Carry], tuple[Carry, Array]]:
        def run(variables: Any, state: Carry) -> tuple[Carry, Array]:
            (d, h, done), _ = state
            once = lambda i, h: parts.once(variables, d, h, done[0] + i)  # noqa: E731
            h = jax.lax.fori_loop(0, passes, once, h)
            return ((d, h, done + passes), {}), parts.score(variables, h)

        return run

    def confidence(logits: Array, pixel: Array) -> Array:
        return image_confidence(logits, policy, pixel, arch.numbers)

    lengths = np.diff([0, *chosen, num_iterations(arch)]).tolist()
    return Segments(start, tuple(map(run_for, lengths)), confidence)


# --- All passes ---


def make_scores(
    arch: Arch, mean: Sequence[float], std: Sequence[float], iterations: Sequence[int]
) -> Score:
    """As `predictor.make_score` for several passes in one run: everything has a first axis of them."""
    module = zoo.module(arch)

    def score(variables: Any, batch: Batch) -> tuple[Array, Array, Array]:
        image, label = batch["image"], batch["label"]
        x = network_input(image, mean, std, arch.numbers)
        logits, _ = module.apply(variables, x, tuple(iterations), method="answers")

        def one(answer: Array) -> tuple[Array, Array, Array]:
            full = resize_bilinear(as_real(answer, arch.numbers), image.shape[1:3])
            total, count = losses.cross_entropy(full, label, batch["weight"])
            found = labels_at(answer if arch.numbers.in_codes else full, image.shape[1:3])
            return found, total, count

        return jax.lax.map(one, logits)

    return jax.jit(score)


def costs(arch: Arch, size_px: tuple[int, int], chosen: Sequence[int]) -> Costs:
    """MACs on one image of size_px = (H, W), the passes `chosen` as early exits."""
    ends = [*chosen, num_iterations(arch)]
    head = count(zoo.blocks(arch), *size_px, roles=("head",)).macs
    whole = tuple(account(arch, size_px, n).macs - head for n in ends)
    return Costs(whole, (head,) * len(ends))


# --- Deadlines ---


ROUNDS = 20
"""In which a pace is measured; twice as many answers correct it."""


class Pace(NamedTuple):
    """Milliseconds of one image on this device: of an answer after the first pass, and of each further pass."""

    first_ms: float
    pass_ms: float

    def passes(self, deadline_ms: float, most: int) -> int:
        """How many passes there is time for: at least 1, since late is better than never, and at most `most`."""
        further = (deadline_ms - self.first_ms) / max(self.pass_ms, 1e-6)
        return 1 + int(np.clip(np.floor(further), 0, most - 1))

    def of(self, passes: int) -> float:
        """Milliseconds of an answer after so many passes."""
        return self.first_ms + (passes - 1) * self.pass_ms


class Done(NamedTuple):
    """How many passes an image got, how long it took, and whether that was too long."""

    passes: int
    ms: float
    late: bool


@dataclass
class Punctual:
    """A looped network that answers by a deadline; called like a `Model`, one image after another.

    arch, variables: batch norm folded, on the device.
    deadline_ms: from the uint8 image on the host to its label map on the host.
    done: what became of every image so far.
    paces: per size, measured at its first image.
    ratios: per size, how much longer than that the last answers took. The first are those of the measurement itself, so
        that one answer that was interrupted is no reason for haste.
    """

    arch: Arch
    variables: dict[str, Any]
    card: Card
    deadline_ms: float
    done: list[Done] = field(default_factory=list)
    paces: dict[tuple[int, int], Pace] = field(default_factory=dict)
    ratios: dict[tuple[int, int], deque[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, deadline_ms: float) -> "Punctual":
        """From a looped model.

        Raises:
            UserError: no deadline, or a model that answers from windows, mirror image or scales.
        """
        if not 0 < deadline_ms < float("inf"):
            raise UserError(
                "eval.exits.deadline_ms", got=deadline_ms, expected="milliseconds above 0"
            )
        if model.mode != PLAIN:
            raise UserError(
                "mode deadline", got=model.mode, expected="whole images, without flip and scales"
            )
        arch, variables = fold(model.arch, model.variables)
        return cls(arch, jax.device_put(variables), model.card, float(deadline_ms))

    @cached_property
    def compiled(self) -> Until:
        """See `answer_until`."""
        return answer_until(self.arch, self.card.mean, self.card.std)

    def pace(self, size_px: tuple[int, int], rounds: int = ROUNDS) -> Pace:
        """What is to be expected now: as measured, times the 95th percentile of the last answers' ratios to that.

        Measured at the first image of a size: 95th percentiles of `rounds`, one pass and all in turn. A device that is
        busy later slows the pace after two or three answers; nothing makes it quicker than it was measured.
        """
        if size_px not in self.paces:
            image = np.random.default_rng(0).integers(0, 256, (1, *size_px, 3), np.uint8)
            most = num_iterations(self.arch)
            times = [[self._timed(image, n)[1] for n in (1, most)] for _ in range(rounds + 1)]
            one, all_ = np.percentile(times[1:], 95, axis=0)  # the first compiles
            self.paces[size_px] = Pace(float(one), float(max(all_ - one, 0.0) / max(most - 1, 1)))
            self.ratios[size_px] = deque([1.0] * rounds, maxlen=2 * rounds)
        slower = max(1.0, float(np.percentile(self.ratios[size_px], 95)))
        return Pace(*(slower * ms for ms in self.paces[size_px]))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Image uint8 [B, H, W, 3] or [H, W, 3] -> label map(s)."""
        image = np.asarray(image)
        if image.ndim == 4:
            return np.stack([self(one) for one in image])
        size_px = image.shape[:2]
        n = self.pace(size_px).passes(self.deadline_ms, num_iterations(self.arch))
        labels, ms = self._timed(image[None], n)
        self.ratios[size_px].append(ms / self.paces[size_px].of(n))
        self.done.append(Done(n, ms, ms > self.deadline_ms))
        return labels[0]

    def _timed(self, image: np.ndarray, n: int) -> tuple[np.ndarray, float]:
        nothing = limits_for(self.arch.numbers, 1.0, (NEVER,))
        begin_s = time.perf_counter()
        labels = np.asarray(self.compiled(self.variables, image, nothing, jnp.int32(n)).labels)
        return labels, 1e3 * (time.perf_counter() - begin_s)

    def record(self, size_px: tuple[int, int]) -> dict[str, Any]:
        """What was promised and what was kept: passes, times, and the share of images that were late."""
        passes, ms, late = np.array(self.done).T
        pace = self.pace(size_px)
        return {
            "deadline_ms": self.deadline_ms,
            "late_frac": float(np.mean(late)),
            "mean_passes": float(passes.mean()),
            "median_ms": float(np.median(ms)),
            "p95_ms": float(np.percentile(ms, 95)),
            "pace": pace._asdict(),
            "exits": [
                {"name": f"pass_{n}", "macs": account(self.arch, size_px, n).macs,
                 "latency_ms": pace.of(n),
                 "frac_taken": float(np.mean(passes == n))}
                for n in sorted({int(n) for n in passes})
            ],
        }  # fmt: skip
