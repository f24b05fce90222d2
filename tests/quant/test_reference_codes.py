"""The interpreter of int8 networks against loops and fractions: each of its pieces on maps of a few cells."""

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest

from jaxseg import flow
from jaxseg.arch import ALL, NOTHING, STATISTICS, BlockSpec, LayerSpec
from jaxseg.flow import Op
from jaxseg.quant import reference

RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _the_same_numbers_whichever_tests_run():
    RNG.bit_generator.state = START


def codes(*shape, most=127):
    return RNG.integers(-most, most + 1, shape).astype(np.int8)


def layer(name, channels, out, kernel=(1, 1), *, groups=1, stride=1, dilation=1, **more):
    return LayerSpec(
        name, channels, out, kernel, stride, dilation, groups, True, False, stride, **more
    )


def block(layers, ops, name="block_00", role="backbone", **more):
    out = layers[-1].out_channels if layers else 1
    return BlockSpec(name, role, "any", tuple(layers), tuple(ops), out, 1, **more)


def scales(multiplier=1, offset=0, shift=0, **more):
    found = {"multiplier": multiplier, "offset": offset, "shift": shift, **more}
    return {name: np.asarray(value, np.int32) for name, value in found.items()}


def run_op(op, own, *maps, layers=(), kernels=None):
    """One operation as a head of its own, which may read any number of maps."""
    params = {name: {"kernel": kernel} for name, kernel in (kernels or {}).items()}
    variables = {"params": {"exit_0": params}, "scales": {"exit_0": {op.name: own}}}
    return reference.run_block(block(layers, [op], "exit_0", "exit"), variables, *maps)


def run_conv(spec, kernel, own, x):
    return run_op(flow.conv("c", "in_0"), own, x, layers=[spec], kernels={"c": kernel})


def each(function, *arrays):
    """A function of Python numbers, cell by cell, to int64."""
    arrays = np.broadcast_arrays(*arrays)
    values = [function(*map(int, cell)) for cell in zip(*(x.flat for x in arrays), strict=True)]
    return np.array(values, np.int64).reshape(arrays[0].shape)


# --- Rounding ---


def test_halves_go_to_even_numbers():
    v = np.array([-7, -6, -5, -3, -2, -1, 0, 1, 2, 3, 5, 6, 7])
    np.testing.assert_array_equal(
        reference.shifted(v, 1), [-4, -3, -2, -2, -1, 0, 0, 0, 1, 2, 2, 3, 4]
    )
    np.testing.assert_array_equal(
        reference.shifted(v, 2), [-2, -2, -1, -1, 0, 0, 0, 0, 0, 1, 1, 2, 2]
    )
    np.testing.assert_array_equal(reference.shifted(v, 0), v)


def test_shifts_are_fractions_rounded_by_python():
    v = np.concatenate([RNG.integers(-(2**62), 2**62, 300), RNG.integers(-300, 300, 300)])
    for shift in (*range(12), 30, 31, 32, 61, 62):
        expected = each(lambda n, s=shift: round(Fraction(n, 2**s)), v)
        np.testing.assert_array_equal(reference.shifted(v, shift), expected)
    per_channel = np.arange(600) % 63
    expected = each(lambda n, s: round(Fraction(n, 2**s)), v, per_channel)
    np.testing.assert_array_equal(reference.shifted(v, per_channel), expected)


def test_rescale_broadcasts_and_is_exact():
    total = RNG.integers(-(2**31) + 1, 2**31, (5, 4))
    multiplier = RNG.integers(-(2**31), 2**31, 4)
    offset, shift = RNG.integers(-(2**50), 2**50, 4), np.array([0, 5, 31, 62])
    expected = each(
        lambda a, m, o, s: round(Fraction(a * m + o, 2**s)), total, multiplier, offset, shift
    )
    np.testing.assert_array_equal(reference.rescale(total, multiplier, offset, shift), expected)


