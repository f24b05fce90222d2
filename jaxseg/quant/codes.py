"""Operations of int8 networks: maps of codes in, maps of codes out, 32-bit sums in between, nothing floating.

Every function is exact: `quant.reference` computes the same in 64 bits, apart from this file. Convolutions take the
form that is quick on each backend (measured, see docs/methods/integer.md):
    CPU       with VNNI patches times kernel in mixed bytes (`quant.mixed`), else XLA's int8 convolution; a stem of few
              channels and stride 2 has 2x2 pixels as channels of one; depthwise ones are shifted multiply-adds
    GPU       patches times kernel, since cuDNN has no integer result; depthwise as on CPU
    others    XLA's int8 convolution
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.export import is_symbolic_dim

from jaxseg.padding import pad_widths
from jaxseg.quant.mixed import ZERO, has_quick_kernels, mixed_product, unsigned, zero_sum
from jaxseg.quant.scaling import RESIZE_BITS, resize_weights
from jaxseg.types import Array

I32 = jnp.int32

Then = Callable[[Array], Array]
"""int32 sums [.., D] -> whatever follows, element by element and channel by channel."""

FEW = 4
"""Input channels up to which a strided convolution is one on 2x2 pixels."""


# --- Rescaling ---


def rescaled(
    total: Array, multiplier: Array, offset: Array, shift: Array, low: Array, high: Array
) -> Array:
    """clip(round((total * multiplier + offset) / 2^shift), low, high), halves to even.

    Args:
        total: int32 [..., C].
        multiplier, offset, shift: whole numbers within `scaling.fits`, [C] or scalars.
        low, high: bounds, within -128..127.

    Returns:
        int8.
    """
    return jnp.clip(_rounded(total, multiplier, offset, shift), low, high).astype(jnp.int8)


def _rounded(total: Array, multiplier: Array, offset: Array, shift: Array) -> Array:
    m, c, s = (_row(v, total.ndim) for v in (multiplier, offset, shift))
    # The power of two that keeps products below 2^30; a division would be done once per element.
    most = I32(1 << 30) >> (32 - lax.clz(jnp.abs(m)))
    return halved_to_even(jnp.clip(total, -most, most) * m + c, s)


def halved_to_even(value: Array, shift: Array | int) -> Array:
    """round(value / 2^shift), halves to even; int32, shift 1 or more."""
    shift = jnp.asarray(shift, I32)
    below = (I32(1) << (shift - 1)) - 1
    return (value + below + ((value >> shift) & 1)) >> shift


def _row(v: Array, ndim: int) -> Array:
    """int32 [C] -> [1, .., 1, C]; scalars stay."""
    v = jnp.asarray(v).astype(I32)
    return v.reshape(*(1,) * (ndim - 1), -1) if v.ndim else v


def image_codes(
    image: Array, multiplier: Array, offset: Array, shift: int, *, once: bool = False
) -> Array:
    """uint8 [B, H, W, 3] -> int8 codes of the normalised image, see `scaling.image_affine`.

    Of an image that was resized, and so has fractions, the nearest whole pixels. `once`: worked out before anything
    reads it, see `_once`; for batches on one device, since it cuts them anew.
    """
    if jnp.issubdtype(image.dtype, jnp.floating):
        image = jnp.round(image)

    def made(image: Array) -> Array:
        value = image.astype(I32) * _row(multiplier, image.ndim) + _row(offset, image.ndim)
        return jnp.clip(halved_to_even(value, shift), -127, 127).astype(jnp.int8)

    def on_cpu(image: Array) -> Array:
        return _once(made, image.reshape(-1, image.shape[-1])).reshape(image.shape)

    return lax.platform_dependent(image, cpu=on_cpu, default=made) if once else made(image)


def _once(function: Callable[[Array], Array], x: Array) -> Array:
    """function(x) of x [N, ..], row by row, worked out before anything reads it.

    XLA on CPU fuses what makes a map into all that reads it, and works it out for each cell of a kernel anew; barriers
    are gone by then (jaxlib 0.10.2). Out of a loop and into one it fuses nothing, so this is one, of two turns.
    """
    if is_symbolic_dim(x.shape[0]) or x.shape[0] % 2:
        return function(x)
    return lax.map(function, x.reshape(2, -1, *x.shape[1:])).reshape(x.shape)


def over_thresholds(
    total: Array, multiplier: Array, offset: Array, shift: Array, thresholds: Array
) -> Array:
    """How many of the thresholds each rescaled sum reaches: int8, a monotone function as a table.

    Args:
        total: int32 [B, 1, 1, C]. multiplier, offset, shift: as in `rescaled`.
        thresholds: int32 [127], rising.
    """
    u = _rounded(total, multiplier, offset, shift)
    reached = u[..., None] >= _row(thresholds, u.ndim + 1)
    return jnp.sum(reached, axis=-1, dtype=I32).astype(jnp.int8)


def from_table(x: Array, thresholds: Array) -> Array:
    """How many of the thresholds (int32 [127], rising) each code reaches, int8."""
    every = jnp.arange(-128, 128, dtype=I32)
    table = jnp.sum(every[:, None] >= _row(thresholds, 2), axis=-1, dtype=I32)
    return jnp.take(table.astype(jnp.int8), x.astype(I32) + 128)


# --- Convolution ---


def convolution(
    x: Array,
    kernel: Array,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: str = "symmetric",
    then: Then = lambda total: total,
) -> Array:
    """int8 [B, H, W, C] and int8 [kh, kw, C // groups, D] -> then(int32 [B, ceil(H / stride), ceil(W / stride), D]).

    then: what becomes of sums, cell by cell, such as `rescaled`: done while they are in cache.
    """
    pads = tuple(pad_widths(x.shape[1:3], kernel.shape[:2], stride, dilation, padding))
    if groups == x.shape[-1] > 1:
        # Every channel as often as it has kernels.
        times = kernel.shape[-1] // groups
        x = jnp.broadcast_to(x[..., None], (*x.shape, times)).reshape(
            *x.shape[:3], kernel.shape[-1]
        )
        return then(_depthwise(x, kernel, stride, dilation, pads))
    if groups > 1:
        # Grouped int8 convolutions give wrong values on GPUs (openxla/xla#49123).
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        made = [_dense(*part, stride, dilation, pads) for part in parts]
        return then(jnp.concatenate(made, axis=-1))
    return _dense(x, kernel, stride, dilation, pads, then)


def _dense(
    x: Array,
    kernel: Array,
    stride: int,
    dilation: int,
    pads: tuple,
    then: Then = lambda total: total,
) -> Array:
    if kernel.shape[:2] == (1, 1):
        x, stride, dilation, pads = x[:, ::stride, ::stride], 1, 1, ((0, 0), (0, 0))
    options = {"stride": stride, "dilation": dilation, "pads": pads}
    patches, product, plain = (
        lambda x, kernel, form=form: then(form(x, kernel, **options))
        for form in (_patches, _product, _xla)
    )
    mixed = functools.partial(_mixed, **options, then=then)
    if kernel.shape[:2] == (1, 1):
        on_cpu = mixed if has_quick_kernels() else product
        return lax.platform_dependent(x, kernel, cpu=on_cpu, default=product)
    on_cpu = mixed if has_quick_kernels() else plain
    if stride == 2 and dilation == 1 and x.shape[-1] <= FEW:
        on_cpu = functools.partial(_on_quads, pads=pads, then=then)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, cuda=patches, rocm=patches, default=plain)


def _product(x: Array, kernel: Array, **_: Any) -> Array:
    """A 1x1 convolution of stride 1."""
    dims = (((3,), (0,)), ((), ()))
    return lax.dot_general(x, kernel.reshape(kernel.shape[2:]), dims, preferred_element_type=I32)


def _xla(x: Array, kernel: Array, stride: int, dilation: int, pads: tuple) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=I32,
    )


def _on_quads(x: Array, kernel: Array, pads: tuple, then: Then = lambda total: total) -> Array:
    """Stride 2 as stride 1 on quads: 2x2 pixels are the channels of one cell, and the kernel is cut likewise."""
    batch, height, width, channels = x.shape
    before = [-(-low // 2) for low, _ in pads]
    leads = [2 * b - low for b, (low, _) in zip(before, pads, strict=True)]
    cells = [-(-(lead + k) // 2) for lead, k in zip(leads, kernel.shape[:2], strict=True)]
    more = [2 * n - lead - k for n, lead, k in zip(cells, leads, kernel.shape[:2], strict=True)]
    kernel = jnp.pad(kernel, [*zip(leads, more, strict=True), (0, 0), (0, 0)])
    kernel = kernel.reshape(cells[0], 2, cells[1], 2, channels, -1)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(*cells, 4 * channels, -1)
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    x = x.reshape(batch, -(-height // 2), 2, -(-width // 2), 2, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(*x.shape[:2], x.shape[3], 4 * channels)
    around = tuple((b, n - 1 - b) for b, n in zip(before, cells, strict=True))
    if has_quick_kernels():
        return _mixed(x, kernel, 1, 1, around, then)
    return then(_xla(x, kernel, 1, 1, around))


PART_BYTES = {1: 2**17, 2: 2**22}
"""Of patches, and of sums, that are made at a time, by `cores`: they stay in cache. On several cores small parts cost
more than they save (two of an AMD EPYC, ItNet: 9.3 ms by parts of the first size, 5.8 by those of the second); on one
a network on large maps takes half the time (DeepLabV3+ on ResNet-18, quarter width, 480x640: 21 ms, 44 by the second).
"""


@functools.cache
def cores() -> int:
    """How many cores this process may use: one, or 2 for several."""
    return min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


def _mixed(
    x: Array,
    kernel: Array,
    stride: int,
    dilation: int,
    pads: tuple,
    then: Then = lambda total: total,
) -> Array:
    """Patches of unsigned codes times kernel, and what becomes of the sums, some rows at a time."""
    flat = kernel.reshape(-1, kernel.shape[-1])
    nothing = zero_sum(flat).reshape(1, 1, 1, -1)
    (batch, height, width, _), (down, across) = x.shape, kernel.shape[:2]
    rows, columns = -(-height // stride), -(-width // stride)
    zero = jnp.uint8(ZERO)

    def patches(x: Array, rows: int, pads: tuple) -> Array:
        seen = _cells(x, kernel, stride, dilation, pads, size=(rows, columns), zero=zero)
        return then(mixed_product(jnp.concatenate(seen, axis=-1), flat) - nothing)

    parts = 1
    # Few pieces XLA writes cell by cell once they are slices of a part (3x3, stride 2, 3 channels: five times as long).
    few_pieces = 1 < down * across < 9
    if not (few_pieces or is_symbolic_dim(batch)):
        cell_bytes = max(flat.shape[0] * (flat.shape[0] > x.shape[-1]), 4 * flat.shape[1])
        parts = -(-batch * rows * columns * cell_bytes // PART_BYTES[cores()])
    if parts <= 1:
        return patches(unsigned(x), rows, pads)
    # A 1x1 kernel reads every cell once, and several cores work together on what is no loop.
    if (down, across) != (1, 1) and cores() == 1:
        x = _once(unsigned, x.reshape(-1)).reshape(x.shape)
    else:
        x = unsigned(x)
    some = -(-rows // parts)
    span = (some - 1) * stride + (down - 1) * dilation + 1
    missing = (-(-rows // some) * some - 1) * stride + (down - 1) * dilation + 1
    (top, bottom), sides = pads
    bottom = max(bottom, missing - height - top)
    x = lax.pad(x, zero, [(0, 0, 0), (top, bottom, 0), (*sides, 0), (0, 0, 0)])

    def part(i: Array) -> Array:
        rows_of = lax.dynamic_slice_in_dim(x, i * some * stride, span, axis=1)
        return patches(rows_of, some, ((0, 0),) * 2)

    made = lax.map(part, jnp.arange(-(-rows // some), dtype=I32))
    made = jnp.moveaxis(made, 0, 1).reshape(batch, -1, columns, flat.shape[-1])
    return made[:, :rows]


def _cells(
    x: Array,
    kernel: Array,
    stride: int,
    dilation: int,
    pads: tuple,
    size: tuple[int, int] = (),
    zero: Array | None = None,
) -> list[Array]:
    """Per cell of the kernel, row by row, what it sees: [B, h, w, C] each, of `size` (h, w)."""
    rows, columns = size or (-(-n // stride) for n in x.shape[1:3])
    zero = jnp.zeros((), x.dtype) if zero is None else zero
    x = lax.pad(x, zero, [(0, 0, 0), *((*p, 0) for p in pads), (0, 0, 0)])
    seen = []
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            top, left = i * dilation, j * dilation
            down, right = top + (rows - 1) * stride + 1, left + (columns - 1) * stride + 1
            seen.append(x[:, top:down:stride, left:right:stride])
    return seen


def _patches(x: Array, kernel: Array, stride: int, dilation: int, pads: tuple) -> Array:
    """One product of all that the kernel's cells see."""
    seen = jnp.concatenate(_cells(x, kernel, stride, dilation, pads), axis=-1)
    return _product(seen, kernel.reshape(1, 1, -1, kernel.shape[-1]))


def _depthwise(x: Array, kernel: Array, stride: int, dilation: int, pads: tuple) -> Array:
    """Shifted multiply-adds; products of two codes within +-127 fit into 16 bits, and so does a sum of two."""
    x = lax.optimization_barrier(x)
    weights = kernel.reshape(-1, kernel.shape[-1]).astype(jnp.int16)
    seen = _cells(x, kernel, stride, dilation, pads)
    products = [
        part.astype(jnp.int16) * w.reshape(1, 1, 1, -1)
        for part, w in zip(seen, weights, strict=True)
    ]
    pairs = [sum(products[i : i + 2]).astype(I32) for i in range(0, len(products), 2)]
    return functools.reduce(jnp.add, pairs)


# --- What else blocks do ---


def sum_of(maps: Sequence[Array], multiplier: Array, shift: Array, low: Array | int) -> Array:
    """Codes of a weighted sum of maps of codes: clip(round(sum of maps[i] * multiplier[i] / 2^shift), low, 127)."""
    total = sum(x.astype(I32) * m.astype(I32) for x, m in zip(maps, multiplier, strict=True))
    return jnp.clip(halved_to_even(total, shift), low, 127).astype(jnp.int8)


def product_of(x: Array, gate: Array, multiplier: Array, shift: Array) -> Array:
    """Codes of x times a map that is spread over it."""
    total = x.astype(I32) * gate.astype(I32) * multiplier.astype(I32)
    return jnp.clip(halved_to_even(total, shift), -127, 127).astype(jnp.int8)


AVERAGE_DIGITS = 6
"""Binary digits that a mean keeps before it is rescaled."""


def mean_of(total: Array, cells: np.ndarray | int, multiplier: Array, shift: Array) -> Array:
    """Codes of means: m = 64 total / cells, cut off to an odd number unless it is whole, then
    clip(round(m * multiplier / 2^(shift + 6))).

    (Odd, so that the last rounding sees which side of a half it was.)

    Args:
        total: int32 [B, h, w, C], sums of codes. cells: how many they are of, one number or [1, h, w, 1].
    """
    cells = jnp.broadcast_to(jnp.asarray(cells, I32), total.shape)
    whole = lax.div(total, cells)
    whole = jnp.where(total < whole * cells, whole - 1, whole)  # div rounds to zero
    # Digits of what is left alone: 64 times the whole sum may leave 32 bits.
    rest = (total - whole * cells) << AVERAGE_DIGITS
    digits = lax.div(rest, cells)
    mean = (whole << AVERAGE_DIGITS) + digits
    mean = jnp.where(rest != digits * cells, mean | 1, mean)
    shift = shift.astype(I32) + AVERAGE_DIGITS
    rounded = halved_to_even(mean * multiplier.astype(I32), shift)
    return jnp.clip(rounded, -127, 127).astype(jnp.int8)


def halve(x: Array) -> Array:
    """Codes of means over 2x2 cells; where a side is odd its last row or column counts twice."""
    x = x.astype(jnp.int16)
    for axis in (1, 2):
        one = np.arange(0, x.shape[axis], 2)
        other = np.minimum(one + 1, x.shape[axis] - 1)
        x = jnp.take(x, one, axis) + jnp.take(x, other, axis)
    return halved_to_even(x.astype(I32), 2).astype(jnp.int8)


def resize(x: Array, size: tuple[int, int], *, corners: bool) -> Array:
    """Codes of a bilinear resize, weights of 8 bits per axis."""
    if x.shape[1:3] == tuple(size):
        return x
    one = 2**RESIZE_BITS
    y = x.astype(jnp.int16)
    for axis, wide in ((1, jnp.int16), (2, I32)):
        low, high, weight = resize_weights(x.shape[axis], size[axis - 1], corners)
        weight = jnp.asarray(weight, wide).reshape(*(-1 if i == axis else 1 for i in range(4)))
        y = y.astype(wide)
        # 127 * 2^8 fits into 16 bits, and so does every mean of two such numbers.
        y = jnp.take(y, low, axis) * (one - weight) + jnp.take(y, high, axis) * weight
    return halved_to_even(y, 2 * RESIZE_BITS).astype(jnp.int8)
