"""Running one trained multi-exit network: any-time, and input-dependent with layers that really do not run.

MESS (Kouris et al., 2106.03527), section 3.4. Budgeted inference is a smaller network (`models.mess.sub_network`) that
runs like any other. Input-dependent inference decides per image: one image at a time it is one compiled program with
`lax.cond`; more images are run in compiled segments, and between two segments the host gathers those that go on. (A
condition inside `vmap` runs both of its branches, so it would save nothing.)
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.arch import Arch
from jaxseg.errors import UserError
from jaxseg.inference.exits import Policy, Thresholds, image_confidence
from jaxseg.inference.labelling import labels_at
from jaxseg.layers.normalise import network_input
from jaxseg.models import mess, zoo
from jaxseg.types import Array

Carry = tuple[Any, dict[str, Array]]
"""(carry of the backbone, taps so far that later heads read), every leaf with B first."""


class Answer(NamedTuple):
    """What came out.

    labels:   uint8 [B, H, W].
    taken:    int32 [B], the exit that answered; the number of early exits for the final answer.
    """

    labels: Array
    taken: Array


class Segments(NamedTuple):
    """A network cut behind every exit; all functions are pure and take the variables first.

    start:  (variables, image uint8 [B, H, W, 3]) -> Carry, before any block.
    runs:   per exit, the final one last: (variables, Carry) -> (Carry, logits float32 [B, h, w, K]).
    confidence: (logits, threshold of pixels) -> float32 [B], on the exit's own grid.
    """

    start: Callable[[Any, Array], Carry]
    runs: tuple[Callable[[Any, Carry], tuple[Carry, Array]], ...]
    confidence: Callable[[Array, Array], Array]


def cut(
    arch: Arch, mean: Sequence[float], std: Sequence[float], policy: Policy | None = None
) -> Segments:
    """The segments of a network whose exits lie behind different blocks, in order.

    Args:
        arch: at least one exit; at most one behind each block (see `mess.sub_network`).
        mean, std: per channel, of images scaled to [0, 1].
        policy: how confidence is measured.

    Raises:
        UserError: no exits, several behind one block, or out of order.
    """
    policy = policy or Policy()
    ends = [mess.exit_block(arch, i) + 1 for i in range(len(arch.exits))]
    if not ends or ends != sorted(set(ends)):
        raise UserError(
            "exits of the network",
            got=f"after blocks {[end - 1 for end in ends]}",
            expected="at least one, each behind another block, in order",
            do="choose some with `deploy`",
        )
    ends.append(len(arch.backbone.blocks))
    heads = [*arch.exits, arch.head]
    module = zoo.module(arch)

    def start(variables: Any, image: Array) -> Carry:
        return network_input(image, mean, std, arch.numbers), {}

    def run_to(index: int) -> Callable[[Any, Carry], tuple[Carry, Array]]:
        name = f"exit_{index}" if index < len(arch.exits) else "head"
        first, stop = ([0, *ends])[index], ends[index]
        needed = {tap for head in heads[index + 1 :] for tap in head.inputs}

        def run(variables: Any, state: Carry) -> tuple[Carry, Array]:
            carry, taps = state
            carry, new = module.apply(variables, carry, first, stop, method="run")
            taps = taps | new
            logits = module.apply(variables, name, taps, method="score")
            return (carry, {n: x for n, x in taps.items() if n in needed}), logits

        return run

    def confidence(logits: Array, pixel: Array) -> Array:
        return image_confidence(logits, policy, pixel, arch.numbers)

    return Segments(start, tuple(map(run_to, range(len(ends)))), confidence)


def answer_one(segments: Segments) -> Callable[[Any, Array, Thresholds], Answer]:
    """Compiled (variables, image uint8 [1, H, W, 3], thresholds) -> Answer: one program, later layers in conditions."""

    def from_exit(index: int, variables: Any, state: Carry, size: Any, limits: Thresholds):
        state, logits = segments.runs[index](variables, state)

        def leave() -> Answer:
            return Answer(labels_at(logits, size), jnp.full(1, index, jnp.int32))

        if index == len(segments.runs) - 1:
            return leave()
        sure = segments.confidence(logits, limits.pixel[index])[0] >= limits.image[index]
        return jax.lax.cond(
            sure, leave, lambda: from_exit(index + 1, variables, state, size, limits)
        )

    def answer(variables: Any, image: Array, limits: Thresholds) -> Answer:
        if image.shape[0] != 1:
            raise ValueError(f"{image.shape[0]} images; one at a time, see `answer_many`")
        start = segments.start(variables, image)
        return from_exit(0, variables, start, image.shape[1:3], limits)

    return jax.jit(answer)


def answer_many(
    segments: Segments, *, executed: Callable[[int, int], None] | None = None
) -> Callable[[Any, Array, Thresholds], Answer]:
    """(variables, image uint8 [B, H, W, 3], thresholds) -> Answer: compiled segments, survivors gathered in between.

    Survivors are filled up to a power of two (or B) by repeating the first, so that each segment is compiled for few
    batch sizes; what the fillers answer is dropped.

    Args:
        segments: see `cut`.
        executed: told (segment, images it ran on, fillers included) for every segment that ran.
    """
    start = jax.jit(segments.start)
    gather = jax.jit(lambda tree, rows: jax.tree.map(lambda x: jnp.take(x, rows, axis=0), tree))
    label = jax.jit(labels_at, static_argnums=1)

    @functools.cache  # of a loop all segments are one function: compiled once
    def stage(segment: Callable, last: bool):
        def run(variables: Any, state: Carry, size: tuple[int, int], pixel: Array, image: Array):
            state, logits = segment(variables, state)
            if last:
                return state, logits, jnp.ones(logits.shape[0], bool)
            return state, logits, segments.confidence(logits, pixel) >= image

        return jax.jit(run, static_argnums=2)

    *early, final = segments.runs
    stages = [*(stage(run, False) for run in early), stage(final, True)]

    def some(tree: Any, rows: np.ndarray, of: int) -> Any:
        """Those rows of every leaf, filled up; the tree itself where it has no others."""
        if rows.size == of:
            return tree
        filler = np.full(min(bucket(rows.size), of) - rows.size, rows[0])
        return gather(tree, jnp.asarray(np.concatenate([rows, filler])))

    def answer(variables: Any, image: Array, limits: Thresholds) -> Answer:
        size = tuple(image.shape[1:3])
        labels = np.zeros((image.shape[0], *size), np.uint8)
        taken = np.zeros(image.shape[0], np.int32)
        where = np.arange(image.shape[0])  # the image that each of the first rows belongs to
        state, rows = start(variables, image), image.shape[0]
        pixel, least = (np.append(x, np.zeros_like(x[:1])) for x in map(np.asarray, limits))
        for index, run in enumerate(stages):
            state, logits, sure = run(
                variables, state, size, jnp.asarray(pixel[index]), jnp.asarray(least[index])
            )
            if executed is not None:
                executed(index, rows)
            sure = np.asarray(sure)[: where.size]
            leave, stay = np.nonzero(sure)[0], np.nonzero(~sure)[0]
            if leave.size:
                maps = np.asarray(label(some(logits, leave, rows), size))
                labels[where[leave]] = maps[: leave.size]
                taken[where[leave]] = index
            if not stay.size:
                break
            state, where = some(state, stay, rows), where[stay]
            rows = min(bucket(stay.size), rows)
        return Answer(labels, taken)

    return answer


def bucket(images: int) -> int:
    """The power of two from `images` on."""
    return 1 << (images - 1).bit_length()


def any_time(segments: Segments) -> Callable[[Any, Array], Iterator[Array]]:
    """(variables, image uint8 [B, H, W, 3]) -> generator of label maps uint8 [B, H, W], one per exit, ever better.

    Nothing behind an exit runs before the next map is asked for, so whoever stops asking has saved it.
    """
    start = jax.jit(segments.start)

    @functools.cache
    def stage(run: Callable) -> Callable:
        def labelled(variables: Any, state: Carry, size: tuple[int, int]):
            state, logits = run(variables, state)
            return state, labels_at(logits, size)

        return jax.jit(labelled, static_argnums=2)

    stages = [stage(run) for run in segments.runs]

    def answers(variables: Any, image: Array) -> Iterator[Array]:
        state, size = start(variables, image), tuple(image.shape[1:3])
        for run in stages:
            state, labels = run(variables, state, size)
            yield labels

    return answers
