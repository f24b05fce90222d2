"""Products of mixed bytes: exact in both forms, and what convolutions make of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.padding import pad_widths
from jaxseg.quant import codes, mixed

RNG = np.random.default_rng(0)


def signed(*shape):
    return RNG.integers(-127, 128, shape).astype(np.int8)


@pytest.mark.parametrize("terms", [1, 7, 1024, 4608, 66_311])
def test_a_product_is_exact(terms):
    """66311 is the most that 255 * 127 leaves within 31 bits; all at their largest is the worst case."""
    x, kernel = np.full((2, terms), 255, np.uint8), np.full((terms, 3), 127, np.int8)
    kernel[:, 1], kernel[:, 2] = -127, signed(terms)
    want = x.astype(np.int64) @ kernel.astype(np.int64)
    np.testing.assert_array_equal(mixed.mixed_product(x, kernel), want)
    np.testing.assert_array_equal(jax.jit(mixed._in_signed)(x, kernel), want)


def test_codes_are_bytes_less_128():
    every = np.arange(-128, 128, dtype=np.int8)
    np.testing.assert_array_equal(mixed.unsigned(jnp.asarray(every)), every.astype(int) + 128)


def test_sums_that_overflow_on_the_way_come_out_right():
    """With 128 for every zero a sum may leave 32 bits; taken off again, what is left is the sum of the codes."""
    x, kernel = np.full((1, 1, 1, 131_071), 127, np.int8), np.full((1, 1, 131_071, 1), 127, np.int8)
    found = codes._mixed(x, kernel, 1, 1, ((0, 0), (0, 0)))
    assert int(found[0, 0, 0, 0]) == 131_071 * 127 * 127


@pytest.mark.parametrize(
    ("cores", "patch_bytes", "batch"), [(2, 2**22, 2), (2, 900, 2), (1, 900, 2), (1, 900, 1)]
)
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "padding"),
    [((3, 3), 1, 1, "symmetric"), ((3, 3), 2, 1, "same"), ((5, 3), 1, 2, "symmetric"),
     ((1, 1), 1, 1, "symmetric"), ((7, 7), 2, 1, "symmetric")],
)  # fmt: skip
def test_convolutions_in_parts_are_the_plain_ones(
    monkeypatch, cores, patch_bytes, batch, kernel, stride, dilation, padding
):
    """A part of a row at least, the last part beyond the map; even and odd numbers of cells."""
    monkeypatch.setattr(codes, "PART_BYTES", {cores: patch_bytes})
    monkeypatch.setattr(codes, "cores", lambda: cores)
    x, weights = signed(batch, 11, 9, 5), signed(*kernel, 5, 6)
    pads = tuple(pad_widths((11, 9), kernel, stride, dilation, padding))
    found = jax.jit(lambda x, w: codes._mixed(x, w, stride, dilation, pads))(x, weights)
    want = codes._xla(jnp.asarray(x), jnp.asarray(weights), stride, dilation, pads)
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("shape", [(2, 3, 5, 3), (1, 3, 5, 3)])
def test_codes_of_an_image_are_the_same_in_one_go_and_in_two_turns(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    multiplier, offset, shift = np.array([300, 310, 321]), np.array([-9000, 12, 7001]), 9
    made = (image.astype(int) * multiplier + offset) / 2**shift
    found = jax.jit(lambda x: codes.image_codes(x, multiplier, offset, shift, once=True))(image)
    np.testing.assert_array_equal(found, np.clip(np.round(made), -127, 127))


def test_one_in_a_loop_and_in_the_jaxpr_by_name():
    x, kernel = np.full((4, 2, 3), 9, np.uint8), signed(3, 2)

    def loop(x, kernel):
        return jax.lax.map(lambda part: mixed.mixed_product(part, kernel), x)

    want = x.astype(int) @ kernel.astype(int)
    np.testing.assert_array_equal(jax.jit(loop)(x, kernel), want)
    assert "mixed_product" in str(jax.make_jaxpr(loop)(x, kernel))


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="int8"):
        mixed.mixed_product(np.zeros((2, 3), np.int8), np.zeros((3, 2), np.int8))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_it_is_lowered_everywhere(platform):
    """On CPU by one product of mixed bytes; elsewhere by one of signed ones."""
    args = np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.int8)
    lowered = jax.jit(mixed.mixed_product).trace(*args).lower(lowering_platforms=(platform,))
    text = lowered.as_text()
    assert ("xui8>, tensor<3x2xi8>" in text) == (platform == "cpu")


def test_the_machine_is_asked_once(monkeypatch, tmp_path):
    for flags, quick in (
        ("fma avx512_vnni", True),
        ("avx512_vnni amx_int8", False),
        ("avx2", False),
    ):
        (tmp_path / "cpuinfo").write_text(f"model name : X\nflags\t\t: {flags}\n")
        monkeypatch.setattr(mixed, "Path", lambda _: tmp_path / "cpuinfo")
        assert mixed.has_quick_kernels.__wrapped__() is quick
    monkeypatch.setattr(mixed, "Path", lambda _: tmp_path / "none")
    assert mixed.has_quick_kernels.__wrapped__() is False
