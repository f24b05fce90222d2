"""How long the parts of a multi-exit network take on this device, one image at a time: what a search adds up.

Parts are timed as they will run: batch norm folded, each head from the feature maps that the backbone left, in rounds
that go through all parts in turn, so that a busy moment hits them alike; the median over rounds counts.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.arch import Arch, block_name
from jaxseg.inference.collect import head_names
from jaxseg.inference.exits import Policy, image_confidence, limits_for
from jaxseg.inference.labelling import labels_at
from jaxseg.inference.search import ANYTIME, INPUT
from jaxseg.layers.normalise import network_input
from jaxseg.models import zoo
from jaxseg.models.folding import fold
from jaxseg.models.mess import exit_block


@dataclass(frozen=True)
class PartTimes:
    """Milliseconds, heads as in `collect.head_names`, the final one last.

    backbone: from the image to the feature map that each head waits for.
    score:    of each head alone. decide: of the confidence of its answer. label: from its answer to the label map.
    """

    backbone: tuple[float, ...]
    score: tuple[float, ...]
    decide: tuple[float, ...]
    label: tuple[float, ...]

    def path(self, chain: Sequence[int], place: int, setting: str) -> float:
        """A `search.PathCost`: an image leaves at `chain[place]`."""
        before = chain[:place]
        spent = self.backbone[chain[place]] + self.score[chain[place]] + self.label[chain[place]]
        spent += sum(self.score[h] for h in before)
        if setting == INPUT:
            gates = chain[: place + 1] if place < len(chain) - 1 else before
            spent += sum(self.decide[h] for h in gates)
        if setting == ANYTIME:
            spent += sum(self.label[h] for h in before)
        return spent


def measure_parts(
    arch: Arch,
    variables: dict[str, Any],
    mean: Sequence[float],
    std: Sequence[float],
    size_px: tuple[int, int],
    policy: Policy,
    *,
    rounds: int = 30,
) -> PartTimes:
    """Compiles and times every part for one image of size_px = (H, W)."""
    arch, variables = fold(arch, variables)
    module, names = zoo.module(arch), head_names(arch)
    variables = jax.device_put(variables)
    image = np.random.default_rng(0).integers(0, 256, (1, *size_px, 3), np.uint8)
    last = len(arch.backbone.blocks)
    points = [*(exit_block(arch, i) + 1 for i in range(len(arch.exits))), last]
    edges = sorted({0, *points})
    programs: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (jax.jit(lambda x: x + 1), (jnp.zeros(()),))
    ]

    def add(function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
        compiled = jax.jit(function).lower(*arguments).compile()
        programs.append((compiled, arguments))
        return len(programs) - 1, compiled(*arguments)

    def part(of: Sequence[str]) -> dict[str, Any]:
        return {k: {n: tree[n] for n in of if n in tree} for k, tree in variables.items()}

    carry, taps, segments = image, {}, []
    for start, stop in zip(edges, edges[1:], strict=False):

        def segment(variables: Any, carry: Any, start: int = start, stop: int = stop) -> Any:
            if start == 0:
                carry = network_input(carry, mean, std, arch.numbers)
            return module.apply(variables, carry, start, stop, method="run")

        index, (carry, new) = add(segment, part([block_name(i) for i in range(start, stop)]), carry)
        taps |= new
        segments.append(index)
    heads, decides, labels = [], {}, {}
    pixel = limits_for(arch.numbers, 0.5, (0.0,)).pixel[0]
    decide = lambda x: image_confidence(x, policy, pixel, arch.numbers)  # noqa: E731
    shapes = []
    for name, head in zip(names, (*arch.exits, arch.head), strict=True):
        score = lambda v, t, name=name: module.apply(v, name, t, method="score")  # noqa: E731
        index, logits = add(score, part([name]), {tap: taps[tap] for tap in head.inputs})
        heads.append(index)
        shapes.append(logits.shape)
        if logits.shape not in decides:
            decides[logits.shape], _ = add(decide, logits)
            labels[logits.shape], _ = add(lambda x: labels_at(x, size_px), logits)
    times = _rounds(programs, rounds)
    times = np.maximum(times - times[0], 0.0)  # the first does nothing: what calling costs
    ends = dict(zip(edges[1:], np.cumsum(times[segments]), strict=True))
    return PartTimes(
        tuple(float(ends[p]) for p in points),
        tuple(float(times[i]) for i in heads),
        tuple(float(times[decides[s]]) for s in shapes),
        tuple(float(times[labels[s]]) for s in shapes),
    )


def _rounds(programs: list[tuple[Callable[..., Any], tuple[Any, ...]]], rounds: int) -> np.ndarray:
    """Median milliseconds of each."""
    times = np.empty((rounds + 1, len(programs)))
    for r in range(rounds + 1):
        for i, (program, arguments) in enumerate(programs):
            begin_s = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            times[r, i] = 1e3 * (time.perf_counter() - begin_s)
    return np.median(times[1:], axis=0)
