"""What a layer costs at the least."""

import pytest

from jaxseg.arch import LayerSpec
from jaxseg.inference.roofline import layer_cost


@pytest.mark.parametrize(
    ("layer", "cells_in", "cells_out"),
    [
        (LayerSpec("a", 3, 8, (7, 7), 2, 1, 1, False, True, 2), 30 * 45, 15 * 23),
        (LayerSpec("a", 8, 8, (3, 3), 1, 1, 8, True, False, 4), 8 * 12, 8 * 12),
        (LayerSpec("a", 8, 4, (1, 1), 1, 1, 1, False, False, 0), 1, 1),
    ],
)
def test_cost_of_a_layer_by_hand(layer, cells_in, cells_out):
    weights = layer.kernel[0] * layer.kernel[1] * layer.in_channels // layer.groups
    weights *= layer.out_channels
    vectors = layer.out_channels * (layer.bias + 2 * layer.norm)
    macs, num_bytes = layer_cost(layer, 2, 30, 45, itemsize=4)
    assert macs == 2 * weights * cells_out
    maps = 2 * (cells_in * layer.in_channels + cells_out * layer.out_channels)
    assert num_bytes == 4 * (maps + weights + vectors)
