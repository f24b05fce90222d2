"""What slimming data and network together buys: after DANCE, against plain training and controls of equal cost.

Two networks on toy_street, each from scratch: one with an ASPP, one with two paths. All arms of a seed start from the
same weights and have the same loss, optimiser and schedule. `full` and `dance` last the same number of epochs; every
other arm lasts as long as its training costs the MACs that `dance` of that seed did. Settings are those of
configs/dance_toy_street.py, chosen on calib with another seed (see there).

On 2 idle CPU cores an arm takes one to two minutes.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import common, dance_cost
from jaxseg import build, cli
from jaxseg.arch import count
from jaxseg.data import dance_scores
from jaxseg.data.pipeline import eval_stream
from jaxseg.inference.artifact import load_model
from jaxseg.inference.evaluation import evaluate
from jaxseg.inference.own_size import OwnSize
from jaxseg.inference.predictor import Model, labels_only, make_score
from jaxseg.methods import dance as slimming
from jaxseg.models import zoo
from jaxseg.objectives.metrics import confusion_matrix, scores_from_confusion
from jaxseg.training.plan import Plan
from jaxseg.training.report import read_log

CLAIM = (
    "After DANCE, toy_street, from scratch, quarter-width DeepLabV3+ on ResNet-18 and quarter-width BiSeNetV2: test "
    "mIoU, training MACs and inference MACs of plain training; of data and network slimmed together over as many "
    "epochs; and, at the same training MACs, of uniform down-sampling, random dropping, complexity dealt at random, "
    "data alone, network alone, one after the other, and the weight's sign reversed."
)
SEEDS = (0, 1, 2)
EPOCHS = 6
TOLERANCE = 0.02
"""How far an arm's training MACs may be from those of `dance`; else it is trained once more, with other steps."""
CONFIG = "dance_toy_street"
NETWORKS = {"aspp": ("deeplabv3plus_resnet18", 0.25), "two_path": ("bisenetv2", 0.25)}
GROUPS = ("simple", "middle", "complex")
"""Thirds of the test images by what their rank would be among the training images; toy_street has no drives."""

FULL_SIZE = ("dance.data.ratios=(1.0,)", "dance.data.edges=()")
ALL_SEEN = ("dance.data.tau_drop=0.0",)
ALL_COUNT = ("dance.data.w_min=1.0",)
PLAIN_DATA = (*FULL_SIZE, *ALL_SEEN, *ALL_COUNT)
PLAIN_NETWORK = ("dance.network.share=0.0", "dance.network.l1=0.0")


# --- Runs ---


def flags(network: str, seed: int, *changes: str) -> list[str]:
    """The command line's overrides."""
    name, width = NETWORKS[network]
    usual = (f"seed={seed}", f"model.name={name}", f"model.width={width}")
    return [f"--config.{x}" for x in (*usual, *changes)]


@functools.cache
def planned(network: str, seed: int, *changes: str) -> Plan:
    """The run that these overrides make."""
    config = cli.load_config(f"configs/{CONFIG}.py")
    return build.training_plan(cli.override(config, flags(network, seed, *changes)), name=CONFIG)


def epochs(network: str, seed: int, *changes: str) -> int:
    """Steps of EPOCHS epochs, of as many batches as are left of them."""
    return planned(network, seed, *changes).phases[0].plan.steps_in(EPOCHS)


def train(network: str, seed: int, workdir: Path, steps: int, *changes: str) -> dict[str, Any]:
    """A run of so many steps, or what it left; its `run.json`."""
    run = flags(network, seed, *changes, f"phases.main.steps={steps}")
    return common.trained(CONFIG, workdir, *run)


def pieces(workdir: Path) -> list[dict[str, Any]]:
    """The network in each piece of a run, as the log tells; where a run was resumed it tells a piece again."""
    lines = [line for line in read_log(workdir / "log.jsonl") if line["kind"] == "phase"]
    return list({line["phase"]: line for line in lines}.values())


def left(workdir: Path) -> tuple[float, ...]:
    """MACs of the network in each piece of a run, to those of the first."""
    macs = [line["macs"] for line in pieces(workdir)]
    return tuple(x / macs[0] for x in macs)


def sibling(workdir: Path, network: str, arm: str) -> Path:
    """The folder of another arm of the same seed."""
    return workdir.parent.parent / f"{network}_{arm}" / workdir.name


