"""A training step on integer arrays: not a simulation of integers, but integers.

For plain chains of 3x3 convolutions with norm and ReLU6 and a 1x1 classifier, on the grids of the preset
`integer_only`. Forward pass, gradients of maps and kernels, norm, momentum and update are integers; floating is the
loss alone, from int8 scores to int8 errors (`loss_error`). After any number of steps it is where the simulation by
floats on grids (`training.steps.supervised`) is, bit for bit, provided that the simulation's own sums are exact
(float64). What it keeps for the way back are int8 maps.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.arch import Arch, LayerSpec
from jaxseg.errors import UserError
from jaxseg.layers.conv import kernel_reach
from jaxseg.models import zoo
from jaxseg.numbers import DEVIATION, FIXED, FLAG, OPEN, SHIFT, Grid
from jaxseg.objectives import losses
from jaxseg.quant import integers as q
from jaxseg.quant.integers import Fixed
from jaxseg.quant.rounding import largest, power_of_two, shift
from jaxseg.training.fixed_point import CONSTANT, Updates, noise
from jaxseg.training.integer_state import (
    MOMENTUM_BITS,
    RUNNING_STEP,
    STORED_BITS,
    IntegerState,
    stored_steps,
)
from jaxseg.training.loss import Objective
from jaxseg.training.optim import Optim
from jaxseg.training.steps import UPDATE
from jaxseg.types import Array, Batch, Outputs

I32 = jnp.int32
ACTIVATION_STEP, LOGIT_STEP, NORM_STEP, BIAS_STEP, GRADIENT_STEP = -5, -4, -6, -12, -14
"""log2 of the steps of these grids."""

SIX = 6 << 11
"""ReLU6's bound in steps of scale times normalised value, 2^-11."""

WANTED = {
    "activations": Grid(8, FIXED, 4.0),
    "maps": Grid(8, FIXED, 4.0),
    "logits": Grid(8, FIXED, 8.0),
    "errors": Grid(8, SHIFT),
    "conv_errors": Grid(8, FLAG),
    "normalised": Grid(8, FIXED, 4.0),
    "norm_params": Grid(8, FIXED, 2.0),
    "norm_stats": Grid(16, OPEN, 2.0),
    "norm_errors": Grid(16, SHIFT),
    "biases": Grid(16, FIXED, 8.0),
    "weights": Grid(8, FIXED, 0.0),
}
"""The grids that this program is written for."""


def check(arch: Arch, optim: Optim, cells: int) -> list[tuple[str, LayerSpec]]:
    """('<block>/<layer>', layer) in the order of execution.

    Raises:
        UserError: a network, grids or an optimiser that this step is not written for; more cells than exact sums allow.
    """
    blocks = zoo.blocks(arch)
    *chain, head = blocks
    layers = [(f"{b.name}/{layer.name}", layer) for b in blocks for layer in b.layers]
    kinds = {b.kind for b in chain}
    plain = kinds == {"conv_stem"} and head.kind == "linear" and head.dropout == 0
    if not plain or any(layer.stride > 1 or layer.dilation > 1 for _, layer in layers):
        raise UserError(
            "network of an integer step",
            got=f"blocks {sorted(kinds)} and a head {head.kind}",
            expected="a chain of conv_stem of stride 1 and a linear head without dropout",
        )
    grids = arch.numbers.integer
    strange = [path for path, grid in WANTED.items() if getattr(grids, path) != grid]
    if (grids.image.bits, grids.image.rule) != (8, FIXED):
        strange.append("image")
    if strange or arch.numbers.norm != DEVIATION or grids.reciprocal_bits != 8 or grids.overrides:
        raise UserError(
            "numbers of an integer step", got=strange or "others", expected="preset integer_only"
        )
    momentum = Grid(MOMENTUM_BITS, FIXED, 1.0)
    if optim.updates != Updates(8, CONSTANT, momentum=momentum, stored_bits=STORED_BITS):
        raise UserError("updates of an integer step", got=optim.updates, expected="of integer_only")
    eighths = 8 * optim.momentum
    if optim.weight_decay or optim.backbone_multiplier != 1 or not (eighths > 0 == eighths % 1):
        raise UserError(
            "optimiser of an integer step",
            got=(optim.weight_decay, optim.backbone_multiplier, optim.momentum),
            expected="no weight decay, one rate for all, and a momentum of whole eighths",
        )
    taps = max(math.prod(layer.kernel_shape[:3]) for _, layer in layers)
    bits = sum_bits(taps, cells)
    if math.log2(cells) % 1 or bits >= 31:
        raise UserError(
            "batch of an integer step",
            got=f"{cells} cells, sums of {bits:.1f} bits",
            expected="a power of two, and sums below 31 bits",
        )
    return layers


