"""What experiments on whole methods share: a trained network as it is deployed, its costs, latencies in turn."""

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import common
from jaxseg import build, deploy
from jaxseg.arch import count
from jaxseg.errors import UserError
from jaxseg.inference.artifact import load_model
from jaxseg.inference.side_by_side import Timed, in_turn
from jaxseg.inference.ways import Way
from jaxseg.models import mess, zoo
from jaxseg.training.report import read_log

TIMED = 40
"""Images of the test split that latencies are measured on."""
TRIES, STEADY = 5, 0.03
"""A share of a latency is measured against another run of `deploy`: how often it is tried until both agree so far."""
FINAL, WITHIN = "final", "within"
"""Folders of a run: its final answer alone; the best that takes a share of the time of that."""


def spent(workdir: Path) -> dict[str, Any]:
    """What a run cost."""
    run = common.trained_record(workdir)
    kept = {"steps": run["step"], "train_macs": run["train_macs"], "train_wall_s": run["wall_s"]}
    kept["train_commit"] = run["commit"]
    return kept | {"train_steady_s": steady_s(workdir)}


def steady_s(workdir: Path) -> float:
    """Seconds of all steps, each as long as the median of its phase: without compiling, evaluating and saving."""
    pieces: list[list[tuple[int, float]]] = []
    step = 0
    for line in read_log(workdir / "log.jsonl"):
        if line["kind"] == "phase":
            pieces.append([])
        elif line["kind"] == "train":
            pieces[-1].append((line["step"] - step, 1 / line["images_per_s"]))
            step = line["step"]
    batch = json.loads((workdir / "config.json").read_text())["data"]["batch_size"]
    return sum(
        batch * sum(n for n, _ in piece) * statistics.median(s for _, s in piece)
        for piece in pieces
        if piece
    )


def deployed(
    workdir: Path, *, int8: bool = False, within: float = 0.0, into: Path | None = None
) -> dict[str, Any]:
    """Deploys a run through the public command, and tells what the folders are worth.

    Args:
        workdir: of the run.
        int8: as integer codes.
        within: of the mean latency of the final answer; 0 = the final answer only. Needs early exits.
        into: whose folders FINAL and WITHIN are written; default: the run's.
    """
    into = into or workdir
    final, numbers = into / FINAL, ["--numbers=int8"] if int8 else []
    if not within:
        if not int8:
            return {FINAL: row(workdir)}
        deploy.main([f"--workdir={workdir}", f"--output={final}", *numbers])
        return {FINAL: row(final)}
    flags = [f"--workdir={workdir}", *numbers]
    for _ in range(TRIES):
        shutil.rmtree(into / WITHIN, ignore_errors=True)  # of a try before
        deploy.main([*flags, f"--output={final}", "--setting=final"])
        cost = _final_cost(final)
        try:
            limit = f"--max-latency-ms={within * cost:.6f}"
            deploy.main([*flags, f"--output={into / WITHIN}", limit])
        except UserError as error:  # no exit is that quick
            found: dict[str, Any] = {f"{WITHIN}_none": str(error)}
            deploy.main([*flags, f"--output={final}", "--setting=final"])
            again = _final_cost(final)
        else:
            found = {WITHIN: row(into / WITHIN)}
            again = _final_cost(into / WITHIN)
        found["final_again"] = again / cost
        if abs(again / cost - 1) <= STEADY:
            break
    return {FINAL: row(final), **found}


def _final_cost(folder: Path) -> float:
    """What the final answer took when the folder was deployed."""
    return json.loads((folder / "deploy.json").read_text())["final_only"]["cost"]


def row(folder: Path) -> dict[str, Any]:
    """Of a folder as it is deployed."""
    arch, variables, card = load_model(folder / "model" if (folder / "model").exists() else folder)
    score = common.scored(folder, "test")
    split, _ = build.evaluation_split(build.evaluation_config(card, ()), card, "test")
    size_px = tuple(map(int, split.sizes_px[0]))
    kept = {k: score[k] for k in ("miou", "num_images")}
    cost = count(zoo.blocks(arch), *size_px)
    macs = score.get("mean_macs", mess.costs(arch, size_px).final_only())
    size = sum(np.asarray(x).nbytes for x in jax.tree.leaves(variables))
    return {**kept, "macs": macs, "params": cost.params, "bytes": size, "way": score.get("way")}


def folders(runs: dict[str, Path]) -> dict[str, Path]:
    """Name of a run -> its folder, to the model folders that are deployed; '<name> within' beside '<name>'."""
    found = {}
    for name, run in runs.items():
        found[name] = run / FINAL if (run / FINAL).exists() else run / "model"
        if (run / WITHIN).exists():
            found[f"{name} {WITHIN}"] = run / WITHIN
    return found


def measured(folders: dict[str, Path]) -> dict[str, Any]:
    """Milliseconds an image of models, in turn, batch 1, images of the test split; who left where."""
    models = {name: load_model(folder) for name, folder in folders.items()}
    card = next(iter(models.values()))[2]
    split, _ = build.evaluation_split(build.evaluation_config(card, ()), card, "test")
    images = [split[i]["image"] for i in range(TIMED)]
    ones = []
    for arch, variables, card in models.values():
        way = Way.from_dict(card.evaluation.get("exits", {})) if arch.exits else Way()
        ones.append(Timed(arch, variables, way))
    ms, left = in_turn(ones, card, images)
    half = [ms[i::2].mean(0) for i in (0, 1)]
    return {
        "ms": dict(zip(models, map(float, ms.mean(0)), strict=True)),
        "left": dict(zip(models, left, strict=True)),
        "halves_ratio": dict(zip(models, map(float, half[0] / half[1]), strict=True)),
    }
