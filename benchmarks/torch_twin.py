"""The quickstart trained twice: by jaxseg and by plain torch, from the same weights on the same batches.

`make parity` installs torch.
"""

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import float64, torch_net, toy_street
from jaxseg import build, cli
from jaxseg.data.pipeline import Stream, eval_stream, train_stream
from jaxseg.data.plan import EvalPlan
from jaxseg.objectives import metrics
from jaxseg.training import state as states
from jaxseg.training.optim import Optim, learning_rate
from jaxseg.training.phases import Step
from jaxseg.training.plan import Plan
from jaxseg.training.state import TrainState
from jaxseg.types import IGNORE_LABEL, Batch

CLAIM = (
    "Trained by jaxseg and by plain torch from the same weights on the same batches, the quickstart has the same first "
    "50 losses (in float64; in float32 rounding parts torch from itself within 20 steps), and the same mIoU within the "
    "spread of the seeds."
)
SEEDS = (0, 1, 2)
FIRST = 50

# --- Training ---


class Recipe(NamedTuple):
    """All that torch must know of a run: optimiser, length of its schedule, class weights, normalisation."""

    optim: Optim
    steps: int
    class_weights: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def fit(
    net: nn.Module, stream: Iterable[Batch], recipe: Recipe, dtype: torch.dtype = torch.float32
) -> list[float]:
    """Trains in place on the batches; the loss of each step, before its update."""
    rate = learning_rate(recipe.optim, recipe.steps)
    weights = torch.tensor(recipe.class_weights, dtype=dtype)
    net.to(dtype).train()
    optimiser, losses = optimiser_for(net, recipe.optim), []
    for step, batch in enumerate(stream):
        for group in optimiser.param_groups:
            group["lr"] = float(rate(step))
        label = torch.from_numpy(batch["label"].astype(np.int64))
        said = answer(net, batch, recipe, dtype)
        loss = F.cross_entropy(said, label, weights, ignore_index=IGNORE_LABEL)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if step % 100 == 99:
            print(f"step {step + 1}  loss {np.mean(losses[-100:]):.3f}", flush=True)
    return losses


