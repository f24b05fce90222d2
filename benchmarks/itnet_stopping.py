"""Stopping early: the confidence rule against a fixed number of passes at the same mean number, on toy_street.

Thresholds are chosen on calib for a mean of 2, 3, .. passes; mIoU and latency are of test. The rule and the fixed
numbers are one compiled program with other arguments (`inference.itnet.answer_until`), timed image by image in turn.
"""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import cli
from jaxseg.build import open_split
from jaxseg.inference.artifact import Card, load_model
from jaxseg.inference.exits import MEAN, NEVER, Policy, image_confidence, thresholds
from jaxseg.inference.itnet import answer_until
from jaxseg.inference.labelling import labels_at
from jaxseg.layers.normalise import normalise
from jaxseg.models import zoo
from jaxseg.models.folding import fold
from jaxseg.models.itnet import num_iterations
from jaxseg.objectives.metrics import confusion_matrix, scores_from_confusion

POLICIES = {
    "pixels_0.5": (Policy(), 0.5),
    "pixels_0.7": (Policy(), 0.7),
    "pixels_0.9": (Policy(), 0.9),
    "mean": (Policy(measure=MEAN), 0.5),
}
TIMED, ROUNDS = 60, 5


def split_of(name: str) -> Any:
    """A split of toy_street."""
    return open_split(cli.load_config("configs/itnet_toy_street.py").data, name)


def images_of(name: str, count: int, card: Card) -> Any:
    """The first images of a split, normalised: float32 [count, H, W, 3]."""
    split = split_of(name)
    images = np.stack([split[i]["image"] for i in range(count)])
    return normalise(jnp.asarray(images), card.mean, card.std, jnp.float32)


def look(arch, variables, card, split, batch: int = 10) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(confusion int64 [images, N, K, K], policy -> confidence float32 [images, N]), of every pass."""
    every = tuple(range(1, num_iterations(arch) + 1))

    @jax.jit
    def run(variables, images):
        x = normalise(images, card.mean, card.std, jnp.float32)
        logits, _ = zoo.module(arch).apply(variables, x, every, method="answers")
        labels = jax.lax.map(lambda y: labels_at(y, images.shape[1:3]), logits)
        sure = {
            name: jax.lax.map(lambda y, p=p, t=t: image_confidence(y, p, t), logits)
            for name, (p, t) in POLICIES.items()
        }
        return labels, sure

    tables, sure = [], {name: [] for name in POLICIES}
    for first in range(0, len(split), batch):
        examples = [split[i] for i in range(first, min(first + batch, len(split)))]
        labels, found = run(variables, np.stack([e["image"] for e in examples]))
        labels = np.asarray(labels)
        for i, example in enumerate(examples):
            truth = example["label"][None]
            tables.append(
                [confusion_matrix(truth, maps[i][None], arch.num_classes) for maps in labels]
            )
        for name in POLICIES:
            sure[name].append(np.asarray(found[name]).T)
    return np.array(tables), {name: np.concatenate(rows) for name, rows in sure.items()}


def leaving(sure: np.ndarray, threshold: float) -> np.ndarray:
    """The pass, from 1, at which each image leaves: int [images] from confidences [images, N]."""
    enough = sure >= threshold
    enough[:, -1] = True
    return enough.argmax(axis=1) + 1


def threshold_for(sure: np.ndarray, mean: float) -> float:
    """The threshold with which the mean number of passes is nearest to `mean`."""
    tried = np.unique(sure)
    tried = tried[:: max(1, len(tried) // 500)]
    return float(min(tried, key=lambda t: abs(leaving(sure, t).mean() - mean)))


def miou_of(tables: np.ndarray, taken: np.ndarray) -> float:
    """Of all images, each answered by its pass."""
    return scores_from_confusion(tables[np.arange(len(taken)), taken - 1].sum(axis=0))["miou"]


def record(workdir: Path) -> dict[str, Any]:
    """{'fixed': a row per pass, 'stopping': a row per policy and mean}, for a trained model."""
    arch, variables, card = load_model(workdir / "model")
    arch, variables = fold(arch, variables)
    variables = jax.device_put(variables)
    total = num_iterations(arch)
    calib, test = split_of("calib"), split_of("test")
    _, sure_calib = look(arch, variables, card, calib)
    tables, sure = look(arch, variables, card, test)
    fixed = [miou_of(tables, np.full(len(tables), n)) for n in range(1, total + 1)]
    rules = [
        (name, mean, threshold_for(sure_calib[name], mean))
        for name in POLICIES
        for mean in range(2, total)
    ]
    fixed_ms, rule_ms = _timed(arch, variables, card, test, rules)
    rows = []
    for (name, mean, limit), ms in zip(rules, rule_ms, strict=True):
        taken = leaving(sure[name], limit)
        at = taken.mean()
        timed = leaving(sure[name][:TIMED], limit).mean()
        rows.append({
            "policy": name, "wanted_passes": mean, "threshold": limit, "mean_passes": float(at),
            "miou": miou_of(tables, taken),
            # Between two whole numbers of passes: a straight line.
            "fixed_miou_at_mean": float(np.interp(at, np.arange(1, total + 1), fixed)),
            "timed_passes": float(timed), "ms": ms,
            "fixed_ms_at_mean": float(np.interp(timed, np.arange(1, total + 1), fixed_ms)),
        })  # fmt: skip
    told = [{"passes": n + 1, "miou": m, "ms": fixed_ms[n]} for n, m in enumerate(fixed)]
    return {"fixed": told, "stopping": rows}


def _timed(arch, variables, card, split, rules) -> tuple[list[float], list[float]]:
    """Mean over images of the median over rounds, batch 1: (per number of passes, per rule), milliseconds."""
    total = num_iterations(arch)
    programs = {
        name: answer_until(arch, card.mean, card.std, p) for name, (p, _) in POLICIES.items()
    }
    never = thresholds(1.0, (NEVER,) * total)
    runs = [("mean", never, jnp.int32(n)) for n in range(1, total + 1)]
    runs += [
        (name, thresholds(POLICIES[name][1], (limit,) * total), jnp.int32(total))
        for name, _, limit in rules
    ]
    times = np.empty((ROUNDS, TIMED, len(runs)))
    for i in range(TIMED):
        image = split[i]["image"][None]
        for r in range(ROUNDS):
            for j, (name, limits, last) in enumerate(runs):
                begin_s = time.perf_counter()
                np.asarray(programs[name](variables, image, limits, last).labels)
                times[r, i, j] = 1e3 * (time.perf_counter() - begin_s)
        if i == 0:  # compiled in its first round
            times[0, 0] = times[1:, 0].min(axis=0)
    found = np.median(times, axis=0).mean(axis=0).tolist()
    return found[:total], found[total:]
