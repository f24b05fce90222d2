"""XLA's own convolution in our layout: what every backend has, and what ours are measured against."""

from collections.abc import Sequence

from jax import lax

from jaxseg.types import Array


def xla_conv(
    x: Array,
    kernel: Array,
    stride: int,
    dilation: int,
    pads: Sequence[tuple[int, int]],
    groups: int = 1,
) -> Array:
    """[B, H, W, C] and [kh, kw, C / groups, D] to [B, H', W', D]; `pads` are zeros (before, after) H and W."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=pads,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
