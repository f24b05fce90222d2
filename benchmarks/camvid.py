"""CamVid at 480x360 from scratch, both protocols: `camvid` (literature) and `camvid_drives` (an unseen drive)."""

from pathlib import Path
from typing import Any

from benchmarks import common

CLAIM = (
    "DeepLabV3+ on ResNet-18 from scratch on CamVid 480x360, within 30 minutes on 2 CPU cores: "
    "a starting point for every later method, not a result."
)
SEEDS = (0,)


def _protocol(name: str, split: str):
    def arm(seed: int, workdir: Path, data: str) -> dict[str, Any]:
        run = common.trained(
            "camvid_deeplabv3plus_resnet18",
            workdir,
            f"--config.seed={seed}",
            f"--config.data.name={name}",
            f"--config.data.dir={data}",
            f"--config.eval.split={split}",
        )
        scores = {split: common.scored(workdir, split)}
        latency = common.timed(workdir, "--height=360", "--width=480", "--rounds=30")
        costs = {k: latency[k] for k in ("macs", "params", "median_ms", "p95_ms")}
        return common.summary(run, scores) | costs

    return arm


ARMS = {"camvid": _protocol("camvid", "val"), "camvid_drives": _protocol("camvid_drives", "test")}
