"""An interpreter of int8 networks in NumPy, by the definitions and nothing else: what every other path must equal.

It shares no arithmetic with the modules that run in JAX. Maps are int64 [B, h, w, C] that hold int8 codes. They are
multiplied, added, compared and shifted, halves to even; a sum that 32 bits would not hold is refused. The one exception
is `resize_line`, where float64 finds the weights: they are whole numbers from there on.

variables: {'params': {block: {layer: {'kernel': int8 HWIO}}}, 'scales': {block: {operation: {name: integers}}}}. If
passes of a loop have something for themselves, all scales have a first axis of passes; if they share nothing, kernels.

Names of scales, each per channel or one for all:
    conv      multiplier, offset, shift; top, the largest result; thresholds [127] of a sigmoid;
              multiplier_norm, offset_norm, shift_norm, of a step before these
    add       multiplier [2], shift
    multiply, average, average_pool: multiplier, shift
    sigmoid   thresholds [127]
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg import flow
from jaxseg.arch import ALL, IMAGE, NOTHING, BlockSpec, LayerSpec
from jaxseg.flow import Op
from jaxseg.padding import pad_widths

Ints = np.ndarray
Variables = Mapping[str, Any]
Scales = Mapping[str, Ints]

LOWEST, TOP = -128, 127
"""What int8 holds. Nothing is rounded below -TOP, but a map that comes from elsewhere may hold -128."""

AFFINE = ("multiplier", "offset", "shift")
"""The arguments of `rescale` after the first."""

LINE_BITS = 8
"""Weights of a resized line are multiples of 2^-LINE_BITS."""


# --- Numbers ---


def whole(values: Any) -> Ints:
    """Integers of any kind as int64; TypeError if they are not integers."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{array.dtype} in a network of integers")
    return array.astype(np.int64)


def check_range(values: Ints, least: int, most: int, where: str) -> Ints:
    """`values` themselves; OverflowError that names `where` if one is below `least` or above `most`."""
    if values.size and (values.min() < least or values.max() > most):
        raise OverflowError(f"{where}: {values.min()} .. {values.max()}, not {least} .. {most}")
    return values


def shifted(values: Ints, shift: Any) -> Ints:
    """round(values / 2^shift), halves to even; int64, shift 0 to 62 or an array of such."""
    values, shift = whole(values), whole(shift)
    check_range(shift, 0, 62, "shift")
    down = values >> shift
    twice = 2 * (values - (down << shift))
    one = np.int64(1) << shift
    up = (twice > one) | ((twice == one) & (down % 2 == 1))
    return down + up


def rescale(total: Any, multiplier: Any, offset: Any, shift: Any) -> Ints:
    """round((total * multiplier + offset) / 2^shift), halves to even, int64; OverflowError beyond 64 bits."""
    total, multiplier, offset = whole(total), whole(multiplier), whole(offset)
    if _largest(total) * _largest(multiplier) + _largest(offset) >= 2**63:
        raise OverflowError("a product of a sum and its multiplier, beyond 64 bits")
    return shifted(total * multiplier + offset, shift)


def _largest(values: Ints) -> int:
    """The largest absolute value, in Python's numbers, which have no end."""
    return max(-int(values.min()), int(values.max())) if values.size else 0


def _codes(total: Any, multiplier: Any, offset: Any, shift: Any, least: int = -TOP) -> Ints:
    """`rescale`, kept within `least` .. TOP."""
    return np.clip(rescale(total, multiplier, offset, shift), least, TOP)


# --- Operations ---


