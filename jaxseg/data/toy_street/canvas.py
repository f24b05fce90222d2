"""Where is drawn: colour and label in one four-channel array, so that they can never disagree.

Only OpenCV's polygon fill is used: it is fixed-point arithmetic, the same on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import cv2
import numpy as np

from jaxseg.data.toy_street.camera import NEAR_M, Camera, Point
from jaxseg.data.toy_street.palette import Color

SCALE = 2
"""Canvas pixels per image pixel, each way; averaging them smooths the edges."""

# A circle in steps of 1/16 turn, in thousandths: a table, for libraries round sin and cos
# differently.
_TURN = (0, 383, 707, 924, 1000, 924, 707, 383, 0, -383, -707, -924, -1000, -924, -707, -383)
CIRCLE = tuple((_TURN[(i + 4) % 16] / 1000, _TURN[i] / 1000) for i in range(16))


@dataclass(frozen=True)
class Light:
    """What the weather and the hour do to colours.

    Attributes:
        tint: factor per channel.
        haze: colour of far things.
        visibility_m: where half of a colour is haze.
        sun: direction (x, z) on the ground to which shadows fall, metres per metre of height.
        sunny: whether shadows have edges.
        shadow: brightness of the ground in shadow, 0..1.
        night: whether lamps are lit.
    """

    tint: Color
    haze: Color
    visibility_m: float
    sun: tuple[float, float]
    sunny: bool
    shadow: float
    night: bool

    def facing(self, nx: float, nz: float) -> float:
        """Brightness of an upright face with that outward normal (of length one)."""
        if not self.sunny:
            return 0.88
        towards_sun = -(nx * self.sun[0] + nz * self.sun[1])
        return min(1.12, max(0.62, 0.82 + 0.25 * towards_sun))


class Canvas:
    """uint8 [height_px, width_px, 4]: red, green, blue, label."""

    def __init__(self, height_px: int, width_px: int, camera: Camera, light: Light) -> None:
        self.pixels = np.zeros((height_px, width_px, 4), np.uint8)
        self.camera = camera
        self.light = light

    def ink(
        self, color: Color, label: int, depth_m: float, lit: bool = False
    ) -> tuple[int, int, int, int]:
        """What a colour looks like from there. Lamps (`lit`) do not care for the hour."""
        light = self.light
        near = light.visibility_m / (light.visibility_m + depth_m)
        far = 1 - near
        tr, tg, tb = (1.0, 1.0, 1.0) if lit else light.tint
        hr, hg, hb = light.haze
        # Written out: this runs a thousand times per image. OpenCV clamps to 0..255.
        r = int(color[0] * tr * near + hr * far)
        g = int(color[1] * tg * near + hg * far)
        b = int(color[2] * tb * near + hb * far)
        return r, g, b, label

    def fill(self, polygon: np.ndarray, ink: tuple[int, int, int, int]) -> None:
        """A polygon in pixels, int32 [N, 2]."""
        cv2.fillPoly(self.pixels, [polygon], ink)

    def face(self, points: list[Point], color: Color, label: int, depth_m: float) -> None:
        """A polygon in metres, coloured as seen from `depth_m`."""
        polygon = self.camera.project(points)
        if polygon is not None:
            self.fill(polygon, self.ink(color, label, depth_m))

    def faces(
        self, points: np.ndarray, color: Color, label: int, depth_m: float, lit: bool = False
    ) -> None:
        """Many polygons of one colour that do not overlap, float64 [N, M, 3]."""
        if len(points):
            polygons = self.camera.project_all(points)
            if len(polygons):
                cv2.fillPoly(self.pixels, list(polygons), self.ink(color, label, depth_m, lit))

    def board(self, x: float, z: float, label: int, squeeze: float = 1.0) -> "Board | None":
        """A cardboard at that place that faces the camera; None if it is too near to be seen."""
        return Board(self, x, z, label, squeeze) if self.camera.depth_m(x, z) > NEAR_M else None


class Board:
    """Draws in metres on an upright plane: u to the right of the foot, v above the ground."""

    def __init__(self, canvas: Canvas, x: float, z: float, label: int, squeeze: float) -> None:
        self._canvas = canvas
        self._column, self._row, self.scale = canvas.camera.spot(x, z)
        self.depth_m = canvas.camera.depth_m(x, z)
        self._label = label
        self._squeeze = squeeze
        """Foreshortening of u, for flat things seen from an angle; negative is mirrored."""

    def _place(self, points: Sequence[tuple[float, float]]) -> np.ndarray:
        across, up = self.scale * self._squeeze, self.scale
        return np.array(
            [
                ((self._column + u * across + 0.5) // 1, (self._row - v * up + 0.5) // 1)
                for u, v in points
            ],
            np.int32,
        )

    def shape(
        self,
        points: Sequence[tuple[float, float]],
        color: Color,
        label: int | None = None,
        lit: bool = False,
    ) -> None:
        """A polygon."""
        used = self._label if label is None else label
        self._canvas.fill(self._place(points), self._canvas.ink(color, used, self.depth_m, lit))

    def diamonds(self, middles: np.ndarray, radii: np.ndarray, color: Color) -> None:
        """Many small rhombs of one colour at float64 [N, 2], none below the ground."""
        if len(middles) == 0:
            return
        across = np.array((-1.0, 0.0, 1.0, 0.0)) * radii[:, None]
        along = np.array((0.0, -0.8, 0.0, 0.8)) * radii[:, None]
        u, v = middles[:, :1] + across, np.maximum(middles[:, 1:] + along, 0.0)
        column = self._column + u * (self.scale * self._squeeze) + 0.5
        row = self._row - v * self.scale + 0.5
        polygons = np.floor(np.stack([column, row], axis=-1)).astype(np.int32)
        ink = self._canvas.ink(color, self._label, self.depth_m)
        cv2.fillPoly(self._canvas.pixels, list(polygons), ink)

    def box(
        self,
        u: float,
        v: float,
        width: float,
        height: float,
        color: Color,
        label: int | None = None,
    ) -> None:
        """A rectangle by the middle of its lower edge."""
        a, b = u - width / 2, u + width / 2
        self.shape([(a, v), (b, v), (b, v + height), (a, v + height)], color, label)

    def disc(
        self,
        u: float,
        v: float,
        ru: float,
        rv: float,
        color: Color,
        label: int | None = None,
        lit: bool = False,
    ) -> None:
        """An ellipse by its centre and half axes."""
        self.shape([(u + ru * c, v + rv * s) for c, s in CIRCLE], color, label, lit)

    def bar(
        self,
        a: tuple[float, float],
        b: tuple[float, float],
        width: float,
        color: Color,
        label: int | None = None,
    ) -> None:
        """A thick line, never thinner than one image pixel."""
        du, dv = b[0] - a[0], b[1] - a[1]
        length = sqrt(du * du + dv * dv)
        if length == 0:
            return
        half = max(width, SCALE / self.scale) / 2 / length
        pu, pv = -dv * half / max(abs(self._squeeze), 0.3), du * half
        self.shape(
            [(a[0] + pu, a[1] + pv), (b[0] + pu, b[1] + pv), (b[0] - pu, b[1] - pv),
             (a[0] - pu, a[1] - pv)],
            color,
            label,
        )  # fmt: skip