def sum_bits(taps: int, cells: int) -> float:
    """Bits of the largest number that can occur, sign not counted: with `taps` products in a convolution's sum."""
    code, product = 127, 127 * 127
    most = {
        "deviations, in quarters of an accumulator's step": 4 * product * taps * cells,
        "centred value times one over the deviation": 4 * product * taps * 181,
        "kernel's gradient, in 2^-7 steps of the flag": product * cells * 128,
        "normalised value times scaled error": code * product * cells,
        # (g - mean) 2^15 / R over the sum's cells, and (sign - mean) times mean(g n), which is below 4 sqrt(2) 2^15.
        "the norm's gradient": 2**16 * cells + 2 * cells * 2**18,
        "running statistics, in steps of 2^-14 / cells": 8 * taps * 2**14 * max(256, cells),
    }
    return math.log2(max(most.values()))


def make_step(
    arch: Arch, optim: Optim, steps: int, *, loss: Objective, table: np.ndarray, cells: int
) -> Callable[[IntegerState, Batch], tuple[IntegerState, dict[str, Array]]]:
    """The step.

    Args:
        arch: see `check`.
        optim: likewise.
        steps: of the phase, for its schedule.
        loss: what is minimised.
        table: int8 [256, 3], the code of every pixel value, see `pixel_codes`.
        cells: B H W of a batch.
    """
    return unchecked(check(arch, optim, cells), arch, optim, steps, loss, table, cells)


def unchecked(
    layers: list[tuple[str, LayerSpec]],
    arch: Arch,
    optim: Optim,
    steps: int,
    loss: Objective,
    table: np.ndarray,
    cells: int,
) -> Callable[[IntegerState, Batch], tuple[IntegerState, dict[str, Array]]]:
    """`make_step` without its checks: sums may exceed 32 bits, as in measurements of time and memory."""
    weights, marks = arch.numbers.integer.weights, ()
    if optim.schedule == "halving":
        marks = tuple(round(mark * steps) for mark in optim.halve_at)
    program = _Program(
        hidden=tuple(name for name, _ in layers[:-1]),
        last=layers[-1][0],
        reach={name: int(math.log2(kernel_reach(spec, weights))) for name, spec in layers},
        stored=stored_steps(arch),
        image_step=int(math.log2(arch.numbers.integer.image.reach)) - 7,
        log2_cells=int(math.log2(cells)),
        log2_eps=int(math.log2(arch.numbers.norm_eps)),
        log2_share=int(math.log2(1 - arch.numbers.norm_momentum)),
        log2_rate=int(math.log2(optim.learning_rate)),
        marks=marks,
        eighths=int(8 * optim.momentum),
    )

    def step(state: IntegerState, batch: Batch) -> tuple[IntegerState, dict[str, Array]]:
        kernels = {
            name: q.clipped(q.scaled(state.params[f"{name}/kernel"], 16), 8).astype(jnp.int8)
            for name in program.reach
        }
        channels = jnp.arange(3).reshape(1, 1, 1, 3)
        image = jnp.asarray(table)[batch["image"].astype(I32), channels]
        scores, saved, stats = _forward(program, state, kernels, image)
        error, sums = loss_error(scores, batch, loss)
        grads = _backward(program, kernels, saved, error)
        params, momentum = _update(program, state, grads)
        return IntegerState(state.step + 1, params, momentum, stats, state.key), sums

    return step


