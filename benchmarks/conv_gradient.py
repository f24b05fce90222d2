"""The gradient of one convolution on CPU: ours, XLA's and torch's, layer by layer; and inside a loop.

`dw` is the kernel's gradient alone, `backward` both gradients, `chain` and `scan` forward and backward through
`DEPTH` such layers, one after the other in the program or under `lax.scan`. `make parity` installs torch.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import targets
from benchmarks.in_turn import Step, in_turn

CLAIM = (
    "How quick is our gradient of a convolution in float32 on CPU beside XLA's and torch's, and inside `lax.scan` "
    f"beside outside? Target: the kernel's gradient in at most {targets.KERNEL_GRADIENT} of torch's time; the rows say "
    "where it was met. Ratios are of medians in turn."
)
SEEDS = (0,)
LAYERS = {
    "90x120x64": (4, 90, 120, 64, 64, 3, 1),
    "90x120x64s2": (4, 90, 120, 64, 128, 3, 2),
    "45x60x128": (4, 45, 60, 128, 128, 3, 1),
    "23x30x256": (4, 23, 30, 256, 256, 3, 1),
    "12x15x512": (4, 12, 15, 512, 512, 3, 1),
    "stem": (4, 360, 480, 3, 64, 7, 2),
}
"""Batch, height, width, channels in, channels out, kernel, stride."""
DEPTH = 6

Layer = tuple[int, int, int, int, int, int, int]


def _arrays(layer: Layer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, kernel and what comes back, NHWC and HWIO."""
    batch, height, width, channels, out, k, stride = layer
    rng = np.random.default_rng(0)
    shapes = (
        (batch, height, width, channels),
        (k, k, channels, out),
        (batch, -(-height // stride), -(-width // stride), out),
    )
    return tuple(rng.normal(0, 0.1, shape).astype(np.float32) for shape in shapes)


def jax_steps(layer: Layer) -> dict[str, Step]:
    """Ours and XLA's."""
    import jax
    from jax import lax

    from jaxseg.layers.dense import dense_conv2d
    from jaxseg.layers.xla import xla_conv
    from jaxseg.padding import pad_widths

    x, kernel, dy = map(jax.device_put, _arrays(layer))
    k, stride = layer[5:]
    pads = tuple(pad_widths(x.shape[1:3], (k, k), stride, 1, "symmetric"))
    ways = {
        "ours": functools.partial(dense_conv2d, stride=stride),
        "xla": lambda x, kernel: xla_conv(x, kernel, stride, 1, pads),
    }

    def timed(function, *arguments) -> Step:
        compiled = jax.jit(function)
        return lambda: jax.block_until_ready(compiled(*arguments))

    def dw(conv, x, kernel, dy):
        return jax.vjp(lambda kernel: conv(x, kernel), kernel)[1](dy)

    def backward(conv, x, kernel, dy):
        return jax.vjp(conv, x, kernel)[1](dy)

    def chain(conv, x, kernels):
        for kernel in kernels:
            x = jax.nn.relu(conv(x, kernel))
        return x.sum()

    def scan(conv, x, kernels):
        return lax.scan(lambda x, kernel: (jax.nn.relu(conv(x, kernel)), None), x, kernels)[0].sum()

    steps = {}
    for name, conv in ways.items():
        if layer[3] > 3:
            steps[f"backward {name}"] = timed(functools.partial(backward, conv), x, kernel, dy)
        steps[f"dw {name}"] = timed(functools.partial(dw, conv), x, kernel, dy)
    if layer[3] == layer[4] and stride == 1:
        kernels = jax.numpy.stack([kernel] * DEPTH)
        for name, whole in (("chain", chain), ("scan", scan)):
            gradient = jax.grad(functools.partial(whole, ways["ours"]), argnums=(0, 1))
            steps[name] = timed(gradient, x, kernels)
    return steps


def torch_steps(layer: Layer) -> dict[str, Step]:
    """Torch's, channels last and not."""
    import torch

    x, kernel, dy = _arrays(layer)
    k, stride = layer[5:]

    def step(inputs: tuple[bool, bool, bool], layout: torch.memory_format) -> Step:
        a, w, g = (
            torch.from_numpy(v.transpose(axes).copy()).contiguous(memory_format=layout)
            for v, axes in ((x, (0, 3, 1, 2)), (kernel, (3, 2, 0, 1)), (dy, (0, 3, 1, 2)))
        )
        arguments = (None, [stride] * 2, [k // 2] * 2, [1, 1], False, [0, 0], 1, inputs)
        return lambda: torch.ops.aten.convolution_backward(g, a, w, *arguments)

    steps = {}
    for name, layout in (("nchw", torch.contiguous_format), ("nhwc", torch.channels_last)):
        steps[f"dw {name}"] = step((False, True, False), layout)
        if layer[3] > 3:
            steps[f"backward {name}"] = step((True, True, False), layout)
    return steps


def _arm(layer: Layer):
    def arm(seed: int, workdir: Path, data: str) -> dict[str, Any]:
        found = in_turn({"jax": jax_steps, "torch": torch_steps}, (layer,), rounds=8, steps=5)
        ms = {name: round(float(np.median(times)), 2) for name, times in found.items()}
        row: dict[str, Any] = {"layer": list(layer), "median_ms": ms}
        for what in ("dw", "backward"):
            if f"jax {what} ours" in ms:
                torch_ms = min(ms[f"torch {what} {layout}"] for layout in ("nchw", "nhwc"))
                row[f"{what}_to_torch"] = round(ms[f"jax {what} ours"] / torch_ms, 2)
                row[f"{what}_to_xla"] = round(ms[f"jax {what} ours"] / ms[f"jax {what} xla"], 2)
        if "jax scan" in ms:
            row["scan_to_chain"] = round(ms["jax scan"] / ms["jax chain"], 2)
        return row

    return arm


ARMS = {name: _arm(layer) for name, layer in LAYERS.items()}
