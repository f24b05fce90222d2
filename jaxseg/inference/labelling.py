"""From scores on a small grid to the label map of the image: arg-max of the bilinear upsampling, without most of it."""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.export import is_symbolic_dim

from jaxseg.errors import UserError
from jaxseg.layers.resize import resize_bilinear
from jaxseg.numbers import NumbersArch
from jaxseg.objectives.metrics import best_class
from jaxseg.quant.scaling import exact_weights
from jaxseg.types import Array

LARGE = 2**22
"""Upsampled scores from which on this pays; below, it saves a millisecond and costs one second of compilation."""

TILES = 1024
"""Tiles that are interpolated at a time: their scores stay in cache."""

UNROLLED = 32
"""Classes up to which the search for the winner is one fused pass."""


def as_real(scores: Array, numbers: NumbersArch) -> Array:
    """float32 scores, of int8 networks what their codes stand for: for losses and averages of several answers."""
    return scores * jnp.float32(numbers.codes.score_step) if numbers.in_codes else scores


def labels_at(logits: Array, size: tuple[int, int]) -> Array:
    """arg-max over classes of the bilinear upsampling (half-pixel centres) of scores to `size`.

    On CPU, if the result is large and the sides grow by one whole factor s > 1, the map is cut into tiles of s x s
    pixels between four neighbouring cells. Every pixel is a convex mixture of these four, so a class that wins in
    all of them wins in all pixels, and the tile needs no interpolation: only tiles on borders do. 2 cores,
    [1, 256, 512, 19] to 1024 x 2048: 160 ms by upsampling; so 26 ms with a seventh of the tiles on borders, 44 ms
    with all of them.

    Of codes the numerators of the mixtures are compared, whole numbers over one denominator: exact, nothing floats.

    Args:
        logits: float32 or int8 [B, h, w, K], K <= 256.
        size: (H, W).

    Returns:
        uint8 [B, H, W]; of equals the first, of floats perhaps another than that of the plain form.
    """
    whole_numbers = jnp.issubdtype(logits.dtype, jnp.integer)
    plain = functools.partial(_plain_codes if whole_numbers else _plain, size=size)
    batch, height, width, classes = logits.shape
    scale = size[0] // height
    whole = scale > 1 and size == (scale * height, scale * width)
    large = not is_symbolic_dim(batch) and batch * classes * math.prod(size) >= LARGE
    if not whole or not (large or whole_numbers):
        return plain(logits)
    tiles = functools.partial(_by_tiles if large else _all_tiles, scale=scale)
    # The plain form of codes gathers columns of cells and rows of answers, tiles gather nothing.
    other = functools.partial(_all_tiles, scale=scale) if whole_numbers else plain
    return lax.platform_dependent(logits, cpu=tiles, default=other)


def _plain(logits: Array, size: tuple[int, int]) -> Array:
    return best_class(resize_bilinear(logits, size)).astype(jnp.uint8)


def _plain_codes(codes: Array, size: tuple[int, int]) -> Array:
    """For any sizes: numerators over (denominator of rows) x (denominator of columns).

    Columns are gathered while the map is still small. Rows are not: every row of cells makes as many as the one with
    the most needs, side by side, and the answers that are none are left out, as bytes. [1, 33, 33, 21] to 513 x 513 on
    2 cores: 4 ms, 80 ms with a gather for either axis.
    """
    planes = jnp.moveaxis(codes, -1, 1).astype(jnp.int32)
    low, high, weight, whole = exact_weights(planes.shape[3], size[1])
    weight = jnp.asarray(weight).reshape(1, 1, 1, -1)
    planes = jnp.take(planes, low, 3) * (whole - weight) + jnp.take(planes, high, 3) * weight
    low, _, weight, parts = exact_weights(planes.shape[2], size[0])
    if 127 * parts * whole >= 2**31:
        raise UserError(
            f"scores of {codes.shape[1:3]} cells at {size} pixels",
            expected="sizes whose mixtures 32 bits hold",
            do="use sizes that are multiples of the network's stride",
        )
    first = np.searchsorted(low, np.arange(planes.shape[2]))
    place = np.arange(size[0]) - first[low]  # among the rows between the same two of cells
    weights = np.zeros((planes.shape[2], place.max() + 1), np.int32)
    weights[low, place] = weight
    below = jnp.concatenate([planes[:, :, 1:], planes[:, :, -1:]], axis=2)
    # In memory, or else all of the above would be done again for every row.
    above, below = lax.optimization_barrier((planes, below))
    weights = jnp.asarray(weights)[None, :, :, None]

    def score(k: int | Array) -> Array:
        return above[:, k, :, None] * (parts - weights) + below[:, k, :, None] * weights

    best = _winner(score, codes.shape[-1]).astype(jnp.uint8)
    batch, cells, rows, width = best.shape
    best = lax.optimization_barrier(best).reshape(batch, cells * rows, width)
    return jnp.take(best, low * rows + place, 1)


