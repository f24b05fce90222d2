"""Products of numbers of few bits by AND and popcount over bit planes (DoReFa-Net, 1606.06160; BFCN, 1612.00212).

Exact in int32, and what the operation counts of `word_operations` are counts of. Through XLA it is no faster than int8
or floating products (a hand-written kernel would be needed), so nothing here is claimed to be quick.
"""

import math

import jax
import jax.numpy as jnp

from jaxseg.arch import IMAGE_CHANNELS, BlockSpec
from jaxseg.numbers import FLOAT, BitsArch
from jaxseg.types import Array

WORD = 32


def packed(codes: Array, bits: int) -> Array:
    """Bit planes along the last axis: int [..., N] of 0 to 2^bits - 1 -> uint32 [bits, ..., ceil(N / 32)]."""
    words = math.ceil(codes.shape[-1] / WORD)
    around = [(0, 0)] * (codes.ndim - 1) + [(0, words * WORD - codes.shape[-1])]
    codes = jnp.pad(codes.astype(jnp.uint32), around).reshape(*codes.shape[:-1], words, WORD)
    place = jnp.arange(WORD, dtype=jnp.uint32).reshape((1,) * (codes.ndim - 1) + (WORD,))
    planes = [jnp.sum(((codes >> m) & 1) << place, axis=-1, dtype=jnp.uint32) for m in range(bits)]
    return jnp.stack(planes)


def dot(x: Array, y: Array, x_bits: int, y_bits: int) -> Array:
    """Sum over m, k of 2^(m + k) popcount(x_m AND y_k).

    Args:
        x: codes, int [M, N], 0 to 2^x_bits - 1.
        y: codes, int [D, N].

    Returns:
        int32 [M, D], the products of all rows.
    """
    total = jnp.zeros((x.shape[0], y.shape[0]), jnp.int32)
    ys = packed(y, y_bits)
    for m, a in enumerate(packed(x, x_bits)):
        for k, b in enumerate(ys):
            met = jax.lax.population_count(a[:, None] & b[None])
            total += (jnp.sum(met, axis=-1, dtype=jnp.uint32) << (m + k)).astype(jnp.int32)
    return total


def product(x: Array, w: Array, x_bits: int, w_bits: int) -> Array:
    """Codes of activations times codes of weights: sum of x (2 w - (2^w_bits - 1)), int32 [M, D].

    As values of `dorefa` that is activations times weights of more than 1 bit, but for the factor
    1 / ((2^x_bits - 1) (2^w_bits - 1)), and of 1 bit, which stands for -1 and 1, but for E / (2^x_bits - 1). What is
    padded with 0 adds nothing.
    """
    sums = jnp.sum(x, axis=-1, dtype=jnp.int32)
    return 2 * dot(x, w, x_bits, w_bits) - (2**w_bits - 1) * sums[:, None]


def word_operations(
    blocks: tuple[BlockSpec, ...], bits: BitsArch, height_px: int, width_px: int, word: int = WORD
) -> dict[str, float]:
    """What one image costs by a model of operations; a count, not a time.

    Returns:
        'macs': of backbone and head. 'few_share': of those between numbers of few bits, what reads the image and the
        ends at 8 bits or more left out. 'words': AND and popcount of a word each for the former, sum of
        macs * M * K / word. 'speed_up': macs / (words + macs left in higher precision).
    """
    total = few = words = 0.0
    for block in blocks:
        if block.role not in ("backbone", "head"):
            continue
        for layer in block.layers:
            height, width, fan_in, out = layer.kernel_shape
            macs = height * width * fan_in * out * layer.cells(height_px, width_px) * layer.repeats
            total += macs
            own = bits.at(block.name, layer.name)
            w, a = own.weights, own.activations
            if FLOAT not in (w, a) and layer.in_channels != IMAGE_CHANNELS and w * a < word:
                few += macs
                words += macs * w * a / word
    return {
        "macs": total,
        "few_share": few / total,
        "words": words,
        "speed_up": total / (words + total - few),
    }
