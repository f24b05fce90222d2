"""Operations on int8 codes in 32 bits against the interpreter in 64: bit for bit, and nothing floats on the way."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import flow
from jaxseg.flow import Op
from jaxseg.layers.pool import max_pool, part_sums
from jaxseg.layers.resize import upsample_nearest
from jaxseg.padding import pad_widths
from jaxseg.quant import codes, reference, scaling
from tests.models.test_zoo import CHEAP
from tests.quant.test_reference_codes import layer

FLOAT = re.compile(r"\b(?:f|bf)(?:16|32|64)\[")
I32 = np.int32


def drawn(*shape, most=127, seed=0):
    """Codes, an eighth of them as large as can be."""
    rng = np.random.default_rng((seed, *shape))
    x = rng.integers(-most, most + 1, shape)
    extreme = rng.random(shape) < 1 / 8
    return np.where(extreme, rng.choice([-most, most], shape), x).astype(np.int8)


def whole(*arrays):
    return [np.asarray(x, np.int64) for x in arrays]


def run(function, *args, options=None):
    """Compiled; what it computes with must be integers."""
    traced = jax.jit(function).trace(*args)
    assert not FLOAT.search(str(traced.jaxpr))
    return jax.tree.map(np.asarray, traced.lower().compile(options)(*args))


# --- Convolution ---


def of(spec):
    """`codes.convolution` as a layer does it."""

    def convolved(x, kernel):
        return codes.convolution(
            x,
            kernel,
            stride=spec.stride,
            dilation=spec.dilation,
            groups=spec.groups,
            padding=spec.padding,
        )

    return convolved


LAYERS = {
    "1x1": layer("c", 5, 7),
    "1x1 stride 2": layer("c", 6, 3, stride=2),
    "1x1 stride 2 same": layer("c", 3, 5, stride=2, padding="same"),
    "1x1 groups": layer("c", 6, 4, groups=2),
    "3x3": layer("c", 7, 5, (3, 3)),
    "1x5": layer("c", 3, 2, (1, 5)),
    "7x1": layer("c", 3, 2, (7, 1)),
    "3x3 dilation 2": layer("c", 6, 5, (3, 3), dilation=2),
    "3x3 dilation 12": layer("c", 3, 4, (3, 3), dilation=12),
    "3x3 stride 2": layer("c", 8, 5, (3, 3), stride=2),
    "3x3 stride 2 same": layer("c", 8, 5, (3, 3), stride=2, padding="same"),
    "5x5 stride 2 same": layer("c", 5, 6, (5, 5), stride=2, padding="same"),
    "3x3 stride 4": layer("c", 6, 5, (3, 3), stride=4),
    "3x3 stride 4 same": layer("c", 6, 5, (3, 3), stride=4, padding="same"),
    "3x3 stride 2 dilation 3": layer("c", 3, 4, (3, 3), stride=2, dilation=3),
    "3x3 dilation 2 same": layer("c", 3, 4, (3, 3), dilation=2, padding="same"),
    "stem of 1": layer("c", 1, 4, (3, 3), stride=2),
    "stem 3x3": layer("c", 3, 5, (3, 3), stride=2),
    "stem 3x3 same": layer("c", 3, 5, (3, 3), stride=2, padding="same"),
    "stem 5x5": layer("c", 4, 5, (5, 5), stride=2),
    "stem 5x5 same": layer("c", 2, 3, (5, 5), stride=2, padding="same"),
    "stem 7x7": layer("c", 3, 6, (7, 7), stride=2),
    "stem 7x7 same": layer("c", 3, 6, (7, 7), stride=2, padding="same"),
    "stem 3x7": layer("c", 3, 2, (3, 7), stride=2),
    "groups": layer("c", 6, 4, (3, 3), groups=2),
    "groups stride 2": layer("c", 12, 6, (3, 3), groups=3, stride=2),
    "groups of one, two out of each": layer("c", 3, 6, (3, 3), groups=3),
    "depthwise": layer("c", 9, 9, (3, 3), groups=9),
    "depthwise stride 2": layer("c", 6, 6, (3, 3), groups=6, stride=2),
    "depthwise stride 2 same": layer("c", 6, 6, (3, 3), groups=6, stride=2, padding="same"),
    "depthwise 5x5 stride 2 same": layer("c", 4, 4, (5, 5), groups=4, stride=2, padding="same"),
    "depthwise dilation 4": layer("c", 5, 5, (3, 3), groups=5, dilation=4),
    "depthwise 1x1": layer("c", 5, 5, groups=5),
}
SIZES = [(9, 13), (8, 10), (1, 2)]


@pytest.mark.parametrize("name", LAYERS)
def test_convolution(name):
    spec = LAYERS[name]
    kernel = drawn(*spec.kernel_shape)

    def all_sizes(kernel, *maps):
        return [of(spec)(x, kernel) for x in maps]

    maps = [drawn(2, *size, spec.in_channels) for size in SIZES]
    for x, found in zip(maps, run(all_sizes, kernel, *maps), strict=True):
        expected = reference.convolution(*whole(x, kernel), spec)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected)
        assert np.any(expected)


DENSE = [n for n, spec in LAYERS.items() if spec.groups == 1 and not n.startswith("1x1 ")]


@pytest.mark.parametrize("name", DENSE)
def test_dense_forms_agree(name, monkeypatch):
    """What each platform runs: XLA's, patches, mixed bytes, and quads where strides are 2 and channels few."""
    spec = LAYERS[name]
    kernel = drawn(*spec.kernel_shape)
    quads = spec.stride == 2 and spec.dilation == 1

    def forms(kernel, *maps):
        found = []
        for x in maps:
            pads = pad_widths(x.shape[1:3], spec.kernel, spec.stride, spec.dilation, spec.padding)
            options = {"stride": spec.stride, "dilation": spec.dilation, "pads": tuple(pads)}
            chosen = [codes._xla, codes._patches, codes._mixed]
            chosen += [codes._product] if spec.kernel == (1, 1) else []
            each = [form(x, kernel, **options) for form in chosen]
            for quick in (False, True) if quads else ():
                monkeypatch.setattr(codes, "has_quick_kernels", lambda quick=quick: quick)
                each.append(codes._on_quads(x, kernel, pads=tuple(pads)))
            found.append(each)
        return found

    maps = [drawn(2, *size, spec.in_channels, seed=1) for size in ((8, 11), (1, 2))]
    for first, *others in run(forms, kernel, *maps, options=CHEAP):
        assert len(others) >= 2 + 2 * quads and first.dtype == np.int32 and np.any(first)
        for other in others:
            assert other.dtype == np.int32
            np.testing.assert_array_equal(other, first)


