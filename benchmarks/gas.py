"""What a search after GAS finds, against its ablations, random search, and cells made by hand.

toy_street, six cells. Searches see crops of 96x128 and latencies of a table of this machine; what they found is trained
on whole images, all arms of a seed alike, from weights drawn with the same seed. Whole networks are measured
afterwards, those of a seed in turn. Settings are those of configs/gas_toy_street.py, chosen on val with another seed.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, gas_table
from jaxseg import bench
from jaxseg.arch import Arch, to_json
from jaxseg.inference import edge_times
from jaxseg.inference.artifact import load_model
from jaxseg.models import gas, zoo
from jaxseg.models.backbones.gas import CANDIDATES, Genotype, genotype_of
from jaxseg.training.report import read_log

CLAIM = (
    "After GAS, toy_street, six cells: test mIoU and measured latency of what is searched with the graph module, "
    "without it, with a dense link in its place, with shared cells; of random search at equal training MACs, within "
    "10 % of the latency; and of cells made by hand at equal latency. A larger beta finds no slower networks."
)
SEEDS = (0, 1, 2)
CONFIG = "gas_toy_street"
GUIDES: dict[str, tuple[str, ...]] = {
    "gas": (),
    "none": ("gas.guide=none",),
    "link": ("gas.guide=link",),
    "shared": ("gas.guide=none", "gas.sharing=shared"),
}
BETAS = {"beta_small": 5e-4, "beta_large": 5e-2}
"""Beside the usual one, 5e-3, which is that of `gas`."""

NEAR = 0.1
BY_HAND = range(3, 15)
"""Numbers of cells of the networks by hand, of which the one nearest in latency is trained."""

ROUNDS = 200


def flags(seed: int, *changes: str) -> list[str]:
    """The command line's overrides."""
    return [f"--config.{x}" for x in (f"seed={seed}", *changes)]


def sibling(workdir: Path, arm: str) -> Path:
    """The folder of another arm of the same seed."""
    return workdir.parent.parent / arm / workdir.name


def table_of(workdir: Path) -> Path:
    """The table of this machine, measured if it is not there yet."""
    path = workdir.parent.parent / "table.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = gas_table.SIZE_PX
        size = [f"--height={height}", f"--width={width}", f"--rounds={ROUNDS}"]
        bench.main([f"--config=configs/{CONFIG}.py", f"--table={path}", *size])
    return path


def latencies(workdir: Path) -> np.ndarray:
    """Milliseconds of the table, [K, P, Q]."""
    return edge_times.read_table(table_of(workdir), gas_table.supernet(), None)


# --- Rows ---


def row(folder: Path, table: np.ndarray) -> dict[str, Any]:
    """Of a trained network: scores, cells, costs."""
    run = common.trained_record(folder)
    scores = {split: common.scored(folder, split) for split in ("val", "test")}
    arch = load_model(folder / "model")[0]
    cells = genotype_of(arch.backbone)
    found = common.summary(run, scores) | {"genotype": cells}
    if len(cells) == len(table):
        found["table_ms"] = edge_times.latency_of(arch, table)
    return found


def told(folder: Path) -> dict[str, Any]:
    """What the search said of itself at its end, and what it cost."""
    lines = read_log(folder / "log.jsonl")
    last = [line for line in lines if "gas_genotype" in line][-1]
    upto = [line for line in lines if line["kind"] == "train" and line["step"] <= last["step"]]
    return {
        "search_steps": last["step"],
        "search_macs": upto[-1]["train_macs"],
        "entropy_bits": last["gas_entropy_bits"],
        "supernet_val_miou": last["miou"],
    }