def optimiser_for(net: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """The optimiser of torch with our settings; norms and biases do not decay. The rate is set at each step."""
    if optim.clip_norm or optim.backbone_multiplier != 1:
        raise NotImplementedError(optim)
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    options = {"weight_decay": optim.weight_decay}
    if optim.name == "sgd":
        return torch.optim.SGD(
            groups, 0.1, momentum=optim.momentum, nesterov=optim.nesterov, **options
        )
    return torch.optim.AdamW(groups, betas=(optim.momentum, optim.beta2), **options)


def answer(
    net: nn.Module, batch: Batch, recipe: Recipe, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Logits [B, K, H, W] of the size of the images."""
    mean, std = (
        torch.tensor(v, dtype=dtype).reshape(1, 3, 1, 1) for v in (recipe.mean, recipe.std)
    )
    image = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).to(dtype) / 255.0
    size = batch["image"].shape[1:3]
    return F.interpolate(net((image - mean) / std), size, mode="bilinear", align_corners=False)


def follow(
    step: Step, state: TrainState, stream: Iterable[Batch]
) -> tuple[TrainState, list[float]]:
    """The same by one of our train steps: the last state, and the loss of each step."""
    step, losses = jax.jit(step), []
    for batch in stream:
        state, sums = step(state, batch)
        losses.append(float(sums["loss_sum"] / sums["loss_count"]))
    return state, losses


# --- The quickstart ---


def quickstart(seed: int) -> tuple[Plan, Recipe]:
    """The run that configs/quickstart.py describes."""
    config = cli.load_config("configs/quickstart.py")
    config.seed = seed
    plan = build.training_plan(config, name="quickstart")
    phase, weights = plan.phases[0], tuple(config.loss.class_weights)
    return plan, Recipe(phase.optim, phase.steps, weights, plan.card.mean, plan.card.std)


def batches(plan: Plan, steps: int) -> Stream:
    """The first batches of the run: equal bits, whoever asks."""
    order = plan.phases[0].plan
    return train_stream(plan.train_split, order, plan.augment, seed=order.seed, start=0, stop=steps)


def started(plan: Plan) -> tuple[TrainState, nn.Module]:
    """The state that the run starts with, and the torch network with the same values."""
    state = states.create(plan.arch, plan.phases[0], plan.seed, ema=False)
    net = torch_net.make(plan.arch)
    torch_net.load(net, plan.arch, {"params": state.params, "batch_stats": state.batch_stats})
    return state, net


def by_torch(
    seed: int, steps: int, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, list[float]]:
    """The first steps: the network and their losses."""
    plan, recipe = quickstart(seed)
    net = started(plan)[1]
    # In float64 the rate must be one too: it comes from our schedule.
    wide = float64.everywhere() if dtype == torch.float64 else contextlib.nullcontext()
    with wide, batches(plan, steps) as stream:
        return net, fit(net, stream, recipe, dtype)


def by_jax(seed: int, steps: int) -> list[float]:
    """Losses of the first steps."""
    plan, _ = quickstart(seed)
    phase, (state, _) = plan.phases[0], started(plan)
    with batches(plan, steps) as stream:
        return follow(phase.make_step(plan.arch, phase), state, stream)[1]


def by_jax_in_float64(seed: int, steps: int) -> list[float]:
    """The same computed, and kept, in float64."""
    plan, _ = quickstart(seed)
    phase, (state, _) = plan.phases[0], started(plan)
    with float64.everywhere(), batches(plan, steps) as stream:
        step = phase.make_step(float64.exact(plan.arch), phase)
        return follow(step, float64.widened(state), stream)[1]


def score(net: nn.Module, seed: int, split: str) -> dict[str, Any]:
    """What our own evaluation says of the torch network: miou, macc, aacc, iou."""
    plan, recipe = quickstart(seed)
    data = cli.from_plain({"data": plan.config["data"]}).data
    opened, classes = build.open_split(data, split), plan.arch.num_classes
    confusion = np.zeros((classes, classes), np.int64)
    net.eval()
    with torch.no_grad(), eval_stream(opened, EvalPlan(opened.sizes_px, 8)) as stream:
        for batch in stream:
            said = answer(net, batch, recipe).argmax(1).numpy()
            confusion += metrics.confusion_matrix(batch["label"], said, classes)
    return metrics.scores_from_confusion(confusion)


# --- Arms ---


def first_losses(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """The losses of the first steps: in float64 both ways, and in float32 both ways."""
    losses = {
        "jax_float64": by_jax_in_float64(seed, FIRST),
        "torch_float64": by_torch(seed, FIRST, torch.float64)[1],
        "jax": by_jax(seed, FIRST),
        "torch": by_torch(seed, FIRST)[1],
    }
    exact = np.array(losses["torch_float64"])

    def apart(name: str) -> np.ndarray:
        return np.abs(np.array(losses[name]) / exact - 1)

    return {
        "steps": FIRST,
        "jax_float64_from_torch_float64": float(apart("jax_float64").max()),
        "jax_from_torch_float64": float(apart("jax").max()),
        "torch_from_torch_float64": float(apart("torch").max()),
        "jax_from_torch": float(np.abs(np.array(losses["jax"]) / losses["torch"] - 1).max()),
        "jax_float64_steps_within_1_percent": _until(apart("jax_float64") > 0.01),
        "jax_steps_within_1_percent": _until(apart("jax") > 0.01),
        "torch_steps_within_1_percent": _until(apart("torch") > 0.01),
        "losses": {name: [round(x, 6) for x in values] for name, values in losses.items()},
        "torch": torch.__version__,
    }


def _until(condition: np.ndarray) -> int:
    """Steps before the first at which it holds."""
    return int(condition.argmax()) if condition.any() else len(condition)


def trained_by_torch(seed: int, workdir: Path, data: str, steps: int = 0) -> dict[str, Any]:
    """The whole run by torch, scored on both splits; `steps` cuts it short."""
    start_s = time.monotonic()
    plan, recipe = quickstart(seed)
    net, losses = by_torch(seed, steps or recipe.steps)
    train_wall_s = time.monotonic() - start_s
    found = {split: score(net, seed, split) for split in ("val", "test")}
    row = {f"{split}_{key}": s[key] for key in ("miou", "aacc") for split, s in found.items()}
    return row | {
        "per_class_iou": dict(zip(plan.card.class_names, found["test"]["iou"], strict=True)),
        "steps": len(losses),
        "train_loss": round(float(np.mean(losses[-100:])), 4),
        "train_wall_s": train_wall_s,
        "torch": torch.__version__,
    }


ARMS = {
    f"first_{FIRST}_losses": first_losses,
    "jax": toy_street.quickstart,
    "torch": trained_by_torch,
}
