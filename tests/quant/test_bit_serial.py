"""Products by bits against those of whole numbers, a convolution by bits against the network's, counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models import zoo
from jaxseg.numbers import BitsArch
from jaxseg.quant import bit_serial, dorefa


@pytest.mark.parametrize("n", [1, 31, 32, 33, 300])
@pytest.mark.parametrize("bits", [(1, 1), (2, 1), (2, 2), (4, 3), (8, 8)])
def test_products_by_bits_are_those_of_whole_numbers(n, bits):
    """B4: lengths that fill no word, random and largest codes."""
    x_bits, w_bits = bits
    rng = np.random.default_rng(n)
    for x, w in (
        (rng.integers(0, 2**x_bits, (5, n)), rng.integers(0, 2**w_bits, (3, n))),
        (np.full((5, n), 2**x_bits - 1), np.full((3, n), 2**w_bits - 1)),
    ):
        np.testing.assert_array_equal(bit_serial.dot(x, w, x_bits, w_bits), x @ w.T)
        found = bit_serial.product(jnp.asarray(x), jnp.asarray(w), x_bits, w_bits)
        np.testing.assert_array_equal(found, x @ (2 * w - 2**w_bits + 1).T)


@pytest.mark.parametrize("w_bits", [1, 2])
def test_a_convolution_by_bits_is_that_of_the_network(w_bits):
    """B4: with zeros around, which add nothing; an odd number of channels."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(-0.3, 1.3, (1, 6, 7, 5)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(3, 3, 5, 4)), jnp.float32)
    a, q = dorefa.activations(x, 2), dorefa.weights(w, w_bits)
    dimensions = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(a, q, (1, 1), "SAME", dimension_numbers=dimensions)
    codes = np.round(np.asarray(a) * 3).astype(np.int32)
    codes = np.pad(codes, ((0, 0), (1, 1), (1, 1), (0, 0)))
    seen = np.stack([codes[0, i : i + 3, j : j + 3].ravel() for i in range(6) for j in range(7)])
    most = float(np.abs(q).max())
    weight_codes = np.round((np.asarray(q) / most + 1) / 2 * (2**w_bits - 1)).astype(np.int32)
    rows = weight_codes.reshape(-1, 4).T
    found = bit_serial.product(jnp.asarray(seen), jnp.asarray(rows), 2, w_bits)
    scale = most / (3 * (2**w_bits - 1))
    np.testing.assert_allclose(
        found * scale, np.asarray(expected).reshape(42, 4), rtol=1e-5, atol=1e-5
    )


def test_operations_are_counted():
    arch = zoo.named("fcn_resnet18", 3, width=0.25, output_stride=32)
    specs = zoo.blocks(arch)
    one = bit_serial.word_operations(specs, BitsArch(1, 2, 8), 64, 64)
    two = bit_serial.word_operations(specs, BitsArch(2, 2, 8), 64, 64)
    assert two["words"] == 2 * one["words"] and one["few_share"] == two["few_share"] < 1
    left = (1 - one["few_share"]) * one["macs"]
    assert one["speed_up"] == pytest.approx(one["macs"] / (one["words"] + left))
    none = bit_serial.word_operations(specs, BitsArch(), 64, 64)
    assert none["speed_up"] == 1 and none["few_share"] == 0