def test_stems_run_on_quads_on_cpu(monkeypatch):
    seen = []
    on_quads = codes._on_quads
    monkeypatch.setattr(codes, "_on_quads", lambda *a, **k: seen.append(1) or on_quads(*a, **k))
    for name, spec in LAYERS.items():
        seen.clear()
        shapes = [(1, 9, 13, spec.in_channels), spec.kernel_shape]
        jax.eval_shape(of(spec), *(jax.ShapeDtypeStruct(s, np.int8) for s in shapes))
        few = spec.in_channels // spec.groups <= codes.FEW and not spec.depthwise
        large = spec.kernel != (1, 1) and spec.dilation == 1
        assert bool(seen) == (spec.stride == 2 and few and large), name


@pytest.mark.parametrize("channels", [113, 114, 115, 116, 512], ids=lambda n: f"K={9 * n}")
def test_largest_sums_of_products(channels):
    """All codes at +-127, around 1024, 1040 and 4608 products; what float32 could not add up."""
    signs = np.random.default_rng(0).choice([-127, 127], (3, 3, channels, 3)).astype(np.int8)
    signs[..., 2] = 127
    spec = layer("c", channels, 3, (3, 3))
    x = np.concatenate(
        [
            np.tile(signs[None, ..., 0], (1, 1, 1, 1)),
            -signs[None, ..., 1],
            np.full((1, 3, 3, channels), -127, np.int8),
        ]
    )
    pads = tuple(pad_widths((3, 3), (3, 3), 1, 1, "symmetric"))

    def forms(x, kernel):
        options = {"stride": 1, "dilation": 1, "pads": pads}
        each = (form(x, kernel, **options) for form in (codes._xla, codes._patches, codes._mixed))
        return [of(spec)(x, kernel), *each]

    expected = reference.convolution(*whole(x, signs), spec)
    most = 9 * channels * 127**2
    assert (expected[0, 1, 1, 0], expected[1, 1, 1, 1], expected[2, 1, 1, 2]) == (
        most,
        -most,
        -most,
    )
    for found in run(forms, x, signs):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("products", [1024, 1040, 1041, 4608, 131_071])
