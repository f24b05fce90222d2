"""What a data set is, apart from its pixels: names, colours, splits, and which label values it may hold."""

from dataclasses import dataclass, field

import numpy as np

from jaxseg.types import IGNORE_LABEL

NOT_ALLOWED = 254
"""In a label map: this raw value must not occur. So a data set has at most 254 classes."""


@dataclass(frozen=True)
class DatasetSpec:
    """Names, colours and label values of one data set.

    name:         as in `config.data.name`.
    class_names:  K names, in order of class id.
    class_colors: K colours (red, green, blue), 0..255 each.
    splits:       those that can be opened.
    label_map:    uint8 [256], raw label value -> class id 0..K-1 or IGNORE_LABEL; any other number marks a
                  raw value that must not occur.
    unavailable:  published splits that cannot be opened -> why.
    group_ends:   what ends the name of an image's group (drive, city) in its own, such as '_' in '0001TP_006690';
                  '' = there are no groups.
    """

    name: str
    class_names: tuple[str, ...]
    class_colors: tuple[tuple[int, int, int], ...]
    splits: tuple[str, ...]
    label_map: np.ndarray = field(compare=False, repr=False)
    unavailable: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    group_ends: str = ""

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def group(self, name: str) -> str:
        """The group of the image of that name; '' where there are no groups."""
        return name.partition(self.group_ends)[0] if self.group_ends else ""

    @property
    def allowed(self) -> np.ndarray:
        """The raw values that may occur, bool [256]."""
        return (self.label_map < self.num_classes) | (self.label_map == IGNORE_LABEL)


def identity_map(num_classes: int, *ignored: int) -> np.ndarray:
    """A label map uint8 [256] that keeps 0..K-1, ignores `ignored` and allows nothing else."""
    table = np.full(256, NOT_ALLOWED, np.uint8)
    table[:num_classes] = np.arange(num_classes)
    table[list(ignored)] = IGNORE_LABEL
    return table


def distinct_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Colours of Pascal VOC's map: the bits of the number spread over red, green and blue, high bits first."""
    colors = []
    for number in range(1, count + 1):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
        colors.append((rgb[0], rgb[1], rgb[2]))
    return tuple(colors)
