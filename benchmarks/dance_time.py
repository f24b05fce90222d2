"""Measured time of what `benchmarks.dance` trained: steps of training and answers, all arms of a seed in turn.

Training time of an arm is the sum over its steps of the median time of a step of that size on the network as it was
then, compiled programs and batches in memory; what compiling them took is told apart. The arms' own wall times, in
their record, hold both, and whatever else the machine did.
"""

import collections
import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import dance
from jaxseg.arch import Arch, from_json
from jaxseg.inference.artifact import load_model
from jaxseg.inference.own_size import OwnSize
from jaxseg.inference.predictor import Model
from jaxseg.training import state as states
from jaxseg.training.phases import Phase

CLAIM = (
    "After DANCE, toy_street: seconds of training by the sum of median step times, seconds of compiling, and "
    "milliseconds of an answer at batch 1, all arms in turn on one machine."
)
SEEDS = (0,)

ROUNDS, STEPS = 5, 2
IMAGES, TIMES = 30, 5

Program = tuple[str, tuple[int, int]]
"""(digest of the network and its step's options, size)."""


def pieces_of(folder: Path, network: str, seed: int) -> Iterator[tuple[Phase, Arch, int, int]]:
    """(phase, network, first step, end) of every piece of a run."""
    record = json.loads((folder / "run.json").read_text())
    changes = [f"{k}={v}" for k, v in _flat(record["config"]).items() if k.startswith("dance.")]
    steps = f"phases.main.steps={record['config']['phases']['main']['steps']}"
    plan = dance.planned(network, seed, *changes, steps)
    arch, first = plan.arch, 0
    for phase, line in zip(plan.phases, dance.pieces(folder), strict=True):
        if "arch" in line:
            arch = from_json(json.dumps(line["arch"]))
        yield phase, arch, first, phase.steps
        first = phase.steps


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = tuple(value) if isinstance(value, list) else value
    return found


def folders(workdir: Path, network: str, arm: str) -> list[Path]:
    """The runs that an arm's row is of, one after the other."""
    folder = dance.sibling(workdir, network, arm)
    parts = [folder / "data", folder / "network"] if arm == "sequence" else [folder]
    again = [part.with_name(part.name + "_again") for part in parts]
    return [new if new.exists() else old for new, old in zip(again, parts, strict=True)]


def training(
    network: str, arms: tuple[str, ...], seed: int, workdir: Path
) -> dict[str, dict[str, float]]:
    """Arm -> seconds of all steps, seconds of compiling, and how many programs that is."""
    needs: dict[str, collections.Counter[Program]] = {}
    makers: dict[Program, tuple[Phase, Arch]] = {}
    for arm in arms:
        counts = needs[arm] = collections.Counter()
        for folder in folders(workdir, network, arm):
            for phase, arch, first, end in pieces_of(folder, network, seed):
                for step in range(first, end):
                    batch = phase.plan.at(step)
                    penalty = "penalty" in getattr(phase.make_step, "keywords", {})
                    program = (f"{hash(arch)} {penalty}", batch.size_px)
                    makers.setdefault(program, (phase, arch))
                    counts[program] += 1
    compile_s, ready = {}, {}
    for program, (phase, arch) in makers.items():
        state = states.create(arch, phase, seed, ema=False)
        example = _example(phase.plan.batch_size, program[1])
        begin_s = time.perf_counter()
        step = jax.jit(phase.make_step(arch, phase), donate_argnums=0)
        compiled = step.lower(state, example).compile()
        compile_s[program] = time.perf_counter() - begin_s
        ready[program] = [compiled, state, example, []]
    for turn in range(ROUNDS + 1):
        for one in ready.values():
            for _ in range(STEPS):
                begin_s = time.perf_counter()
                one[1], _ = one[0](one[1], one[2])
                jax.block_until_ready(one[1])
                if turn:
                    one[3].append(time.perf_counter() - begin_s)
    step_s = {program: float(np.median(one[3])) for program, one in ready.items()}
    return {
        arm: {
            "train_s": round(sum(n * step_s[p] for p, n in counts.items()), 2),
            "compile_s": round(sum(compile_s[p] for p in counts), 1),
            "programs": len(counts),
        }
        for arm, counts in needs.items()
    }


def _example(batch: int, size_px: tuple[int, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (batch, *size_px, 3), np.uint8),
        "label": rng.integers(0, 11, (batch, *size_px)).astype(np.uint8),
        "weight": np.ones(batch, np.float32),
        "index": np.arange(batch, dtype=np.int32),
    }


def answering(
    network: str, arms: tuple[str, ...], seed: int, workdir: Path
) -> dict[str, dict[str, float]]:
    """Arm -> milliseconds per test image at batch 1, whole and each at its own size."""
    split = dance.planned(network, seed).eval_split
    images = [split[i * len(split) // IMAGES]["image"] for i in range(IMAGES)]
    runs: dict[tuple[str, str], Any] = {}
    for arm in arms:
        model = Model(*load_model(folders(workdir, network, arm)[-1] / "model"))
        runs[arm, "ms"] = model
        if model.card.sizes:
            runs[arm, "slim_ms"] = OwnSize.of(model)
    times: dict[tuple[str, str], list[list[float]]] = {key: [] for key in runs}
    for image in images:
        each: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
        for turn in range(TIMES + 1):
            for key, run in runs.items():
                begin_s = time.perf_counter()
                run(image)
                if turn:
                    each[key].append(1e3 * (time.perf_counter() - begin_s))
        for key, found in each.items():
            times[key].append(found)
    rows: dict[str, dict[str, float]] = collections.defaultdict(dict)
    for (arm, what), found in times.items():
        rows[arm][what] = round(float(np.median(found, axis=1).mean()), 3)
    return dict(rows)


def arm(network: str, arms: tuple[str, ...], seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """These arms of a network, in turn."""
    del data
    trained = workdir.parent.parent.parent / "dance" / f"{network}_time" / workdir.name
    begun = training(network, arms, seed, trained)
    told = answering(network, arms, seed, trained)
    return {"network": network, "arms": {name: begun[name] | told[name] for name in arms}}


EVERY = tuple(dance.ARMS_OF_A_NETWORK)
MAIN = ("full", "dance", "uniform", "dropping", "data", "network")
ARMS = {
    "aspp": functools.partial(arm, "aspp", EVERY),
    # All programs of two paths at once are more than the memory maps that Linux gives a process.
    "two_path": functools.partial(arm, "two_path", MAIN),
    "two_path_controls": functools.partial(
        arm, "two_path", ("full", *(name for name in EVERY if name not in MAIN))
    ),
}
