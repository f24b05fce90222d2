"""What experiments share: training and scoring through the public commands, as a user would."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg import bench, evaluate, train
from jaxseg.inference.artifact import load_model, save_model


def trained(config: str, workdir: Path, *overrides: str) -> dict[str, Any]:
    """Trains configs/<config>.py (or goes on) and returns `run.json`."""
    train.main([f"--config=configs/{config}.py", f"--workdir={workdir}", *overrides])
    return trained_record(workdir)


def trained_record(workdir: Path) -> dict[str, Any]:
    """`run.json` of a run that is over."""
    return json.loads((workdir / "run.json").read_text())


def scored(workdir: Path, split: str, *overrides: str) -> dict[str, Any]:
    """Evaluates on a split and returns `metrics_<split>.json`."""
    evaluate.main([f"--workdir={workdir}", f"--split={split}", *overrides])
    return json.loads((workdir / f"metrics_{split}.json").read_text())


def timed(workdir: Path, *flags: str) -> dict[str, Any]:
    """Times inference and returns `bench.json`."""
    bench.main([f"--workdir={workdir}", *flags])
    return json.loads((workdir / "bench.json").read_text())


def deployed(workdir: Path, name: str) -> Path:
    """Copies the last weights of a run to results/models/<name> in float16, and returns that folder.

    Without the folder of its data, which is another one elsewhere: --config.data.dir says it.
    """
    arch, variables, card = load_model(workdir / "model")
    variables["params"] = {k: v for k, v in variables["params"].items() if "aux_" not in k}
    folder = Path("results") / "models" / name
    card = replace(card, data={**card.data, "dir": ""})
    save_model(folder, arch, variables, card, dtype=np.float16)
    return folder


def summary(run: dict[str, Any], scores: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A row: mIoU per split from the last checkpoint, and what training cost."""
    row: dict[str, Any] = {f"{split}_miou": s["miou"] for split, s in scores.items()}
    row |= {f"{split}_aacc": s["aacc"] for split, s in scores.items()}
    last = list(scores.values())[-1]
    row |= {"per_class_iou": last["per_class_iou"], "num_images": last["num_images"]}
    row |= {"steps": run["step"], "train_macs": run["train_macs"], "train_wall_s": run["wall_s"]}
    return row | {"state_digest": run["state_digest"], "commit": run["commit"]}
