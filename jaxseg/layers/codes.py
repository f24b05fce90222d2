"""What int8 networks hold, and the Flax modules that use it: kernels of codes, and how their sums become codes again.

Variables: params/<block>/<layer>/kernel, int8 HWIO; scales/<block>/<operation>/.., see `variables`.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxseg import flow
from jaxseg.arch import ALL, NOTHING, BlockSpec, LayerSpec
from jaxseg.flow import Op
from jaxseg.layers.pool import max_pool, part_sums, window_sums
from jaxseg.layers.resize import upsample_nearest
from jaxseg.numbers import DEVIATION, NumbersArch
from jaxseg.quant import codes
from jaxseg.types import Array

SCALES = "scales"
"""The collection of what rescales sums."""

Shapes = dict[str, tuple[tuple[int, ...], Any]]
"""Name -> (shape, dtype)."""


def kernel_of(spec: LayerSpec) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of a layer's kernel."""
    own = (spec.repeats,) if spec.own == ALL else ()
    return (*own, *spec.kernel_shape), np.int8


def scales_of(block: BlockSpec, op: Op, numbers: NumbersArch) -> Shapes:
    """What an operation holds besides a kernel; nothing for those that keep codes as they are.

    conv:     multiplier int16 [D], offset int32 [D], shift int8 [D], see `scaling.Affine`; the same again with the
              ending '_norm', where a norm by deviation has a rounding of its own inside: the first then gives
              normalised values. Behind ReLU6 also top int8, the code of 6; before a sigmoid thresholds int32 [127].
    add:      multiplier int16 [2], shift int8.
    multiply, average, average_pool: multiplier int16, shift int8.
    sigmoid:  thresholds int32 [127].
    In a loop with something of its own for every pass everything has a first axis of passes.
    """
    if op.kind == flow.CONV:
        layer = block.layer(op.name)
        each = (layer.out_channels,)
        affine = {"multiplier": (each, np.int16), "offset": (each, np.int32)}
        found = affine | {"shift": (each, np.int8)}
        if layer.norm and numbers.norm == DEVIATION:
            found |= {f"{name}_norm": value for name, value in found.items()}
        if layer.activation == "relu6":
            found["top"] = (), np.int8
        if layer.activation == "sigmoid":
            found["thresholds"] = (127,), np.int32
    elif op.kind == flow.SIGMOID:
        found = {"thresholds": ((127,), np.int32)}
    elif op.kind in (flow.ADD, flow.MULTIPLY, flow.AVERAGE_POOL, flow.AVERAGE):
        several = (2,) if op.kind == flow.ADD else ()
        found = {"multiplier": (several, np.int16), "shift": ((), np.int8)}
    else:
        found = {}
    loop = block.layers[0]
    if loop.own == NOTHING:
        return found
    return {name: ((loop.repeats, *shape), dtype) for name, (shape, dtype) in found.items()}


def variables(block: BlockSpec, numbers: NumbersArch) -> dict[str, dict[str, Shapes]]:
    """{'params': layer -> .., 'scales': operation -> ..} of one block of an int8 network."""
    kernels = {layer.name: {"kernel": kernel_of(layer)} for layer in block.layers}
    scales = {op.name: scales_of(block, op, numbers) for op in block.ops}
    return {"params": kernels, SCALES: {name: found for name, found in scales.items() if found}}


class CodeOp(nn.Module):
    """One operation on maps of int8 codes [B, h, w, C], with what `scales_of` lists.

    block:   the spec that it belongs to. op: which. numbers: of the architecture.
    """

    block: BlockSpec
    op: Op
    numbers: NumbersArch

    @nn.compact
    def __call__(self, *maps: Array) -> Array:
        """int8 maps -> int8 map."""
        return _RUN[self.op.kind](self, *maps)

    def scales(self) -> dict[str, Array]:
        """Those of one pass."""
        layers = tuple(replace(layer, own=NOTHING) for layer in self.block.layers)
        wanted = scales_of(replace(self.block, layers=layers), self.op, self.numbers)
        return {
            name: self.variable(SCALES, name, jnp.zeros, *of).value for name, of in wanted.items()
        }

    def convolved(self, x: Array) -> Array:
        spec = self.block.layer(self.op.name)
        kernel = self.param("kernel", lambda _: jnp.zeros(spec.kernel_shape, jnp.int8))
        return codes.convolution(
            x,
            kernel,
            stride=spec.stride,
            dilation=spec.dilation,
            groups=spec.groups,
            padding=spec.padding,
            then=functools.partial(self._codes, spec, self.scales()),
        )

    def _codes(self, spec: LayerSpec, s: dict[str, Array], total: Array) -> Array:
        """Sums of products -> codes of the layer's result."""
        parts = ("multiplier", "offset", "shift")
        if "multiplier_norm" in s:
            first = (s[f"{part}_norm"] for part in parts)
            total = codes.rescaled(total, *first, -127, 127).astype(jnp.int32)
        affine = [s[part] for part in parts]
        if spec.activation == "sigmoid":
            return codes.over_thresholds(total, *affine, s["thresholds"])
        low = 0 if spec.activation else -127
        return codes.rescaled(total, *affine, low, s["top"] if "top" in s else 127)

    def added(self, x: Array, y: Array) -> Array:
        s = self.scales()
        return codes.sum_of((x, y), s["multiplier"], s["shift"], 0 if self.op.activation else -127)

    def multiplied(self, x: Array, y: Array) -> Array:
        s = self.scales()
        return codes.product_of(x, y, s["multiplier"], s["shift"])

    def averaged(self, x: Array) -> Array:
        s = self.scales()
        total, cells = part_sums(x.astype(jnp.int32), self.op.bins)
        return codes.mean_of(total, cells, s["multiplier"], s["shift"])

    def pooled(self, x: Array) -> Array:
        s, window = self.scales(), self.op.window
        total = window_sums(x.astype(jnp.int32), window, self.op.stride)
        return codes.mean_of(total, window**2, s["multiplier"], s["shift"])


_RUN: dict[str, Callable[..., Array]] = {
    flow.CONV: CodeOp.convolved,
    flow.ADD: CodeOp.added,
    flow.MULTIPLY: CodeOp.multiplied,
    flow.AVERAGE: CodeOp.averaged,
    flow.AVERAGE_POOL: CodeOp.pooled,
    flow.RELU: lambda self, x: jnp.maximum(x, 0),
    flow.SIGMOID: lambda self, x: codes.from_table(x, self.scales()["thresholds"]),
    flow.JOIN: lambda self, *maps: jnp.concatenate(maps, axis=-1),
    flow.RESIZE: lambda self, x, like: codes.resize(x, like.shape[1:3], corners=self.op.corners),
    flow.NEAREST: lambda self, x, like: upsample_nearest(x, like.shape[1:3]),
    flow.MAX_POOL: lambda self, x: max_pool(x, self.op.window, self.op.stride),
    flow.HALVE: lambda self, x: codes.halve(x),
    flow.SPREAD: lambda self, x, like: jnp.broadcast_to(x, (*like.shape[:3], x.shape[-1])),
    flow.DROPOUT: lambda self, x: x,
}
