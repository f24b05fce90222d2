"""The quickstart trained twice: by jaxseg and by plain torch, from the same weights on the same batches.

The only file outside the tests that imports torch; `make parity` installs it.
"""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F
from flax.traverse_util import flatten_dict
from torch import Tensor, nn

from benchmarks import toy_street
from jaxseg import build, cli
from jaxseg.arch import Arch
from jaxseg.data.pipeline import eval_stream, train_stream
from jaxseg.data.plan import EvalPlan
from jaxseg.objectives import metrics
from jaxseg.training import optim
from jaxseg.training import state as states
from jaxseg.training.run import Plan
from jaxseg.types import IGNORE_LABEL, Batch
from jaxseg.weights import torch_names

CLAIM = (
    "Trained by jaxseg and by plain torch from the same weights on the same batches, the quickstart has equal first "
    "losses (within 1 %) and, over the seeds, equal mIoU."
)
SEEDS = (0, 1, 2)
FIRST = 50

# --- The network in plain torch ---


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 1512.03385)."""

    def __init__(self, inputs: int, width: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        projected = stride != 1 or inputs != width
        self.downsample = nn.Sequential(
            *([nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)] * projected)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet18(nn.Module):
    """Output stride 16, the first block of the last stage undilated; answers (last map, map at stride 4)."""

    def __init__(self, widths: tuple[int, int, int, int]):
        super().__init__()
        a, b, c, d = widths
        self.conv1, self.bn1 = nn.Conv2d(3, a, 7, 2, 3, bias=False), nn.BatchNorm2d(a)
        self.layer1 = nn.Sequential(Basic(a, a), Basic(a, a))
        self.layer2 = nn.Sequential(Basic(a, b, stride=2), Basic(b, b))
        self.layer3 = nn.Sequential(Basic(b, c, stride=2), Basic(c, c))
        self.layer4 = nn.Sequential(Basic(c, d), Basic(d, d, dilation=2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        fine = self.layer1(x)
        return self.layer4(self.layer3(self.layer2(fine))), fine


def _normed(inputs: int, width: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel - 1) // 2
    conv = nn.Conv2d(inputs, width, kernel, 1, padding, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


class DeepLabV3Plus(nn.Module):
    """ASPP, joined with the fine map, two 3x3 convolutions, classifier (Chen et al., 1802.02611)."""

    def __init__(self, classes: int, widths: tuple[int, int, int, int], wide: int, narrow: int):
        super().__init__()
        self.backbone = ResNet18(widths)
        last = widths[-1]
        self.aspp_0 = _normed(last, wide)
        self.aspp_1, self.aspp_2, self.aspp_3 = (
            _normed(last, wide, 3, rate) for rate in (6, 12, 18)
        )
        self.aspp_pool = _normed(last, wide)
        self.project = _normed(5 * wide, wide)
        self.skip = _normed(widths[0], narrow)
        self.conv1 = _normed(wide + narrow, wide, 3)
        self.conv2 = _normed(wide, wide, 3)
        self.logits = nn.Conv2d(wide, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        coarse, fine = self.backbone(x)
        branches = [self.aspp_0, self.aspp_1, self.aspp_2, self.aspp_3]
        maps = [branch(coarse) for branch in branches]
        pooled = self.aspp_pool(coarse.mean((2, 3), keepdim=True))
        y = self.project(torch.cat([*maps, pooled.expand_as(maps[0])], dim=1))
        y = F.interpolate(y, fine.shape[2:], mode="bilinear", align_corners=False)
        y = self.conv2(self.conv1(torch.cat([y, self.skip(fine)], dim=1)))
        return self.logits(y)


HEAD_MODULES: dict[str, tuple[str, str]] = {
    f"head/{name}": (f"{name}.0", f"{name}.1")
    for name in (
        *(f"aspp_{i}" for i in (0, 1, 2, 3, "pool")),
        "project",
        "skip",
        "conv1",
        "conv2",
    )
} | {"head/logits": ("logits", "")}
"""Our layers of the head -> convolution and norm of `DeepLabV3Plus`; those of the backbone follow torchvision."""


def make(arch: Arch) -> DeepLabV3Plus:
    """The torch counterpart of our deeplabv3plus_resnet18 at output stride 16, of any width; random weights."""
    widths = tuple(block.widths[-1] for block in arch.backbone.blocks[2::2])
    wide, narrow = arch.head.widths[0], arch.head.widths[-3]
    return DeepLabV3Plus(arch.num_classes, widths, wide, narrow)


def load(net: nn.Module, arch: Arch, variables: Any) -> None:
    """Copies our {'params', 'batch_stats'} into the torch network."""
    flat = flatten_dict(jax.device_get(variables), sep="/")
    keys = torch_names.torch_keys(arch, "torchvision_segmentation", HEAD_MODULES)
    theirs, copied = net.state_dict(), {}
    for path, value in flat.items():
        shape = tuple(theirs[keys[path]].shape)
        copied[keys[path]] = torch.from_numpy(torch_names.to_torch(path, value, shape))
    counters = {key: value for key, value in theirs.items() if key.endswith("num_batches_tracked")}
    net.load_state_dict(copied | counters)


# --- Training ---


def quickstart(seed: int) -> Plan:
    """The run that configs/quickstart.py describes."""
    config = cli.load_config("configs/quickstart.py")
    config.seed = seed
    return build.training_plan(config, name="quickstart")


def batches(plan: Plan, steps: int) -> Any:
    """The first batches of the run: equal bits, whoever asks."""
    order = plan.phases[0].plan
    return train_stream(plan.train_split, order, plan.augment, seed=order.seed, start=0, stop=steps)


def initial(plan: Plan) -> states.TrainState:
    """The state that the run starts with."""
    return states.create(plan.arch, plan.phases[0], plan.seed, ema=False)


def jax_losses(plan: Plan, steps: int) -> list[float]:
    """Loss of each of the first steps, by our own train step."""
    phase, state, losses = plan.phases[0], initial(plan), []
    step = jax.jit(phase.make_step(plan.arch, phase), donate_argnums=0)
    with batches(plan, steps) as stream:
        for batch in stream:
            state, sums = step(state, batch)
            losses.append(float(sums["loss_sum"] / sums["loss_count"]))
    return losses


def fit(plan: Plan, steps: int) -> tuple[nn.Module, list[float]]:
    """The first steps by torch: the trained network and the loss of each step."""
    settings, loss = plan.phases[0].optim, plan.config["loss"]
    plain = settings.name == "adamw" and settings.backbone_multiplier == 1.0
    assert plain and not settings.clip_norm and not loss["label_smoothing"], "not what follows"
    net = make(plan.arch)
    start = initial(plan)
    load(net, plan.arch, {"params": start.params, "batch_stats": start.batch_stats})
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        betas=(settings.momentum, settings.beta2),
        weight_decay=settings.weight_decay,
    )
    rate = optim.learning_rate(settings, plan.phases[0].steps)
    weights, losses = torch.tensor(loss["class_weights"]), []
    net.train()
    with batches(plan, steps) as stream:
        for step, batch in enumerate(stream):
            for group in optimiser.param_groups:
                group["lr"] = float(rate(step))
            label = torch.from_numpy(batch["label"].astype(np.int64))
            value = F.cross_entropy(
                answer(net, batch, plan), label, weights, ignore_index=IGNORE_LABEL
            )
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            losses.append(value.item())
            if step % 100 == 99:
                print(f"step {step + 1}  loss {np.mean(losses[-100:]):.3f}", flush=True)
    return net, losses


def answer(net: nn.Module, batch: Batch, plan: Plan) -> Tensor:
    """Logits [B, K, H, W] of the size of the images."""
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (plan.card.mean, plan.card.std))
    image = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).float() / 255.0
    size = batch["image"].shape[1:3]
    return F.interpolate(net((image - mean) / std), size, mode="bilinear", align_corners=False)


def scores(net: nn.Module, plan: Plan, split: str) -> dict[str, Any]:
    """What our own evaluation would say of the torch network: miou, macc, aacc, iou."""
    data = cli.from_plain({"data": plan.config["data"]}).data
    opened, classes = build.open_split(data, split), plan.arch.num_classes
    confusion = np.zeros((classes, classes), np.int64)
    net.eval()
    with torch.no_grad(), eval_stream(opened, EvalPlan(opened.sizes_px, 8)) as stream:
        for batch in stream:
            said = answer(net, batch, plan).argmax(1).numpy()
            confusion += metrics.confusion_matrix(batch["label"], said, classes)
    return metrics.scores_from_confusion(confusion)


# --- Arms ---


def first_losses(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """The loss of each of the first steps, both ways."""
    plan = quickstart(seed)
    ours, theirs = jax_losses(plan, FIRST), fit(plan, FIRST)[1]
    apart = np.abs(np.divide(ours, theirs) - 1)
    return {
        "steps": FIRST,
        "largest_relative_difference": float(apart.max()),
        "at_step": int(apart.argmax()) + 1,
        "jax": [round(x, 6) for x in ours],
        "torch": [round(x, 6) for x in theirs],
    }


def trained_by_torch(seed: int, workdir: Path, data: str, steps: int = 0) -> dict[str, Any]:
    """The whole run by torch, scored on both splits; `steps` cuts it short."""
    plan, start_s = quickstart(seed), time.monotonic()
    net, losses = fit(plan, steps or plan.phases[0].steps)
    train_wall_s = time.monotonic() - start_s
    found = {split: scores(net, plan, split) for split in ("val", "test")}
    names = plan.card.class_names
    row = {f"{split}_{key}": s[key] for key in ("miou", "aacc") for split, s in found.items()}
    return row | {
        "per_class_iou": dict(zip(names, found["test"]["iou"], strict=True)),
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
