"""What a camera makes of a canvas: fewer pixels, grain, blur, noise, exposure, colour cast.

All in integers, or in float64 with + - * / only: the same on every machine.
"""

import numpy as np

from jaxseg.data.toy_street import classes
from jaxseg.data.toy_street.canvas import SCALE
from jaxseg.data.toy_street.dice import Dice
from jaxseg.data.toy_street.scene import Weather
from jaxseg.types import IGNORE_LABEL

_GRAIN = {
    classes.ROAD: (26, 44),
    classes.PAVEMENT: (0, 4),
    classes.TREE: (36, 60),
}
"""Roughness of surfaces: least and greatest amplitude in grey levels, drawn once per image."""


def photograph(pixels: np.ndarray, weather: Weather, dice: Dice) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [H, W, 3] and label uint8 [H, W] of a canvas uint8 [SCALE * H, SCALE * W, 4]."""
    label = np.ascontiguousarray(pixels[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE, 3])
    image = _averaged(pixels[..., :3])
    image += _grain(label, dice)[..., None]
    for _ in range(weather.blur):
        image = _blurred(image)
    noise = dice.bytes(*image.shape).astype(np.int16) - 127
    image += (noise * weather.noise) >> 7
    np.clip(image, 0, 255, out=image)
    table = _response(weather)
    image = np.stack([table[c][image[..., c]] for c in range(3)], axis=-1)
    return image, _void_borders(label)


def _averaged(pixels: np.ndarray) -> np.ndarray:
    """Means of SCALE x SCALE pixels, int16."""
    total = np.zeros((pixels.shape[0] // SCALE, pixels.shape[1] // SCALE, 3), np.int16)
    for dy in range(SCALE):
        for dx in range(SCALE):
            total += pixels[dy::SCALE, dx::SCALE]
    return (total + SCALE * SCALE // 2) // (SCALE * SCALE)


def _grain(label: np.ndarray, dice: Dice) -> np.ndarray:
    """int16 [H, W]: roughness of the surfaces."""
    amplitude = np.zeros(256, np.int16)
    for surface, (low, high) in _GRAIN.items():
        amplitude[surface] = dice.integer(low, high)
    noise = dice.bytes(*label.shape).astype(np.int16) - 127
    return (noise * amplitude[label]) >> 8


def _blurred(image: np.ndarray) -> np.ndarray:
    """One pass of (1 2 1) / 4 each way."""
    wide = np.pad(image, ((0, 0), (1, 1), (0, 0)), mode="edge")
    image = (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:] + 2) >> 2
    tall = np.pad(image, ((1, 1), (0, 0), (0, 0)), mode="edge")
    return (tall[:-2] + 2 * tall[1:-1] + tall[2:] + 2) >> 2


def _response(weather: Weather) -> list[np.ndarray]:
    """Per channel a table uint8 [256]: exposure, contrast and cast."""
    level = np.arange(256, dtype=np.float64)
    tables = []
    for cast in weather.cast:
        value = (level * weather.exposure - 118) * weather.contrast + 118
        tables.append(np.clip(np.floor(value * cast), 0, 255).astype(np.uint8))
    return tables


def _void_borders(label: np.ndarray) -> np.ndarray:
    """One pixel of void along every border between classes, as in PASCAL VOC: no annotator is surer."""
    border = np.zeros(label.shape, bool)
    border[:, 1:] = label[:, 1:] != label[:, :-1]
    border[1:] |= label[1:] != label[:-1]
    return np.where(border, np.uint8(IGNORE_LABEL), label)
