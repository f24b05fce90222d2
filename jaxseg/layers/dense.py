"""Ungrouped convolution whose gradient is quick on CPU, inside loops too.

XLA on CPU computes the gradient of the kernel as a convolution whose window is the whole map, an order below its
own forward pass, and both gradients fall to naive loops inside `lax.scan`. There we write them as what is quick:
the gradient of the input as a convolution with the turned kernel, that of the kernel as products of matrices over
blocks of rows that stay in cache. Other backends keep XLA's own.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.layers.padding import pad_widths
from jaxseg.types import Array

BLOCK_CELLS = 480
"""Cells of a map per product of matrices; the operands stay in the second-level cache."""


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