def test_what_is_not_exact_is_refused():
    with pytest.raises(OverflowError):
        reference.rescale(2**32, 2**31, 0, 0)
    with pytest.raises(OverflowError):
        reference.rescale(1, 1, 0, 63)
    with pytest.raises(OverflowError):
        reference.rescale(1, 1, 0, -1)
    with pytest.raises(TypeError):
        reference.rescale(1, 0.5, 0, 0)


def test_image_codes():
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    m, c, s = np.array([37, 64, 300]), np.array([-3000, -8192, 5]), np.array([5, 6, 6])
    expected = each(
        lambda u, m, c, s: max(-127, min(127, round(Fraction(u * m + c, 2**s)))), image, m, c, s
    )
    np.testing.assert_array_equal(reference.image_codes(image, m, c, s), expected)


# --- Convolution ---


def naive(x, kernel, spec):
    """By its definition, one product at a time."""
    batch, *size, channels = x.shape
    steps = [-(-n // spec.stride) for n in size]
    before = []
    for n, m, k in zip(size, steps, spec.kernel, strict=True):
        reach = spec.dilation * (k - 1)
        missing = max((m - 1) * spec.stride + reach + 1 - n, 0)
        before.append(missing // 2 if spec.padding == "same" else reach // 2)
    fan_in, fan_out = channels // spec.groups, spec.out_channels // spec.groups
    y = np.zeros((batch, *steps, spec.out_channels), np.int64)
    for b, r, c, o in np.ndindex(y.shape):
        for i, j, k in np.ndindex(*spec.kernel, fan_in):
            row = r * spec.stride - before[0] + i * spec.dilation
            col = c * spec.stride - before[1] + j * spec.dilation
            if 0 <= row < size[0] and 0 <= col < size[1]:
                value = x[b, row, col, o // fan_out * fan_in + k]
                y[b, r, c, o] += int(value) * int(kernel[i, j, k, o])
    return y


CONVOLUTIONS = {
    "1x1": layer("c", 3, 4),
    "3x3": layer("c", 3, 2, (3, 3)),
    "flat": layer("c", 2, 2, (1, 5)),
    "dilated": layer("c", 2, 3, (3, 3), dilation=3),
    "stride": layer("c", 2, 3, (3, 3), stride=2),
    "stride and dilation": layer("c", 2, 2, (3, 3), stride=2, dilation=2),
    "long stride": layer("c", 2, 2, (3, 3), stride=4),
    "1x1 stride": layer("c", 2, 2, stride=2),
    "same": layer("c", 2, 3, (3, 3), stride=2, padding="same"),
    "same 5x5": layer("c", 2, 2, (5, 5), stride=2, padding="same"),
    "same long stride": layer("c", 2, 2, (3, 3), stride=4, padding="same"),
    "groups": layer("c", 6, 4, (3, 3), groups=2),
    "depthwise": layer("c", 5, 5, (3, 3), groups=5, stride=2),
    "depthwise same": layer("c", 4, 4, (5, 5), groups=4, stride=2, padding="same"),
    "depthwise, two each": layer("c", 3, 6, (3, 3), groups=3),
}


@pytest.mark.parametrize("size", [(5, 6), (4, 7), (1, 2)], ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_is_its_definition(name, size):
    spec = CONVOLUTIONS[name]
    x, kernel = codes(2, *size, spec.in_channels), codes(*spec.kernel_shape)
    expected = naive(x, kernel, spec)
    found = reference.convolution(x.astype(np.int64), kernel.astype(np.int64), spec)
    np.testing.assert_array_equal(found, expected)
    # The same inside a block, so that the kernel and the layer are found.
    y = run_conv(spec, kernel, scales(shift=7), x)
    np.testing.assert_array_equal(
        y, each(lambda a: max(-127, min(127, round(Fraction(a, 128)))), expected)
    )


def sums(n=200):
    """A 1x1 convolution with one channel in, two out, its map, its kernel and its sums."""
    x, kernel = codes(1, n, 1, 1), codes(1, 1, 1, 2)
    return layer("c", 1, 2), x, kernel, x.astype(np.int64) * kernel[0, 0].astype(np.int64)


@pytest.mark.parametrize("activation, least", [("", -127), ("relu", 0), ("relu6", 0)])
@pytest.mark.parametrize("top", [None, (90, 31)])
def test_what_follows_a_convolution(activation, least, top):
    spec, x, kernel, total = sums()
    spec = dataclasses.replace(spec, activation=activation)
    m, o, s = [3, 5], [-700, 33], [8, 9]
    own = scales(m, o, s) | ({} if top is None else {"top": np.array(top, np.int32)})

    def expected(a, m, o, s, top):
        return max(least, min(top, round(Fraction(a * m + o, 2**s))))

    np.testing.assert_array_equal(
        run_conv(spec, kernel, own, x), each(expected, total, m, o, s, top or (127, 127))
    )


def test_a_norm_is_a_step_of_its_own():
    spec, x, kernel, total = sums()
    own = scales([3, -2], [64, 64], [5, 0])
    own |= {f"{name}_norm": value for name, value in scales([1, 7], [100, 0], [6, 9]).items()}

    def expected(a, m1, o1, s1, m2, o2, s2):
        middle = max(-127, min(127, round(Fraction(a * m1 + o1, 2**s1))))
        return max(-127, min(127, round(Fraction(middle * m2 + o2, 2**s2))))

    np.testing.assert_array_equal(
        run_conv(spec, kernel, own, x),
        each(expected, total, [1, 7], [100, 0], [6, 9], [3, -2], [64, 64], [5, 0]),
    )


def test_a_sigmoid_counts_thresholds():
    spec, x, kernel, total = sums()
    spec = dataclasses.replace(spec, activation="sigmoid")
    thresholds = np.sort(RNG.integers(-9000, 9000, 127))
    thresholds[50:53] = thresholds[50]
    # Some values lie on thresholds.
    thresholds[[3, 70, 120]] = np.sort(total.flat[:3])
    thresholds = np.sort(thresholds).astype(np.int32)
    y = run_conv(spec, kernel, scales() | {"thresholds": thresholds}, x)
    np.testing.assert_array_equal(y, (thresholds <= total[..., None]).sum(-1))
    assert y.min() >= 0 and y.max() <= 127


def test_a_sum_beyond_32_bits_is_refused_by_name():
    few = -(-(2**31) // 127**2)
    x = np.full((1, 1, 1, few), 127, np.int8)
    kernel = np.full((1, 1, few, 1), 127, np.int8)
    for sign in (1, -1):
        with pytest.raises(OverflowError, match="exit_0/c"):
            run_conv(layer("c", few, 1), sign * kernel, scales(shift=30), x)
    y = run_conv(layer("c", few - 1, 1), kernel[:, :, 1:], scales(shift=30), x[..., 1:])
    assert y.item() == 2


@pytest.mark.parametrize("sign", [1, -1])
def test_the_first_sum_beyond_32_bits_is_refused(sign):
    x = np.full((1, 1, 1, 2**17), -128, np.int8)
    kernel = np.full((1, 1, 2**17, 1), -128 * sign)  # 2^31 at the end, or as far below 0
    with pytest.raises(OverflowError, match="exit_0/c"):
        run_conv(layer("c", 2**17, 1), kernel, scales(shift=30), x)
    kernel[0, 0, 0] += sign
    assert run_conv(layer("c", 2**17, 1), kernel, scales(shift=30), x) == 2 * sign


def test_a_map_beyond_8_bits_is_refused_by_name():
    x = np.full((1, 2, 2, 1), 128)
    with pytest.raises(OverflowError, match="exit_0/in_0"):
        run_op(Op("p", flow.MAX_POOL, ("in_0",), window=2, stride=2), {}, x)
    with pytest.raises(OverflowError, match="exit_0/c"):
        own = scales(100) | {"top": np.int32(200)}
        run_conv(layer("c", 1, 1), np.ones((1, 1, 1, 1), np.int8), own, x - 1)


def test_a_kernel_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="exit_0/c"):
        run_conv(layer("c", 2, 2), codes(1, 2, 1, 2), scales(), codes(1, 3, 3, 2))


# --- Other operations ---


@pytest.mark.parametrize("activation, least", [("", -127), ("relu", 0)])
def test_add_rounds_once(activation, least):
    x, y = codes(2, 5, 6, 3), codes(2, 5, 6, 3)
    op = Op("sum", flow.ADD, ("in_0", "in_1"), activation)
    own = {"multiplier": np.array([300, -177], np.int32), "shift": np.array(8, np.int32)}
    expected = each(
        lambda a, b: max(least, min(127, round(Fraction(300 * a - 177 * b, 256)))), x, y
    )
    np.testing.assert_array_equal(run_op(op, own, x, y), expected)


def test_multiply():
    x, y = codes(2, 5, 6, 3), codes(2, 1, 1, 3)
    op = Op("gated", flow.MULTIPLY, ("in_0", "in_1"))
    own = {"multiplier": np.array(21, np.int32), "shift": np.array(11, np.int32)}
    expected = each(lambda a, b: max(-127, min(127, round(Fraction(a * b * 21, 2**11)))), x, y)
    np.testing.assert_array_equal(run_op(op, own, x, y), expected)


def test_average_is_the_mean_rounded_once():
    op = Op("pooled", flow.AVERAGE, ("in_0",))
    own = {"multiplier": np.array(2, np.int32), "shift": np.array(1, np.int32)}
    for height, width in itertools.product((1, 2, 3, 4, 7, 8), (1, 2, 5, 6, 16)):
        # Small codes, so that halves are frequent; large ones for the range.
        for most in (1, 3, 127):
            x = codes(40, height, width, 3, most=most)
            y = run_op(op, own, x)
            total = x.sum((1, 2), keepdims=True, dtype=np.int64)
            expected = each(lambda t, n=height * width: round(Fraction(t, n)), total)
            np.testing.assert_array_equal(y, expected)


def test_average_beside_a_half():
    """2^k cells and one more: the mean is closer to a half than 6 binary digits show."""
    op = Op("pooled", flow.AVERAGE, ("in_0",))
    own = {"multiplier": np.array(1, np.int32), "shift": np.array(0, np.int32)}
    for total, expected in ((500, 0), (501, 1), (499, 0), (1499, 1), (1500, 2), (1501, 2)):
        x = np.ones((1, 1, 1000, 1), np.int64) * (total // 1000)
        x[0, 0, : total % 1000] += 1
        assert run_op(op, own, x).item() == expected
        assert run_op(op, own, -x).item() == -expected


def test_average_rescales():
    x = codes(20, 4, 8, 3)
    own = {"multiplier": np.array(173, np.int32), "shift": np.array(7, np.int32)}
    total = x.sum((1, 2), keepdims=True, dtype=np.int64)
    # 32 cells: all means are whole multiples of 2^-6.
    expected = each(lambda t: max(-127, min(127, round(Fraction(t * 173, 32 * 128)))), total)
    np.testing.assert_array_equal(run_op(Op("p", flow.AVERAGE, ("in_0",)), own, x), expected)


SIZES = [(4, 6), (5, 7), (4, 5), (1, 1), (2, 3)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("window, stride", [(2, 2), (3, 2), (3, 1)])
def test_max_pool_is_its_definition(window, stride, size):
    x = -abs(codes(2, *size, 3))  # zeros around would win
    y = run_op(Op("pool", flow.MAX_POOL, ("in_0",), window=window, stride=stride), {}, x)
    first = -(window - 2)
    assert y.shape == (2, -(-size[0] // stride), -(-size[1] // stride), 3)
    for b, r, c, k in np.ndindex(y.shape):
        y0, x0 = stride * r + first, stride * c + first
        rows = range(max(y0, 0), min(y0 + window, size[0]))
        cols = range(max(x0, 0), min(x0 + window, size[1]))
        assert y[b, r, c, k] == max(x[b, i, j, k] for i in rows for j in cols)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_halve_is_its_definition(size):
    x = codes(3, *size, 2, most=5)
    y = run_op(Op("half", flow.HALVE, ("in_0",)), {}, x)
    assert y.shape == (3, -(-size[0] // 2), -(-size[1] // 2), 2)
    for b, r, c, k in np.ndindex(y.shape):
        total = sum(
            int(x[b, min(2 * r + i, size[0] - 1), min(2 * c + j, size[1] - 1), k])
            for i in (0, 1)
            for j in (0, 1)
        )
        assert y[b, r, c, k] == round(Fraction(total, 4))


def test_what_picks_and_repeats():
    x, like, one = codes(2, 3, 4, 2), codes(2, 5, 8, 7), codes(2, 1, 1, 2)
    near = run_op(Op("up", flow.NEAREST, ("in_0", "in_1")), {}, x, like)
    assert near.shape == (2, 5, 8, 2)
    for r, c in np.ndindex(5, 8):
        np.testing.assert_array_equal(near[:, r, c], x[:, r // 2, c // 2])
    spread = run_op(Op("spread", flow.SPREAD, ("in_0", "in_1")), {}, one, like)
    np.testing.assert_array_equal(spread, np.tile(one, (1, 5, 8, 1)))
    joined = run_op(flow.join("joined", "in_0", "in_1", "in_2"), {}, near, like, spread)
    np.testing.assert_array_equal(joined, np.concatenate((near, like, spread), -1))
    np.testing.assert_array_equal(run_op(Op("drop", flow.DROPOUT, ("in_0",)), {}, x), x)


# --- Resizing ---


def centre(i, n, m, corners=False):
    """Where cell i of m lies among n cells, not before the first."""
    if corners:
        return Fraction(i * (n - 1), max(m - 1, 1))
    return max(Fraction(2 * i + 1, 2) * Fraction(n, m) - Fraction(1, 2), Fraction(0))


def interpolated(x, size, corners=False, digits=None):
    """One channel [h, w] to [H][W] fractions; weights rounded to `digits` binary digits, or exact."""

    def line(n, m):
        for i in range(m):
            at = centre(i, n, m, corners)
            low = min(at.numerator // at.denominator, n - 1)
            weight = at - low
            if digits is not None:
                weight = Fraction(round(weight * 2**digits), 2**digits)
            yield ((low, 1 - weight), (min(low + 1, n - 1), weight))

    rows, cols = (tuple(line(n, m)) for n, m in zip(x.shape, size, strict=True))
    return [
        [sum(int(x[i, j]) * u * v for i, u in row for j, v in col) for col in cols] for row in rows
    ]


def resized(x, size, corners=False):
    op = Op("up", flow.RESIZE, ("in_0", "in_1"), corners=corners)
    return run_op(op, {}, x, np.zeros((len(x), *size, 5), np.int8))


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_resize_by_whole_factors_is_exact(factor):
    for size in ((3, 5), (1, 4), (2, 2)):
        x = codes(1, *size, 2)
        to = tuple(factor * n for n in size)
        y = resized(x, to)
        assert y.shape == (1, *to, 2)
        for k in range(2):
            exact = interpolated(x[0, :, :, k], to)
            np.testing.assert_array_equal(y[0, :, :, k], [[round(v) for v in row] for row in exact])


@pytest.mark.parametrize("corners", [False, True], ids=["centres", "corners"])
def test_resize_by_any_factor_rounds_weights(corners):
    sizes = [
        ((3, 5), (7, 11)),
        ((4, 4), (3, 9)),
        ((1, 6), (5, 6)),
        ((5, 3), (1, 1)),
        ((2, 2), (9, 5)),
    ]
    for size, to in sizes:
        x = codes(2, *size, 1)
        y = resized(x, to, corners)
        for b in range(2):
            near = interpolated(x[b, :, :, 0], to, corners, digits=8)
            np.testing.assert_array_equal(y[b, :, :, 0], [[round(v) for v in row] for row in near])


@pytest.mark.parametrize("corners", [False, True], ids=["centres", "corners"])
def test_resize_to_the_same_size_changes_nothing(corners):
    for size in ((1, 1), (7, 13), (33, 49)):
        x = codes(2, *size, 3)
        np.testing.assert_array_equal(resized(x, size, corners), x)


# --- Answers ---


@pytest.mark.parametrize(
    "size, to",
    [
        ((3, 4), (12, 16)),
        ((3, 4), (11, 13)),
        ((2, 3), (33, 5)),
        ((1, 1), (3, 2)),
        ((5, 4), (5, 4)),
        ((6, 5), (4, 3)),
    ],
    ids=str,
)
@pytest.mark.parametrize("most", [1, 4, 127])
def test_labels_are_the_first_of_the_largest_fractions(size, to, most):
    scores = codes(2, *size, 4, most=most)
    found = reference.labels(scores, to)
    assert found.dtype == np.uint8 and found.shape == (2, *to)
    for b in range(2):
        exact = [interpolated(scores[b, :, :, k], to) for k in range(4)]
        for r, c in np.ndindex(to):
            cell = [exact[k][r][c] for k in range(4)]
            assert found[b, r, c] == cell.index(max(cell))


def test_labels_of_a_tie_between_cells():
    """Halfway between 10 and 20, 20 and 10: both 15, and the first class has it."""
    scores = np.array([[[[10, 20], [20, 10]]]], np.int8)
    np.testing.assert_array_equal(reference.labels(scores, (1, 3)), [[[1, 0, 0]]])
    np.testing.assert_array_equal(reference.labels(scores[..., ::-1], (1, 3)), [[[0, 0, 1]]])


def test_total_powers():
    scores = codes(2, 3, 4, 5)
    scores[0, 0, 0, :2] = -127, 127
    table = RNG.integers(0, 2**30, 256).astype(np.int32)
    found = reference.total_powers(scores, table)
    assert found.dtype == np.int64 and found.shape == (2, 3, 4)
    for cell in np.ndindex(found.shape):
        best = max(map(int, scores[cell]))
        assert found[cell] == sum(int(table[best - int(v)]) for v in scores[cell])


# --- Blocks and networks ---

PASSES = 3


def loop(own):
    """H' = relu(d + conv(relu6([d, h]))): a loop over maps of two channels."""
    layers = [layer("fuse", 4, 3, (3, 3), activation="relu6"), layer("conv", 3, 2)]
    layers = [dataclasses.replace(x, repeats=PASSES, own=own) for x in layers]
    ops = [flow.join("joined", "in_0", "in_1"), *flow.chain("joined", "fuse", "conv")]
    return block(layers, [*ops, flow.add("sum", "in_0", "conv", "relu")], "block_01")


def loop_variables(own):
    """(as stored, of each pass)."""

    def of_pass():
        own = {"fuse": scales(codes(3), codes(3), [6, 7, 8]), "conv": scales(shift=[7, 8])}
        own["fuse"]["top"] = np.array(RNG.integers(50, 120), np.int32)
        own["sum"] = {"multiplier": RNG.integers(50, 99, 2), "shift": np.array(6)}
        kernels = {"fuse": codes(3, 3, 4, 3, most=20), "conv": codes(1, 1, 3, 2, most=60)}
        return {"params": {k: {"kernel": v} for k, v in kernels.items()}, "scales": own}

    def stacked(trees):
        if isinstance(trees[0], dict):
            return {key: stacked([tree[key] for tree in trees]) for key in trees[0]}
        return np.stack(trees)

    passes = [of_pass() for _ in range(PASSES)]
    for each_pass in passes:
        if own != ALL:
            each_pass["params"] = passes[0]["params"]
        if own == NOTHING:
            each_pass["scales"] = passes[0]["scales"]
    stored = {
        "params": stacked([p["params"] for p in passes]) if own == ALL else passes[0]["params"],
        "scales": passes[0]["scales"] if own == NOTHING else stacked([p["scales"] for p in passes]),
    }
    return stored, passes


@pytest.mark.parametrize("own", [NOTHING, STATISTICS, ALL])
def test_a_loop_is_its_passes_one_after_the_other(own):
    spec = loop(own)
    stored, passes = loop_variables(own)
    d, seen = codes(2, 4, 5, 2), {}
    variables = {kind: {"block_01": tree} for kind, tree in stored.items()}
    found = reference.run_block(spec, variables, d, seen=seen)

    layers = tuple(dataclasses.replace(x, repeats=1, own=NOTHING) for x in spec.layers)
    once = dataclasses.replace(spec, role="head", layers=layers)
    h, states = np.zeros_like(d), []
    for of_pass in passes:
        h = reference.run_block(once, {k: {"block_01": t} for k, t in of_pass.items()}, d, h)
        states.append(h)
    np.testing.assert_array_equal(found, states[-1])
    np.testing.assert_array_equal(seen["sum"], states)
    assert set(seen) == {"joined", "fuse", "conv", "sum"} and len(seen["fuse"]) == PASSES
    assert len({x.tobytes() for x in states}) == PASSES


def test_a_network_is_its_blocks_one_after_the_other():
    stem = block([layer("conv", 3, 2, (3, 3), stride=2)], flow.chain("in_0", "conv"))
    looped = loop(STATISTICS)
    ops = [flow.conv("logits", "in_0"), flow.conv("logits_low", "in_1")]
    ops += [Op("up", flow.RESIZE, ("logits", "logits_low")), flow.add("sum", "up", "logits_low")]
    layers = [layer("logits", 2, 4), layer("logits_low", 3, 4)]
    head = block(layers, ops, "head", "head", inputs=("block_01", "image"))
    exit_0 = block(layers[:1], ops[:1], "exit_0", "exit", inputs=("block_00",))
    blocks = (stem, looped, head, exit_0)

    stored, _ = loop_variables(STATISTICS)
    logits = {"kernel": codes(1, 1, 2, 4)}
    variables = {
        "params": {
            "block_00": {"conv": {"kernel": codes(3, 3, 3, 2)}},
            "block_01": stored["params"],
            "head": {"logits": logits, "logits_low": {"kernel": codes(1, 1, 3, 4)}},
            "exit_0": {"logits": logits},
        },
        "scales": {
            "block_00": {"conv": scales(shift=9)},
            "block_01": stored["scales"],
            "head": {
                "logits": scales(shift=7),
                "logits_low": scales(shift=8),
                "sum": {"multiplier": np.array([1, 2]), "shift": np.array(1)},
            },
            "exit_0": {"logits": scales(shift=7)},
        },
    }
    image = codes(2, 6, 7, 3)
    taps = reference.taps(blocks, variables, image)
    assert list(taps) == ["image", "block_00", "block_01"]
    np.testing.assert_array_equal(taps["image"], image)
    first = reference.run_block(stem, variables, image)
    np.testing.assert_array_equal(taps["block_00"], first)
    second = reference.run_block(looped, variables, first)
    np.testing.assert_array_equal(taps["block_01"], second)

    seen = {}
    last = reference.run_block(head, variables, second, image, seen=seen)
    np.testing.assert_array_equal(reference.scores(blocks, variables, image), last)
    assert list(seen) == ["logits", "logits_low", "up", "sum"]
    assert last.shape == (2, 6, 7, 4) and last.dtype == np.int64
    np.testing.assert_array_equal(
        reference.scores(blocks, variables, image, "exit_0"),
        reference.run_block(exit_0, variables, first),
    )
