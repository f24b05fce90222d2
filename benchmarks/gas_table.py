"""Whether a table of measured operations foretells the latency of whole networks of cells (after GAS).

Genotypes are drawn from light to heavy: each edge by the table's own latencies, with a preference from the cheapest to
the dearest. All are timed in turn at batch 1, from the image on the host to the label map; minima over all rounds, and
over every other round twice, which tells how well a measurement repeats.
"""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxseg import build, cli
from jaxseg.arch import Arch
from jaxseg.data import datasets
from jaxseg.inference import edge_times
from jaxseg.inference.latency import prepare
from jaxseg.models import gas, zoo
from jaxseg.models.backbones.gas import SKIP, Genotype

CLAIM = (
    "Networks of 20 cells at 192x256, batch 1, 2 CPU cores: the sum of a table of operations timed one by one ranks "
    "twenty of them as their measured latencies do (Spearman 0.8 or more)."
)
SEEDS = (0,)
CONFIG = "gas_toy_street"
SIZE_PX = (192, 256)
CELLS = 20
"""Of 14, the paper's, stem and head take so much of the time that the heaviest takes only 2.7 times as long as the
lightest (Spearman 0.99).
"""

NETWORKS, ROUNDS = 20, 200


def config() -> ConfigDict:
    """Of the search."""
    return cli.load_config(f"configs/{CONFIG}.py")


def supernet(cells: int = 0) -> Arch:
    """The network that is searched, or one of another number of cells."""
    changes = [f"--config.gas.cells={cells}"] if cells else []
    told = cli.override(config(), changes)
    return build.architecture(told, datasets.describe(told.data.name, told.data.dir))


def spread(table: np.ndarray, seed: int) -> list[Genotype]:
    """Genotypes from light to heavy."""
    rng = np.random.default_rng(seed)
    scale = table / table.max(axis=-1, keepdims=True)
    found = []
    for preference in np.linspace(-16.0, 16.0, NETWORKS):
        noise = rng.gumbel(size=table.shape)
        found.append(gas.genotype(preference * scale + noise))
    return found


def least(cells: int) -> Genotype:
    """Cells of skips: what every network has beside what it chose."""
    return ((SKIP,) * 5,) * cells


def timed(archs: list[Arch], rounds: int) -> np.ndarray:
    """Milliseconds of an answer at batch 1, [rounds, networks], all in turn."""
    runs = []
    for arch in archs:
        variables = zoo.init(arch, jax.random.PRNGKey(0))
        runs.append(prepare(arch, variables, (0.5,) * 3, (0.25,) * 3, (1, *SIZE_PX)))
    found = np.empty((rounds, len(runs)))
    for turn in range(-5, rounds):
        for i, run in enumerate(runs):
            begin_s = time.perf_counter()
            np.asarray(run.compiled(*run.arguments))
            if turn >= 0:
                found[turn, i] = 1e3 * (time.perf_counter() - begin_s)
    return found


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of ranks; there are no ties among times."""
    ranks = [np.argsort(np.argsort(x)) for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def compare(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """Table, networks, and how the two agree."""
    del workdir, data
    arch = supernet(CELLS)
    entries = edge_times.measure(arch, SIZE_PX, rounds=ROUNDS)["entries"]
    table = np.array(
        [
            [[entries[e.key] for e in row] for row in cell]
            for cell in edge_times.edges(arch, SIZE_PX)
        ]
    )
    genotypes = [*spread(table, seed), least(len(table))]
    networks = [gas.derived(arch, genotype) for genotype in genotypes]
    times = timed(networks, ROUNDS)
    best, half = times.min(0), [times[i::2].min(0) for i in (0, 1)]
    macs = edge_times.reckoned(arch, SIZE_PX)
    sums, reckoned = (
        np.array([edge_times.latency_of(network, of) for network in networks])
        for of in (table, macs)
    )
    foretold = best[-1] + sums - sums[-1]
    found = best[:-1]
    return {
        "networks": [
            {"genotype": g, "table_ms": round(s, 4), "measured_ms": round(ms, 4)}
            for g, s, ms in zip(genotypes, sums, best, strict=True)
        ],
        "spread": float(found.max() / found.min()),
        "spearman": spearman(sums[:-1], found),
        "spearman_of_macs": spearman(reckoned[:-1], found),
        "spearman_of_halves": spearman(half[0][:-1], half[1][:-1]),
        "repeat_error": float(np.mean(np.abs(half[0] / half[1] - 1)[:-1])),
        "table_error": float(np.mean(np.abs(foretold[:-1] / found - 1))),
        "entries_ms": entries,
        "rounds": ROUNDS,
    }


ARMS = {"cells": compare}
