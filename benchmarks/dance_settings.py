"""How the settings of `benchmarks.dance` were chosen: on calib, with a seed that is none of its own.

Every arm lasts as many epochs as the others; the one with the best mIoU on calib among those that save at least AIM of
the reference's training MACs is what configs/dance_toy_street.py holds.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import common, dance

CLAIM = (
    "Quarter-width DeepLabV3+ on ResNet-18, toy_street, 6 epochs from scratch, mIoU on calib: which settings of data "
    "and network slimming, of those that save 45 % of the training MACs, cost least."
)
SEEDS = (100,)
AIM = 0.45

MILD = ("dance.data.ratios=(0.75,1.0)", "dance.data.edges=(0.5,)")
USUAL = ("dance.data.ratios=(0.5,0.75,1.0)", f"dance.data.edges=({1 / 3},{2 / 3})")
WIDE = "dance.network.scope=all"


def slimmed(share: float, done: float, *changes: str) -> tuple[str, ...]:
    """So much of the network gone so early, in two events; uncoupled, to tell the settings apart."""
    network = (f"dance.network.share={share}", f"dance.network.done={done}")
    network += ("dance.network.events=2",)
    return (*network, "dance.network.tie=False", *changes)


SETTINGS = {
    "full": (*dance.PLAIN_DATA, *dance.PLAIN_NETWORK),
    "multi_scale_50": slimmed(0.5, 0.5, *USUAL, "dance.network.scope=multi_scale"),
    "usual_20": slimmed(0.2, 0.5, *USUAL, WIDE),
    "mild_30_early": slimmed(0.3, 0.2, *MILD, WIDE),
    "mild_40_early": slimmed(0.4, 0.2, *MILD, WIDE),
    "mild_30_even": slimmed(0.3, 0.2, *MILD, WIDE, *dance.ALL_COUNT),
}


def arm(*changes: str) -> Callable[[int, Path, str], dict[str, Any]]:
    """A run over all epochs."""

    def run(seed: int, workdir: Path, data: str) -> dict[str, Any]:
        del data
        dance.train("aspp", seed, workdir, dance.epochs("aspp", seed, *changes), *changes)
        told = common.trained_record(workdir)
        cost = {"steps": told["step"], "train_macs": told["train_macs"]}
        cost |= {"train_wall_s": told["wall_s"], "left": dance.left(workdir)}
        return dance.scored(workdir, "calib") | cost

    return run


ARMS = {name: arm(*changes) for name, changes in SETTINGS.items()}
