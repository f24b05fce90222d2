"""One random state in two frameworks, and what both make of one batch."""

import functools
import math
from typing import NamedTuple

import jax
import numpy as np
import torch
import torch.nn.functional as F
from flax.traverse_util import flatten_dict, unflatten_dict

from benchmarks import float64
from benchmarks.torch_twins import Twin
from jaxseg.arch import Arch
from jaxseg.layers.resize import resize_bilinear
from jaxseg.models import zoo
from jaxseg.objectives import losses
from jaxseg.training.loss import Loss
from jaxseg.types import IGNORE_LABEL
from jaxseg.weights import torch_names

Flat = dict[str, np.ndarray]
"""'params/block_00/conv1/kernel' -> value, in our axes."""

K = 5
AUX_WEIGHT = 0.4
CLASS_WEIGHTS = (0.5, 1.0, 2.0, 0.25, 1.5)
CHEAP = {"xla_backend_optimization_level": 0}  # half the time to compile


class Trained(NamedTuple):
    """What one training step finds, before any update: loss, gradients and new running statistics."""

    loss: float
    gradients: Flat
    statistics: Flat


def random_state(arch: Arch, seed: int = 0) -> Flat:
    """Kernels of He's size; scales, biases, means and variances far from 0 and 1, so that none can be missed."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: zoo.init(arch, key), jax.random.PRNGKey(0))

    def value(path: str, shape: tuple[int, ...]) -> np.ndarray:
        kind = path.split("/")[-1]
        if kind == "kernel":
            drawn = rng.normal(0, math.sqrt(2 / math.prod(shape[:-1])), shape)
        else:
            drawn = rng.uniform(0.7, 1.3, shape) - (kind in ("bias", "mean"))
        return drawn.astype(np.float32)

    flat = flatten_dict(shapes, sep="/")
    return {path: value(path, flat[path].shape) for path in sorted(flat)}


def images(batch: int, size_px: tuple[int, int]) -> np.ndarray:
    """float32 [B, H, W, 3], as after normalisation."""
    return np.random.default_rng(1).normal(size=(batch, *size_px, 3)).astype(np.float32)


def labels(batch: int, size_px: tuple[int, int]) -> np.ndarray:
    """uint8 [B, H, W]: blobs of 8 px, a quarter of them void."""
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, K, (batch, *(n // 8 + 1 for n in size_px))).astype(np.uint8)
    coarse[rng.uniform(size=coarse.shape) < 0.25] = IGNORE_LABEL
    return coarse.repeat(8, axis=1).repeat(8, axis=2)[:, : size_px[0], : size_px[1]]


# --- Ours ---


def our_logits(arch: Arch, state: Flat, x: np.ndarray) -> np.ndarray:
    """Logits of the size of the image, in eval mode."""

    @functools.partial(jax.jit, compiler_options=CHEAP)
    def forward(variables, x):
        return resize_bilinear(zoo.module(arch).apply(variables, x).logits, x.shape[1:3])

    return np.asarray(forward(unflatten_dict(state, sep="/"), x))


def our_training(arch: Arch, state: Flat, x: np.ndarray, y: np.ndarray) -> Trained:
    """The trainer's loss (class weights, void, auxiliary head) in train mode, in float64."""
    measure = Loss(class_weights=CLASS_WEIGHTS, aux_weight=AUX_WEIGHT)
    batch = {"label": y, "weight": np.ones(len(y))}
    variables = unflatten_dict({k: v.astype(np.float64) for k, v in state.items()}, sep="/")
    net = zoo.module(float64.exact(arch))

    def loss(params, stats, x):
        outputs, updated = net.apply(
            {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
        )
        totals, _ = measure(outputs, batch)
        return losses.mean(*measure.pooled(totals, measure.counts(batch))), updated

    with float64.everywhere():
        step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=CHEAP)
        answer = step(variables["params"], variables.get("batch_stats", {}), x.astype(np.float64))
        (value, updated), gradients = jax.device_get(answer)
    gradients = flatten_dict({"params": gradients}, sep="/")
    return Trained(float(value), gradients, flatten_dict(dict(updated), sep="/"))


# --- Theirs, in float64 ---


def torch_keys(arch: Arch, twin: Twin, state: Flat) -> dict[str, str]:
    """Our flat path -> torch key; everything in `state` has one."""
    if twin.layout:
        keys = torch_names.torch_keys(arch, twin.layout, twin.modules)
    else:
        keys = torch_names.keys_of(arch, twin.modules)
    assert sorted(keys) == sorted(state)
    return keys


def torch_net(arch: Arch, twin: Twin, state: Flat) -> torch.nn.Module:
    """The torch network with our state, without dropout; all constants of its norms must already be ours."""
    net = twin.make(arch)
    theirs = net.state_dict()
    copied = {}
    for path, key in torch_keys(arch, twin, state).items():
        value = torch_names.to_torch(path, state[path], tuple(theirs[key].shape))
        copied[key] = torch.from_numpy(value)
    left = net.load_state_dict(copied, strict=False).missing_keys
    assert [key for key in left if not key.endswith("num_batches_tracked")] == []
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.eps == arch.numbers.norm_eps
            assert math.isclose(module.momentum, 1 - arch.numbers.norm_momentum)
    return net.double()


def _answers(net: torch.nn.Module, x: np.ndarray) -> list[torch.Tensor]:
    """[logits] or [logits, auxiliary logits], [B, K, H, W]."""
    said = net(torch.from_numpy(x.transpose(0, 3, 1, 2)).double())
    said = said if isinstance(said, dict) else {"out": said}
    size = x.shape[1:3]
    return [
        F.interpolate(said[name], size, mode="bilinear") for name in ("out", "aux") if name in said
    ]


def torch_logits(net: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    """Logits of the size of the image, in eval mode, [B, H, W, K]."""
    with torch.no_grad():
        return _answers(net.eval(), x)[0].numpy().transpose(0, 2, 3, 1)


def torch_training(
    net: torch.nn.Module, names: dict[str, str], state: Flat, x: np.ndarray, y: np.ndarray
) -> Trained:
    """Cross-entropy in train mode; gradients and statistics under our names and in our axes."""
    target, weights = torch.from_numpy(y.astype(np.int64)), torch.tensor(CLASS_WEIGHTS).double()
    loss = sum(
        share * F.cross_entropy(answer, target, weights, ignore_index=IGNORE_LABEL)
        for share, answer in zip((1.0, AUX_WEIGHT), _answers(net.train(), x), strict=False)
    )
    loss.backward()
    found = {k: p.grad for k, p in net.named_parameters()} | dict(net.named_buffers())

    def ours(path: str) -> np.ndarray:
        return torch_names.to_ours(path, found[names[path]].numpy(), state[path].shape)

    return Trained(
        loss.item(),
        {path: ours(path) for path in state if path.startswith("params/")},
        {path: ours(path) for path in state if path.startswith("batch_stats/")},
    )
