"""What ImageNet weights are worth on CamVid 480x360: the same network, schedule and data, with and without them."""

from pathlib import Path
from typing import Any

from benchmarks import common

CONFIG = "camvid_deeplabv3plus_effnetlite0"
CLAIM = (
    "Separable DeepLabV3+ on EfficientNet-Lite0, CamVid 480x360 (literature protocol), within 40 minutes on 2 CPU "
    "cores: started from ImageNet weights and from scratch, the last with its backbone at the full learning rate."
)
SEEDS = (0,)


def _arm(*overrides: str, deploy: str = ""):
    def arm(seed: int, workdir: Path, data: str) -> dict[str, Any]:
        where = f"--config.data.dir={data}"
        run = common.trained(CONFIG, workdir, f"--config.seed={seed}", where, *overrides)
        scores = {"val": common.scored(workdir, "val", where)}
        row = common.summary(run, scores)
        latency = common.timed(workdir, "--height=360", "--width=480", "--rounds=30")
        row |= {k: latency[k] for k in ("macs", "params", "median_ms", "p95_ms")}
        if deploy:
            folder = common.deployed(workdir, deploy)
            # What `evaluate` gives for the folder in the repository: the row that anyone can reproduce.
            row["float16_val_miou"] = common.scored(folder, "val", where)["miou"]
            row["model"] = str(folder)
        return row

    return arm


ARMS = {
    "imagenet": _arm(deploy=CONFIG),
    "scratch": _arm(
        "--config.model.pretrained=", "--config.phases.main.optim.backbone_multiplier=1.0"
    ),
}
