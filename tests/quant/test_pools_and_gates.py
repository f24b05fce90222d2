"""Means over parts and windows, ReLU, sigmoid of maps of codes: the interpreter against fractions, JAX against it."""

import math
from fractions import Fraction

import jax
import numpy as np
import pytest

from jaxseg import flow
from jaxseg.arch import BlockSpec, LayerSpec
from jaxseg.flow import Op
from jaxseg.layers.codes import SCALES, CodeOp, scales_of
from jaxseg.layers.conv import conv2d
from jaxseg.numbers import FOLDED, INT8, CodesArch, NumbersArch
from jaxseg.quant import codes, reference, scaling

NUMBERS = NumbersArch(compute=INT8, norm=FOLDED, codes=CodesArch(1.0, 1.0))
SIZES = ((8, 12), (7, 9), (1, 2))


def drawn(*shape: int, seed: int = 0, most: int = 127) -> np.ndarray:
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.int8)


def both(op: Op, own: dict[str, np.ndarray], *maps: np.ndarray) -> np.ndarray:
    """What the interpreter says, having compared what JAX says."""
    block = BlockSpec("exit_0", "exit", "any", (LAYER,), (op,), 1, 1)
    own = {name: own[name].astype(of[1]) for name, of in scales_of(block, op, NUMBERS).items()}
    variables = {"params": {}, "scales": {"exit_0": {op.name: own}}}
    expected = reference.run_block(block, variables, *maps)
    made = jax.jit(lambda own, *x: CodeOp(block, op, NUMBERS).apply({SCALES: own}, *x))(own, *maps)
    assert made.dtype == np.int8
    np.testing.assert_array_equal(np.asarray(made).astype(np.int64), expected)
    return expected


LAYER = LayerSpec("c", 1, 1, (1, 1), 1, 1, 1, True, False, 1)


def rounded_mean(cells: np.ndarray, count: int, multiplier: int, shift: int) -> int:
    """A power of two rounds the mean itself; else the mean is cut off first, see `codes.mean_of`."""
    mean = Fraction(int(cells.astype(int).sum()), count)
    if multiplier & (multiplier - 1):
        cut = math.floor(64 * mean)
        mean = Fraction(cut if cut == 64 * mean else cut | 1, 64)
    return max(-127, min(127, round(mean * multiplier / 2**shift)))


@pytest.mark.parametrize("multiplier, shift", [(1, 1), (16384, 14), (21000, 14), (32767, 13)])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_means_over_parts(bins, size, multiplier, shift):
    x = drawn(2, *size, 3)
    own = {"multiplier": np.array(multiplier), "shift": np.array(shift)}
    found = both(Op("pooled", flow.AVERAGE, ("in_0",), bins=bins), own, x)
    assert found.shape == (2, bins, bins, 3)
    for b, i, j, c in np.ndindex(found.shape):
        (top, down), (left, right) = (
            (k * n // bins, -(-(k + 1) * n // bins)) for k, n in zip((i, j), size, strict=True)
        )
        cells = x[b, top:down, left:right, c]
        assert found[b, i, j, c] == rounded_mean(cells, cells.size, multiplier, shift)


@pytest.mark.parametrize("multiplier, shift", [(1, 1), (16384, 14), (21000, 14)])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window, stride", [(3, 2), (5, 2), (9, 4), (17, 8)])
def test_means_over_windows(window, stride, size, multiplier, shift):
    x, around = drawn(2, *size, 3), window // 2
    own = {"multiplier": np.array(multiplier), "shift": np.array(shift)}
    op = Op("pooled", flow.AVERAGE_POOL, ("in_0",), window=window, stride=stride)
    found = both(op, own, x)
    assert found.shape == (2, *(-(-n // stride) for n in size), 3)
    for b, i, j, c in np.ndindex(found.shape):
        top, left = (max(k * stride - around, 0) for k in (i, j))
        cells = x[b, top : i * stride + around + 1, left : j * stride + around + 1, c]
        assert found[b, i, j, c] == rounded_mean(cells, window**2, multiplier, shift)


def test_means_beside_halves_are_rounded_by_the_side():
    """5 / 9 and 4 / 9 of a step and a half: what a mean cut off too early would take for halves."""
    own = {"multiplier": np.array(1), "shift": np.array(1)}
    x = np.zeros((1, 3, 3, 3), np.int8)
    x[0, 1, 1] = 9, 10, 8
    op = Op("pooled", flow.AVERAGE_POOL, ("in_0",), window=3, stride=2)
    # The window around the first cell sees the middle one too.
    np.testing.assert_array_equal(both(op, own, x)[0, 0, 0], [0, 1, 0])


@pytest.mark.parametrize("size", SIZES)
def test_relu_keeps_codes(size):
    x = drawn(2, *size, 3)
    np.testing.assert_array_equal(both(Op("r", flow.RELU, ("in_0",)), {}, x), np.maximum(x, 0))


@pytest.mark.parametrize("step", [2.0**-5, 0.037, 0.2])
def test_sigmoid_of_every_code(step):
    x = np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16, 1)
    own = {"thresholds": scaling.sigmoid_thresholds(step)}
    found = both(Op("gate", flow.SIGMOID, ("in_0",)), own, x)
    expected = np.clip(np.rint(128 / (1 + np.exp(-step * x.astype(float)))), 0, 127)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_kernels_that_widen(stride):
    """Output o of a grouped convolution belongs to channel o // 6, in whole and in floating numbers."""
    x, kernel = drawn(2, 7, 9, 4), drawn(3, 3, 1, 24, seed=1)
    layer = LayerSpec("c", 4, 24, (3, 3), stride, 1, 4, True, False, stride)
    expected = reference.convolution(x.astype(np.int64), kernel.astype(np.int64), layer)
    for c in range(24):
        alone = LayerSpec("c", 1, 1, (3, 3), stride, 1, 1, True, False, stride)
        channel = x[..., c // 6 : c // 6 + 1].astype(np.int64)
        single = reference.convolution(channel, kernel[..., c : c + 1].astype(np.int64), alone)
        np.testing.assert_array_equal(expected[..., c : c + 1], single)
    options = {"stride": stride, "groups": 4}
    found = jax.jit(lambda x, k: codes.convolution(x, k, **options))(x, kernel)
    np.testing.assert_array_equal(np.asarray(found), expected)
    floating = jax.jit(lambda x, k: conv2d(x, k, **options))(
        x.astype(np.float32), kernel.astype(np.float32)
    )
    np.testing.assert_array_equal(np.asarray(floating), expected)
