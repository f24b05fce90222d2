"""What every head of a multi-exit network does to every image of a split, seen once: the evidence of a search."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.arch import Arch
from jaxseg.inference.exits import MEAN, WHOLE, Policy, image_confidence, limits_for
from jaxseg.inference.labelling import labels_at
from jaxseg.inference.search import Evidence
from jaxseg.layers.normalise import network_input
from jaxseg.models import zoo
from jaxseg.models.mess import exit_block
from jaxseg.objectives.metrics import confusion_matrix
from jaxseg.types import Array, Batch

PIXEL = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
IMAGE = (*(round(0.05 * i, 2) for i in range(21)), 1.01)
"""Thresholds that are tried; of images the first lets all leave and the last none."""


def head_names(arch: Arch) -> tuple[str, ...]:
    """Early heads as in `arch.exits`, then the final one."""
    return (*(f"exit_{i}" for i in range(len(arch.exits))), "head")


def make_taps(arch: Arch, mean: Sequence[float], std: Sequence[float]) -> Callable[..., Any]:
    """Compiled (variables, image uint8 [B, H, W, 3]) -> name -> feature map, of all blocks that a head reads."""
    module = zoo.module(arch)

    def taps(variables: Any, image: Array) -> dict[str, Array]:
        x = network_input(image, mean, std, arch.numbers)
        return module.apply(variables, x, 0, len(arch.backbone.blocks), method="run")[1]

    return jax.jit(taps)


def make_head(
    arch: Arch, name: str, size_px: tuple[int, int], policy: Policy, pixel: Sequence[float]
) -> Callable[..., Any]:
    """Compiled (variables of the head, its taps) -> (labels uint8 [B, H, W], confidences float32 [P, B]).

    A program per head: one of all of them takes minutes to compile.
    """
    module = zoo.module(arch)
    limits = limits_for(arch.numbers, pixel, [0.0] * len(pixel)).pixel

    def answer(variables: Any, taps: dict[str, Array]) -> tuple[Array, Array]:
        logits = module.apply(variables, name, taps, method="score")
        sure = jnp.stack([image_confidence(logits, policy, p, arch.numbers) for p in limits])
        return labels_at(logits, size_px), sure / WHOLE if arch.numbers.in_codes else sure

    return jax.jit(answer)


def collect(
    arch: Arch,
    variables: dict[str, Any],
    mean: Sequence[float],
    std: Sequence[float],
    batches: Iterable[Batch],
    *,
    policy: Policy,
    pixel: Sequence[float] = PIXEL,
) -> Evidence:
    """Runs the backbone and every head once over the batches.

    Args:
        arch: with exits. variables: all of its.
        mean, std: see `artifact.Card`.
        batches: of evaluation; what has weight 0 is left out.
        policy: how sure a head is. pixel: thresholds of pixels to try; the measure 'mean' knows none.
    """
    pixel = (0.0,) if policy.measure == MEAN else tuple(pixel)
    names = head_names(arch)
    variables = jax.device_put(variables)
    heads = {n: {k: {n: tree[n]} for k, tree in variables.items() if n in tree} for n in names}
    reads = dict(zip(names, (*arch.exits, arch.head), strict=True))
    backbone = {
        k: {n: v for n, v in tree.items() if n.startswith("block_")}
        for k, tree in variables.items()
    }
    see = make_taps(replace(arch, aux=()), mean, std)
    answers: dict[tuple[str, tuple[int, int]], Callable[..., Any]] = {}
    hit, union, confidence = [], [], []
    for batch in batches:
        real, size_px = batch["weight"] > 0, batch["image"].shape[1:3]
        taps = see(backbone, batch["image"])
        told = []
        for name in names:
            if (name, size_px) not in answers:
                answers[name, size_px] = make_head(arch, name, size_px, policy, pixel)
            own = {tap: taps[tap] for tap in reads[name].inputs}
            told.append(answers[name, size_px](heads[name], own))
        labels = np.stack([np.asarray(x[0])[real] for x in told])
        truth = batch["label"][real]
        counts = [
            [confusion_matrix(truth[m], maps[m], arch.num_classes) for m in range(len(truth))]
            for maps in labels
        ]
        matrix = np.array(counts).reshape(len(names), -1, arch.num_classes, arch.num_classes)
        diagonal = np.diagonal(matrix, axis1=2, axis2=3)
        hit.append(diagonal)
        union.append(matrix.sum(axis=2) + matrix.sum(axis=3) - diagonal)
        sure = [np.asarray(x[1])[:, real] for x in told[:-1]]
        confidence.append(np.array(sure).reshape(len(sure), len(pixel), -1))
    blocks = [exit_block(arch, i) for i in range(len(arch.exits))]
    empty = np.zeros((len(names), 0, arch.num_classes), np.int64)
    return Evidence(
        np.concatenate([empty, *hit], axis=1),
        np.concatenate([empty, *union], axis=1),
        np.concatenate(
            [np.zeros((len(names) - 1, len(pixel), 0), np.float32), *confidence], axis=2
        ),
        pixel,
        (*blocks, len(arch.backbone.blocks)),
    )
