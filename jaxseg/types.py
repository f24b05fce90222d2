"""The ground floor: what a batch, a network's answer and a step's metrics are. Imports nothing of ours.

Legend of dimensions, used in every docstring:
    B batch, H W input pixels, h w feature grid, C channels, K classes, E exits, T iterations, N blocks.
Units are part of names: `_px _ms _s _bytes _macs _frac`. mIoU is in [0, 1] inside, percent in reports.
"""

from typing import Any, NamedTuple, TypedDict

import numpy as np

IGNORE_LABEL = 255
"""The one label value that is left out of loss and score alike. Label maps are uint8, so K <= 255."""

Array = Any
"""A numpy or JAX array. Shapes and dtypes are stated in docstrings."""


class Batch(TypedDict):
    """What travels from the host to the device: uint8 images, never normalised on the host.

    image:  uint8 [B, H, W, 3], RGB.
    label:  uint8 [B, H, W], class ids 0..K-1 or IGNORE_LABEL.
    weight: float32 [B], weight of the image in the loss; 0 marks padding of a ragged last batch.
    index:  int32 [B], position of each image in its split (-1 for padding).
    """

    image: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    index: np.ndarray


class Outputs(NamedTuple):
    """What a network answers. Logits are float32 on the feature grid, not resized to the image.

    logits: float32 [B, h, w, K], the final answer.
    aux:    name -> float32 [B, h', w', K]; auxiliary heads, empty unless training.
    exits:  name -> float32 [B, h', w', K]; earlier answers of multi-exit and any-time networks.
    """

    logits: Array
    aux: dict[str, Array]
    exits: dict[str, Array]


Metrics = dict[str, Array]
"""Sums and counts only, so that they add up over batches and devices; ratios are taken at the very end."""
