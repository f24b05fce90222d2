"""GAS on CamVid's unseen drive beside DDRNet-23-slim, for a GPU: not run on CPUs, where it would take days.

`python -m benchmarks.run gas_camvid --data=CAMVID_FOLDER`. Of its own, since a record holds rows of one device only.
"""

import functools
from pathlib import Path
from typing import Any

from benchmarks import common
from jaxseg import bench

CLAIM = (
    "On an unseen drive of CamVid, from scratch, in the same trainer on the same card: what a search after GAS finds, "
    "and DDRNet-23-slim: test mIoU and images a second. The paper's 73.5 % at 108.4 images/s on Cityscapes is of "
    "another size, other data and pre-training."
)
SEEDS = (0,)
CONFIG = "gas_camvid"
SIZE = ("--height=360", "--width=480")
DDRNET = (
    "--config.model.name=ddrnet_23_slim",
    "--config.model.output_stride=8",
    "--config.gas.search.steps=0",
)


def camvid_drives(found: bool, seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """Search and training, or the other network's training; scores and latency at batch 1."""
    where = (f"--config.data.dir={data}", "--config.data.name=camvid_drives")
    changes: tuple[str, ...] = DDRNET
    if found:
        table = workdir.with_name(f"{workdir.name}_table.json")
        if not table.exists():
            table.parent.mkdir(parents=True, exist_ok=True)
            bench.main([f"--config=configs/{CONFIG}.py", f"--table={table}", *SIZE, *where])
        changes = (f"--config.gas.latency={table}",)
    both = (f"--config.seed={seed}", "--config.eval.split=test", *where, *changes)
    run = common.trained(CONFIG, workdir, *both)
    row = common.summary(run, {"test": common.scored(workdir, "test", *where)})
    latency = common.timed(workdir, *SIZE, "--rounds=100")
    row |= {k: latency[k] for k in ("macs", "params", "median_ms", "p95_ms")}
    return row | {"images_per_s": 1e3 / latency["median_ms"]}


ARMS = {
    "gas": functools.partial(camvid_drives, True),
    "ddrnet_23_slim": functools.partial(camvid_drives, False),
}