def test_largest_dots(products):
    """131071 products are the most that integer networks may have in a sum."""
    kernel = np.full((1, 1, products, 2), 127, np.int8)
    kernel[..., 1] = -127
    spec = layer("c", products, 2)
    for value in (127, -127):
        x = np.full((1, 1, 1, products), value, np.int8)
        x[..., -1] -= np.sign(value)
        found = run(of(spec), x, kernel)
        total = 127 * (127 * products - 1) * np.sign(value)
        np.testing.assert_array_equal(found.ravel(), [total, -total])
        np.testing.assert_array_equal(found, reference.convolution(*whole(x, kernel), spec))


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (1, 3)], ids=str)
def test_largest_depthwise_products(kernel):
    """Two products of +-127 share 16 bits."""
    spec = layer("c", 4, 4, kernel, groups=4)
    w = np.full(spec.kernel_shape, 127, np.int8)
    w[..., 1:3] = -127
    x = np.full((1, 7, 7, 4), 127, np.int8)
    x[..., 2:] = -127
    found = run(of(spec), x, w)
    np.testing.assert_array_equal(found, reference.convolution(*whole(x, w), spec))
    most = kernel[0] * kernel[1] * 127**2
    np.testing.assert_array_equal(found[0, 3, 3], [most, -most, most, -most])


# --- Rescaling ---


def affine(channels, seed=0):
    rng = np.random.default_rng(seed)
    ratio = 2.0 ** rng.uniform(-12, -3, channels) * rng.choice([-1, 1], channels)
    return scaling.affine(ratio, rng.uniform(-50, 50, channels))


def test_rescaled_per_channel_and_by_one_for_all():
    total = np.random.default_rng(0).integers(-(2**17), 2**17, (2, 5, 7, 6)).astype(I32)
    for own in (affine(6), scaling.Affine(*(x[0] for x in affine(1)))):
        for low, high in ((-127, 127), (0, 127), (0, np.int8(60))):
            found = run(codes.rescaled, total, *own, low, high)
            assert found.dtype == np.int8
            np.testing.assert_array_equal(found, np.clip(reference.rescale(total, *own), low, high))


def test_halves_to_even_at_the_ends_of_32_bits():
    rng = np.random.default_rng(0)
    near = (np.arange(-40, 41)[:, None] * 2 ** np.arange(0, 24)).ravel()
    value = np.concatenate([near, rng.integers(-(2**30), 2**30, 500)])
    for shift in (1, 2, 3, 9, 15, 21):
        more = np.concatenate([value, [2**31 - 2**shift, -(2**31)]])
        found = run(lambda v, s=shift: codes.halved_to_even(v, s), more.astype(I32))
        np.testing.assert_array_equal(found, reference.shifted(more, shift))


@pytest.mark.parametrize("step", [2.0**-8, 2.0**-12])
def test_over_thresholds(step):
    thresholds = scaling.sigmoid_thresholds(step)
    ratio = np.random.default_rng(0).uniform(-2, 2, 8)
    own = scaling.affine(ratio, np.linspace(-300, 300, 8), 18)
    total = np.random.default_rng(1).integers(-(2**14), 2**14, (3, 1, 1, 8)).astype(I32)
    total[0] //= 32
    found = run(codes.over_thresholds, total, *own, thresholds)
    u = reference.rescale(total, *own)
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, np.searchsorted(thresholds, u, side="right"))
    # A value on a threshold has reached it.
    one = scaling.Affine(np.int16([2]), I32([0]), np.int8([1]))
    on = run(codes.over_thresholds, thresholds.reshape(-1, 1, 1, 1).astype(I32), *one, thresholds)
    np.testing.assert_array_equal(on.ravel(), np.searchsorted(thresholds, thresholds, "right"))


