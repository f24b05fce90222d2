"""Draws cars, vans and lorries: two boxes on wheels, seen in perspective."""

from jaxseg.data.toy_street import classes
from jaxseg.data.toy_street.camera import Point
from jaxseg.data.toy_street.canvas import CIRCLE, Canvas
from jaxseg.data.toy_street.palette import Color, mixed, scaled
from jaxseg.data.toy_street.scene import Car

# kind: length, width, bottom, belt line, top of the roof in metres; then rear and front of the
# cabin at the belt and at the roof, as fractions of the length from the rear bumper.
_SHAPES = {
    "car": (4.3, 1.8, 0.28, 0.88, 1.46, (0.04, 0.76), (0.2, 0.56)),
    "van": (5.0, 2.0, 0.32, 1.15, 2.1, (0.0, 0.9), (0.01, 0.74)),
    "lorry": (7.5, 2.4, 0.45, 1.3, 3.1, (0.0, 0.99), (0.0, 0.97)),
}
_TYRE = (28, 28, 30)
_HUB = (120, 120, 124)
_WHEEL_M = 0.33


def draw_car(canvas: Canvas, car: Car) -> None:
    """Shadow, body, cabin, glass, wheels, lights."""
    body = _Body(canvas, car)
    if body.depth_m < 1.5:
        return
    long, wide, bottom, belt, top, low, high = _SHAPES[car.kind]
    body.lower(bottom, belt)
    body.cabin(belt, top, low, high)
    body.fittings(bottom, belt)


