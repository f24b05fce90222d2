"""What exits buy: mIoU on test against measured latency, with controls, on toy_street; two networks.

`heads` and `gain` are the paper's way: one exit learns per step of stage 1, fresh heads of all 16 designs in stage 2.
`sum_*` are ours: all exits learn in every step of stage 1, and go on in stage 2 beside three other designs. `deep_*` is
that on ResNet-34. `*narrow_sum_*` are narrower networks whose exits learn along, too, for the final answer alone: what
exits give by being trained, without leaving. Plain networks and the frozen backbone are those of
`benchmarks.mess_stages`, trained here where they are missing. On 2 CPU cores: 5 to 8 minutes for all heads, 2 for a
narrow network, 1 to 3 for a `gain`.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import common, mess_stages
from jaxseg import build
from jaxseg.data.pipeline import eval_stream
from jaxseg.deploy import assembled
from jaxseg.errors import UserError
from jaxseg.inference import collect as collecting
from jaxseg.inference.artifact import load_model
from jaxseg.inference.evaluation import evaluate
from jaxseg.inference.exits import Policy
from jaxseg.inference.part_times import measure_parts
from jaxseg.inference.predictor import Model, labels_only, make_score
from jaxseg.inference.search import BUDGETED, FINAL, INPUT, Deployment, Evidence, Search
from jaxseg.inference.side_by_side import Timed, side_by_side
from jaxseg.inference.ways import InputDependent, Way

CLAIM = (
    "Input-dependent exits against the best static exit and a narrower network at equal latency, random routing and "
    "oracle routing with the same shares: test mIoU and measured latency, 0.1 and 1 point below the plain network."
)
SEEDS = (0, 1, 2)
LOSSES = {"0.1": 0.001, "1.0": 0.01}
"""Points below the plain network on calib that a configuration may have."""
NARROW = (0.1875, 0.125)
"""Width multipliers of the narrower networks; the evidence network has 0.25."""
DRAWS = 20
"""Of random routing."""
TIMED = 50
"""Images that a configuration is timed on, in turn with the plain network."""


def _stage(workdir: Path, arm: str) -> Path:
    return workdir.parent.parent.parent / "mess_stages" / arm / workdir.name


def heads(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """All 16 candidate heads behind each exit point."""
    before = mess_stages.network(_stage(workdir, "round_robin"), seed, "round_robin")
    steps = f"--config.mess.stage_2.steps={mess_stages.HEAD_STEPS}"
    folder = mess_stages.heads(workdir, seed, before, steps)
    done = common.trained_record(folder)
    return common.summary(done, {"test": common.scored(folder, "test")})


def run(changes: tuple[str, ...], seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """A run of as many steps as all."""
    steps = f"phases.main.steps={mess_stages.STEPS}"
    overrides = (f"--config.{x}" for x in (f"seed={seed}", steps, *changes))
    done = common.trained(mess_stages.CONFIG, workdir, *overrides)
    return common.summary(done, {"test": common.scored(workdir, "test")})


def along(changes: tuple[str, ...], seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """The final answer of a network whose exits all learn along: the first stage alone."""
    first = ("mess.stage_1=sum", f"max_steps={mess_stages.STEPS}")
    return run((*first, *changes), seed, workdir, data)


def places(evidence: Evidence, one: Deployment) -> np.ndarray:
    """Which head of the chain answers each image: int [M]."""
    place = np.full(evidence.hit.shape[1], len(one.heads) - 1)
    for i in reversed(range(len(one.image))):
        sure = evidence.confidence[one.heads[i], evidence.pixel.index(one.pixel[i])]
        place[sure >= np.float32(one.image[i])] = i
    return place


def miou(evidence: Evidence, one: Deployment, place: np.ndarray) -> float:
    """Pooled over images, each answered by the head at its place of the chain."""
    rows = np.array(one.heads)[place], np.arange(len(place))
    hit, union = evidence.hit[rows].sum(0), evidence.union[rows].sum(0)
    return float(np.mean(hit[union > 0] / union[union > 0]))


def oracle(evidence: Evidence, one: Deployment, place: np.ndarray) -> np.ndarray:
    """The same shares, but who leaves is who loses least by it: uses the labels, so a bound and no policy."""
    counts = np.bincount(place, minlength=len(one.heads))
    right = evidence.hit[list(one.heads)].sum(axis=2)
    found, free = np.full(len(place), len(one.heads) - 1), np.ones(len(place), bool)
    for i, count in enumerate(counts[:-1]):
        loss = np.where(free, right[-1] - right[i], np.inf)
        chosen = np.argsort(loss, kind="stable")[:count]
        found[chosen], free[chosen] = i, False
    return found


def gain(of: str, narrower: tuple[str, ...], seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """Searched on calib; mIoU on test; every latency as a ratio to the plain network, image by image in turn.

    Args:
        of: the arm with heads. narrower: arms of plain networks.
    """
    arch, variables, card = load_model(workdir.parent.parent / of / str(seed) / "model")
    if of == "deep_sum":
        folder = workdir.parent.parent / "deep_plain" / str(seed)
    else:
        folder = mess_stages.network(_stage(workdir, "plain"), seed, "")
    plain = load_model(folder / "model")[:2]
    config = build.evaluation_config(card, ())
    policy = Policy()
    found = {}
    for name in ("calib", "test"):
        split, plan = build.evaluation_split(config, card, name)
        with eval_stream(split, plan, num_workers=0) as batches:
            found[name] = collecting.collect(
                arch, variables, card.mean, card.std, batches, policy=policy
            )
    calib, test = found["calib"], found["test"]
    split, _ = build.evaluation_split(config, card, "test")
    size_px = tuple(map(int, split.sizes_px[0]))
    images = [split[i]["image"] for i in range(TIMED)]
    path_cost = measure_parts(arch, variables, card.mean, card.std, size_px, policy).path
    searches = {
        kind: Search(calib, path_cost, image=collecting.IMAGE, settings=settings)
        for kind, settings in {"input": (INPUT,), "static": (FINAL, BUDGETED)}.items()
    }
    reference = {name: _miou_of(plain, card, config, name) for name in ("calib", "test")}

    def against_plain(small: Any, parts: Any, way: Way) -> dict[str, Any]:
        one, other = Timed(small, parts, way), Timed(*plain, Way())
        return side_by_side(one, other, card, images)

    row: dict[str, Any] = {"plain": reference, "final_test_miou": test.miou(len(arch.exits))}
    for points, loss in LOSSES.items():
        least = reference["calib"] - loss
        try:
            chosen = searches["input"].best(min_miou=least)
        except UserError as error:
            row[points] = {"none": str(error)}
            continue
        static = searches["static"].best(max_cost=chosen.cost)
        row[points] = {}
        for kind, one in {"input": chosen, "static": static}.items():
            assert abs(miou(calib, one, places(calib, one)) - one.miou) < 1e-9
            row[points][kind] = {
                "heads": list(one.heads),
                "pixel": list(one.pixel),
                "image": list(one.image),
                "calib_miou": one.miou,
                "test_miou": miou(test, one, places(test, one)),
                "promised_ms": one.cost,
                **against_plain(*assembled(arch, variables, one, policy)),
            }
        place = places(test, chosen)
        rng = np.random.default_rng(seed)
        shuffled = [miou(test, chosen, rng.permutation(place)) for _ in range(DRAWS)]
        row[points] |= {
            "taken_test": (np.bincount(place, minlength=len(chosen.heads)) / len(place)).tolist(),
            "random_test_miou": float(np.mean(shuffled)),
            "oracle_test_miou": miou(test, chosen, oracle(test, chosen, place)),
            "executed_test_miou": _executed(arch, variables, chosen, policy, card, config),
        }
        cheapest = searches["static"].best(min_miou=least)
        row[points]["cheapest_static"] = {
            "heads": list(cheapest.heads),
            "test_miou": miou(test, cheapest, places(test, cheapest)),
            **against_plain(*assembled(arch, variables, cheapest, policy)),
        }
    for name in narrower:
        small, parts, _ = load_model(workdir.parent.parent / name / str(seed) / "model")
        row[name] = {
            "test_miou": _miou_of((small, parts), card, config, "test"),
            **against_plain(small, parts, Way()),
        }
    row["fronts"] = {
        kind: [
            {"calib_miou": x.miou, "test_miou": miou(test, x, places(test, x)), "ms": x.cost}
            for x in _thinned(search.pareto())
        ]
        for kind, search in searches.items()
    }
    return row


def _thinned(front: list[Deployment], most: int = 40) -> list[Deployment]:
    at = np.unique(np.linspace(0, len(front) - 1, most).astype(int))
    return [front[i] for i in at]


def _miou_of(model: Any, card: Any, config: Any, name: str) -> float:
    """Of a network without exits on a split."""
    arch, variables = model
    split, plan = build.evaluation_split(config, card, name)
    score = make_score(arch, card.mean, card.std, build.answer_mode(config.eval))
    with eval_stream(split, plan, num_workers=0) as batches:
        tally = evaluate(score, jax.device_put(variables), batches, arch.num_classes)
    return tally.scores()["miou"]


def _executed(
    arch: Any, variables: Any, one: Deployment, policy: Policy, card: Any, config: Any
) -> float:
    """Test mIoU of what is deployed, really run, not put together from stored predictions."""
    small, parts, way = assembled(arch, variables, one, policy)
    routed = InputDependent.of(Model(small, parts, card), way)
    split, plan = build.evaluation_split(config, card, "test")
    with eval_stream(split, plan, num_workers=0) as batches:
        return evaluate(labels_only(routed), None, batches, arch.num_classes).scores()["miou"]


PLAIN = ("mess.num_exits=0",)
SUM = (
    "mess.stage_1=sum",
    "mess.heads.go_on=True",
    "mess.heads.reductions=(1,2)",
    "mess.heads.extra_blocks=(0,1)",
    f"mess.stage_2.steps={mess_stages.HEAD_STEPS}",
)
DEEP = ("model.name=deeplabv3plus_resnet34",)
WIDTHS = {f"narrow_{width}": (*PLAIN, f"model.width={width}") for width in NARROW}
DEEP_WIDTHS = {f"deep_{name}": (*changes, *DEEP) for name, changes in WIDTHS.items()}
ALONG = {f"narrow_sum_{width}": (f"model.width={width}",) for width in NARROW}
ALONG |= {f"deep_{name}": (*changes, *DEEP) for name, changes in ALONG.items()}

ARMS = {
    "heads": heads,
    **{name: functools.partial(run, changes) for name, changes in WIDTHS.items()},
    "gain": functools.partial(gain, "heads", tuple(WIDTHS)),
    "sum": functools.partial(run, SUM),
    "sum_gain": functools.partial(gain, "sum", tuple(WIDTHS)),
    "deep_plain": functools.partial(run, (*PLAIN, *DEEP)),
    **{name: functools.partial(run, changes) for name, changes in DEEP_WIDTHS.items()},
    "deep_sum": functools.partial(run, (*SUM, *DEEP)),
    **{name: functools.partial(along, changes) for name, changes in ALONG.items()},
    "deep_sum_gain": functools.partial(gain, "deep_sum", tuple(DEEP_WIDTHS)),
}
