"""What integers cost and save in training: time of a step, and memory between forward and backward pass.

`chain`: eight 3x3 convolutions of 16 channels with norm on 4 maps of 32x32: floats, simulated, on integer arrays.
`evidence`: quarter-width DeepLabV3+ on ResNet-18, 8 crops of 96x128, as floats and simulated by each preset. In turn,
medians. Sums of the chain may exceed 32 bits at this size, which changes neither time nor memory.
"""

import functools
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg.arch import Arch, BackboneArch, BlockArch, HeadArch
from jaxseg.data.plan import TrainPlan
from jaxseg.methods import integer
from jaxseg.models import zoo
from jaxseg.training import integer_state, integer_step, steps
from jaxseg.training import state as states
from jaxseg.training.loss import Loss
from jaxseg.training.optim import Optim
from jaxseg.training.phases import Phase

CLAIM = (
    "Median time of a training step on CPU, float32, simulated integers and integer arrays in turn; peak bytes of "
    "temporary memory by XLA's account of the compiled step. Aim: integer arrays keep at most half of the bytes."
)
SEEDS = (0,)
CLASSES, ROUNDS = 11, 15
MEAN, STD = (128 / 255,) * 3, (64 / 255,) * 3
OPTIM = Optim(learning_rate=0.25, momentum=0.875, weight_decay=0.0, schedule="constant")


def example(batch: int, height: int, width: int) -> dict[str, np.ndarray]:
    """A batch of noise."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (batch, height, width, 3), np.uint8),
        "label": rng.integers(0, CLASSES, (batch, height, width)).astype(np.uint8),
        "weight": np.ones(batch, np.float32),
        "index": np.arange(batch, dtype=np.int32),
    }


def supervised(arch: Arch, preset: str) -> tuple[Any, Any]:
    """(step, its state): floats, or the simulation of a preset."""
    make = functools.partial(steps.supervised, loss=Loss(), mean=MEAN, std=STD)
    phase = Phase("main", 100, make, TrainPlan(8, 8, seed=0, size_px=(32, 32)), OPTIM)
    if preset:
        settings = integer.Settings(preset)
        arch = integer.architecture(arch, settings, image_reach=2.0)
        (phase,) = integer.rounded([phase], arch, settings)
    return phase.make_step(arch, phase), states.create(arch, phase, 0, ema=False)


def on_integers(arch: Arch, cells: int) -> tuple[Any, Any]:
    """(step, its state) of integer arrays, without the check of what sums may reach."""
    settings = integer.Settings("integer_only")
    arch = integer.architecture(arch, settings, image_reach=2.0)
    make = functools.partial(steps.supervised, loss=Loss(), mean=MEAN, std=STD)
    phase = Phase("main", 100, make, TrainPlan(8, 8, seed=0, size_px=(32, 32)), OPTIM)
    (phase,) = integer.rounded([phase], arch, settings)
    layers = [(f"{b.name}/{s.name}", s) for b in zoo.blocks(arch) for s in b.layers]
    table = integer_state.pixel_codes(MEAN, STD, arch.numbers.integer.image)
    step = integer_step.unchecked(layers, arch, phase.optim, 100, Loss(), table, cells)
    return step, integer_state.codes_of(arch, states.create(arch, phase, 0, ema=False))


def measured(candidates: dict[str, tuple[Any, Any]], batch: dict[str, Any]) -> dict[str, Any]:
    """Compiles all, runs them in turn."""
    ready, rows = {}, {}
    for name, (step, state) in candidates.items():
        begin_s = time.perf_counter()
        compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
        spent_s = time.perf_counter() - begin_s
        memory = compiled.memory_analysis()
        rows[name] = {"compile_s": round(spent_s, 1), "temp_bytes": memory.temp_size_in_bytes}
        ready[name] = [compiled, jax.tree.map(jax.numpy.copy, state), []]
    for _ in range(ROUNDS + 2):
        for one in ready.values():
            begin_s = time.perf_counter()
            one[1], _ = one[0](one[1], batch)
            jax.block_until_ready(one[1])
            one[2].append(1e3 * (time.perf_counter() - begin_s))
    first = next(iter(ready))
    base = np.median(ready[first][2][2:])
    for name, (_, _, times) in ready.items():
        rows[name] |= {
            "median_ms": round(float(np.median(times[2:])), 2),
            "ratio_time": round(float(np.median(times[2:]) / base), 3),
            "ratio_bytes": round(rows[name]["temp_bytes"] / rows[first]["temp_bytes"], 3),
        }
    return rows


def chain(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """Eight convolutions: floats, simulated, integers."""
    size = (4, 32, 32)
    backbone = BackboneArch("chain", (BlockArch("conv_stem", (16,)),) * 8)
    arch = Arch(CLASSES, backbone, HeadArch("linear", ("block_07",), ()))
    candidates = {
        "float": supervised(arch, ""),
        "simulated": supervised(arch, "integer_only"),
        "integers": on_integers(arch, math.prod(size)),
    }
    return {"size": size, "steps": measured(candidates, example(*size))}


def evidence(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """The evidence network: floats, and the simulation of each preset."""
    size = (8, 96, 128)
    arch = zoo.named("deeplabv3plus_resnet18", CLASSES, width=0.25, dropout=0.0)
    candidates = {name or "float": supervised(arch, name) for name in ("", *integer.PRESETS)}
    return {"size": size, "steps": measured(candidates, example(*size))}


ARMS = {"chain": chain, "evidence": evidence}
