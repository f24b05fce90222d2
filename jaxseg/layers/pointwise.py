"""1x1 convolution as a product of matrices, whose gradient is quick on CPU.

Gradient of the kernel, [8, 96, 128, 16] to 96 channels, 2 CPU cores: 12 ms so, 178 ms by XLA's convolution;
[8, 48, 64, 304] to 256: 38 ms and 628 ms. Forward and the other gradient are no slower.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.types import Array


@jax.custom_vjp
def pointwise_conv2d(x: Array, kernel: Array) -> Array:
    """Every cell times the same matrix, added up in float32 or more.

    So CPUs with bfloat16 matrix units use them: four times as fast as float32 there.

    Args:
        x: [B, H, W, C], floating.
        kernel: [1, 1, C, D], same dtype.

    Returns:
        [B, H, W, D], same dtype.
    """
    return _product(x, kernel[0, 0], ((3,), (0,)))


def _forward(x, kernel):
    return pointwise_conv2d(x, kernel), (x, kernel)


def _backward(saved, dy):
    x, kernel = saved
    # Materialised as it lies: what comes before would else be computed into a turned copy, cell by cell.
    x, dy = lax.optimization_barrier((x, dy))
    dx = _product(dy, kernel[0, 0], ((3,), (1,)))
    dw = _product(x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1]), ((0,), (0,)))
    return dx, dw[None, None]


def _product(a: Array, b: Array, contract: tuple[tuple[int], tuple[int]]) -> Array:
    wide = jnp.promote_types(a.dtype, jnp.float32)
    y = lax.dot_general(a, b, (contract, ((), ())), preferred_element_type=wide)
    return y.astype(a.dtype)


pointwise_conv2d.defvjp(_forward, _backward)