class _Body:
    """Places points of a car: s along it from the rear (0) to the front (1), t across (-1..1)."""

    def __init__(self, canvas: Canvas, car: Car) -> None:
        long, wide = _SHAPES[car.kind][0] * car.size, _SHAPES[car.kind][1] * car.size
        self._long, self._half = long, wide / 2
        self.canvas, self.car = canvas, car
        self.depth_m = canvas.camera.depth_m(car.x_m, car.z_m)
        hx, hz = car.heading
        light = canvas.light
        toward_x, toward_z = canvas.camera.x_m - car.x_m, -car.z_m
        along = toward_x * hx + toward_z * hz
        across = toward_x * hz - toward_z * hx
        self._sees_front = along > long / 2
        self._sees_rear = along < -long / 2
        self._side = 1 if across > wide / 2 else -1 if across < -wide / 2 else 0
        self._end_tone = light.facing(hx, hz) if self._sees_front else light.facing(-hx, -hz)
        self._side_tone = 0.92 * light.facing(hz * self._side, -hx * self._side)

    def at(self, s: float, t: float, y: float) -> Point:
        hx, hz = self.car.heading
        a, c = (s - 0.5) * self._long, t * self._half
        return self.car.x_m + hx * a + hz * c, y * self.car.size, self.car.z_m + hz * a - hx * c

    def _face(self, points: list[tuple[float, float, float]], color: Color) -> None:
        corners = [self.at(*p) for p in points]
        self.canvas.face(corners, color, classes.CAR, self.depth_m)

    def lower(self, bottom: float, belt: float) -> None:
        """The body up to the belt line, with its lid."""
        paint, side = self.car.paint, self._side
        # Under a car one sees the ground, and the tyres of the end that is near.
        if self._sees_front or self._sees_rear:
            s = 0.84 if self._sees_front else 0.15
            for t in (-0.82, 0.82):
                a, b = t - 0.13, t + 0.13
                self._face([(s, a, 0), (s, b, 0), (s, b, 0.4), (s, a, 0.4)], _TYRE)
        if side:
            self._face(
                [(0, side, bottom), (1, side, bottom), (1, side, belt * 0.86), (0.76, side, belt),
                 (0.0, side, belt)],
                scaled(paint, self._side_tone),
            )  # fmt: skip
            # The sky is mirrored in a line under the windows.
            gleam = [(0.02, side, belt * 0.8), (0.98, side, belt * 0.76)]
            gleam += [(0.98, side, belt * 0.84), (0.02, side, belt * 0.9)]
            self._face(gleam, mixed(paint, (235, 238, 242), 0.45))
        for sees, s, y in ((self._sees_front, 1, belt * 0.86), (self._sees_rear, 0, belt)):
            if sees:
                face = [(s, -1, bottom), (s, 1, bottom), (s, 1, y), (s, -1, y)]
                self._face(face, scaled(paint, self._end_tone))
        lid = [(0, -1, belt), (0.76, -1, belt), (1, -1, belt * 0.86), (1, 1, belt * 0.86)]
        self._face([*lid, (0.76, 1, belt), (0, 1, belt)], scaled(paint, 1.08))

    def cabin(
        self, belt: float, top: float, low: tuple[float, float], high: tuple[float, float]
    ) -> None:
        """Pillars and roof in the car's paint with panes of glass let into them."""
        paint, side, narrow = self.car.paint, self._side, 0.8
        boxy = self.car.kind == "lorry"
        glass = mixed((38, 44, 50), self.canvas.light.haze, 0.15)
        roof = [(high[0], -narrow, top), (high[1], -narrow, top)]
        roof += [(high[1], narrow, top), (high[0], narrow, top)]
        if self._sees_rear or self._sees_front:
            s0, s1 = (low[1], high[1]) if self._sees_front else (low[0], high[0])
            quad = [(s0, -0.95, belt), (s0, 0.95, belt), (s1, narrow, top), (s1, -narrow, top)]
            self._face(quad, scaled(paint, self._end_tone))
            if not (boxy and self._sees_rear):
                self._face(_inset(quad, 0.12), glass)
        if side:
            quad = [(low[0], side * 0.95, belt), (low[1], side * 0.95, belt)]
            quad += [(high[1], side * narrow, top), (high[0], side * narrow, top)]
            self._face(quad, scaled(paint, self._side_tone))
            if boxy:
                pane = [(0.84, side, belt), (0.96, side, belt)]
                self._face([*pane, (0.95, side * 0.9, 2.2), (0.85, side * 0.9, 2.2)], glass)
            else:
                first = 0.62 if self.car.kind == "van" else 0.06
                for u0, u1 in ((first, 0.48), (0.53, 0.94)):
                    if u0 < u1:
                        self._face(_part(quad, u0, u1, 0.12, 0.86), glass)
        self._face(roof, scaled(paint, 1.06))

    def fittings(self, bottom: float, belt: float) -> None:
        """Wheels, lamps, number plates."""
        side, night = self._side, self.canvas.light.night
        if side:
            long_m = self._long / self.car.size
            for s in (0.19, 0.8):
                for radius, color in ((_WHEEL_M, _TYRE), (0.55 * _WHEEL_M, _HUB)):
                    r = radius * (1.35 if self.car.kind == "lorry" else 1)
                    rim = [
                        (s + c * r / long_m, side * 1.01, max(0.0, r * v + _WHEEL_M))
                        for c, v in CIRCLE
                    ]
                    self._face(rim, color)
        if not (self._sees_front or self._sees_rear):
            return
        s = 1.0 if self._sees_front else 0.0
        lamp = (250, 240, 205) if self._sees_front else (190, 30, 28)
        if night and not self._sees_front:
            lamp = (255, 60, 40)
        y0, y1 = belt * 0.6, belt * 0.82
        for t in (-0.78, 0.78):
            quad = [(s, t - 0.18, y0), (s, t + 0.18, y0), (s, t + 0.18, y1), (s, t - 0.18, y1)]
            polygon = self.canvas.camera.project([self.at(*p) for p in quad])
            if polygon is not None:
                self.canvas.fill(polygon, self.canvas.ink(lamp, classes.CAR, self.depth_m, night))
        plate = [(s, -0.3, 0.45), (s, 0.3, 0.45), (s, 0.3, 0.57), (s, -0.3, 0.57)]
        self._face(plate, (220, 216, 190))
        self._face([(s, -1, bottom), (s, 1, bottom), (s, 1, 0.4), (s, -1, 0.4)], (44, 44, 46))


def _inset(quad: list[Point], rim: float) -> list[Point]:
    return _part(quad, rim, 1 - rim, rim, 1 - rim)


def _part(quad: list[Point], u0: float, u1: float, v0: float, v1: float) -> list[Point]:
    """A part of a quad (lower left, lower right, upper right, upper left), by fractions."""
    a, b, c, d = quad

    def at(u: float, v: float) -> Point:
        return tuple(
            (1 - v) * ((1 - u) * a[i] + u * b[i]) + v * ((1 - u) * d[i] + u * c[i])
            for i in range(3)
        )

    return [at(u0, v0), at(u1, v0), at(u1, v1), at(u0, v1)]
