"""The U-Net decoder (Ronneberger et al., 1505.04597) on any backbone, as in segmentation_models_pytorch.

Order of `HeadArch.widths`: block_0_conv1, block_0_conv2, block_1_conv1, ... coarse to fine.
"""

from collections.abc import Sequence

from jaxseg import flow
from jaxseg.arch import IMAGE, BackboneArch, BlockSpec, HeadArch
from jaxseg.errors import UserError
from jaxseg.flow import Op
from jaxseg.models.backbones.registry import tap_shapes
from jaxseg.models.block import check_widths, normed_layer, round_width
from jaxseg.models.heads.head import (
    MakeHead,
    Tap,
    check_inputs,
    classifier,
    dropped,
    spec_of,
)

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
    channels, layers, ops = taps[0].channels, [], []
    last = "in_0"
    for i, (skip, block) in enumerate(zip(taps[1:], head.inputs[1:], strict=True)):
        joined = channels + (0 if block == IMAGE else skip.channels)
        one, channels = head.widths[2 * i : 2 * i + 2]
        layers.append(normed_layer(f"block_{i}_conv1", joined, one, 3, skip.stride))
        layers.append(normed_layer(f"block_{i}_conv2", one, channels, 3, skip.stride))
        ops.append(Op(f"up_{i}", flow.NEAREST, (last, f"in_{i + 1}")))
        if block != IMAGE:  # of the image only the size is used
            ops.append(flow.join(f"joined_{i}", f"up_{i}", f"in_{i + 1}"))
        ops += flow.chain(ops[-1].name, f"block_{i}_conv1", f"block_{i}_conv2")
        last = ops[-1].name
    layers.append(classifier(channels, num_classes, strides[-1], kernel=3))
    ops += [dropped(last), flow.conv("logits", "dropped")]
    return spec_of(name, role, head, layers, ops, strides[-1])


KINDS: dict[str, MakeHead] = {"unet": _spec}
