"""A tiny in-memory data set and network for tests of the trainer."""

import numpy as np

from jaxseg.arch import Arch, BackboneArch, BlockArch, HeadArch
from jaxseg.data.datasets import DatasetSpec
from jaxseg.numbers import NumbersArch
from jaxseg.types import IGNORE_LABEL

NUM_CLASSES = 3
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


class FakeSplit:
    """Blobs whose class is their colour, so that a small network learns them in a few steps.

    Every image has another share of void, as real labels do.
    """

    def __init__(self, name: str = "train", n: int = 12, height_px: int = 40, width_px: int = 48):
        self.name = name
        self.folder = None
        self.spec = DatasetSpec(
            name="fake",
            class_names=("red", "green", "blue"),
            class_colors=COLORS,
            splits=("train", "val"),
            label_map=np.arange(256, dtype=np.uint8),
        )
        self.sizes_px = np.tile(np.array([[height_px, width_px]], np.int32), (n, 1))
        self.names = [f"{name}_{i}" for i in range(n)]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> dict:
        h, w = self.sizes_px[i]
        rng = np.random.default_rng((len(self.name), int(i)))
        coarse = rng.integers(0, NUM_CLASSES, (h // 8, w // 8)).astype(np.uint8)
        label = coarse.repeat(8, axis=0).repeat(8, axis=1)
        image = np.asarray(COLORS, np.uint8)[label] // 2 + rng.integers(0, 100, (h, w, 3), np.uint8)
        label[: (i * 5) % h] = IGNORE_LABEL
        return {"image": image, "label": label, "name": self.names[i]}


def small_arch(*, aux: bool = False, compute: str = "float32", dropout: float = 0.1) -> Arch:
    """A stem, two residual blocks and an FCN head: every mechanism of the zoo, quick to compile."""
    blocks = (
        BlockArch("resnet_stem", (8,)),
        BlockArch("basic", (8, 8)),
        BlockArch("basic", (16, 16), stride=2),
    )
    return Arch(
        num_classes=NUM_CLASSES,
        backbone=BackboneArch("tiny", blocks),
        head=HeadArch("fcn", ("block_02",), (8,), dropout=dropout),
        aux=(HeadArch("fcn", ("block_01",), (8,), dropout=dropout),) if aux else (),
        numbers=NumbersArch(compute=compute),
    )


def batch(n: int = 4, height_px: int = 32, width_px: int = 32, seed: int = 0) -> dict:
    """A host batch with unevenly spread void: the first image has almost none, the last is mostly void."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, NUM_CLASSES, (n, height_px, width_px)).astype(np.uint8)
    for i in range(n):
        label[i, : i * height_px // n] = IGNORE_LABEL
    return {
        "image": rng.integers(0, 256, (n, height_px, width_px, 3), np.uint8),
        "label": label,
        "weight": np.ones(n, np.float32),
        "index": np.arange(n, dtype=np.int32),
    }
