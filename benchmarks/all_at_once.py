"""What each method adds to the others: from a plain network to all at once, and all but one, on toy_street.

Every network is trained as long, with the same optimiser, from weights drawn with the same seed, and deployed through
the public command: integers as int8 codes, exits by the search, which is given `BUDGET` of what the final answer takes.
Cells are searched once a seed and cost every arm that has them; other arms have cells by hand. Controls: a plain
network turned into int8 without being trained for it, and a narrower one.

On 2 idle CPU cores a seed takes about 25 minutes, a good part of it compiling.
"""

import functools
from pathlib import Path
from typing import Any

from benchmarks import as_deployed, common, gas

CLAIM = (
    "Cells after GAS, exits, slimming after DANCE and integers, added one after the other and left out one at a time, "
    "toy_street: test mIoU, parameters, bytes, MACs, measured latency of what is deployed, and measured training time."
)
SEEDS = (0, 1, 2)
CONFIG = "all_at_once"
METHODS = ("gas", "mess", "dance", "integer")
"""In the order in which they are put together."""
WITHOUT: dict[str, tuple[str, ...]] = {
    "gas": (),
    "mess": ("mess.num_exits=0",),
    "dance": (
        "dance.data.ratios=(1.0,)",
        "dance.data.edges=()",
        "dance.data.w_min=1.0",
        "dance.network.share=0.0",
        "dance.network.l1=0.0",
    ),
    "integer": ("integer.preset=",),
}
"""Overrides of configs/all_at_once.py that switch a method off; it has cells by hand as it is."""
BUDGET = 0.9
"""Of the mean latency of the final answer, for networks with exits; the first exit lies at three quarters of it."""
NARROW = 0.175
"""Width multiplier of the narrower control; that of the others is 0.25."""


# --- Rows ---


def trained(
    methods: tuple[str, ...],
    seed: int,
    workdir: Path,
    data: str,
    *changes: str,
    int8: bool = False,
) -> dict[str, Any]:
    """A run with these methods, deployed (as int8 where it was trained so, or if told so): its worth and cost."""
    del data
    off = [change for name in METHODS if name not in methods for change in WITHOUT[name]]
    overrides = [f"seed={seed}", *off, *changes]
    search = gas.sibling(workdir, "search")
    if "gas" in methods:
        overrides.append(f"gas.genotype={search}")
    run = common.trained(CONFIG, workdir, *(f"--config.{x}" for x in overrides))
    row = as_deployed.spent(workdir)
    if "gas" in methods:
        row["search_wall_s"] = common.trained_record(search)["wall_s"]
        row["search_macs"] = gas.told(search)["search_macs"]
    within = BUDGET if "mess" in methods else 0.0
    row |= as_deployed.deployed(workdir, int8=int8 or "integer" in methods, within=within)
    return row | {"state_digest": run["state_digest"]}


def after_training(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """The plain network, turned into int8 by calibration."""
    del seed, data
    return as_deployed.deployed(gas.sibling(workdir, "plain"), int8=True, into=workdir)


def narrow(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """A narrower plain network, as long, turned into int8 by calibration."""
    return trained((), seed, workdir, data, f"model.width={NARROW}", int8=True)


def measured(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """Latencies of all that is deployed of a seed."""
    del seed, data
    runs = {arm: gas.sibling(workdir, arm) for arm in ARMS if arm not in ("search", "measured")}
    return as_deployed.measured(as_deployed.folders(runs))


def _arm(*methods: str) -> Any:
    return functools.partial(trained, methods)


ARMS = {
    "search": functools.partial(gas.search, ()),
    "plain": _arm(),
    "plain_int8": after_training,
    "narrow_int8": narrow,
    "gas": _arm("gas"),
    "gas_mess": _arm("gas", "mess"),
    "gas_mess_dance": _arm("gas", "mess", "dance"),
    "all": _arm(*METHODS),
    "without_gas": _arm("mess", "dance", "integer"),
    "without_mess": _arm("gas", "dance", "integer"),
    "without_dance": _arm("gas", "mess", "integer"),
    "measured": measured,
}
"""In the order in which they need each other; all but integers is `gas_mess_dance`."""