def test_gates_of_any_bias():
    """A bias of a few units below 0, as calibration stores it, and a large sum."""
    thresholds = scaling.sigmoid_thresholds(2.0**-8)
    room = scaling.gate_steps(thresholds)
    for bias in (-2.0, -4.0, -6.0):
        own = scaling.affine(np.array([2.0**-4]), np.array([bias * 256]), 18, room)
        total = I32([2**15 - 1, 2**16, 2**20, -(2**20)]).reshape(4, 1, 1, 1)
        found = run(codes.over_thresholds, total, *own, thresholds)
        u = reference.rescale(total, *own)
        np.testing.assert_array_equal(found, np.searchsorted(thresholds, u, side="right"))


# --- What else blocks do ---


def by_definition(kind, own, *maps, **options):
    """The interpreter's, without a network around it."""
    op = Op("op", kind, tuple(f"in_{i}" for i in range(len(maps))), **options)
    return reference.OPERATIONS[kind](op, {k: np.int64(v) for k, v in own.items()}, *whole(*maps))


@pytest.mark.parametrize("activation, low", [("", -127), ("relu", 0)])
def test_sum_of(activation, low):
    x, y = drawn(2, 5, 7, 6), drawn(2, 5, 7, 6, seed=1)
    for ratios in ((1.0, 1.0), (0.5, 0.25), (1.7, 0.03), (100.0, 3.3), (2.0**13.9, 2.0**13.9)):
        own = scaling.sums(ratios)
        found = run(
            lambda x, y, m, s: codes.sum_of((x, y), m, s, low), x, y, own.multiplier, own.shift
        )
        scales = {"multiplier": own.multiplier, "shift": own.shift}
        expected = by_definition(flow.ADD, scales, x, y, activation=activation)
        assert found.dtype == np.int8 and found.min() >= low
        np.testing.assert_array_equal(found, expected)


def test_product_of():
    x, gate = drawn(2, 5, 7, 6), drawn(2, 1, 1, 6, seed=1)
    gate[0] = [127, -127, 127, 0, 1, -1]
    for ratio in (1 / 128, 0.01, 0.7, 2.0, 2.0**13.9):
        own = scaling.sums([ratio])
        scales = {"multiplier": own.multiplier[0], "shift": own.shift}
        found = run(codes.product_of, x, gate, *scales.values())
        assert found.dtype == np.int8
        np.testing.assert_array_equal(found, by_definition(flow.MULTIPLY, scales, x, gate))


def average(x, multiplier, shift):
    """Over the whole map."""
    return codes.mean_of(*part_sums(x.astype(jnp.int32), 1), multiplier, shift)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (7, 13), (45, 60)], ids=str)
def test_average(size):
    """Few codes, so that means are often halves; many; and the largest."""
    each = [drawn(8, *size, 5, most=most, seed=most) for most in (1, 3, 127)]
    x = np.concatenate([*each, np.full((1, *size, 5), 127), np.full((1, *size, 5), -127)])
    x = x.astype(np.int8)
    for ratio in (1.0, 0.5, 1.9, 0.13, 2.0**13.9):
        own = scaling.sums([ratio])
        scales = {"multiplier": own.multiplier[0], "shift": own.shift}
        found = run(average, x, *scales.values())
        assert found.dtype == np.int8 and found.shape == (len(x), 1, 1, 5)
        np.testing.assert_array_equal(found, by_definition(flow.AVERAGE, scales, x))


def test_average_of_every_total():
    """Every sum that a few cells can have: halves, and what lies right beside them."""
    for cells in (2, 6, 7, 14, 30, 64):
        total = np.arange(-127 * cells, 127 * cells + 1)
        least = total // cells
        x = (least[:, None] + (np.arange(cells) < (total - least * cells)[:, None])).astype(np.int8)
        scales = {"multiplier": np.int16(2**14), "shift": np.int8(14)}
        found = run(average, x.reshape(-1, 1, cells, 1), *scales.values())
        exact = [round(t / cells) for t in total.tolist()]  # of so few digits float64 is sure
        np.testing.assert_array_equal(found.ravel(), exact)


