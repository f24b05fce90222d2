"""`python -m benchmarks.run NAME [--only-missing] [--budget-min=9] [--data=DIR] [--arms=a] [--seeds=0] [--cores=N]`.

An experiment is `benchmarks/NAME.py` with
    CLAIM:  what the rows are meant to show, in one sentence,
    SEEDS:  the seeds,
    ARMS:   name -> function (seed, workdir, data) -> row (JSON values).
Rows are written to results/NAME.json as they come, so a stopped run loses nothing, and a faster machine can fill
in what is missing. One record holds rows of one device only; rows of another device are refused. With --cores what
runs has so many CPU cores, and its record is results/NAME_cores_N.json.
"""

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from jaxseg import runtime

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = (
    "toy_street",
    "camvid",
    "camvid_effnetlite0",
    "torch_twin",
    "torch_peer",
    "conv_gradient",
    "integer",
    "integer_step",
    "int8_accuracy",
    "int8_speed",
    "int8_litert",
    "itnet",
    "itnet_camvid",
    "itnet_scan",
    "input_share",
    "start",
    "mess_stages",
    "mess_losses",
    "mess",
    "mess_ways",
    "mess_camvid",
    "scan_blocks",
    "dance_settings",
    "dance",
    "dance_time",
    "gas_table",
    "gas",
    "gas_camvid",
    "bfcn",
    "all_at_once",
    "pareto",
    "zoo",
    "chaos",
    "soak",
)


def main() -> int:
    """Runs what is asked and missing; 0 when the record is complete, 3 when the budget ended first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run")
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--only-missing", action="store_true", help="keep the rows that are there")
    parser.add_argument("--budget-min", type=float, default=float("inf"), help="start no arm after")
    parser.add_argument("--data", default="", help="raw folder of the data set, where it needs one")
    parser.add_argument("--arms", default="", help="comma-separated; default all")
    parser.add_argument("--seeds", default="", help="comma-separated; default all")
    parser.add_argument("--cores", type=int, default=0, help="so many alone, a record of its own")
    args = parser.parse_args()
    name = f"{args.name}_cores_{args.cores}" if args.cores else args.name
    if args.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    start_s = time.monotonic()
    experiment = importlib.import_module(f"benchmarks.{args.name}")
    runtime.use_compilation_cache(Path.home() / ".cache" / "jaxseg" / "xla")
    path = ROOT / "results" / f"{name}.json"
    record = _open(path, experiment, args.name, keep=args.only_missing)
    record["command"] += f" --cores={args.cores}" if args.cores else ""
    arms = args.arms.split(",") if args.arms else list(experiment.ARMS)
    complete = True
    seeds = [int(x) for x in args.seeds.split(",")] if args.seeds else experiment.SEEDS
    for seed in seeds:
        for arm in arms:
            if any(r["arm"] == arm and r["seed"] == seed for r in record["rows"]):
                continue
            if time.monotonic() - start_s > 60 * args.budget_min:
                complete = False
                continue
            print(f"== {args.name}: {arm}, seed {seed}", flush=True)
            workdir = ROOT / "runs" / "benchmarks" / name / arm / str(seed)
            begin_s = time.monotonic()
            row = experiment.ARMS[arm](seed, workdir, args.data)
            # An arm that trains tells its own time, over all the sessions that it took.
            spent = (
                {} if "train_wall_s" in row else {"wall_s": round(time.monotonic() - begin_s, 1)}
            )
            row = {"arm": arm, "seed": seed, **_origin(record), **spent, **row}
            record["rows"] = sorted([*record["rows"], row], key=lambda r: (r["arm"], r["seed"]))
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(record, indent=1) + "\n")
            print(json.dumps(row), flush=True)
    return 0 if complete else 3


def _open(path: Path, experiment: Any, name: str, *, keep: bool) -> dict[str, Any]:
    """A new record, or the old one with its rows when they come from this device."""
    now = runtime.provenance()
    record = {
        "claim": experiment.CLAIM,
        "command": f"python -m benchmarks.run {name}",
        **now,
        "seeds": list(experiment.SEEDS),
        "rows": [],
    }
    if keep and path.exists():
        old = json.loads(path.read_text())
        if old["device"] != now["device"]:
            sys.exit(f"error: {path} holds rows of {old['device']}, this is {now['device']}")
        record["rows"] = [{**_origin(old), **row} for row in old["rows"]]
    return record


def _origin(record: dict[str, Any]) -> dict[str, Any]:
    """What rows of one record may differ in; records from before CPUs were named have None there."""
    return {"commit": record["commit"], "cpu": record.get("cpu")}


if __name__ == "__main__":
    sys.exit(main())