# --- Scores ---


def scored(folder: Path, split_name: str) -> dict[str, Any]:
    """mIoU, whole and by groups: of whole images, and where training had several sizes of each image at its own."""
    arch, variables, card = load_model(folder / "model")
    config = build.evaluation_config(card, ())
    split, plan = build.evaluation_split(config, card, split_name)
    places = _places(split)

    def by_group(score: Any, variables: Any) -> dict[str, Any]:
        tables = np.zeros((len(GROUPS), arch.num_classes, arch.num_classes), np.int64)

        def watch(batch: Any, labels: np.ndarray) -> None:
            for index, label, answer in zip(batch["index"], batch["label"], labels, strict=True):
                if index >= 0:
                    tables[places[index]] += confusion_matrix(label, answer, arch.num_classes)

        with eval_stream(split, plan, num_workers=0) as batches:
            evaluate(score, variables, batches, arch.num_classes, watch=watch)
        groups = {n: scores_from_confusion(t)["miou"] for n, t in zip(GROUPS, tables, strict=True)}
        return {"miou": scores_from_confusion(tables.sum(0))["miou"], "by_group": groups}

    size_px = tuple(map(int, split.sizes_px[0]))
    cost = count(zoo.blocks(arch), *size_px)
    full = by_group(make_score(arch, card.mean, card.std), jax.device_put(variables))
    row = {f"{split_name}_{k}": v for k, v in full.items()}
    row |= {"macs": cost.macs, "params": cost.params, "num_images": len(split)}
    if card.sizes:
        own = OwnSize.of(Model(arch, variables, card))
        row |= {f"{split_name}_slim_{k}": v for k, v in by_group(labels_only(own), None).items()}
        row["slim_macs"] = own.record(size_px)["macs"]
    return row


def _places(split: Any) -> np.ndarray:
    """The group of every image of a split, int [N]."""
    plan = planned("aspp", 0)
    measure = plan.config["dance"]["data"]["measure"]
    here, training = (dance_scores.scores(x, measure).values for x in (split, plan.train_split))
    return np.digitize(dance_scores.unseen(here, training, dance_scores.GLOBAL), (1 / 3, 2 / 3))


def row(workdir: Path, *before: dict[str, Any]) -> dict[str, Any]:
    """What a run is worth and, with others that it went on from, what it cost."""
    run = common.trained_record(workdir)
    runs = (run, *before)
    return scored(workdir, "test") | {
        "steps": [x["step"] for x in runs[::-1]],
        "train_macs": sum(x["train_macs"] for x in runs),
        "train_wall_s": sum(x["wall_s"] for x in runs),
        "left": left(workdir),
        "state_digest": run["state_digest"],
    }


# --- Arms ---

Arm = Callable[[str, int, Path], dict[str, Any]]


def full(network: str, seed: int, workdir: Path) -> dict[str, Any]:
    """The reference: plain training."""
    off = (*PLAIN_DATA, *PLAIN_NETWORK)
    train(network, seed, workdir, epochs(network, seed, *off), *off)
    return row(workdir)


def dance(network: str, seed: int, workdir: Path, *changes: str) -> dict[str, Any]:
    """Everything on, over as many epochs."""
    train(network, seed, workdir, epochs(network, seed, *changes), *changes)
    return row(workdir)


def eights(network: str, seed: int, workdir: Path) -> dict[str, Any]:
    """As `dance`; layers come to numbers of channels by which this CPU calculates."""
    return dance(network, seed, workdir, "dance.network.multiple=8")


def _budget(network: str, workdir: Path) -> tuple[int, tuple[float, ...]]:
    """Training MACs of `dance`, and what its events left of the network."""
    folder = sibling(workdir, network, "dance")
    return common.trained_record(folder)["train_macs"], left(folder)


def as_costly(
    network: str,
    seed: int,
    workdir: Path,
    changes: tuple[str, ...],
    *,
    share: float = 1.0,
    slimmed: bool = False,
    part: str = "",
) -> dict[str, Any]:
    """A run with these changes that costs a share of the MACs of `dance`, within TOLERANCE.

    Args:
        slimmed: whether the network is; how much its events leave is first taken from `dance`, and is seen only when it
            has been trained. Where that is too far off, it is trained again from the start for as long as it should be.
        part: of an arm of several runs: the folder of this one inside `workdir`.
    """
    budget, fractions = _budget(network, workdir)
    plan = planned(network, seed, *changes)
    for turn in ("", "_again"):
        folder = workdir / f"{part}{turn}" if part else workdir.with_name(workdir.name + turn)
        steps = dance_cost.steps_for(plan, fractions if slimmed else (1.0,), share * budget)
        run = train(network, seed, folder, steps, *changes)
        if abs(run["train_macs"] / (share * budget) - 1) <= TOLERANCE:
            break
        fractions = left(folder)
    return run | {"folder": folder}