class _Program(NamedTuple):
    """What is known before the first step; steps of numbers are told by their binary logarithms.

    hidden, last: names of layers. reach, stored: of kernels' grids, and of parameters as they are stored.
    log2_share: of new running statistics. marks: steps from which on the rate is halved once more.
    """

    hidden: tuple[str, ...]
    last: str
    reach: dict[str, int]
    stored: dict[str, int]
    image_step: int
    log2_cells: int
    log2_eps: int
    log2_share: int
    log2_rate: int
    marks: tuple[int, ...]
    eighths: int


class _Saved(NamedTuple):
    """What a layer keeps for the way back: its input and its normalised values, int8; scale and bias of its norm."""

    x: Fixed
    found: q.Normal | None
    gain: Array | None
    offset: Array | None


def _forward(
    program: _Program, state: IntegerState, kernels: dict[str, Array], image: Array
) -> tuple[Array, list[_Saved], dict[str, Array]]:
    """(int8 scores [B, H, W, K], what each layer keeps, running statistics after)."""
    p, stats, saved = state.params, dict(state.stats), []
    x = Fixed(image, program.image_step)
    for name in program.hidden:
        y = Fixed(q.convolution(x.codes, kernels[name]), x.exponent + program.reach[name] - 7)
        found = q.normalised(y, program.log2_cells, program.log2_eps)
        gain, offset = (
            q.clipped(q.scaled(p[f"{name}/norm/{part}"], 16), 8) for part in ("scale", "bias")
        )
        saved.append(_Saved(x, found, gain, offset))
        x = _activated(found.normal, gain, offset)
        now = {"mean": Fixed(found.mean, q.STEP), "deviation": found.deviation}
        for key, value in now.items():
            path = f"{name}/norm/{key}"
            stats[path] = _moved_on(stats[path], value, program.log2_share)
    saved.append(_Saved(x, None, None, None))
    path = f"{program.last}/bias"
    step = ACTIVATION_STEP + program.reach[program.last] - 7
    bias = q.clipped(q.scaled(p[path], BIAS_STEP - program.stored[path]), 16)
    scores = q.convolution(x.codes, kernels[program.last])
    scores = scores + q.scaled(bias, step - BIAS_STEP).reshape(1, 1, 1, -1)
    return q.clipped(q.scaled(scores, LOGIT_STEP - step), 8).astype(jnp.int8), saved, stats


def _backward(
    program: _Program, kernels: dict[str, Array], saved: list[_Saved], error: Fixed
) -> dict[str, Fixed]:
    """Path of every parameter -> its gradient, int32 codes."""
    total = lambda codes: jnp.sum(codes, q.AXES, dtype=I32)  # noqa: E731
    name, flagged = program.last, q.flag(error)
    behind = name
    grads = {
        f"{name}/bias": Fixed(total(error.codes.astype(I32)), error.exponent),
        f"{name}/kernel": _kernel_gradient(saved[-1].x, flagged, kernels[name].shape[0]),
    }
    for name, before in zip(program.hidden[::-1], saved[-2::-1], strict=True):
        back = _input_gradient(kernels[behind], program.reach[behind] - 7, flagged)
        # The gradients of one layer before those of the next, or the errors of all would be kept.
        back, grads = jax.lax.optimization_barrier((back, grads))
        x, found, gain, offset = before
        dy, y = q.shift(back, 8), _affine(found.normal, gain, offset)
        dy = Fixed(jnp.where((y > 0) & (y < SIX), dy.codes, 0).astype(jnp.int8), dy.exponent)
        wide, normal = dy.codes.astype(I32), found.normal.astype(I32)
        grads[f"{name}/norm/scale"] = Fixed(total(wide * normal), dy.exponent + ACTIVATION_STEP)
        grads[f"{name}/norm/bias"] = Fixed(total(wide), dy.exponent)
        flagged = q.flag(q.norm_gradient(found, gain, dy, program.log2_cells))
        grads[f"{name}/kernel"] = _kernel_gradient(x, flagged, kernels[name].shape[0])
        behind = name
    return grads