def _all_tiles(logits: Array, scale: int) -> Array:
    """As `_by_tiles`, every tile interpolated."""
    batch, height, width, classes = logits.shape
    rows, columns = height + 1, width + 1
    cells = jnp.pad(logits, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    around = [
        cells[:, i : i + rows, j : j + columns].reshape(-1, classes) for i in (0, 1) for j in (0, 1)
    ]
    return _picture(_winner_of_mixtures(around, scale), (batch, height, width), scale)


def _picture(tiles: Array, cells: tuple[int, int, int], scale: int) -> Array:
    """Tiles [N, scale * scale] beside and below each other: uint8 [B, H, W]."""
    batch, height, width = cells
    picture = tiles.reshape(batch, height + 1, width + 1, scale, scale).transpose(0, 1, 3, 2, 4)
    picture = picture.reshape(batch, (height + 1) * scale, (width + 1) * scale)
    first = scale - scale // 2  # the part of the first tile that lies outside
    return picture[:, first : first + scale * height, first : first + scale * width]


def _by_tiles(logits: Array, scale: int) -> Array:
    batch, height, width, classes = logits.shape
    rows, columns = height + 1, width + 1  # of tiles; those at the rim lie half outside
    cells = jnp.pad(logits, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    winner = jnp.argmax(cells, axis=-1).astype(jnp.uint8)
    corners = [winner[:, i : i + rows, j : j + columns] for i in (0, 1) for j in (0, 1)]
    mixed = functools.reduce(jnp.logical_or, (corner != corners[0] for corner in corners[1:]))
    number = batch * rows * columns
    # Places that are left over name a tile that does not exist; what is written there is dropped.
    (which,) = jnp.nonzero(mixed.reshape(-1), size=-(-number // TILES) * TILES, fill_value=number)
    scores = cells.reshape(-1, classes)

    def some(t: Array, tiles: Array) -> Array:
        """Interpolates the next `TILES` tiles."""
        tile = lax.dynamic_slice_in_dim(which, t * TILES, TILES)
        image, row, column = jnp.unravel_index(tile, (batch, rows, columns))
        cell = (image * (height + 2) + row) * (width + 2) + column
        around = [
            jnp.take(scores, cell + i * (width + 2) + j, axis=0, mode="clip")
            for i in (0, 1)
            for j in (0, 1)
        ]
        won = _winner_of_mixtures(around, scale)
        return tiles.at[tile].set(won, mode="drop", unique_indices=True)

    tiles = jnp.broadcast_to(corners[0].reshape(-1, 1), (number, scale * scale))
    tiles = lax.fori_loop(0, -(-jnp.sum(mixed) // TILES), some, tiles)
    return _picture(tiles, (batch, height, width), scale)


def _winner_of_mixtures(around: list[Array], scale: int) -> Array:
    """arg-max in every pixel of N tiles from the scores [N, K] of their four corners: uint8 [N, scale * scale]."""
    # Tiles last, so that every step below is a long row; the barrier keeps the turning out of the mixing.
    turned = lax.optimization_barrier([corner.T for corner in around])
    after = 2 * (scale // 2 + np.arange(scale)) + 1 - scale  # from the cell before, of 2 * scale
    axis = np.stack([2 * scale - after, after])
    mix = np.einsum("iy,jx->ijyx", axis, axis).reshape(4, -1, 1)
    if jnp.issubdtype(around[0].dtype, jnp.integer):
        dtype = jnp.int16 if 127 * (2 * scale) ** 2 < 2**15 else jnp.int32
        mix = mix.astype(dtype)
    else:
        dtype = jnp.float32
        mix = (mix / (2 * scale) ** 2).astype(dtype)

    def score(k: int | Array) -> Array:
        return sum(
            weight * corner[k][None].astype(dtype)
            for weight, corner in zip(mix, turned, strict=True)
        )

    return _winner(score, turned[0].shape[0]).T.astype(jnp.uint8)


def _winner(score: Callable[[int | Array], Array], classes: int) -> Array:
    """Which of some maps score(0), score(1), .. is largest, of equals the first; int32. None of them is kept."""

    def better(k: int | Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        value, (top, winner) = score(k), best
        return jnp.maximum(top, value), jnp.where(value > top, k, winner)

    top = score(0)
    best = top, jnp.zeros(top.shape, jnp.int32)
    if classes <= UNROLLED:
        for k in range(1, classes):
            best = better(k, best)
    else:
        best = lax.fori_loop(1, classes, better, best)
    return best[1]
