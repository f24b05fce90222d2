"""After ItNet on CamVid 480x360, both protocols, pass by pass.

`--data` is the published folder. `camvid` and `camvid_drives` are for two CPU cores: 8 passes, crops of 192x256 px,
700 steps of 8 (15 epochs), 10 to 15 minutes each. Those ending in `_full` are for a GPU: 16 passes, whole images,
the config's 12000 steps (260 epochs). All resume.
"""

from pathlib import Path
from typing import Any

from benchmarks import common

CONFIG = "itnet_camvid"
CPU = (
    "--config.phases.main.steps=700",
    "--config.eval.every_steps=0",
    "--config.data.height_px=192",
    "--config.data.width_px=256",
)
GPU = ("--config.itnet.iterations=16",)
CLAIM = (
    "A loop of at most 358 thousand parameters on CamVid 480x360, from scratch: mIoU after every pass, in the "
    "literature's protocol (its test split is not among the data here) and on an unseen drive. ESPNet, 358,193 values, "
    "our void rule: val 0.694."
)
SEEDS = (0,)


def _arm(size: tuple[str, ...], name: str, splits: tuple[str, ...], deploy: str = ""):
    def arm(seed: int, workdir: Path, data: str) -> dict[str, Any]:
        where = f"--config.data.dir={data}"
        run = common.trained(
            CONFIG,
            workdir,
            f"--config.seed={seed}",
            where,
            f"--config.data.name={name}",
            f"--config.eval.split={splits[-1] if name == 'camvid_drives' else 'val'}",
            *size,
        )
        scores = {split: common.scored(workdir, split, where, "--mode=anytime") for split in splits}
        row = common.summary(run, scores)
        row |= {f"{split}_passes": s["exits"] for split, s in scores.items()}
        latency = common.timed(workdir, "--height=360", "--width=480", "--rounds=30")
        row |= {k: latency[k] for k in ("macs", "params", "median_ms", "p95_ms")}
        if deploy:
            folder = common.deployed(workdir, deploy)
            last = splits[-1]
            row[f"float16_{last}_miou"] = common.scored(folder, last, where)["miou"]
            row["model"] = str(folder)
        return row

    return arm


ARMS = {
    "camvid": _arm(CPU, "camvid", ("val",), deploy=CONFIG),
    "camvid_drives": _arm(CPU, "camvid_drives", ("test",)),
    "camvid_full": _arm(GPU, "camvid", ("val",), deploy=CONFIG),
    "camvid_drives_full": _arm(GPU, "camvid_drives", ("test",)),
}
