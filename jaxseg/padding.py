"""Zero padding around a map."""

from collections.abc import Sequence

from jaxseg.arch import PADDINGS
from jaxseg.errors import unknown_name


def pad_widths(
    size: Sequence[int], kernel: Sequence[int], stride: int, dilation: int, padding: str
) -> list[tuple[int, int]]:
    """Cells before and after a map, per axis, so that ceil(size / stride) results come out.

    Args:
        size: (H, W) of the map.
        kernel: (kh, kw), odd.
        stride, dilation: the same for both axes.
        padding: 'symmetric': dilation * (k - 1) // 2 on both sides, as in torch; what the last window
            does not reach is never read. 'same': no more than needed, the odd one after, as in TensorFlow.
    """
    if padding not in PADDINGS:
        raise unknown_name("padding", padding, PADDINGS)
    if padding == "symmetric":
        return [(dilation * (k - 1) // 2,) * 2 for k in kernel]
    widths = []
    for n, k in zip(size, kernel, strict=True):
        total = max((-(-n // stride) - 1) * stride + dilation * (k - 1) + 1 - n, 0)
        widths.append((total // 2, total - total // 2))
    return widths
