"""What each method adds to the others: from a plain network to all at once, and all but one, on toy_street.

Every network is trained as long, with the same optimiser, from weights drawn with the same seed, and deployed through
the public command: integers as int8 codes, exits by the search, which is given `BUDGET` of what the final answer takes.
Cells are searched once a seed and cost every arm that has them; other arms have cells by hand. Controls: a plain
network turned into int8 without being trained for it, and a narrower one.

On 2 idle CPU cores a seed takes about 25 minutes, a good part of it compiling.
"""

import functools
import json
import statistics
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import common, gas
from jaxseg import build, deploy
from jaxseg.arch import Arch, count
from jaxseg.inference.artifact import load_model
from jaxseg.inference.side_by_side import Timed, in_turn
from jaxseg.inference.ways import Way
from jaxseg.models import mess, zoo
from jaxseg.training.report import read_log

CLAIM = (
    "Cells after GAS, exits, slimming after DANCE and integers, added one after the other and left out one at a time, "
    "toy_street: test mIoU, parameters, bytes, MACs, measured latency of what is deployed, and measured training time."
)
SEEDS = (0, 1, 2)
CONFIG = "all_at_once"
METHODS = ("gas", "mess", "dance", "integer")
"""In the order in which they are put together."""
WITHOUT: dict[str, tuple[str, ...]] = {
    "gas": (),
    "mess": ("mess.num_exits=0",),
    "dance": (
        "dance.data.ratios=(1.0,)",
        "dance.data.edges=()",
        "dance.data.w_min=1.0",
        "dance.network.share=0.0",
        "dance.network.l1=0.0",
    ),
    "integer": ("integer.preset=",),
}
"""Overrides of configs/all_at_once.py that switch a method off; it has cells by hand as it is."""
BUDGET = 0.75
"""Of the mean latency of the final answer, for networks with exits."""
NARROW = 0.175
"""Width multiplier of the narrower control; that of the others is 0.25."""
TIMED = 40
"""Images of the test split that latencies are measured on."""


# --- Rows ---


def trained(
    methods: tuple[str, ...], seed: int, workdir: Path, data: str, *changes: str
) -> dict[str, Any]:
    """A run with these methods, deployed; what it is worth and what it cost."""
    del data
    off = [change for name in METHODS if name not in methods for change in WITHOUT[name]]
    overrides = [f"seed={seed}", *off, *changes]
    search = gas.sibling(workdir, "search")
    if "gas" in methods:
        overrides.append(f"gas.genotype={search}")
    run = common.trained(CONFIG, workdir, *(f"--config.{x}" for x in overrides))
    spent = {"train_macs": run["train_macs"], "train_wall_s": run["wall_s"]}
    spent |= {"train_steady_s": steady_s(workdir), "steps": run["step"]}
    if "gas" in methods:
        spent["search_wall_s"] = common.trained_record(search)["wall_s"]
        spent["search_macs"] = gas.told(search)["search_macs"]
    return {**spent, **deployed(methods, workdir), "state_digest": run["state_digest"]}


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


def deployed(methods: tuple[str, ...], workdir: Path) -> dict[str, Any]:
    """The final answer alone and, of a network with exits, the best that takes `BUDGET` of its time."""
    final = workdir / "final"
    numbers = ["--numbers=int8"] if "integer" in methods else []
    if "mess" in methods:
        deploy.main([f"--workdir={workdir}", f"--output={final}", "--setting=final", *numbers])
        told = json.loads((final / "deploy.json").read_text())
        most = BUDGET * told["final_only"]["cost"]
        within = workdir / "within"
        limit = f"--max-latency-ms={most:.6f}"
        deploy.main([f"--workdir={workdir}", f"--output={within}", limit, *numbers])
        return {"final": row(final), "within": row(within)}
    if numbers:
        deploy.main([f"--workdir={workdir}", f"--output={final}", *numbers])
        return {"final": row(final)}
    return {"final": row(workdir)}


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


def after_training(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """The plain network, turned into int8 by calibration."""
    del seed, data
    plain, final = gas.sibling(workdir, "plain"), workdir / "final"
    deploy.main([f"--workdir={plain}", f"--output={final}", "--numbers=int8"])
    return {"final": row(final)}


def narrow(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """A narrower plain network, as long, turned into int8 by calibration."""
    width = f"model.width={NARROW}"
    found = trained((), seed, workdir, data, width)
    deploy.main([f"--workdir={workdir}", f"--output={workdir / 'int8'}", "--numbers=int8"])
    return found | {"final": row(workdir / "int8")}


# --- Latency ---


def folders(workdir: Path) -> dict[str, Path]:
    """What is deployed of every arm of a seed."""
    found = {}
    for arm in ARMS:
        if arm in ("search", "measured"):
            continue
        folder = gas.sibling(workdir, arm)
        names = ("int8",) if arm == "narrow_int8" else ("final", "within")
        kept = {name: folder / name for name in names if (folder / name).exists()}
        kept = kept or {"final": folder / "model"}
        found |= {f"{arm} within" if n == "within" else arm: path for n, path in kept.items()}
    return found


def measured(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """Milliseconds an image of all that is deployed of a seed, in turn, batch 1, images of the test split."""
    del seed, data
    models = {name: load_model(folder) for name, folder in folders(workdir).items()}
    card = next(iter(models.values()))[2]
    split, _ = build.evaluation_split(build.evaluation_config(card, ()), card, "test")
    images = [split[i]["image"] for i in range(TIMED)]
    ones = [timed(*model[:2], model[2].evaluation) for model in models.values()]
    ms, left = in_turn(ones, card, images)
    half = [ms[i::2].mean(0) for i in (0, 1)]
    return {
        "ms": dict(zip(models, map(float, ms.mean(0)), strict=True)),
        "left": dict(zip(models, left, strict=True)),
        "halves_ratio": dict(zip(models, map(float, half[0] / half[1]), strict=True)),
    }


def timed(arch: Arch, variables: dict[str, Any], evaluation: dict[str, Any]) -> Timed:
    """A model as its folder says that it answers."""
    way = Way.from_dict(evaluation.get("exits", {})) if arch.exits else Way()
    return Timed(arch, variables, way)


def _arm(*methods: str) -> Any:
    return functools.partial(trained, methods)


ARMS = {
    "search": functools.partial(gas.search, ()),
    "plain": _arm(),
    "plain_int8": after_training,
    "narrow_int8": narrow,
    "gas": _arm("gas"),
    "gas_mess": _arm("gas", "mess"),
    "gas_mess_dance": _arm("gas", "mess", "dance"),
    "all": _arm(*METHODS),
    "without_gas": _arm("mess", "dance", "integer"),
    "without_mess": _arm("gas", "dance", "integer"),
    "without_dance": _arm("gas", "mess", "integer"),
    "measured": measured,
}
"""In the order in which they need each other; all but integers is `gas_mess_dance`."""
