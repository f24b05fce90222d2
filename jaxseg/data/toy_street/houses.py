"""Draws buildings: walls in perspective with windows, shop fronts, courses of brick, roofs."""

from math import sqrt

import numpy as np

from jaxseg.data.toy_street import classes
from jaxseg.data.toy_street.canvas import Canvas
from jaxseg.data.toy_street.dice import Dice
from jaxseg.data.toy_street.palette import GLASS, mixed, scaled, shade_of
from jaxseg.data.toy_street.scene import Building

Place = tuple[float, float]

_STOREY_M = 3.0
_DETAIL_M = 75.0
"""Farther walls are blank."""


def draw_building(canvas: Canvas, house: Building, dice: Dice) -> None:
    """The walls that face the camera, then the roof."""
    ox, oz = house.outward[0] * house.deep_m, house.outward[1] * house.deep_m
    a, b = house.a, house.b
    c, d = (b[0] + ox, b[1] + oz), (a[0] + ox, a[1] + oz)
    camera = canvas.camera
    middle = (max(1.0, camera.depth_m(*a)) + max(1.0, camera.depth_m(*b))) / 2
    glass = dice.pick(GLASS)
    walls = ((a, b), (b, c), (c, d), (d, a))
    for number, (p, q) in enumerate(walls):
        nx, nz = _normal(p, q, house)
        if (camera.x_m - p[0]) * nx - p[1] * nz <= 0:
            continue
        wall = _Wall(canvas, p, q, house.high_m, canvas.light.facing(nx, nz), middle)
        wall.quad(0, 1, 0, house.high_m, house.wall)
        if house.gable_m and number in (1, 3):
            wall.gable(house.gable_m, house.wall)
        if middle < _DETAIL_M:
            style = house.style if number == 0 else dice.pick(("blank", "windows"))
            _decorate(wall, house, style, glass, dice)
    if house.gable_m:
        _roof(canvas, house, (a, b, c, d), middle)


def _normal(p: Place, q: Place, house: Building) -> Place:
    """Unit normal of the wall from p to q, out of the house."""
    dx, dz = q[0] - p[0], q[1] - p[1]
    length = sqrt(dx * dx + dz * dz)
    nx, nz = dz / length, -dx / length
    # The house lies to one side of its front; that tells which of the two normals leads out.
    fx, fz = house.b[0] - house.a[0], house.b[1] - house.a[1]
    inside = house.outward[0] * fz - house.outward[1] * fx
    return (nx, nz) if inside < 0 else (-nx, -nz)


class _Wall:
    """Draws in fractions u along a wall and metres v above the ground."""

    def __init__(
        self, canvas: Canvas, p: Place, q: Place, high_m: float, light: float, depth_m: float
    ) -> None:
        self.canvas, self.p, self.high_m, self.depth_m = canvas, p, high_m, depth_m
        self._dx, self._dz = q[0] - p[0], q[1] - p[1]
        self.long_m = sqrt(self._dx * self._dx + self._dz * self._dz)
        self._light = light

    def quad(self, u0: float, u1: float, v0: float, v1: float, color: tuple) -> None:
        corners = ((u0, v0), (u1, v0), (u1, v1), (u0, v1))
        points = [(self.p[0] + self._dx * u, v, self.p[1] + self._dz * u) for u, v in corners]
        tone = scaled(color, self._light)
        self.canvas.face(points, tone, classes.BUILDING, self.depth_m)

    def gable(self, rise_m: float, color: tuple) -> None:
        h, points = self.high_m, ((0, 0.0), (1, 0.0), (0.5, rise_m))
        corners = [(self.p[0] + self._dx * u, h + v, self.p[1] + self._dz * u) for u, v in points]
        tone = scaled(color, self._light)
        self.canvas.face(corners, tone, classes.BUILDING, self.depth_m)

    def quads(self, rects: list[tuple], color: tuple, lit: bool = False) -> None:
        """Many (u0, u1, v0, v1) of one colour."""
        if not rects:
            return
        r = np.array(rects, np.float64)
        u, v = r[:, (0, 1, 1, 0)], r[:, (2, 2, 3, 3)]
        points = np.stack([self.p[0] + self._dx * u, v, self.p[1] + self._dz * u], axis=-1)
        tone = color if lit else scaled(color, self._light)
        self.canvas.faces(points, tone, classes.BUILDING, self.depth_m, lit)


