"""The U-Net decoder (Ronneberger et al., 1505.04597) on any backbone, as in segmentation_models_pytorch.

Order of `HeadArch.widths`: block_0_conv1, block_0_conv2, block_1_conv1, ... coarse to fine.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.arch import IMAGE, BackboneArch, BlockSpec, HeadArch
from jaxseg.errors import UserError
from jaxseg.layers.resize import upsample_nearest
from jaxseg.models.block import check_widths, normed_layer, round_width
from jaxseg.models.heads.head import (
    Head,
    HeadKind,
    Tap,
    check_inputs,
    classifier,
    spec_of,
    tap_shapes,
)
from jaxseg.types import Array

CHANNELS = (256, 128, 64, 32, 16)


def unet_head(
    backbone: BackboneArch, skips: Sequence[str], width: float = 1.0, dropout: float = 0.0
) -> HeadArch:
    """A decoder block per skip and one more up to the size of the image, then a 3x3 classifier.

    Args:
        backbone: what it is put on; its last block is the coarsest map.
        skips: blocks, each at half the stride of the one before, down to stride 2.
        width: multiplies the 256, 128, 64, 32, 16 channels of the decoder blocks.
        dropout: before the classifier.
    """
    last = list(tap_shapes(backbone))[-1]
    widths = [round_width(c * width) for c in CHANNELS[-len(skips) - 1 :] for _ in range(2)]
    return HeadArch("unet", (last, *skips, IMAGE), tuple(widths), dropout=dropout)


def _spec(name: str, role: str, head: HeadArch, taps: list[Tap], num_classes: int) -> BlockSpec:
    check_inputs(name, head, *range(2, len(CHANNELS) + 2))
    check_widths(name, head.kind, head.widths, 2 * (len(taps) - 1))
    strides = [tap.stride for tap in taps]
    if any(2 * fine != coarse for coarse, fine in zip(strides, strides[1:])):  # noqa: B905
        raise UserError(
            f"inputs of {name} (unet) have the strides",
            got=strides,
            expected="each half of the one before",
        )
    channels, layers = taps[0].channels, []
    for i, (skip, block) in enumerate(zip(taps[1:], head.inputs[1:], strict=True)):
        joined = channels + (0 if block == IMAGE else skip.channels)
        one, channels = head.widths[2 * i : 2 * i + 2]
        layers.append(normed_layer(f"block_{i}_conv1", joined, one, 3, skip.stride))
        layers.append(normed_layer(f"block_{i}_conv2", one, channels, 3, skip.stride))
    layers.append(classifier(channels, num_classes, strides[-1], kernel=3))
    return spec_of(name, role, head, tuple(layers), strides[-1])


class UNet(Head):
    """Upsample, join with the skip (of the image only the size is used), two 3x3; and so on."""

    @nn.compact
    def __call__(self, taps: tuple[Array, ...], train: bool = False) -> Array:
        y, *skips = taps
        for i, (skip, name) in enumerate(zip(skips, self.spec.inputs[1:], strict=True)):
            y = upsample_nearest(y, skip.shape[1:3])
            if name != IMAGE:
                y = jnp.concatenate([y, skip], axis=-1)
            y = self.conv(f"block_{i}_conv1")(y, train)
            y = self.conv(f"block_{i}_conv2")(y, train)
        return self.conv("logits")(self.dropped(y, train), train)


KINDS = {"unet": HeadKind(_spec, UNet)}
