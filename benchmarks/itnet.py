"""After ItNet on toy_street: accuracy against passes, sharing and intermediate answers on and off, stopping early.

An arm trains for `STEPS` steps of 8 crops of 96x128 px, evaluates every pass on test in one run, and writes one row;
it resumes where it stopped. On 2 idle CPU cores an arm takes about 1 (N <= 8) to 3 minutes (N = 16), `shared_n8` 2 more
for stopping early.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import common, itnet_stopping
from jaxseg.inference.artifact import load_model
from jaxseg.models import itnet, zoo

CLAIM = (
    "On toy_street, 600 steps from scratch: test mIoU of the loop after every pass, for N in {1, 2, 4, 8, 16} trained "
    "apart; intermediate answers on and off, sharing on and off at equal parameters (46 to 52 thousand) and at equal "
    "graph size (45.3 million nodes and edges at 192x256); a feed-forward network of 50 thousand parameters, "
    "trained alike."
)
SEEDS = (0, 1, 2)
STEPS = 600
FAR = 4
"""States are looked at up to so many times the trained passes."""

CROPS = (
    "--config.data.height_px=96",
    "--config.data.width_px=128",
    "--config.data.batch_size=8",
)


def _arm(*overrides: str, stopping: bool = False) -> Callable[[int, Path, str], dict[str, Any]]:
    flags = tuple(f"--config.{override}" for override in overrides)

    def arm(seed: int, workdir: Path, data: str) -> dict[str, Any]:
        run = common.trained(
            "itnet_toy_street",
            workdir,
            f"--config.seed={seed}",
            f"--config.phases.main.steps={STEPS}",
            "--config.eval.every_steps=0",
            *CROPS,
            *flags,
        )
        arch, variables, card = load_model(workdir / "model")
        if not itnet.is_looped(arch):
            scores = {"test": common.scored(workdir, "test")}
            timing = common.timed(workdir, "--height=192", "--width=256", "--rounds=30")
            return common.summary(run, scores) | {k: timing[k] for k in ("macs", "params")}
        scores = {"test": common.scored(workdir, "test", "--mode=anytime")}
        row = common.summary(run, scores) | {"passes": scores["test"]["exits"]}
        row["peaks"] = peaks(arch, variables, card)
        return row | (itnet_stopping.record(workdir) if stopping else {})

    return arm


def peaks(arch, variables, card) -> dict[str, float]:
    """The largest value of all states on four images: up to the trained passes, and up to `FAR` times as many."""
    far, more = itnet.with_iterations(arch, variables, FAR * itnet.num_iterations(arch))
    images = itnet_stopping.images_of("val", 4, card)

    @jax.jit
    def states(variables, x):
        return zoo.module(far).apply(
            variables, x, method=lambda m, x: getattr(m, itnet.loop_name(far)).states(m.data(x))
        )

    found = np.abs(np.asarray(states(more, images))).max(axis=(1, 2, 3, 4))
    trained = found[: itnet.num_iterations(arch)].max()
    return {
        "trained": float(trained),
        "far": float(found.max()),
        "ratio": float(found.max() / trained),
    }


UNSHARED = "itnet.sharing=nothing"
LAST_ONLY = "itnet.exits=(8,)"

ARMS = {
    **{f"shared_n{n}": _arm(f"itnet.iterations={n}", stopping=n == 8) for n in (1, 2, 4, 8, 16)},
    "shared_n8_last_only": _arm(LAST_ONLY),
    "one_norm_n8": _arm("itnet.sharing=everything"),
    "unshared_n8_equal_params": _arm(UNSHARED, "model.width=0.5"),
    "unshared_n8_equal_params_last_only": _arm(UNSHARED, "model.width=0.5", LAST_ONLY),
    "unshared_n8_equal_graph": _arm(UNSHARED, "model.width=0.625"),
    "unshared_n8_equal_graph_last_only": _arm(UNSHARED, "model.width=0.625", LAST_ONLY),
    "feed_forward": _arm("model.name=fcn_resnet18", "model.width=0.0625"),
}
"""I9 is the square of the five arms of 8 passes with and without sharing and intermediate answers."""
