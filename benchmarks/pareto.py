"""Five methods and their controls, trained alike, in one picture: mIoU against latency and against training time.

toy_street, the evidence network, `STEPS` steps of 4 whole images with AdamW, each method by the settings of its own
config. Two methods are networks of their own: cells after GAS, searched here, beside cells by hand; a loop after
ItNet. Integers are trained as such, with plain SGD, which they need; beside them the plain network calibrated. What
exits buy is the best that takes `BUDGET` of the final answer's time. All that is deployed of a seed is timed in turn.

On 2 idle CPU cores a seed takes about 15 minutes.
"""

import functools
from pathlib import Path
from typing import Any

from benchmarks import as_deployed, common, gas
from benchmarks.dance import CONFIG as DANCE_CONFIG

CLAIM = (
    "Quarter-width DeepLabV3+ on ResNet-18, toy_street, 600 steps: what DANCE, exits and integers make of it, "
    "what searched cells and a loop do in its place, and narrower networks: test mIoU, measured latency, training time."
)
SEEDS = (0, 1, 2)
STEPS = 600
PLAIN_STEPS = 1050
"""Of the config of DANCE, whose 6 epochs are fewer batches (`phases.main.steps`): the same share of them here."""
DANCE_STEPS = 997
EIGHTS = "dance.network.multiple=8"
BUDGET = 0.75
WIDTHS = (0.1875, 0.125)
"""Multipliers of the narrower networks; that of the evidence network is 0.25."""
ALIKE = ("data.batch_size=4", "data.height_px=192", "data.width_px=256")


def trained(
    config: str,
    changes: tuple[str, ...],
    seed: int,
    workdir: Path,
    data: str,
    *,
    steps: int = STEPS,
    int8: bool = False,
    within: float = 0.0,
) -> dict[str, Any]:
    """A run, deployed: its worth and cost."""
    del data
    overrides = (f"seed={seed}", f"phases.main.steps={steps}", *ALIKE, *changes)
    run = common.trained(config, workdir, *(f"--config.{x}" for x in overrides))
    row = as_deployed.spent(workdir) | as_deployed.deployed(workdir, int8=int8, within=within)
    return row | {"state_digest": run["state_digest"]}


def found_cells(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """What the search found, trained; the search is told beside it."""
    search = gas.sibling(workdir, "search")
    changes = (f"gas.genotype={search}", "gas.search.steps=0")
    row = trained(gas.CONFIG, changes, seed, workdir, data)
    told = gas.told(search)["search_macs"]
    return row | {"search_wall_s": common.trained_record(search)["wall_s"], "search_macs": told}


def calibrated(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """The plain network as int8, without being trained for it."""
    del seed, data
    return as_deployed.deployed(gas.sibling(workdir, "plain"), int8=True, into=workdir)


def measured(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """Latencies of all that is deployed of a seed."""
    del seed, data
    runs = {arm: gas.sibling(workdir, arm) for arm in ARMS if arm not in ("search", "measured")}
    return as_deployed.measured(as_deployed.folders(runs))


EXITS = (
    "mess.stage_1=sum",
    "mess.heads.reductions=(1,2)",
    "mess.heads.extra_blocks=(0,1)",
    "mess.stage_2.steps=120",
)
"""A smaller space of heads than the config's, as in configs/all_at_once.py."""

ARMS = {
    "plain": functools.partial(trained, "quickstart", ()),
    **{
        f"narrow_{width}": functools.partial(trained, "quickstart", (f"model.width={width}",))
        for width in WIDTHS
    },
    "calibrated": calibrated,
    **{
        name: functools.partial(
            trained, DANCE_CONFIG, changes, steps=round(STEPS * DANCE_STEPS / PLAIN_STEPS)
        )
        for name, changes in {"dance": (), "dance_eights": (EIGHTS,)}.items()
    },
    "mess": functools.partial(trained, "mess_toy_street", EXITS, within=BUDGET),
    "integer": functools.partial(trained, "integer_toy_street", (), int8=True),
    "search": functools.partial(gas.search, ()),
    "gas": found_cells,
    "hand": functools.partial(trained, gas.CONFIG, ("gas.search.steps=0",)),
    "itnet": functools.partial(trained, "itnet_toy_street", ()),
    "itnet_2": functools.partial(trained, "itnet_toy_street", ("itnet.iterations=2",)),
    "measured": measured,
}
"""In the order in which they need each other."""
