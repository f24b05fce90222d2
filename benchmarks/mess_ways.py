"""What real skipping costs and saves on this machine, and whether a deployment does what its search promised.

Needs the trained heads of `benchmarks.mess`, seed 0 (times do not depend on weights; who leaves is set by thresholds).
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg import build
from jaxseg.errors import UserError
from jaxseg.inference.artifact import load_model
from jaxseg.inference.exits import NEVER
from jaxseg.inference.predictor import Model
from jaxseg.inference.ways import INPUT, InputDependent, Way
from jaxseg.models import mess

CLAIM = (
    "Batch 8: all leave at the first exit in at most 0.40 of the full network's time, none leaves in at most 1.25. "
    "Batch 1: an early leaver takes its share of MACs + 15 %. One checkpoint, deployed for 1 and 2 cores: the ratio to "
    "final-only within 15 % of what the search promised."
)
SEEDS = (0,)
ROUNDS = 40


def _folder(workdir: Path) -> Path:
    folder = workdir.parent.parent.parent / "mess" / "heads" / "0"
    if not (folder / "model").is_dir():
        raise UserError(f"{folder} is missing", do="run python -m benchmarks.run mess --arms=heads")
    return folder


def batches(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """Final only, everybody out at the first exit, nobody out, at batch 1 and 8, in turn; the lightest heads."""
    arch, variables, card = load_model(_folder(workdir) / "model")
    config = build.evaluation_config(card, ())
    split, _ = build.evaluation_split(config, card, "val")
    images = np.stack([split[i]["image"] for i in range(8)])
    size_px = images.shape[1:3]
    costs = mess.costs(arch, size_px)
    points = [mess.exit_block(arch, i) for i in range(len(arch.exits))]
    lightest = [
        min((i for i, p in enumerate(points) if p == point), key=lambda i: costs.heads[i])
        for point in sorted(set(points))
    ]
    model = Model(arch, variables, card)

    def routed(*image: float) -> InputDependent:
        way = Way(INPUT, tuple(lightest[: len(image)]), pixel=(0.9,), image=image)
        return InputDependent.of(model, way)

    final = Way()
    runs = {
        "final_only": Model(*final.network(arch, variables), card),
        "all_leave": routed(*[0.0] * len(lightest)),
        "none_leaves": routed(*[NEVER] * len(lightest)),
        "one_exit_all_leave": routed(0.0),
        "one_exit_none_leaves": routed(NEVER),
    }
    small, parts = mess.sub_network(arch, variables, lightest[:1], final=False)
    runs["static_first_exit"] = Model(small, parts, card)
    row: dict[str, Any] = {
        "macs_share_first_exit": costs.budgeted(lightest[0]) / costs.final_only()
    }
    for size in (1, 8):
        ms = _in_turn({name: (run, images[:size]) for name, run in runs.items()})
        row[f"batch_{size}"] = {
            "median_ms": ms,
            "ratio_to_final_only": {name: x / ms["final_only"] for name, x in ms.items()},
        }
    return row


def _in_turn(runs: dict[str, tuple[Any, np.ndarray]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(ROUNDS + 2):
        for name, (run, image) in runs.items():
            begin_s = time.perf_counter()
            jax.block_until_ready(run(image))
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - begin_s))
    return {name: statistics.median(found) for name, found in times.items()}


def cores(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """The same checkpoint through `deploy`, on one core and on two: what was promised, what was measured."""
    row: dict[str, Any] = {}
    model = json.loads((_folder(workdir) / "metrics_test.json").read_text())
    least = round(model["miou"] - 0.02, 3)
    available = sorted(os.sched_getaffinity(0))
    for count in (1, 2):
        output = workdir / f"cores_{count}"
        subprocess.run(
            [
                sys.executable, "-m", "jaxseg.deploy", f"--workdir={_folder(workdir)}",
                f"--output={output}", f"--min-miou={least}",
            ],
            check=True,
            preexec_fn=lambda count=count: os.sched_setaffinity(0, available[:count]),
        )  # fmt: skip
        told = json.loads((output / "deploy.json").read_text())
        kept = ("chosen", "ratio_promised", "ratio_measured", "mean_ms", "final_only_mean_ms")
        row[f"cores_{count}"] = {
            **{key: told[key] for key in kept},
            "configurations": told["configurations"],
            "with_two_gates": told["with_two_gates"],
            "search_s": told["seconds"]["search"],
            "off_by": told["ratio_measured"] / told["ratio_promised"] - 1,
        }
    return {"min_miou_on_calib": least, **row}


ARMS = {"batches": batches, "cores": cores}