def _update(
    program: _Program, state: IntegerState, grads: dict[str, Fixed]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """(parameters, momentum) after a step."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), UPDATE)
    rate = program.log2_rate - sum((state.step >= mark).astype(I32) for mark in program.marks)
    drawn = noise(key, {path: value.shape for path, value in state.params.items()})
    params, momentum = {}, {}
    for path, value in state.params.items():
        g = q.constant(grads[path], drawn[path])
        v = _with_momentum(state.momentum[path], g, program.eighths)
        # v is in steps of 2^-23.
        down = program.stored[path] - rate + MOMENTUM_BITS - 1
        change = q.clipped(q.scaled(v, down), STORED_BITS)
        params[path], momentum[path] = q.clipped(value - change, STORED_BITS), v
    return params, momentum


def loss_error(scores: Array, batch: Batch, loss: Objective) -> tuple[Fixed, dict[str, Array]]:
    """The one place where numbers float: int8 scores [B, H, W, K] to their gradient on 8 bits, and the loss's sums."""

    @jax.jit
    def floating_loss(scores, label, weight):
        batch = {"label": label, "weight": weight}
        counts = loss.counts(batch)

        def value(logits):
            totals, _ = loss(Outputs(logits, {}, {}), batch)
            return losses.mean(*loss.pooled(totals, counts)), totals

        logits = scores.astype(jnp.float32) * 2.0**LOGIT_STEP
        gradient, totals = jax.grad(value, has_aux=True)(logits)
        scale = power_of_two(largest(gradient))
        codes = jnp.round(shift(gradient, 8) / scale * 128).astype(jnp.int8)
        exponent = jnp.round(jnp.log2(scale)).astype(I32) - 7
        return codes, exponent, loss.logged(totals, counts)

    codes, exponent, sums = floating_loss(scores, batch["label"], batch["weight"])
    return Fixed(codes, exponent), sums


def _affine(normal: Array, gain: Array, shift: Array) -> Array:
    """Scale times normalised value plus bias, int32 in steps of 2^-11."""
    row = lambda v: v.reshape(1, 1, 1, -1)  # noqa: E731
    return normal.astype(I32) * row(gain) + row(shift << -ACTIVATION_STEP)


def _activated(normal: Array, gain: Array, shift: Array) -> Fixed:
    """ReLU6 of it, on the grid of activations (which ends before 6)."""
    y = jnp.maximum(_affine(normal, gain, shift), 0)
    codes = q.clipped(q.scaled(y, ACTIVATION_STEP - NORM_STEP - ACTIVATION_STEP), 8)
    return Fixed(q.kept(codes), ACTIVATION_STEP)


def _moved_on(running: Array, now: Fixed, share: int) -> Array:
    """Running statistics after a step, running + 2^share (now - running), in steps of 2^RUNNING_STEP.

    What is added is rounded by itself, to where the sum is even if it is a half: so the sum needs no more digits.
    """
    finest = min(RUNNING_STEP, now.exponent)
    change = (now.codes << (now.exponent - finest)) - (running << (RUNNING_STEP - finest))
    return running + q.scaled(change, RUNNING_STEP - finest - share, beside=running)


def _kernel_gradient(x: Fixed, error: q.Flagged, size: int) -> Fixed:
    coarse, fine = (q.kernel_gradient(x.codes, e, size) for e in (error.coarse, error.fine))
    return Fixed(coarse * 128 + fine, x.exponent + error.exponent)


def _input_gradient(kernel: Array, exponent: int, error: q.Flagged) -> Fixed:
    coarse, fine = (q.input_gradient(kernel, e) for e in (error.coarse, error.fine))
    return Fixed(coarse * 128 + fine, exponent + error.exponent)


def _with_momentum(v: Array, g: Array, eighths: int) -> Array:
    """Q(momentum v + g) in steps of 2^-23, clipped below 1; g: whole multiples of 2^GRADIENT_STEP below 2^7."""
    total = v * eighths + (g << (GRADIENT_STEP + MOMENTUM_BITS + 2))  # in eighths of a step
    return q.clipped(q.scaled(total, 3), MOMENTUM_BITS)
