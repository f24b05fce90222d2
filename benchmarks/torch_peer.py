"""A training step and an inference, by jaxseg and by plain torch, in turn on the same machine.

`make parity` installs torch. The networks are those that the tests of parity hold equal.

Training: uint8 images and labels in memory -> normalisation, network, logits at the size of the image, cross-entropy,
gradients, SGD with momentum; float32, batch 4, 480x360 px. Inference: uint8 image on the host -> uint8 label map on
the host, batch 1, batch norm folded by us; both in every layout and dtype given here, the fastest is taken.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import targets
from benchmarks.in_turn import HUGE_PAGES, Step, in_turn

CLAIM = (
    "How long do a training step and an inference of jaxseg take beside plain torch in its fastest layout and dtype on "
    f"the same CPU cores? Targets (jaxseg / torch): at most {targets.TRAIN} and {targets.INFER}; the rows say which "
    "were met."
)
SEEDS = (0,)
NETWORKS = {
    "resnet18": ("fcn_resnet18", {"output_stride": 32}, (360, 480)),
    # Torch's decoder upsamples by a whole factor, so the height must be a multiple of 16.
    "effnetlite0": ("deeplabv3plus_separable_efficientnet_lite0", {}, (368, 480)),
}
"""Network, options, height and width in pixels."""
BATCH, CLASSES = 4, 11
DTYPES = ("float32", "bfloat16")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RATE, MOMENTUM = 1e-3, 0.9


def example(batch: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels, uint8; a tenth of the labels void."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch, *size, 3), np.uint8)
    label = rng.integers(0, CLASSES, image.shape[:3]).astype(np.uint8)
    label[rng.uniform(size=label.shape) < 0.1] = 255
    return image, label


# --- jaxseg ---


def jax_steps(network: str, options: dict[str, Any], size: tuple[int, int]) -> dict[str, Step]:
    """What is timed of jaxseg."""
    import jax

    from jaxseg.inference.predictor import make_predict
    from jaxseg.models import zoo
    from jaxseg.models.folding import fold
    from jaxseg.training import state as states
    from jaxseg.training.loss import Loss
    from jaxseg.training.optim import Optim
    from jaxseg.training.phases import Phase
    from jaxseg.training.steps import supervised

    arch = zoo.named(network, CLASSES, dropout=0.0, **options)
    optim = Optim("sgd", learning_rate=RATE, momentum=MOMENTUM, schedule="constant")
    phase = Phase(name="main", steps=10**6, make_step=None, plan=None, optim=optim)
    make = supervised(arch, phase, loss=Loss(), mean=MEAN, std=STD)
    step = jax.jit(make, donate_argnums=0)
    image, label = example(BATCH, size)
    batch = {"image": image, "label": label, "weight": np.ones(BATCH, np.float32)}
    held = {"state": states.create(arch, phase, 0, ema=False)}
    variables = zoo.init(arch, jax.random.PRNGKey(0))

    def predictor(dtype: str) -> Step:
        numbers = dataclasses.replace(arch.numbers, compute=dtype)
        deployed, folded = fold(dataclasses.replace(arch, numbers=numbers), variables)
        predict, folded = make_predict(deployed, MEAN, STD), jax.device_put(folded)
        return lambda: np.asarray(predict(folded, image[:1]))

    def train() -> None:
        held["state"], sums = step(held["state"], batch)
        jax.block_until_ready(sums)

    return {"train": train} | {f"infer {dtype}": predictor(dtype) for dtype in DTYPES}


# --- torch ---


def torch_steps(network: str, options: dict[str, Any], size: tuple[int, int]) -> dict[str, Step]:
    """What is timed of torch, in every layout and dtype."""
    import torch
    import torch.nn.functional as F

    from benchmarks.torch_twins import TWINS
    from jaxseg.models import zoo

    torch.manual_seed(0)
    arch = zoo.named(network, CLASSES, dropout=0.0, **options)
    image, label = example(BATCH, size)
    target = torch.from_numpy(label.astype(np.int64))
    mean, std = (255 * torch.tensor(v).reshape(1, 3, 1, 1) for v in (MEAN, STD))

    def logits(net: torch.nn.Module, image: np.ndarray, dtype: torch.dtype, layout: Any):
        x = (torch.from_numpy(image).permute(0, 3, 1, 2).float() - mean) / std
        said = net(x.to(dtype=dtype, memory_format=layout))
        said = said["out"] if isinstance(said, dict) else said
        return F.interpolate(said.float(), size, mode="bilinear", align_corners=False)

    def made() -> torch.nn.Module:
        """One that takes images of any size, without an auxiliary head: ours has none either."""
        net = TWINS[network].make(arch)
        if hasattr(net, "aux_classifier"):
            net.aux_classifier = None
        if hasattr(net, "requires_divisible_input_shape"):
            net.requires_divisible_input_shape = False
        return net

    def trainer(layout: Any) -> Step:
        net = made().train().to(memory_format=layout)
        optimiser = torch.optim.SGD(net.parameters(), RATE, momentum=MOMENTUM)

        def train() -> None:
            loss = F.cross_entropy(
                logits(net, image, torch.float32, layout), target, ignore_index=255
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        return train

    def predictor(layout: Any, dtype: torch.dtype) -> Step:
        net = made().eval().to(dtype=dtype, memory_format=layout)

        def infer() -> None:
            with torch.inference_mode():
                logits(net, image[:1], dtype, layout).argmax(1).to(torch.uint8).numpy()

        return infer

    layouts = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
    dtypes = {name: getattr(torch, name) for name in DTYPES}
    steps = {f"train {n}": trainer(layout) for n, layout in layouts.items()}
    return steps | {
        f"infer {n} {d}": predictor(layout, dtype)
        for n, layout in layouts.items()
        for d, dtype in dtypes.items()
    }


# --- Both ---


def _compared(name: str) -> Callable[[int, Path, str], dict[str, Any]]:
    def arm(seed: int, workdir: Path, data: str) -> dict[str, Any]:
        import torch

        found = in_turn({"jax": jax_steps, "torch": torch_steps}, NETWORKS[name])
        median = {what: float(np.median(times)) for what, times in found.items()}
        row: dict[str, Any] = {"batch": {"train": BATCH, "infer": 1}}
        row["shape"] = list(NETWORKS[name][2])
        for kind in ("train", "infer"):
            fastest = {
                who: min((k for k in median if k.startswith(f"{who} {kind}")), key=median.get)
                for who in ("jax", "torch")
            }
            ours, theirs = (median[fastest[who]] for who in ("jax", "torch"))
            row[f"ratio_{kind}_{name}"] = round(ours / theirs, 3)
            row[f"fastest_{kind}"] = fastest
        float32 = min(median[f"torch infer {layout} float32"] for layout in ("nchw", "nhwc"))
        row[f"ratio_infer_float32_{name}"] = round(median["jax infer float32"] / float32, 3)
        row["median_ms"] = {what: round(value, 2) for what, value in median.items()}
        row["least_ms"] = {what: round(min(times), 2) for what, times in found.items()}
        row["environment"] = HUGE_PAGES
        row["steps"] = len(next(iter(found.values())))
        return row | {"torch": torch.__version__}

    return arm


ARMS = {name: _compared(name) for name in NETWORKS}