def search(changes: tuple[str, ...], seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """The cells that a search finds; one step of their training is taken, which derives them."""
    del data
    steps = gas_table.config().gas.search.steps
    changes = (*changes, f"gas.latency={table_of(workdir)}", f"max_steps={steps + 1}")
    run = common.trained(CONFIG, workdir, *flags(seed, *changes))
    arch = load_model(workdir / "model")[0]
    found = {"genotype": genotype_of(arch.backbone), "train_wall_s": run["wall_s"]}
    return found | {"table_ms": edge_times.latency_of(arch, latencies(workdir))} | told(workdir)


def found(guide: str, seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """The cells of a search, trained."""
    del data
    folder = sibling(workdir, f"search_{guide}")
    model = load_model(folder / "model")[0]
    trained = trained_with(genotype_of(model.backbone), seed, workdir, latencies(workdir))
    return trained | {"search_macs": told(folder)["search_macs"]}


def trained_with(cells: Genotype, seed: int, workdir: Path, table: np.ndarray) -> dict[str, Any]:
    """A run without a search."""
    file = workdir.with_name(f"{workdir.name}.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(to_json(zoo.named("gas", 2, cells=len(cells), genotype=cells)))
    changes = (f"gas.genotype={file}", "gas.search.steps=0")
    common.trained(CONFIG, workdir, *flags(seed, *changes))
    return row(workdir, table)


def near(table: np.ndarray, latency: float, seed: int) -> Callable[[], Genotype]:
    """Draws cells at random until the table's sum is within `NEAR` of a latency."""
    rng = np.random.default_rng([seed, 1])

    def draw() -> Genotype:
        for _ in range(1_000_000):
            logits = rng.random(table.shape)
            choices = logits.argmax(-1)
            total = np.take_along_axis(table, choices[..., None], axis=-1).sum()
            cells = gas.genotype(logits)
            again = [[CANDIDATES.index(c) for c in cell] for cell in cells] == choices.tolist()
            if again and abs(total / latency - 1) <= NEAR:
                return cells
        raise RuntimeError(f"no cells within {NEAR} of {latency} ms")

    return draw


def random_search(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """As many random networks as cost what search and training did, within 10 % of the latency; the best on val."""
    del data
    folder = sibling(workdir, "gas")
    search_macs = told(sibling(workdir, "search_gas"))["search_macs"]
    budget = common.trained_record(folder)["train_macs"] + search_macs
    table = latencies(workdir)
    model = load_model(folder / "model")[0]
    draw = near(table, edge_times.latency_of(model, table), seed)
    tried: list[dict[str, Any]] = []
    spent = 0
    while not tried or spent + tried[-1]["train_macs"] / 2 < budget:
        tried.append(trained_with(draw(), seed, workdir / str(len(tried)), table))
        spent += tried[-1]["train_macs"]
    best = max(tried, key=lambda r: r["val_miou"])
    return best | {
        "train_macs": spent,
        "train_wall_s": sum(r["train_wall_s"] for r in tried),
        "tried_test_miou": [r["test_miou"] for r in tried],
    }


def by_hand(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """Cells by hand, as many as come nearest to the measured latency of what was found."""
    del data
    model = load_model(sibling(workdir, "gas") / "model")[0]
    width = gas_table.config().model.width
    networks = [zoo.named("gas", model.num_classes, cells=n, width=width) for n in BY_HAND]
    times = gas_table.timed([model, *networks], ROUNDS).min(0)
    nearest = int(np.argmin(np.abs(times[1:] - times[0])))
    cells = genotype_of(networks[nearest].backbone)
    trained = trained_with(cells, seed, workdir, latencies(workdir))
    return trained | {"ratio": float(times[1 + nearest] / times[0])}


def measured(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """Milliseconds of all arms of a seed, in turn."""
    del seed, data
    folders = {}
    for arm in (*GUIDES, *(f"search_{beta}" for beta in BETAS), "random", "hand"):
        folder = sibling(workdir, arm)
        if arm == "random":
            rows = [p for p in folder.iterdir() if (p / "run.json").exists()]
            folder = max(rows, key=lambda p: _val_miou(p))
        folders[arm] = folder
    archs: list[Arch] = [load_model(folder / "model")[0] for folder in folders.values()]
    times = gas_table.timed(archs, ROUNDS)
    best = times.min(0)
    half = [times[i::2].min(0) for i in (0, 1)]
    return {
        "ms": dict(zip(folders, map(float, best), strict=True)),
        "repeat_error": float(np.mean(np.abs(half[0] / half[1] - 1))),
    }


def _val_miou(folder: Path) -> float:
    return json.loads((folder / "metrics_val.json").read_text())["miou"]


ARMS = {
    **{f"search_{name}": functools.partial(search, changes) for name, changes in GUIDES.items()},
    **{
        f"search_{name}": functools.partial(search, (f"gas.beta={beta}",))
        for name, beta in BETAS.items()
    },
    **{name: functools.partial(found, name) for name in GUIDES},
    "random": random_search,
    "hand": by_hand,
    "measured": measured,
}
"""In the order in which they need each other."""