def _decorate(wall: _Wall, house: Building, style: str, glass: tuple, dice: Dice) -> None:
    """Windows and the like."""
    if style == "glass":
        _curtain(wall, glass, dice)
        return
    if wall.depth_m < 50:
        _courses(wall, house.wall)
    if style == "blank":
        if dice.chance(0.5):
            v = dice.between(0.8, house.high_m * 0.5)
            poster = shade_of(dice, dice.pick(("red", "blue", "yellow", "white", "green")))
            u = dice.between(0.1, 0.6)
            wall.quad(u, u + 0.25, v, v + dice.between(0.8, 2.5), poster)
        return
    first = 0
    if style == "shop":
        _shop(wall, house, glass, dice)
        first = 1
    columns = max(1, int(wall.long_m / dice.between(1.9, 3.2)))
    storeys = max(1, int(house.high_m / _STOREY_M))
    wide, low, high = dice.between(0.4, 0.65), dice.between(0.6, 1.1), dice.between(2.0, 2.6)
    panes: dict[bool, list[tuple]] = {False: [], True: []}
    frames: list[tuple] = []
    door = dice.integer(0, columns - 1) if first == 0 else -1
    lit_share = 0.4 if wall.canvas.light.night else 0.0
    for floor in range(first, storeys):
        for column in range(columns):
            u0 = (column + 0.5 - wide / 2) / columns
            u1 = (column + 0.5 + wide / 2) / columns
            v0 = floor * _STOREY_M + (0.0 if floor == 0 and column == door else low)
            v1 = floor * _STOREY_M + high
            edge = 0.12 / wall.long_m
            frames.append((u0 - edge, u1 + edge, v0 - 0.12, v1 + 0.12))
            panes[dice.chance(lit_share)].append((u0, u1, v0, v1))
    wall.quads(frames, house.trim)
    wall.quads(panes[False], glass)
    wall.quads(panes[True], (235, 205, 140), lit=True)
    if wide > 0.5 and wall.depth_m < 35:
        bars = [((u0 + u1) / 2 - 0.04 / wall.long_m, (u0 + u1) / 2 + 0.04 / wall.long_m, v0, v1)
                for u0, u1, v0, v1 in panes[False]]  # fmt: skip
        wall.quads(bars, house.trim)
    if dice.chance(0.5):
        wall.quad(0, 1, house.high_m - 0.4, house.high_m, house.trim)


def _courses(wall: _Wall, color: tuple) -> None:
    """Rows of brick, coarser than true ones so that they can be seen."""
    rows = [(0, 1, 0.4 * k, 0.4 * k + 0.12) for k in range(int(wall.high_m / 0.4))]
    wall.quads(rows, scaled(color, 0.8))


def _curtain(wall: _Wall, glass: tuple, dice: Dice) -> None:
    """A facade of glass that mirrors the sky."""
    mirror = mixed(glass, wall.canvas.light.haze, dice.between(0.1, 0.7))
    wall.quad(0, 1, 0, wall.high_m, scaled(mirror, 0.75))
    columns, storeys = max(2, int(wall.long_m / 1.6)), max(1, int(wall.high_m / _STOREY_M))
    tones: tuple[list[tuple], ...] = ([], [], [])
    for floor in range(storeys):
        for column in range(columns):
            u, v = column / columns, floor * _STOREY_M
            pane = (u + 0.08 / columns, u + 0.92 / columns, v + 0.25, v + 2.8)
            dice.pick(tones).append(pane)
    for panes, factor in zip(tones, (0.88, 1.0, 1.12), strict=True):
        wall.quads(panes, scaled(mirror, factor))


def _shop(wall: _Wall, house: Building, glass: tuple, dice: Dice) -> None:
    """A ground floor of windows under a band and maybe awnings."""
    band = shade_of(dice, dice.pick(("red", "green", "blue", "dark", "white", "yellow", "brown")))
    wall.quad(0, 1, 2.6, 3.2, band)
    count = max(1, int(wall.long_m / 3.5))
    panes = [((k + 0.08) / count, (k + 0.92) / count, 0.5, 2.5) for k in range(count)]
    lit = wall.canvas.light.night
    wall.quads(panes, (230, 214, 170) if lit else scaled(glass, 0.8), lit=lit)
    goods = []
    for k in range(count):
        for _ in range(3):
            u, v = (k + dice.between(0.15, 0.7)) / count, dice.between(0.6, 1.2)
            goods.append((u, u + 0.12 / count, v, v + dice.between(0.3, 0.8)))
    wall.quads(goods, shade_of(dice, dice.pick(("red", "beige", "blue", "brown", "grey"))))
    if dice.chance(0.5):
        awnings = [((k + 0.04) / count, (k + 0.96) / count, 2.1, 2.6) for k in range(count)]
        wall.quads(awnings, scaled(band, 1.15))


def _roof(canvas: Canvas, house: Building, corners: tuple[Place, ...], depth_m: float) -> None:
    """The slope towards the street, from the eaves up to the ridge."""
    a, b, c, d = corners
    h, top = house.high_m, house.high_m + house.gable_m
    ridge = [((q[0] + p[0]) / 2, top, (q[1] + p[1]) / 2) for p, q in ((a, d), (b, c))]
    slope = [(a[0], h, a[1]), (b[0], h, b[1]), ridge[1], ridge[0]]
    canvas.face(slope, house.roof, classes.BUILDING, depth_m)
    fx, fz = ridge[0][0], ridge[0][2]
    gx, gz = ridge[1][0], ridge[1][2]
    low, high = top - 0.6, top + 0.9
    corners_of_chimney = ((0.2, low), (0.3, low), (0.3, high), (0.2, high))
    chimney = [(fx + (gx - fx) * t, y, fz + (gz - fz) * t) for t, y in corners_of_chimney]
    canvas.face(chimney, scaled(house.wall, 0.8), classes.BUILDING, depth_m)
