"""Perspective: metres on the ground to pixels on the canvas.

World: x to the right, y up, z along the street, in metres; the camera stands at (x_m, height_m, 0).
"""

from dataclasses import dataclass

import numpy as np

Point = tuple[float, float, float]

NEAR_M = 0.8
"""What is nearer is cut off."""


@dataclass(frozen=True)
class Camera:
    """A level camera (no roll): lines that are vertical stay vertical.

    Attributes:
        focal_px, centre_px, horizon_px: on the canvas, that is supersampled.
        height_m: above the ground.
        x_m: where it stands across the street.
        cos, sin: of its yaw; sin > 0 looks to the right.
    """

    focal_px: float
    centre_px: float
    horizon_px: float
    height_m: float
    x_m: float
    cos: float
    sin: float

    def depth_m(self, x: float, z: float) -> float:
        """Distance along the optical axis."""
        return (x - self.x_m) * self.sin + z * self.cos

    def spot(self, x: float, z: float) -> tuple[float, float, float]:
        """Column and row in pixels of a point on the ground, and pixels per metre there."""
        scale = self.focal_px / self.depth_m(x, z)
        column = self.centre_px + ((x - self.x_m) * self.cos - z * self.sin) * scale
        return column, self.horizon_px + self.height_m * scale, scale

    def project(self, points: list[Point]) -> np.ndarray | None:
        """A polygon, cut at the near plane: int32 [N, 2]; None if nothing is left."""
        cos, sin, x0, h = self.cos, self.sin, self.x_m, self.height_m
        view = [((x - x0) * cos - z * sin, h - y, (x - x0) * sin + z * cos) for x, y, z in points]
        if any(p[2] < NEAR_M for p in view):
            view = _cut(view)
            if len(view) < 3:
                return None
        f, cx, cy = self.focal_px, self.centre_px + 0.5, self.horizon_px + 0.5
        flat = [((cx + f * x / d) // 1, (cy + f * y / d) // 1) for x, y, d in view]
        return np.array(flat, np.int32)

    def project_all(self, points: np.ndarray) -> np.ndarray:
        """float64 [N, M, 3] to int32 [n, M, 2]: the polygons wholly before the near plane."""
        x, z = points[..., 0] - self.x_m, points[..., 2]
        depth = x * self.sin + z * self.cos
        keep = (depth > NEAR_M).all(axis=1)
        x, z, depth = x[keep], z[keep], depth[keep]
        column = self.centre_px + 0.5 + self.focal_px * (x * self.cos - z * self.sin) / depth
        row = self.horizon_px + 0.5 + self.focal_px * (self.height_m - points[keep][..., 1]) / depth
        return np.floor(np.stack([column, row], axis=-1)).astype(np.int32)


def _cut(view: list[Point]) -> list[Point]:
    """Keeps the part of a polygon before the near plane (Sutherland and Hodgman 1974)."""
    kept: list[Point] = []
    for i, b in enumerate(view):
        a = view[i - 1]
        if (a[2] < NEAR_M) != (b[2] < NEAR_M):
            t = (NEAR_M - a[2]) / (b[2] - a[2])
            kept.append((a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, NEAR_M))
        if b[2] >= NEAR_M:
            kept.append(b)
    return kept
