"""How long a user waits: imports, and `python -m jaxseg.train` of the quickstart until its first step is done."""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CLAIM = (
    "Imports take less than 3 s, and the quickstart does its first step within 15 s of its start, once its data are "
    "prepared and its programs compiled before."
)
SEEDS = (0,)
REPEATS = 3


def imports(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """A fresh Python, `import jaxseg.train`."""
    times = []
    for _ in range(REPEATS + 1):
        begin_s = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import jaxseg.train"], check=True)
        times.append(round(time.perf_counter() - begin_s, 2))
    return {"seconds": sorted(times[1:])}


def first_step(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """With an empty cache of compiled programs, then with a warm one; data are prepared before."""
    cache = workdir / "cache"
    shutil.rmtree(workdir, ignore_errors=True)
    command = [
        *(sys.executable, "-u", "-m", "jaxseg.train", "--config=configs/quickstart.py"),
        *("--config.log.every_steps=1", f"--config.data.cache_dir={cache}"),
    ]
    prepare = [*(sys.executable, "-m", "jaxseg.data", "prepare"), command[4], command[6]]
    begin_s = time.perf_counter()
    subprocess.run(prepare, check=True)
    row: dict[str, Any] = {"prepare_s": round(time.perf_counter() - begin_s, 1)}
    row["cold_s"] = _seconds_to_first_step(command, workdir / "cold")
    warm = [_seconds_to_first_step(command, workdir / f"warm_{i}") for i in range(REPEATS)]
    return row | {"warm_s": sorted(warm)}


def _seconds_to_first_step(command: list[str], workdir: Path) -> float:
    begin_s = time.perf_counter()
    with subprocess.Popen(
        [*command, f"--workdir={workdir}"], stdout=subprocess.PIPE, text=True
    ) as run:
        for line in run.stdout:
            if line.startswith("step 1/"):
                taken_s = time.perf_counter() - begin_s
                run.kill()
                return round(taken_s, 2)
    raise RuntimeError("the run ended before its first step")


ARMS = {"imports": imports, "first_step": first_step}
