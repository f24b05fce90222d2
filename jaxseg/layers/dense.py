"""Ungrouped convolution whose gradient is quick on CPU, inside loops too.

XLA on CPU computes the gradient of the kernel as a convolution whose window is the whole map, an order below its
own forward pass, and both gradients fall to naive loops inside `lax.scan`. There we write them as what is quick:
the gradient of the input as a convolution with the turned kernel, that of the kernel as products of matrices over
blocks of rows that stay in cache. Other backends keep XLA's own.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.layers.padding import pad_widths
from jaxseg.layers.xla import xla_conv
from jaxseg.types import Array

CELLS = 512
"""Cells of `dy` per block of the kernel's gradient, about: enough for a product, few enough for the cache."""

LANES = 64
"""Channels from which on a tap of the kernel has a product of its own; below, all taps share one."""


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
    """Sum of `_products` over blocks of rows of each image, or over all at once where that is little."""
    (batch, rows, columns, _), (kh, kw) = dy.shape, shape[:2]
    whole = batch * rows * columns <= 2 * CELLS
    height = rows if whole else max(1, min(rows, CELLS // columns))
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
    products = functools.partial(_products, size=(kh, kw), stride=stride, dilation=dilation)
    if whole:
        totals = products(x, dy)
    else:

        def step(t, totals):
            image, row = t // blocks, t % blocks * height
            d = lax.dynamic_slice_in_dim(lax.dynamic_slice_in_dim(dy, image, 1), row, height, 1)
            seen = lax.dynamic_slice_in_dim(
                lax.dynamic_slice_in_dim(x, image, 1), row * stride, span, 1
            )
            return jax.tree.map(jnp.add, totals, products(seen, d))

        block = [
            jax.ShapeDtypeStruct((1, n, *v.shape[2:]), v.dtype)
            for n, v in ((span, x), (height, dy))
        ]
        zeros = jax.tree.map(
            lambda v: jnp.zeros(v.shape, v.dtype), jax.eval_shape(products, *block)
        )
        totals = lax.fori_loop(0, batch * blocks, step, zeros)
    return jnp.concatenate(totals, axis=1).T.reshape(shape).astype(dy.dtype)


def _products(seen, d, size, stride, dilation) -> list[Array]:
    """`d`, transposed, times the cells that each tap of the kernel saw; side by side they are [D, kh kw C]."""
    (_, rows, columns, out), channels = d.shape, seen.shape[-1]
    taps = [(i * dilation, j * dilation) for i in range(size[0]) for j in range(size[1])]
    share = 1 if channels >= LANES else len(taps)
    # The barriers make plain copies: fused with what reads them, they would index cell by cell.
    d, seen = lax.optimization_barrier((d, seen))
    d = lax.optimization_barrier(d.reshape(-1, out).T)

    def cells(top: int, left: int) -> Array:
        stop = (top + (rows - 1) * stride + 1, left + (columns - 1) * stride + 1)
        return seen[:, top : stop[0] : stride, left : stop[1] : stride]

    found = []
    for i in range(0, len(taps), share):
        side = jnp.concatenate([cells(*tap) for tap in taps[i : i + share]], axis=-1)
        side = lax.optimization_barrier(side).reshape(-1, share * channels)
        wide = jnp.promote_types(d.dtype, jnp.float32)
        found.append(jnp.matmul(d, side, preferred_element_type=wide))
    return found
