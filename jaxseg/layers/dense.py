"""Ungrouped convolution whose gradient is quick on CPU, inside loops too.

XLA on CPU computes the gradient of the kernel as a convolution whose window is the whole map, an order below its
own forward pass, and both gradients fall to naive loops inside `lax.scan`. There we write them as what is quick:
the gradient of the input as a convolution with the turned kernel, that of the kernel as products of matrices over
blocks of rows that stay in cache. Other backends keep XLA's own.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.layers.xla import xla_conv
from jaxseg.padding import pad_widths
from jaxseg.types import Array

FEW = 16
"""Channels of x below which its cells are too short to be copied one by one: it is turned into planes."""

LEAST, MOST = 128, 1024
"""Cells of dy per block of rows: enough for a product, few enough for the cache."""

ASIDE = 2
"""Blocks of rows per turn of the loop."""

PLANE = 480
"""Cells of dy per block of planes."""


def dense_conv2d(
    x: Array, kernel: Array, *, stride: int = 1, dilation: int = 1, padding: str = "symmetric"
) -> Array:
    """2-D convolution, zero padding as in `padding`.

    Args:
        x: [B, H, W, C], floating.
        kernel: [kh, kw, C, D], odd kh and kw, same dtype.
        stride, dilation: the same for both axes.
        padding: 'symmetric' or 'same'.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), D], same dtype.
    """
    pads = pad_widths(x.shape[1:3], kernel.shape[:2], stride, dilation, padding)
    return _dense(x, kernel, stride, dilation, tuple(pads))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _dense(x, kernel, stride, dilation, pads):
    return xla_conv(x, kernel, stride, dilation, pads)


def _forward(x, kernel, stride, dilation, pads):
    return xla_conv(x, kernel, stride, dilation, pads), (x, kernel)


def _backward(stride, dilation, pads, saved, dy):
    def by_xla(x, kernel, dy):
        return jax.vjp(lambda x, k: xla_conv(x, k, stride, dilation, pads), x, kernel)[1](dy)

    def by_products(x, kernel, dy):
        dx = _input_gradient(kernel, dy, x.shape, stride, dilation, pads)
        return dx, _kernel_gradient(x, dy, kernel.shape, stride, dilation, pads)

    return lax.platform_dependent(*saved, dy, cpu=by_products, default=by_xla)


_dense.defvjp(_forward, _backward)


def _input_gradient(kernel, dy, shape, stride, dilation, pads):
    """A convolution of `dy`, spread by the stride, with the kernel turned by half a circle."""
    around = []
    for cells, results, k, (before, _) in zip(
        shape[1:3], dy.shape[1:3], kernel.shape[:2], pads, strict=True
    ):
        spread = (results - 1) * stride + 1
        around.append((dilation * (k - 1) - before, cells - spread + before))
    return lax.conv_general_dilated(
        dy,
        kernel[::-1, ::-1].swapaxes(2, 3),
        window_strides=(1, 1),
        padding=around,
        lhs_dilation=(stride, stride),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _kernel_gradient(x, dy, shape, stride, dilation, pads):
    few = x.shape[-1] < FEW
    return (_from_planes if few else _from_rows)(x, dy, shape, stride, dilation, pads)


class _Phase(NamedTuple):
    """The rows of x that some rows of the kernel see: every stride-th one from `first`.

    first: the first row of x.
    taps:  (row of the kernel, the row of dy that meets row `first`; it may lie outside).
    rows:  how many of these rows x has.
    """

    first: int
    taps: tuple[tuple[int, int], ...]
    rows: int


def _phases(height: int, size: int, stride: int, dilation: int, before: int) -> list[_Phase]:
    found = []
    for phase in range(stride):
        taps = [i for i in range(size) if i * dilation % stride == phase]
        if taps:
            skipped = max(0, -(-(before - phase) // stride))  # rows that are padding
            first = stride * skipped + phase - before
            meets = tuple((i, skipped - i * dilation // stride) for i in taps)
            found.append(_Phase(first, meets, max(0, -(-(height - first) // stride))))
    return found


def _from_rows(x, dy, shape, stride, dilation, pads):
    """Products of blocks of rows: x as all columns of the kernel see it, times dy as all its rows meet it.

    A row of x meets one row of dy per row of the kernel, and a column one per column, so a product of
    [columns of the kernel * C, cells] and [cells, rows of the kernel * D] does all taps, and both of its sides are
    only a few times the maps, not rows times columns of them.
    """
    (batch, rows, columns, out), (kh, kw), channels = dy.shape, shape[:2], x.shape[-1]
    phases = _phases(x.shape[1], kh, stride, dilation, pads[0][0])
    images = max(
        n for n in range(1, batch + 1) if batch % n == 0 and (n == 1 or n * columns <= MOST)
    )
    total = max(phase.rows for phase in phases)
    block = min(total, max(1, round(LEAST / (images * columns))))
    side = min(ASIDE, -(-total // block))
    turns = math.ceil(total / (block * side))
    meets = [row for phase in phases for _, row in phase.taps]
    low, last = max(0, -min(meets)), max(meets) + turns * side * block
    dy = jnp.pad(dy, ((0, 0), (low, max(0, last - rows)), (0, 0), (0, 0)))
    reach = max(phase.first for phase in phases) + stride * (turns * side * block - 1) + 1
    wide = (columns - 1) * stride + dilation * (kw - 1) + 1
    around = [(0, max(0, reach - x.shape[1]), 0)]
    around += [(pads[1][0], wide - x.shape[2] - pads[1][0], 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *around, (0, 0, 0)])

    def product(phase: _Phase, image: Array, row: Array) -> Array:
        start, span = phase.first + row * stride, (block - 1) * stride + 1
        seen = lax.dynamic_slice(x, (image, start, 0, 0), (images, span, wide, channels))
        # The barriers make plain copies: fused with what reads them, they would index cell by cell.
        seen = lax.optimization_barrier(seen[:, ::stride])
        stop = (columns - 1) * stride + 1
        seen = [seen[:, :, j * dilation : j * dilation + stop : stride] for j in range(kw)]
        size = (images, block, columns, out)
        met = [lax.dynamic_slice(dy, (image, row + at + low, 0, 0), size) for _, at in phase.taps]
        met = lax.optimization_barrier(met)
        seen, met = (
            lax.optimization_barrier(jnp.concatenate(parts, axis=-1)) for parts in (seen, met)
        )
        return _times(seen.reshape(-1, kw * channels), met.reshape(-1, len(phase.taps) * out))

    def turn(t: Array, totals: list[Array]) -> list[Array]:
        image, row = t // turns * images, t % turns * side * block
        # Independent of each other, so that the copies of one can run beside the product of another.
        found = [[product(p, image, row + i * block) for p in phases] for i in range(side)]
        return [sum(parts, start) for start, *parts in zip(totals, *found, strict=True)]

    wide_dtype = jnp.promote_types(dy.dtype, jnp.float32)
    totals = [jnp.zeros((kw * channels, len(p.taps) * out), wide_dtype) for p in phases]
    totals = lax.fori_loop(0, batch // images * turns, turn, totals)
    order = np.argsort([i for phase in phases for i, _ in phase.taps])
    kernel = jnp.concatenate(totals, axis=1).reshape(kw, channels, kh, out)
    return kernel.transpose(2, 0, 1, 3)[order].astype(dy.dtype)


def _from_planes(x, dy, shape, stride, dilation, pads):
    """The same for few channels: x as planes, so that what a tap sees is long rows; every tap has rows of its own."""
    (batch, rows, columns, out), (kh, kw), channels = dy.shape, shape[:2], x.shape[-1]
    block = min(rows, max(1, PLANE // columns))
    turns = math.ceil(rows / block)
    taps = [divmod(i * dilation, stride) for i in range(max(kh, kw))]  # (cells on, plane)
    more = [taps[k - 1][0] for k in (kh, kw)]
    cells = (turns * block + more[0], columns + more[1])
    around = [
        (low, n * stride - size - low, 0)
        for (low, _), n, size in zip(pads, cells, x.shape[1:3], strict=True)
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    x = lax.optimization_barrier(x).reshape(batch, cells[0], stride, cells[1], stride, channels)
    x = lax.optimization_barrier(x.transpose(0, 2, 4, 5, 1, 3))
    dy = jnp.pad(dy, ((0, 0), (0, turns * block - rows), (0, 0), (0, 0)))

    def turn(t: Array, total: Array) -> Array:
        image, row = t // turns, t % turns * block
        size = (1, stride, stride, channels, block + more[0], cells[1])
        seen = lax.optimization_barrier(lax.dynamic_slice(x, (image, 0, 0, 0, row, 0), size)[0])
        planes = [
            seen[p, q, :, down : down + block, on : on + columns]
            for down, p in taps[:kh]
            for on, q in taps[:kw]
        ]
        planes = lax.optimization_barrier(jnp.concatenate(planes)).reshape(-1, block * columns)
        met = lax.dynamic_slice(dy, (image, row, 0, 0), (1, block, columns, out))
        return total + _times(planes.T, lax.optimization_barrier(met).reshape(-1, out))

    wide = jnp.promote_types(dy.dtype, jnp.float32)
    total = lax.fori_loop(0, batch * turns, turn, jnp.zeros((kh * kw * channels, out), wide))
    return total.reshape(shape).astype(dy.dtype)


def _times(a: Array, b: Array) -> Array:
    """[cells, M] and [cells, N] to [M, N], added up in float32 or more."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())), preferred_element_type=wide)
