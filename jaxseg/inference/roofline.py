"""What this device could do at best: the two lines of the roofline (Williams et al. 2009), measured."""

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxseg.arch import LayerSpec, layer_counts
from jaxseg.layers.xla import xla_conv
from jaxseg.numbers import INT8
from jaxseg.quant import codes
from jaxseg.types import Array

SIDE = 2048
"""Of the square matrices whose product may show the peak."""

COPY_BYTES = 2**28
"""Of the array whose copy shows the bandwidth: far beyond any cache."""


class Peaks(NamedTuple):
    """macs_per_s: of large products or convolutions, whichever is faster. bytes_per_s: read and written by a copy."""

    macs_per_s: float
    bytes_per_s: float

    def floor_ms(self, macs: int, num_bytes: int) -> float:
        """No less than this, whatever the program: the slower of arithmetic and traffic."""
        return 1e3 * max(macs / self.macs_per_s, num_bytes / self.bytes_per_s)


def peaks(dtype: str, rounds: int = 5) -> Peaks:
    """Best of `rounds`, in the numbers of the computation, on the first device."""
    matrix = jnp.ones((SIDE, SIDE), dtype)
    wide = jnp.int32 if dtype == INT8 else None
    multiply = jax.jit(functools.partial(jnp.matmul, preferred_element_type=wide))
    product_s = _least_s(multiply, (matrix, matrix), rounds)
    image, kernel = jnp.ones((1, 64, 64, 256), dtype), jnp.ones((3, 3, 256, 256), dtype)
    convolve = functools.partial(xla_conv, stride=1, dilation=1, pads=((1, 1), (1, 1)))
    convolve = jax.jit(codes.convolution if dtype == INT8 else convolve)
    convolution_s = _least_s(convolve, (image, kernel), rounds)
    array = jnp.ones(COPY_BYTES // jnp.dtype(dtype).itemsize, dtype)
    copy_s = _least_s(jax.jit(lambda x: x + jnp.ones((), x.dtype)), (array,), rounds)
    return Peaks(
        max(SIDE**3 / product_s, image.size * kernel[..., 0].size / convolution_s),
        2 * COPY_BYTES / copy_s,
    )


def layer_cost(
    layer: LayerSpec, batch: int, height_px: int, width_px: int, itemsize: int
) -> tuple[int, int]:
    """(MACs, bytes) of one layer on a batch: the two numbers of its place under the roofline.

    The bytes are the least that any program moves: kernel once, input and output once per pass, in numbers of
    `itemsize` bytes.
    """
    before = layer.out_stride // layer.stride  # 0, global, stays 0
    cells_in, cells_out = (
        batch * replace(layer, out_stride=stride).cells(height_px, width_px)
        for stride in (before, layer.out_stride)
    )
    counts = layer_counts(layer, cells_out)
    maps = cells_in * layer.in_channels + cells_out * layer.out_channels
    values = maps * layer.repeats + counts.params
    return counts.macs, values * itemsize


def _least_s(function: Callable[..., Array], arguments: tuple[Array, ...], rounds: int) -> float:
    def once() -> float:
        begin_s = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        return time.perf_counter() - begin_s

    once()  # compiles
    return min(once() for _ in range(rounds))
