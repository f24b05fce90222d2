"""The embedded data set: 1400 generated street scenes with CamVid's eleven classes, 256 x 192 px.

`scene` says what is where, `layout` and `furnish` sample it, `paint` draws it, `photo` takes the
picture. Host only: numpy and OpenCV. The pixels are a pure function of (split, index), the same on
every machine: a test pins their digest. Grass and hedges count as Tree, as in CamVid.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import Executor

import numpy as np

from jaxseg.data.toy_street.canvas import SCALE
from jaxseg.data.toy_street.classes import CLASS_COLORS, CLASS_NAMES
from jaxseg.data.toy_street.dice import Dice
from jaxseg.data.toy_street.layout import sample_scene
from jaxseg.data.toy_street.paint import paint
from jaxseg.data.toy_street.photo import photograph

__all__ = (
    "CLASS_COLORS",
    "CLASS_NAMES",
    "HEIGHT_PX",
    "SPLITS",
    "VERSION",
    "WIDTH_PX",
    "digest",
    "sample",
)

VERSION = "1.0.0"
HEIGHT_PX, WIDTH_PX = 192, 256
SPLITS = {"train": 700, "calib": 100, "val": 100, "test": 500}

_SEED = 20_100


def sample(split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """One example: image uint8 [192, 256, 3] RGB, label uint8 [192, 256] (0..10, void 255).

    Raises:
        KeyError: no such split.
        IndexError: no such example.
    """
    if not 0 <= index < SPLITS[split]:
        raise IndexError(f"{split} has {SPLITS[split]} examples, not one of index {index}")
    dice = Dice(_SEED, list(SPLITS).index(split), index)
    height, width = SCALE * HEIGHT_PX, SCALE * WIDTH_PX
    scene = sample_scene(dice, height, width)
    return photograph(paint(scene, dice, height, width), scene.weather, dice)


def digest(counts: Mapping[str, int] = SPLITS, pool: Executor | None = None) -> str:
    """sha256 over the first examples of each split, in order: image, then label.

    Args:
        counts: how many of which split.
        pool: computes examples in parallel; the answer is the same.
    """
    keys = [(split, index) for split, count in counts.items() for index in range(count)]
    total = hashlib.sha256()
    each = map(_digest_one, keys) if pool is None else pool.map(_digest_one, keys, chunksize=16)
    for part in each:
        total.update(part)
    return total.hexdigest()


def _digest_one(key: tuple[str, int]) -> bytes:
    image, label = sample(*key)
    return hashlib.sha256(image.tobytes() + label.tobytes()).digest()
