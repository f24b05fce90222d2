"""A training step on integer arrays: not a simulation of integers, but integers.

For plain chains of 3x3 convolutions with norm and ReLU6 and a 1x1 classifier, on the grids of the preset
`integer_only`. Forward pass, gradients of maps and kernels, norm, momentum and update are integers; floating is the
loss alone, from int8 scores to int8 errors (`loss_error`). After any number of steps it is where the simulation by
floats on grids (`training.steps.supervised`) is, bit for bit, provided that the simulation's own sums are exact
(float64). What it keeps for the way back are int8 maps.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.arch import Arch, LayerSpec
from jaxseg.errors import UserError
from jaxseg.layers.conv import kernel_reach
from jaxseg.layers.normalise import normalise
from jaxseg.models import zoo
from jaxseg.numbers import DEVIATION, FIXED, FLAG, OPEN, SHIFT, Grid
from jaxseg.objectives import losses
from jaxseg.quant import integers as q
from jaxseg.quant.integers import Fixed
from jaxseg.quant.rounding import largest, onto, power_of_two, shift
from jaxseg.training.fixed_point import CONSTANT, Updates, noise, path_name, stored_grids
from jaxseg.training.loss import Objective
from jaxseg.training.optim import Optim
from jaxseg.training.state import TrainState
from jaxseg.training.steps import UPDATE
from jaxseg.types import Array, Batch, Outputs

I32 = jnp.int32
ACTIVATION_STEP, LOGIT_STEP, NORM_STEP, BIAS_STEP, GRADIENT_STEP = -5, -4, -6, -12, -14
"""log2 of the steps of these grids."""

MOMENTUM_BITS, STORED_BITS = 24, 24
RUNNING_STEP = -22
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


class IntegerState(NamedTuple):
    """Whole numbers only; `codes_of` and `values_of` go between it and a `TrainState`.

    step:     int32 scalar.
    params:   path -> int32 codes of 24 bits.
    momentum: path -> int32 codes of 24 bits.
    stats:    path -> int32 codes of 24 bits.
    key:      of the run.
    """

    step: Array
    params: dict[str, Array]
    momentum: dict[str, Array]
    stats: dict[str, Array]
    key: Array


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
        "running statistics, in steps of 2^-22 / (cells / 256)": 8
        * taps
        * 2**22
        * max(1, cells // 256),
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


def unchecked(layers, arch, optim, steps, loss, table, cells):
    """`make_step` without its checks: sums may exceed 32 bits, as in measurements of time and memory."""
    log2_cells = int(math.log2(cells))
    log2_eps = int(math.log2(arch.numbers.norm_eps))
    log2_rate = int(math.log2(optim.learning_rate))
    halved = optim.halve_at if optim.schedule == "halving" else ()
    marks = jnp.asarray([round(mark * steps) for mark in halved], I32)
    image_step = int(math.log2(arch.numbers.integer.image.reach)) - 7
    reach = {n: int(math.log2(kernel_reach(s, arch.numbers.integer.weights))) for n, s in layers}
    stored = _stored_steps(arch)
    *hidden, (last, _) = layers
    share = int(math.log2(1 - arch.numbers.norm_momentum))

    def step(state: IntegerState, batch: Batch) -> tuple[IntegerState, dict[str, Array]]:
        p = state.params
        kernels = {n: q.clipped(q.scaled(p[f"{n}/kernel"], 16), 8).astype(jnp.int8) for n in reach}
        channels = jnp.arange(3).reshape(1, 1, 1, 3)
        x = Fixed(jnp.asarray(table)[batch["image"].astype(I32), channels], image_step)
        saved, stats = [], dict(state.stats)
        for name, _ in hidden:
            y = Fixed(q.convolution(x.codes, kernels[name]), x.exponent + reach[name] - 7)
            found = q.normalised(y, log2_cells, log2_eps)
            gain, offset = (_norm_param(p[f"{name}/norm/{part}"]) for part in ("scale", "bias"))
            saved.append((x, found, gain, offset))
            x = _activated(found.normal, gain, offset)
            mean = Fixed(found.mean, q.STEP)
            for key, now in (("mean", mean), ("deviation", found.deviation)):
                path = f"{name}/norm/{key}"
                stats[path] = _moved_on(stats[path], now, share)
        scores = q.convolution(x.codes, kernels[last])
        down = ACTIVATION_STEP + reach[last] - 7
        bias = q.clipped(q.scaled(p[f"{last}/bias"], BIAS_STEP - stored[f"{last}/bias"]), 16)
        scores = scores + q.scaled(bias, down - BIAS_STEP).reshape(1, 1, 1, -1)
        scores = q.clipped(q.scaled(scores, LOGIT_STEP - down), 8).astype(jnp.int8)
        error, sums = loss_error(scores, batch, loss)

        grads = {
            f"{last}/bias": Fixed(
                jnp.sum(error.codes.astype(I32), q.AXES, dtype=I32), error.exponent
            )
        }
        flagged = q.flag(error)
        grads[f"{last}/kernel"] = _kernel_gradient(x, flagged, 1)
        back = _input_gradient(kernels[last], reach[last] - 7, flagged)
        for (name, spec), (x, found, gain, offset) in zip(hidden[::-1], saved[::-1], strict=True):
            first = name == hidden[0][0]
            dy = q.shift(back, 8)
            y = _affine(found.normal, gain, offset)
            dy = Fixed(jnp.where((y > 0) & (y < SIX), dy.codes, 0).astype(jnp.int8), dy.exponent)
            wide, normal = dy.codes.astype(I32), found.normal.astype(I32)
            scale = Fixed(jnp.sum(wide * normal, q.AXES, dtype=I32), dy.exponent + ACTIVATION_STEP)
            grads[f"{name}/norm/scale"] = scale
            grads[f"{name}/norm/bias"] = Fixed(jnp.sum(wide, q.AXES, dtype=I32), dy.exponent)
            flagged = q.flag(q.norm_gradient(found, gain, dy, log2_cells))
            grads[f"{name}/kernel"] = _kernel_gradient(x, flagged, spec.kernel[0])
            if not first:
                back = _input_gradient(kernels[name], reach[name] - 7, flagged)
                # The gradients of one layer before those of the next, or the errors of all would be kept.
                back, grads = jax.lax.optimization_barrier((back, grads))

        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), UPDATE)
        rate = log2_rate - jnp.sum(state.step >= marks, dtype=I32)
        params, momentum = {}, {}
        drawn = noise(key, {path: value.shape for path, value in p.items()})
        for path, value in p.items():
            g = q.constant(grads[path], drawn[path])
            v = _with_momentum(state.momentum[path], g, int(8 * optim.momentum))
            momentum[path] = v
            # v is in steps of 2^-23.
            change = q.clipped(q.scaled(v, stored[path] - rate + MOMENTUM_BITS - 1), STORED_BITS)
            params[path] = q.clipped(value - change, STORED_BITS)
        return IntegerState(state.step + 1, params, momentum, stats, state.key), sums

    return step


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


def _norm_param(stored: Array) -> Array:
    """Codes of 2^NORM_STEP from stored ones."""
    return q.clipped(q.scaled(stored, 16), 8)


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


# --- Between this state and that of the simulation ---


def _stored_steps(arch: Arch) -> dict[str, int]:
    """Path -> log2 of the step in which a parameter is stored."""
    grids = stored_grids(arch, Updates(stored_bits=STORED_BITS))
    return {path: int(math.log2(grid.reach)) - STORED_BITS + 1 for path, grid in grids.items()}


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_name(path): leaf for path, leaf in leaves}


def codes_of(arch: Arch, state: TrainState) -> IntegerState:
    """The integer state of a fresh or running simulation; weights that are on no grid yet are rounded."""
    steps = _stored_steps(arch)

    def code(value: Array, step: int) -> Array:
        return q.clipped(jnp.round(jnp.ldexp(value, -step)).astype(I32), STORED_BITS)

    params = {path: code(v, steps[path]) for path, v in _flat(state.params).items()}
    traces = [part for part in state.opt_state if hasattr(part, "trace")]
    momentum = {path: code(v, 1 - MOMENTUM_BITS) for path, v in _flat(traces[0].trace).items()}
    stats = {
        path: jnp.round(jnp.ldexp(v, -RUNNING_STEP)).astype(I32)
        for path, v in _flat(state.batch_stats).items()
    }
    return IntegerState(state.step, params, momentum, stats, state.key)


def values_of(arch: Arch, state: IntegerState) -> dict[str, np.ndarray]:
    """Path -> what the codes mean, float64: parameters, then running statistics."""
    steps = _stored_steps(arch)
    found = {path: np.ldexp(np.float64(v), steps[path]) for path, v in state.params.items()}
    return found | {p: np.ldexp(np.float64(v), RUNNING_STEP) for p, v in state.stats.items()}


def pixel_codes(mean: tuple[float, ...], std: tuple[float, ...], grid: Grid) -> np.ndarray:
    """int8 [256, 3]: what normalising and rounding make of every pixel value."""
    pixels = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (1, 256, 3))
    image = normalise(jnp.asarray(pixels)[None], mean, std, jnp.float32)[0, 0]
    step = grid.reach * 2.0 ** (1 - grid.bits)
    return np.asarray(onto(image, grid) / step).round().astype(np.int8)
