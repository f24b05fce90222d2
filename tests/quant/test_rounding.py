"""The quantisers against golden values and closed forms (`T1` .. `T7` of integer training)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.numbers import FIXED, FLAG, MAX, OPEN, SHIFT, Grid
from jaxseg.quant import rounding as r

T3 = np.float32([1, 0.6, 0.1, 0.01, 0.005, 0.001, 1e-4, 3e-5, -0.3])


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_golden_direct():
    assert float(r.direct(jnp.float32(0.05), 10)) == 26 / 512
    ties = np.float32([0.5, 1.5, 2.5]) / 128
    np.testing.assert_array_equal(r.direct(ties, 8), np.float32([0, 2, 2]) / 128)
    assert float(r.direct(jnp.float32(3.3), 8)) == 422 / 128  # nothing is clipped


def test_golden_power_of_two():
    x = np.float32([1, 1.4, 1.42, 1.9, 0.75, 0.7, 0, -1.42, -0.7])
    np.testing.assert_array_equal(r.power_of_two(x), [1, 1, 2, 2, 1, 0.5, 1, 2, 0.5])
    wide = np.float32(2.0) ** np.random.default_rng(0).uniform(-120, 120, 10_000).astype(np.float32)
    exact = 2.0 ** np.round(np.log2(wide.astype(np.float64)))
    np.testing.assert_array_equal(r.power_of_two(wide), exact)
    root = np.float32(np.sqrt(2))  # 1.41421354 is below the root, its successor above
    np.testing.assert_array_equal(r.power_of_two(np.stack([root, np.nextafter(root, 2)])), [1, 2])
    assert np.isnan(float(r.power_of_two(jnp.float32(np.nan))))


def test_golden_shift_and_flag():
    expected = [0.9921875, 0.6015625, 0.1015625, 0.0078125, 0.0078125, 0, 0, 0, -0.296875]
    np.testing.assert_array_equal(r.shift(T3, 8), np.float32(expected))
    expected[4:8] = [82 / 2**14, 16 / 2**14, 2 / 2**14, 0]
    np.testing.assert_array_equal(r.flag(T3, 8), np.float32(expected))
    np.testing.assert_allclose(expected[4:7], [0.00500488, 0.00097656, 0.00012207], rtol=1e-4)
    top = r.shift(np.float32([1.4, 0.1]), 8)  # R is 1: the largest is clipped
    assert float(top[0]) == 0.9921875
    for rule in (SHIFT, FLAG, MAX):
        np.testing.assert_array_equal(r.onto(np.zeros(3, np.float32), Grid(8, rule)), np.zeros(3))


def test_golden_constant():
    g, half = np.float32([1, -0.5, 0.003]), np.full(3, 0.5, np.float32)
    np.testing.assert_array_equal(r.constant(g, half), np.float32([127, -64, 0]) / 16384)
    np.testing.assert_array_equal(r.constant(g / 64, half), r.constant(g, half))  # R is forgotten
    for bits in (4, 16):  # other widths have other steps and the same size
        n = np.asarray(r.constant(g, half, bits=bits)) * 128 * 2 ** (bits - 1)
        np.testing.assert_array_equal(n, np.round(n))
        np.testing.assert_allclose(n / 2 ** (bits - 1), g, atol=2.0 ** (1 - bits))
    assert (
        np.abs(r.constant(normal(1000), np.random.default_rng(0).random(1000))).max() <= 127 / 16384
    )


def test_stochastic_rounding_is_right_on_average():
    g = np.float32([0.9, -0.3, 0.01, 0.004, -0.0001])
    noise = np.random.default_rng(0).random((40_000, 5)).astype(np.float32)
    n = np.asarray(jax.vmap(lambda u: r.stochastic(g, jnp.float32(1), u, 8))(noise)) * 128
    error = np.sqrt(np.maximum(n.var(0), 1e-4) / len(noise))
    np.testing.assert_allclose(n.mean(0), g * 128, atol=5 * error.max())
    assert np.all(np.abs(n - g * 128) < 1)


@pytest.mark.parametrize("rule, reach", [(FIXED, 1), (FIXED, 4), (OPEN, 2), (MAX, 1), (SHIFT, 1)])
def test_codes_are_whole_symmetric_and_rounding_twice_changes_nothing(rule, reach):
    x = 3 * normal(64, 33)
    grid = Grid(8, rule, reach)
    y = np.asarray(r.onto(x, grid))
    scale = {MAX: np.abs(x).max(), SHIFT: float(r.power_of_two(np.abs(x).max()))}.get(rule, reach)
    codes = y.astype(np.float64) / scale * 128
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)
    if rule != OPEN:
        assert np.abs(codes).max() <= 127.0001
    if rule in (FIXED, OPEN):
        np.testing.assert_array_equal(r.onto(y, grid), y)


def test_flag_keeps_small_errors_that_shift_loses():
    rng = np.random.default_rng(0)
    errors = np.float32(rng.lognormal(0, 2.5, 200_000) * rng.choice([-1, 1], 200_000))
    kept = [np.mean(np.asarray(f(errors, 8)) != 0) for f in (r.shift, r.flag)]
    assert kept[1] > 15 * kept[0]


def test_each_image_by_itself():
    """Of rules that look at the tensor: an answer does not depend on the neighbours."""
    x = normal(3, 4, 4, 2) * np.float32([1, 10, 100]).reshape(3, 1, 1, 1)
    for rule in (MAX, SHIFT, FLAG):
        together = r.onto(x, Grid(8, rule), each=True)
        for i in range(3):
            np.testing.assert_array_equal(together[i : i + 1], r.onto(x[i : i + 1], Grid(8, rule)))


def test_error_is_the_identity_whose_gradient_is_rounded():
    x, dy = normal(5, 7), normal(5, 7, seed=1)
    for grid in (Grid(8, SHIFT), Grid(8, FLAG), Grid(16, MAX), Grid(4, FIXED, 2.0)):
        y, back = jax.vjp(lambda x, grid=grid: r.error(x, grid), x)
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(back(dy)[0], r.onto(dy, grid))


def test_error_over_devices_has_one_scale():
    x = normal(2, 3, 4)
    dy = x * np.float32([1, 50]).reshape(2, 1, 1)

    def back(x, dy):
        return jax.vjp(lambda x: r.error(x, Grid(8, SHIFT), "data"), x)[1](dy)[0]

    found = jax.pmap(back, axis_name="data")(x, dy)
    np.testing.assert_array_equal(found, r.shift(dy, 8))


def test_no_gradient_through_scales():
    for grid in (Grid(8, MAX), Grid(8, SHIFT), Grid(8, FLAG)):
        dx = jax.grad(lambda x, grid=grid: jnp.sum(r.onto(x, grid) * x))(T3)
        np.testing.assert_allclose(dx, T3 + np.asarray(r.onto(T3, grid)), rtol=1e-6)


def bilinear(stride):
    """The kernel of a bilinear transposed convolution, one axis."""
    size = 2 * stride
    return 1 - np.abs((np.arange(size) + 0.5) / stride - 1)


def test_bilinear_kernels_on_eight_bits():
    """T6: all of the 16x16 kernel are ties, so a wrong rule shows as brighter scores."""
    small = np.float32(np.outer(bilinear(2), bilinear(2)))
    np.testing.assert_array_equal(r.direct(small, 8), small)
    kernel = np.outer(bilinear(8), bilinear(8))
    assert np.all(np.round(kernel * 256) % 2 == 1)
    rounded = np.asarray(r.direct(np.float32(kernel), 8))
    phases = rounded.reshape(2, 8, 2, 8).sum((0, 2))
    np.testing.assert_array_equal(phases, np.ones((8, 8)))
    up = np.floor(kernel * 128 + 0.5).reshape(2, 8, 2, 8).sum((0, 2)) / 128
    np.testing.assert_array_equal(up, np.full((8, 8), 1.015625))


def worst_case(channels):
    """A 3x3 patch of codes 127, one channel of the kernel at 126: the sum, float64."""
    x = np.full((1, 3, 3, channels), 127.0)
    kernel = np.full((3, 3, channels, 1), 127.0)
    kernel[:, :, -1] = 126
    return x, kernel, float((x[0, :, :, :] * kernel[..., 0]).sum())


def convolved(x, kernel, dtype, result):
    return jax.lax.conv_general_dilated(
        jnp.asarray(x, dtype), jnp.asarray(kernel, dtype), (1, 1), "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"), preferred_element_type=result,
    )  # fmt: skip


def test_float32_sums_of_codes_are_exact_up_to_1040_products():
    x, kernel, total = worst_case(115)  # 1035 products
    assert total == 16_692_372 < 2**24
    assert float(convolved(x, kernel, jnp.float32, jnp.float32).ravel()[0]) == total
    assert int(convolved(x, kernel, jnp.int8, jnp.int32).ravel()[0]) == total
    for channels, total in ((116, 16_837_533), (512, 74_321_289)):
        x, kernel, exact = worst_case(channels)
        assert exact == total
        assert int(convolved(x, kernel, jnp.int8, jnp.int32).ravel()[0]) == total
        assert float(convolved(x, kernel, jnp.float32, jnp.float32).ravel()[0]) != total
    assert 1040 * 127**2 < 2**24 < 1041 * 127**2
    assert 133_144 * 127**2 < 2**31 < 133_145 * 127**2


@pytest.mark.parametrize("bits", [0, 1, 33, -8])
def test_widths_that_cannot_be(bits):
    with pytest.raises(UserError, match=f"bits: got {bits}"):
        Grid(bits)


def test_grids_that_cannot_be():
    with pytest.raises(UserError, match="power of two"):
        Grid(8, FIXED, 3.0)
    with pytest.raises(UserError, match="did you mean 'shift'"):
        Grid(8, "shft")