def convolution(x: Ints, kernel: Ints, layer: LayerSpec) -> Ints:
    """The sums of products alone: int64 [B, h, w, C] and HWIO to [B, ceil(h / stride), ceil(w / stride), O].

    Output channel o belongs to group o // (O / groups), as in torch.
    """
    batch, *size, channels = x.shape
    rows, cols, fan_in, out = kernel.shape
    groups, step = layer.groups, layer.stride
    widths = pad_widths(size, (rows, cols), step, layer.dilation, layer.padding)
    x = np.pad(x, ((0, 0), *widths, (0, 0)))
    height, width = (-(-n // step) for n in size)
    kernel = kernel.reshape(rows, cols, fan_in, groups, out // groups)
    total = np.zeros((batch, height, width, groups, out // groups), np.int64)
    for i in range(rows):
        for j in range(cols):
            top, left = i * layer.dilation, j * layer.dilation
            seen = x[:, top:, left:][:, ::step, ::step][:, :height, :width]
            seen = seen.reshape(batch, height, width, groups, channels // groups)
            total += np.einsum("bhwgi,igo->bhwgo", seen, kernel[i, j])
    return total.reshape(batch, height, width, out)


def _conv(layer: LayerSpec, kernel: Ints, scales: Scales, x: Ints, where: str) -> Ints:
    """The layer with all that follows its sums."""
    if kernel.shape != layer.kernel_shape:
        raise ValueError(f"{where}: a kernel {kernel.shape}, not {layer.kernel_shape}")
    total = check_range(convolution(x, kernel, layer), 1 - 2**31, 2**31 - 1, where)
    if "multiplier_norm" in scales:
        total = _codes(total, *(scales[f"{name}_norm"] for name in AFFINE))
    values = rescale(total, *(scales[name] for name in AFFINE))
    if layer.activation == "sigmoid":
        return _over(scales["thresholds"], values)
    return np.clip(values, 0 if layer.activation else -TOP, scales.get("top", TOP))


def _over(thresholds: Ints, values: Ints) -> Ints:
    """As many steps as thresholds that are not above."""
    return np.searchsorted(np.sort(thresholds), values, side="right")


def _added(op: Op, scales: Scales, x: Ints, y: Ints) -> Ints:
    first, second = scales["multiplier"]
    y = rescale(y, second, 0, 0)  # not shifted: the product alone, but checked
    return _codes(x, first, y, scales["shift"], 0 if op.activation else -TOP)


def _average(op: Op, scales: Scales, x: Ints) -> Ints:
    """[B, h, w, C] -> [B, bins, bins, C]. Part i of n cells goes from floor(i n / bins) to ceil((i + 1) n / bins)."""
    rows, columns = (
        [slice(i * n // op.bins, -(-(i + 1) * n // op.bins)) for i in range(op.bins)]
        for n in x.shape[1:3]
    )
    means = [[_mean(scales, x[:, row, column], (1, 2)) for column in columns] for row in rows]
    return np.stack([np.stack(row, 1) for row in means], 1)


def _average_pool(op: Op, scales: Scales, x: Ints) -> Ints:
    """[B, h, w, C] -> [B, ceil(h / stride), ceil(w / stride), C], the cells outside being 0."""
    around = op.window // 2
    height, width = (-(-n // op.stride) for n in x.shape[1:3])
    x = np.pad(x, ((0, 0), (around, around), (around, around), (0, 0)))
    cells = [
        x[:, i :: op.stride, j :: op.stride][:, :height, :width]
        for i in range(op.window)
        for j in range(op.window)
    ]
    return _mean(scales, np.stack(cells), (0,))


def _mean(scales: Scales, x: Ints, axes: tuple[int, ...]) -> Ints:
    """The mean along `axes`.

    It has 6 binary digits more than codes, and its last is 1 wherever something was cut off: so what lies beside a half
    is not taken for one.
    """
    mean, rest = np.divmod(64 * x.sum(axes), np.prod([x.shape[axis] for axis in axes]))
    mean = np.where(rest != 0, mean | 1, mean)
    return _codes(mean, scales["multiplier"], 0, scales["shift"] + 6)


def max_pool(x: Ints, window: int, stride: int) -> Ints:
    """The maximum over window x window cells around every stride-th: [B, ceil(h / stride), ceil(w / stride), C].

    A window of 3 begins one cell before the map, one of 2 at its first cell; what lies outside never wins.
    """
    height, width = (-(-n // stride) for n in x.shape[1:3])
    around = (window - 2, 1)
    x = np.pad(x, ((0, 0), around, around, (0, 0)), constant_values=LOWEST)
    each = [(i, j) for i in range(window) for j in range(window)]
    cells = [x[:, i::stride, j::stride][:, :height, :width] for i, j in each]
    return np.max(cells, axis=0)


def halve(x: Ints) -> Ints:
    """The mean over 2x2 cells, the last row and column twice where sides are odd: [B, ceil(h / 2), ceil(w / 2), C]."""
    odd = [(0, n % 2) for n in x.shape[1:3]]
    x = np.pad(x, ((0, 0), *odd, (0, 0)), mode="edge")
    return shifted(sum(x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)), 2)


def nearest(x: Ints, size: Sequence[int]) -> Ints:
    """Every cell twice along both axes, cut to size = (h, w)."""
    return x.repeat(2, 1).repeat(2, 2)[:, : size[0], : size[1]]


class Line(NamedTuple):
    """Where the cells of a longer or shorter line come from: (x[low] * (one - weight) + x[high] * weight) / one."""

    low: Ints
    high: Ints
    weight: Ints
    one: int

    def of(self, x: Ints, axis: int) -> Ints:
        """The line's cells along `axis`, times `one`."""
        weight = self.weight.reshape(-1, *(1,) * (x.ndim - axis - 1))
        return x.take(self.low, axis) * (self.one - weight) + x.take(self.high, axis) * weight


def resize_line(n: int, length: int, corners: bool) -> Line:
    """From n cells to `length`, with weights in steps of 2^-LINE_BITS. corners: the outermost centres coincide."""
    i = np.arange(length, dtype=np.float64)
    if corners:
        centre = i * (n - 1) / max(length - 1, 1)
    else:
        centre = np.maximum((i + 0.5) * n / length - 0.5, 0)
    low = np.minimum(np.floor(centre).astype(np.int64), n - 1)
    weight = np.rint(2**LINE_BITS * (centre - low)).astype(np.int64)
    return Line(low, np.minimum(low + 1, n - 1), weight, 2**LINE_BITS)


def exact_line(n: int, length: int) -> Line:
    """From n cells to `length` with the exact weights, which are multiples of 1 / (2 length)."""
    one = 2 * length
    centre = np.maximum((2 * np.arange(length, dtype=np.int64) + 1) * n - length, 0)
    low = np.minimum(centre // one, n - 1)
    high = np.minimum(low + 1, n - 1)
    return Line(low, high, np.where(high == low, 0, centre - one * low), one)


def resize(x: Ints, size: Sequence[int], corners: bool) -> Ints:
    """Bilinear, to size = (h, w), rounded once; a map of that size stays what it is."""
    for axis, length in zip((1, 2), size, strict=True):
        x = resize_line(x.shape[axis], length, corners).of(x, axis)
    return shifted(x, 2 * LINE_BITS)


OPERATIONS: dict[str, Callable[..., Ints]] = {
    flow.ADD: _added,
    flow.MULTIPLY: lambda op, own, x, y: _codes(x * y, own["multiplier"], 0, own["shift"]),
    flow.RELU: lambda op, own, x: np.maximum(x, 0),
    flow.SIGMOID: lambda op, own, x: _over(own["thresholds"], x),
    flow.AVERAGE: _average,
    flow.AVERAGE_POOL: _average_pool,
    flow.JOIN: lambda op, own, *maps: np.concatenate(maps, axis=-1),
    flow.RESIZE: lambda op, own, x, like: resize(x, like.shape[1:3], op.corners),
    flow.NEAREST: lambda op, own, x, like: nearest(x, like.shape[1:3]),
    flow.MAX_POOL: lambda op, own, x: max_pool(x, op.window, op.stride),
    flow.HALVE: lambda op, own, x: halve(x),
    flow.SPREAD: lambda op, own, x, like: np.broadcast_to(x, (*like.shape[:3], x.shape[-1])),
    flow.DROPOUT: lambda op, own, x: x,
}
"""Kind of `flow.Op` -> (operation, its scales, maps) -> map; without convolutions, which have a layer."""


# --- Networks ---


def run_block(
    block: BlockSpec, variables: Variables, *inputs: Any, seen: dict[str, Any] | None = None
) -> Ints:
    """The result of a block or head, int64 [B, h, w, C]; of a loop, that of its last pass.

    Args:
        block: what to run. It is a loop if it reads one map more than its inputs.
        variables: see the head of this file.
        inputs: the maps that it reads, integers [B, h, w, C]; of a loop, the first alone.
        seen: filled with the result of every operation by name; of a loop, with the list of every pass's.

    Raises:
        OverflowError: a sum that does not fit 32 bits, or a code that does not fit 8.
    """
    maps = [whole(x) for x in inputs]
    seen = {} if seen is None else seen
    if not is_loop(block):
        return _run_once(block, variables, 0, maps, seen)
    (d,) = maps
    h = np.zeros_like(d)
    for n in range(block.layers[0].repeats):
        found: dict[str, Ints] = {}
        h = _run_once(block, variables, n, [d, h], found)
        for name, y in found.items():
            seen.setdefault(name, []).append(y)
    return h


def is_loop(block: BlockSpec) -> bool:
    """Whether the block's result is what it reads in the next pass."""
    maps = len(flow.entries(block.ops))
    return block.role == "backbone" and maps == max(len(block.inputs), 1) + 1


def _run_once(
    block: BlockSpec, variables: Variables, n: int, inputs: list[Ints], seen: dict[str, Any]
) -> Ints:
    """All operations, one after the other, with the variables of pass n."""
    own = block.layers[0].own if block.layers else NOTHING
    scales = variables["scales"].get(block.name, {})
    maps = {flow.entry(i): x for i, x in enumerate(inputs)}
    for name, x in maps.items():
        check_range(x, LOWEST, TOP, f"{block.name}/{name}")
    for op in block.ops:
        where, read = f"{block.name}/{op.name}", [maps[name] for name in op.reads]
        of_op = {name: whole(array) for name, array in scales.get(op.name, {}).items()}
        if own != NOTHING:
            of_op = {name: array[n] for name, array in of_op.items()}
        if op.kind == flow.CONV:
            kernel = whole(variables["params"][block.name][op.name]["kernel"])
            kernel = kernel[n] if own == ALL else kernel
            y = _conv(block.layer(op.name), kernel, of_op, *read, where)
        else:
            y = OPERATIONS[op.kind](op, of_op, *read)
        maps[op.name] = seen[op.name] = check_range(y, LOWEST, TOP, where)
    return maps[block.ops[-1].name]


def image_codes(image: Any, m: Any, c: Any, s: Any) -> Ints:
    """An image, uint8 [B, H, W, 3], in the codes of a network: round((image * m + c) / 2^s), kept within +-TOP."""
    return _codes(image, m, c, s)


def taps(blocks: Iterable[BlockSpec], variables: Variables, codes: Any) -> dict[str, Ints]:
    """Name -> map of every backbone block, int64 [B, h, w, C]; and 'image' -> the codes [B, H, W, 3] themselves."""
    found, last = {IMAGE: whole(codes)}, IMAGE
    for block in blocks:
        if block.role == "backbone":
            maps = [found[name] for name in block.inputs or (last,)]
            found[block.name], last = run_block(block, variables, *maps), block.name
    return found


def scores(
    blocks: Iterable[BlockSpec], variables: Variables, codes: Any, name: str = "head"
) -> Ints:
    """The scores of one head ('head', 'exit_0', ..), int64 [B, h, w, K], from an image's codes [B, H, W, 3]."""
    blocks = tuple(blocks)
    found = taps(blocks, variables, codes)
    (head,) = (block for block in blocks if block.name == name)
    return run_block(head, variables, *(found[tap] for tap in head.inputs))


def labels(scores: Any, size: Sequence[int]) -> Ints:
    """The first of the highest scores, exactly bilinear: integers [B, h, w, K] to uint8 [B, H, W], size = (H, W)."""
    scores = whole(scores)
    down, across = (exact_line(n, m) for n, m in zip(scores.shape[1:3], size, strict=True))
    found = np.empty((len(scores), *size), np.uint8)
    for image, result in zip(scores, found, strict=True):
        wide = across.of(image, 1)
        for i in range(0, size[0], 16):  # rows at a time, for the sake of memory
            low, high, weight = (x[i : i + 16] for x in down[:3])
            # Numerators of fractions with one denominator: the largest is the largest.
            result[i : i + 16] = Line(low, high, weight, down.one).of(wide, 0).argmax(-1)
    return found


def total_powers(scores: Any, table: Any) -> Ints:
    """Sum over classes of table[largest score - score]: scores [B, h, w, K] and int [256] to int64 [B, h, w]."""
    scores = whole(scores)
    return whole(table)[scores.max(-1, keepdims=True) - scores].sum(-1)
