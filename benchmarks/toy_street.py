"""toy_street is not trivial: what a pixel shows and where it lies does not tell its class."""

from pathlib import Path
from typing import Any

from benchmarks import common, toy_street_mlp
from jaxseg import cli

CLAIM = (
    "On toy_street the quickstart network beats a 64-64 MLP on (RGB, x, y), trained to convergence, "
    "by at least 0.25 mIoU on the test split."
)
SEEDS = (0, 1, 2)


def quickstart(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """configs/quickstart.py as it stands."""
    run = common.trained("quickstart", workdir, f"--config.seed={seed}")
    scores = {split: common.scored(workdir, split) for split in ("val", "test")}
    return common.summary(run, scores)


def mlp(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """The control that sees no neighbours."""
    return toy_street_mlp.row(seed)


def mlp_weighted(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """The same with the quickstart's class weights, which favour rare classes and so mIoU."""
    config = cli.load_config("configs/quickstart.py")
    return toy_street_mlp.row(seed, tuple(config.loss.class_weights))


ARMS = {"quickstart": quickstart, "mlp_64_64": mlp, "mlp_64_64_weighted": mlp_weighted}
