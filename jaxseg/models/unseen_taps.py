"""Taps of convolutions that small crops never reach: they stay as they were drawn, and larger images use them."""

from collections.abc import Iterable

from jaxseg.arch import BlockSpec, LayerSpec
from jaxseg.padding import pad_widths


def unseen(
    blocks: Iterable[BlockSpec], train_px: tuple[int, int], answered_px: tuple[int, int]
) -> tuple[str, ...]:
    """Layers with taps that see nothing but padding in training, and image afterwards.

    Args:
        blocks: of a network.
        train_px: (height, width) of the largest crops.
        answered_px: of the largest images that are answered.

    Returns:
        '<block>/<layer>', in the order of execution.
    """
    return tuple(
        f"{block.name}/{layer.name}"
        for block in blocks
        for layer in block.layers
        if layer.out_stride
        and any(
            after > trained
            for trained, after in zip(
                _seen(layer, train_px), _seen(layer, answered_px), strict=True
            )
        )
    )


def _seen(layer: LayerSpec, size_px: tuple[int, int]) -> list[set[int]]:
    """Per axis, the rows or columns of the kernel that see a cell of the map at all, for images of this size."""
    cells = [-(-px * layer.stride // layer.out_stride) for px in size_px]
    shape = layer.kernel, layer.stride, layer.dilation, layer.padding
    found = []
    for n, size, (before, _) in zip(cells, layer.kernel, pad_widths(cells, *shape), strict=True):
        last = (-(-n // layer.stride) - 1) * layer.stride
        offsets = {tap: tap * layer.dilation - before for tap in range(size)}
        found.append(
            {
                tap
                for tap, offset in offsets.items()
                # From the first window whose tap is not above the map; windows are `stride` apart.
                if (first := max(0, -(offset // layer.stride)) * layer.stride) <= last
                and first + offset < n
            }
        )
    return found
