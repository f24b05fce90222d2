"""What real data cost beside a batch that lies ready: the step of a config, fed by its own input or not at all."""

import functools
import itertools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import targets
from jaxseg import build, cli
from jaxseg.data.pipeline import train_stream
from jaxseg.training import state as states

CLAIM = (
    "What does a training step on real data take beside one on a resident synthetic batch? Targets: at most "
    f"{targets.REAL} of it, and at most {targets.WAIT:.0%} of the time spent waiting for data; the rows say which "
    "were met."
)
SEEDS = (0,)
ROUNDS, STEPS = 7, 24
"""How often the two take turns, the first time to warm up; steps in a row."""


def _arm(name: str, *overrides: str):
    def arm(seed: int, workdir: Path, data: str) -> dict[str, Any]:
        where = [f"--config.data.dir={data}"] if name.startswith("camvid") else []
        config = cli.override(cli.load_config(f"configs/{name}.py"), [*where, *overrides])
        plan = build.training_plan(config, name=name)
        phase = plan.phases[0]
        state = plan.parallel.put_state(states.create(plan.arch, phase, seed, ema=plan.ema))
        step = plan.parallel.compile(functools.partial(phase.make_step, plan.arch, phase))
        stream = train_stream(
            plan.train_split,
            phase.plan,
            plan.augment,
            seed=seed,
            start=0,
            stop=phase.steps,
            num_workers=plan.num_workers,
            prefetch=plan.prefetch,
        )
        with stream:
            first = next(stream)
            rng = np.random.default_rng(seed)
            made = {**first, "image": rng.integers(0, 256, first["image"].shape, np.uint8)}
            resident = plan.parallel.put_batch(made)
            found: dict[str, list[float]] = {"real": [], "resident": []}
            waited_s = spent_s = 0.0
            before = None
            for turn, what in itertools.product(range(ROUNDS), found):
                # Batches that were made while the other had its turn are used up first.
                for i in range(-plan.prefetch - 2, STEPS):
                    if i == 0:
                        jax.block_until_ready(state)
                        begin_s, waits_s = time.perf_counter(), 0.0
                    asked_s = time.perf_counter()
                    batch = (
                        resident if what == "resident" else plan.parallel.put_batch(next(stream))
                    )
                    if i >= 0:
                        waits_s += time.perf_counter() - asked_s
                    state, sums = step(state, batch)
                    # As the loop does: never more than two steps ahead of the device.
                    jax.block_until_ready(before)
                    before = sums
                jax.block_until_ready(state)
                taken_s = time.perf_counter() - begin_s
                if turn:
                    found[what].append(1e3 * taken_s / STEPS)
                    if what == "real":
                        waited_s, spent_s = waited_s + waits_s, spent_s + taken_s
        real_ms, resident_ms = (float(np.median(found[k])) for k in ("real", "resident"))
        return {
            "real_ms": round(real_ms, 2),
            "resident_ms": round(resident_ms, 2),
            "ratio_real_to_resident": round(real_ms / resident_ms, 3),
            "wait_share": round(waited_s / spent_s, 4),
            "rounds_ms": {k: [round(v, 1) for v in times] for k, times in found.items()},
        }

    return arm


ARMS = {
    "quickstart": _arm("quickstart"),
    "camvid_effnetlite0": _arm("camvid_deeplabv3plus_effnetlite0", "--config.model.pretrained="),
}
