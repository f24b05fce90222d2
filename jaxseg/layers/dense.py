"""Ungrouped convolution whose gradient is quick on CPU, inside loops too.

XLA on CPU computes the gradient of the kernel as a convolution whose window is the whole map, an order below its
own forward pass, and both gradients fall to naive loops inside `lax.scan`. There we write them as what is quick:
the gradient of the input as a convolution with the turned kernel, that of the kernel as products of matrices over
blocks of rows that stay in cache. Other backends keep XLA's own.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.layers.padding import pad_widths
from jaxseg.types import Array

BLOCK = 96 * 1024
"""Numbers per block of the kernel's gradient (both operands of a product): they stay in the second-level cache."""

LANES = 64
"""Least columns of a product; taps of maps with fewer channels are put side by side."""


def dense_conv2d(
    x: Array, kernel: Array, *, stride: int = 1, dilation: int = 1, padding: str = "symmetric"
) -> Array:
    """2-D convolution, zero padding as in `layers.padding`.

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


def _xla(x, kernel, stride, dilation, pads):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=pads,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


_dense = jax.custom_vjp(_xla, nondiff_argnums=(2, 3, 4))


def _forward(x, kernel, stride, dilation, pads):
    return _xla(x, kernel, stride, dilation, pads), (x, kernel)


def _backward(stride, dilation, pads, saved, dy):
    def by_xla(x, kernel, dy):
        return jax.vjp(lambda x, k: _xla(x, k, stride, dilation, pads), x, kernel)[1](dy)

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
    """For blocks of rows, products of `dy`, transposed, with the cells of `x` that each tap of the kernel saw."""
    (batch, rows, columns, out), (kh, kw, channels, _) = dy.shape, shape
    taps = [(i * dilation, j * dilation) for i in range(kh) for j in range(kw)]
    share = min(len(taps), math.ceil(LANES / channels))  # taps per product
    groups = [taps[i : i + share] for i in range(0, len(taps), share)]
    height = max(1, min(rows, BLOCK // (columns * (share * channels + out))))
    blocks = math.ceil(rows / height)
    span = (height - 1) * stride + dilation * (kh - 1) + 1
    # Rows beyond the last block are zeros of `dy`, so what they meet adds nothing.
    reach = [
        (n - 1) * stride + dilation * (k - 1) + 1 for n, k in ((blocks * height, kh), (columns, kw))
    ]
    around = [
        (low, r - n - low, 0) for r, n, (low, _) in zip(reach, x.shape[1:3], pads, strict=True)
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    dy = jnp.pad(dy, ((0, 0), (0, blocks * height - rows), (0, 0), (0, 0)))

    def step(t, totals):
        image, block = t // blocks, t % blocks
        d = lax.dynamic_slice(dy, (image, block * height, 0, 0), (1, height, columns, out))
        seen = lax.dynamic_slice(
            x, (image, block * height * stride, 0, 0), (1, span, reach[1], channels)
        )
        # The barriers make plain copies: fused with what reads them, they would index cell by cell.
        d, seen = lax.optimization_barrier((d[0], seen[0]))
        d = lax.optimization_barrier(d.reshape(-1, out).T)

        def cells(top: int, left: int) -> Array:
            stop = (top + (height - 1) * stride + 1, left + (columns - 1) * stride + 1, channels)
            return lax.slice(seen, (top, left, 0), stop, (stride, stride, 1))

        def product(group: list[tuple[int, int]]) -> Array:
            side = jnp.concatenate([cells(*tap) for tap in group], axis=-1)
            side = lax.optimization_barrier(side).reshape(height * columns, -1)
            return jnp.matmul(d, side, preferred_element_type=totals[0].dtype)

        return tuple(total + product(g) for total, g in zip(totals, groups, strict=True))

    wide = jnp.promote_types(dy.dtype, jnp.float32)
    zeros = tuple(jnp.zeros((out, len(g) * channels), wide) for g in groups)
    totals = lax.fori_loop(0, batch * blocks, step, zeros)
    return jnp.concatenate(totals, axis=1).T.reshape(shape).astype(dy.dtype)
