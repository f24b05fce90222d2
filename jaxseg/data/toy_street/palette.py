"""Colours of things. Classes share families on purpose, so that no colour gives a class away."""

from jaxseg.data.toy_street.dice import Dice

Color = tuple[float, float, float]
"""Red, green, blue in 0..255, before light."""

FAMILIES: dict[str, tuple[Color, Color]] = {
    "grey": ((70, 70, 72), (190, 190, 192)),
    "brick": ((92, 46, 36), (184, 98, 76)),
    "brown": ((70, 52, 36), (150, 116, 86)),
    "beige": ((146, 132, 104), (224, 210, 180)),
    "white": ((196, 196, 196), (244, 244, 240)),
    "dark": ((22, 22, 26), (66, 66, 74)),
    "green": ((36, 60, 26), (122, 152, 78)),
    "blue": ((46, 66, 112), (142, 172, 206)),
    "red": ((132, 22, 22), (206, 52, 46)),
    "asphalt": ((66, 66, 70), (112, 112, 114)),
    "pale": ((150, 148, 144), (206, 204, 200)),
    "yellow": ((170, 130, 32), (232, 202, 82)),
}
"""From dark to light."""

MIXES: dict[str, dict[str, int]] = {
    "wall": dict(brick=34, beige=24, white=5, brown=14, grey=12, yellow=5, blue=6),
    "roof": dict(brick=40, brown=25, dark=20, grey=15),
    "road": dict(asphalt=88, brown=4, grey=8),
    "pavement": dict(beige=44, brick=16, pale=40),
    "paint": dict(grey=20, white=18, dark=18, red=16, blue=16, green=4, yellow=8),
    "cloth": dict(dark=20, blue=34, white=12, red=12, green=10, grey=6, brown=6),
    "jersey": dict(yellow=56, red=24, white=10, green=10),
    "leaf": dict(green=92, yellow=4, brick=4),
    "post": dict(grey=40, dark=45, green=5, white=10),
    "fence": dict(white=55, green=25, brown=20),
    "sign": dict(red=36, blue=34, yellow=22, green=8),
}
"""What is made of which families, by weight."""

SKIN = ((232, 190, 160), (198, 150, 116), (150, 104, 76), (96, 66, 50))
GLASS = ((60, 70, 80), (40, 44, 50), (120, 135, 150), (90, 96, 100))
_DUST = (118, 115, 110)
MARKING = (214, 212, 204)


class Palette:
    """Colours of one town. A town with a theme wears one family on everything, now and then."""

    def __init__(self, dice: Dice) -> None:
        self._theme = dice.weighted(dict(grey=1, brick=1, none=18))
        self._strength = dice.between(0.3, 0.65)

    def color(self, dice: Dice, mix: str) -> Color:
        """A colour for something of that mix."""
        family = dice.weighted(MIXES[mix])
        if self._theme != "none" and mix != "sign" and dice.chance(self._strength):
            family = self._theme
        color = shade_of(dice, family)
        # Dust lies on what is walked and driven on.
        return mixed(color, _DUST, 0.2) if mix in ("road", "pavement") else color


def shade_of(dice: Dice, family: str) -> Color:
    """A colour of the family: anywhere between its ends, slightly off the line."""
    low, high = FAMILIES[family]
    t = dice.unit()
    return tuple(a + (b - a) * t + dice.between(-7, 7) for a, b in zip(low, high, strict=True))


def scaled(color: Color, factor: float) -> Color:
    """Brighter or darker."""
    return (color[0] * factor, color[1] * factor, color[2] * factor)


def mixed(a: Color, b: Color, t: float) -> Color:
    """`a` at t = 0, `b` at t = 1."""
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)