def equal(*changes: str, slimmed: bool = False) -> Arm:
    """An arm of these changes."""

    def arm(network: str, seed: int, workdir: Path) -> dict[str, Any]:
        return row(as_costly(network, seed, workdir, changes, slimmed=slimmed)["folder"])

    return arm


def same_network(network: str, seed: int) -> tuple[str, ...]:
    """Plain data, and the share of channels to which `dance` is coupled."""
    plan = planned(network, seed)
    settings, batches = plan.config["dance"]["network"], plan.phases[0].plan
    share = settings["share"]
    if settings["tie"]:
        share = slimming.coupled(share, batches.slimming.mean_square_ratio(batches.q))
    return (*PLAIN_DATA, "dance.network.tie=False", f"dance.network.share={share:.4f}")


def alone(network: str, seed: int, workdir: Path) -> dict[str, Any]:
    """The network slimmed as in `dance`, the data plain."""
    changes = same_network(network, seed)
    return row(as_costly(network, seed, workdir, changes, slimmed=True)["folder"])


def uniform(network: str, seed: int, workdir: Path) -> dict[str, Any]:
    """One ratio for all images: the root of dance's share of the reference's MACs."""
    budget = _budget(network, workdir)[0]
    plain = common.trained_record(sibling(workdir, network, "full"))["train_macs"]
    ratio = (budget / plain) ** 0.5
    changes = (
        f"dance.data.ratios=({ratio:.3f},)",
        "dance.data.edges=()",
        *ALL_SEEN,
        *ALL_COUNT,
        *PLAIN_NETWORK,
    )
    found = row(as_costly(network, seed, workdir, changes)["folder"])
    plan = planned(network, seed, *changes).phases[0].plan
    return found | {"size_px": list(next(iter(plan.sizes_px().values())))}


def dropping(network: str, seed: int, workdir: Path) -> dict[str, Any]:
    """Every image is kept with the same probability in every epoch: dance's share of the reference's MACs."""
    budget = _budget(network, workdir)[0]
    plain = common.trained_record(sibling(workdir, network, "full"))["train_macs"]
    drop = (
        "dance.data.drop_rule=step",
        "dance.data.tau_drop=1.0",
        f"dance.data.d_max={1 - budget / plain:.3f}",
    )
    changes = (*FULL_SIZE, *drop, *ALL_COUNT, *PLAIN_NETWORK)
    return row(as_costly(network, seed, workdir, changes)["folder"])


def sequence(network: str, seed: int, workdir: Path) -> dict[str, Any]:
    """Data slimmed in a first run of half the cost, then the network in a second that starts from its weights."""
    first = as_costly(network, seed, workdir, PLAIN_NETWORK, share=0.5, part="data")
    after = (*same_network(network, seed), f"model.pretrained={first['folder']}")
    second = as_costly(network, seed, workdir, after, share=0.5, slimmed=True, part="network")
    return row(second["folder"], first)


ARMS_OF_A_NETWORK: dict[str, Arm] = {
    "full": full,
    "dance": dance,
    "eights": eights,
    "uniform": uniform,
    "dropping": dropping,
    "shuffled": equal("dance.data.shuffled=True", slimmed=True),
    "data": equal(*PLAIN_NETWORK),
    "network": alone,
    "sequence": sequence,
    "reversed": equal("dance.data.weight_sign=-1", slimmed=True),
}


def _arm(network: str, arm: Arm) -> Callable[[int, Path, str], dict[str, Any]]:
    def run(seed: int, workdir: Path, data: str) -> dict[str, Any]:
        del data
        return {"network": network, **arm(network, seed, workdir)}

    return run


ARMS = {
    f"{network}_{name}": _arm(network, arm)
    for network in NETWORKS
    for name, arm in ARMS_OF_A_NETWORK.items()
}