@pytest.mark.parametrize(
    "side",
    [
        512,
        520,
    ],
)
def test_average_of_the_largest_maps(side):
    x = np.full((1, side, side, 1), 127, np.int8)
    assert run(average, x, np.int16(2**14), np.int8(14)).item() == 127


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (4, 6), (5, 7), (8, 3)], ids=str)
def test_halve_and_pools(size):
    x = drawn(3, *size, 5)
    found = run(lambda x: (codes.halve(x), max_pool(x, 2), max_pool(x, 3)), x)
    expected = (
        by_definition(flow.HALVE, {}, x),
        by_definition(flow.MAX_POOL, {}, x, window=2, stride=2),
        by_definition(flow.MAX_POOL, {}, x, window=3, stride=2),
    )
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.int8
        np.testing.assert_array_equal(a, b)
    like = (2 * size[0] - 1, 2 * size[1])
    near = run(lambda x: upsample_nearest(x, like), x)
    np.testing.assert_array_equal(near, reference.nearest(*whole(x), like))


def test_what_lies_outside_never_wins_a_pool():
    x = np.full((1, 5, 5, 1), -127, np.int8)
    found = run(lambda x: (max_pool(x, 2), max_pool(x, 3)), x)
    assert all(np.all(y == -127) for y in found)


RESIZES = {
    (3, 5): [(6, 10), (12, 20), (7, 11), (3, 9), (3, 5), (1, 1), (2, 3)],
    (1, 6): [(5, 6), (1, 13), (4, 24)],
    (4, 1): [(9, 1), (8, 8), (2, 5)],
    (7, 10): [(13, 19), (28, 40), (4, 5), (57, 33)],
}


@pytest.mark.parametrize("corners", [False, True], ids=["centres", "corners"])
@pytest.mark.parametrize("size", RESIZES, ids=str)
def test_resize(size, corners):
    x = np.concatenate(
        [drawn(2, *size, 5), np.full((1, *size, 5), 127), np.full((1, *size, 5), -127)]
    )
    x = x.astype(np.int8)
    found = run(lambda x: [codes.resize(x, to, corners=corners) for to in RESIZES[size]], x)
    for to, y in zip(RESIZES[size], found, strict=True):
        assert y.dtype == np.int8 and y.shape == (4, *to, 5)
        np.testing.assert_array_equal(y, reference.resize(*whole(x), to, corners))


# --- In a loop ---


def test_in_a_scan():
    """Passes with scales of their own over a convolution, a gate, halving, resizing and a sum."""
    passes, channels = 3, 4
    dense, depth = layer("c", channels, channels, (3, 3)), layer("c", 4, 4, (3, 3), groups=4)
    kernel, own = drawn(*dense.kernel_shape), drawn(*depth.kernel_shape)
    each = [affine(channels, seed) for seed in range(passes)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *each)
    multiplier, shift = np.int16([[300, 177], [255, 256], [220, 500]]), np.int8([8, 9, 9])
    d = drawn(2, 6, 7, channels)

    def once(h, scales):
        a, m, s = scales
        y = codes.rescaled(of(dense)(h, kernel), *a, 0, 127)
        y = codes.halve(codes.rescaled(of(depth)(y, own), *a, -127, 127))
        y = codes.product_of(codes.resize(y, (6, 7), corners=False), h, m[0], jnp.int8(13))
        h = codes.sum_of((d, y), m, s, 0)
        return h, h

    last, found = run(lambda d: jax.lax.scan(once, d, (stacked, multiplier, shift)), d)
    h = whole(d)[0]
    for n in range(passes):
        y = np.clip(
            reference.rescale(reference.convolution(h, whole(kernel)[0], dense), *each[n]), 0, 127
        )
        y = reference.rescale(reference.convolution(y, whole(own)[0], depth), *each[n])
        y = reference.resize(reference.halve(np.clip(y, -127, 127)), (6, 7), False)
        y = by_definition(flow.MULTIPLY, {"multiplier": multiplier[n, 0], "shift": 13}, y, h)
        scales = {"multiplier": multiplier[n], "shift": shift[n]}
        h = by_definition(flow.ADD, scales, d, y, activation="relu")
        np.testing.assert_array_equal(found[n], h)
        assert len(np.unique(h)) > 30
    np.testing.assert_array_equal(last, found[-1])
