"""MESS on CamVid's unseen drive, for a GPU: not run on CPUs, where it would take days.

`python -m benchmarks.run mess_camvid --data=CAMVID_FOLDER`. Of its own, since a record holds rows of one device only.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks import common
from jaxseg import deploy

CLAIM = (
    "On an unseen drive of CamVid, at full width: a network deployed a point below the plain one on calib is quicker "
    "than it, by how much, and at what cost in test mIoU."
)
SEEDS = (0,)
CONFIG = "mess_camvid"
GPU = (
    "--config.phases.main.steps=30000",
    "--config.mess.stage_2.steps=10000",
    "--config.model.width=1.0",
)
LOSS = 0.01
"""Below the plain network on calib that the deployed one may be."""


def camvid_drives(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """The plain network, the one with exits, and what `deploy` makes of that."""
    where = (f"--config.data.dir={data}", "--config.data.name=camvid_drives")
    both = (f"--config.seed={seed}", "--config.eval.split=test", *where, *GPU)
    plain, multi, deployed = (workdir / name for name in ("plain", "exits", "deployed"))
    common.trained(CONFIG, plain, *both, "--config.mess.num_exits=0")
    run = common.trained(CONFIG, multi, *both)
    scores = {split: common.scored(plain, split, *where)["miou"] for split in ("calib", "test")}
    row = common.summary(run, {"test": common.scored(multi, "test", *where)})
    least = f"--min-miou={scores['calib'] - LOSS}"
    flags = (f"--workdir={multi}", f"--output={deployed}", least, *where)
    deploy.main(flags)
    told = json.loads((deployed / "deploy.json").read_text())
    keys = ("chosen", "ratio_promised", "ratio_measured", "mean_ms", "final_only_mean_ms")
    row |= {"plain_miou": scores, "deployed": {key: told[key] for key in keys}}
    return row | {"deployed_test_miou": common.scored(deployed, "test", *where)["miou"]}


ARMS = {"camvid_drives": camvid_drives}
