"""Draws what lies behind all things: sky, skyline, ground, and the shadows on the ground."""

import cv2
import numpy as np

from jaxseg.data.toy_street import classes
from jaxseg.data.toy_street.camera import Point
from jaxseg.data.toy_street.canvas import SCALE, Canvas
from jaxseg.data.toy_street.dice import Dice
from jaxseg.data.toy_street.palette import MARKING, mixed, scaled
from jaxseg.data.toy_street.scene import Road, Scene

_ALONG_M = (-6, -3, 0, 2, 4, 6, 8, 11, 14, 18, 23, 30, 40, 55, 75, 100, 140)
"""Where the outline of a curved strip has its corners."""
_WIDE_M = 90.0
_SLAB_M = 0.8


def draw_sky(canvas: Canvas, scene: Scene, dice: Dice) -> None:
    """A gradient with clouds, down to a little below the horizon."""
    full, width = canvas.pixels.shape[:2]
    height = min(full, (int(scene.camera.horizon_px) // SCALE + 8) * SCALE)
    weather, tint = scene.weather, canvas.light.tint
    rows = np.arange(0, height, SCALE) / max(1.0, scene.camera.horizon_px)
    rows = np.minimum(rows, 1.0)[:, None, None]
    # The sky of a dim hour is dim by its own colours already.
    lift = tint if not canvas.light.night else (0.9, 0.9, 0.9)
    zenith, horizon, cloud = (
        np.array([c * t for c, t in zip(color, lift, strict=True)])
        for color in (weather.zenith, weather.horizon, weather.cloud_color)
    )
    base = zenith + (horizon - zenith) * rows
    if weather.clouds > 0.05:
        h, w = height // SCALE, width // SCALE
        field = _smooth_noise(dice, h, w, 48) * 2 + _smooth_noise(dice, h, w, 16)
        cover = np.clip((field / 765.0 - 0.75 + 0.62 * weather.clouds) * 4, 0, 1)[..., None]
        dim = 0.55 if canvas.light.night else 1.0
        base = base + (cloud * dim - base) * cover
    sky = np.clip(base, 0, 255).astype(np.uint8)
    sky = np.broadcast_to(sky, (height // SCALE, width // SCALE, 3))
    canvas.pixels[:height, :, :3] = sky.repeat(SCALE, 0).repeat(SCALE, 1)
    canvas.pixels[..., 3] = classes.SKY


def _smooth_noise(dice: Dice, height: int, width: int, cell: int) -> np.ndarray:
    """Value noise 0..255 as int64 [height, width]: random corners, integer interpolation."""
    corners = dice.bytes(height // cell + 2, width // cell + 2).astype(np.int64)
    y, x = np.arange(height), np.arange(width)
    fx, gx = x % cell, x // cell
    lines = corners[:, gx] * (cell - fx) + corners[:, gx + 1] * fx
    fy, gy = (y % cell)[:, None], y // cell
    return (lines[gy] * (cell - fy) + lines[gy + 1] * fy) // (cell * cell)


def draw_skyline(canvas: Canvas, scene: Scene, dice: Dice) -> None:
    """Far houses or woods on the horizon."""
    height, width = canvas.pixels.shape[:2]
    horizon = int(scene.camera.horizon_px) + 6
    if scene.skyline == "none":
        return
    x = -dice.integer(0, 30)
    while x < width:
        wide = dice.integer(12, 60)
        color = scaled(scene.skyline_color, dice.between(0.8, 1.15))
        depth = dice.between(90, 200)
        if scene.skyline == "town":
            top = horizon - dice.integer(8, 56)
            shape = [(x, horizon), (x, top), (x + wide, top), (x + wide, horizon)]
            label = classes.BUILDING
        else:
            top, label = horizon - dice.integer(8, 34), classes.TREE
            low = (top + horizon) // 2
            shape = [(x - 9, horizon), (x, low), (x + wide // 3, top), (x + 2 * wide // 3, top + 3)]
            shape += [(x + wide, low), (x + wide + 9, horizon)]
        canvas.fill(np.array(shape, np.int32), canvas.ink(color, label, depth))
        x += wide - (0 if scene.skyline == "town" else wide // 3)


def _strip(road: Road, left_m: float, right_m: float, end_m: float) -> list[Point]:
    """The outline of a strip along the street between two lateral offsets."""
    zs = [z for z in _ALONG_M if z < end_m] + [end_m]
    outline = [(*road.at(z, left_m), z) for z in zs]
    outline += [(*road.at(z, right_m), z) for z in reversed(zs)]
    return [(x, 0.0, z) for x, z, _ in outline]


def _flat(x0: float, x1: float, z0: float, z1: float) -> list[Point]:
    return [(x0, 0.0, z0), (x1, 0.0, z0), (x1, 0.0, z1), (x0, 0.0, z1)]


def draw_ground(canvas: Canvas, scene: Scene, dice: Dice) -> None:
    """Verges, pavements, side roads, the road and what is painted on it."""
    road = scene.road
    end = 140.0 if road.end_m is None else road.end_m + 0.5
    for side, verge in zip((-1, 1), scene.verges, strict=True):
        label = {"paved": classes.PAVEMENT, "grass": classes.TREE, "asphalt": classes.ROAD}
        edges = sorted((0.0, side * _WIDE_M))
        canvas.face(_strip(road, *edges, 140.0), verge.color, label[verge.kind], 0)
        if verge.kind == "grass":
            _tufts(canvas, road, side, verge.color, dice)
    for side in (-1, 1):
        edges = sorted((0.0, road.edge_m(side)))
        canvas.face(_strip(road, *edges, end), road.paved_color, classes.PAVEMENT, 0)
        if road.slabs:
            beyond_m = 8.0 if scene.verges[side > 0].kind == "paved" else 0.0
            _joints(canvas, road, side, end, beyond_m)
        kerb = sorted((side * road.half_m, side * (road.half_m + 0.28)))
        tone = scaled(road.paved_color, 1.22 if dice.chance(0.75) else 0.75)
        canvas.face(_strip(road, *kerb, end), tone, classes.PAVEMENT, 0)
    for c in scene.crossings:
        for side in c.sides:
            middle = road.at((c.near_m + c.far_m) / 2, 0)[0]
            x0, x1 = sorted((middle, middle + side * _WIDE_M))
            paving = _flat(x0, x1, c.near_m - 2.2, c.far_m + 2.2)
            canvas.face(paving, road.paved_color, classes.PAVEMENT, 0)
            canvas.face(_flat(x0, x1, c.near_m, c.far_m), road.color, classes.ROAD, 0)
    canvas.face(_strip(road, -road.half_m, road.half_m, end), road.color, classes.ROAD, 0)
    _wear(canvas, road, end, dice)
    _markings(canvas, scene, end, dice)


def _tufts(canvas: Canvas, road: Road, side: int, color: tuple, dice: Dice) -> None:
    """Darker and lighter spots in the grass."""
    for factor in (0.86, 1.12):
        spots = []
        for _ in range(40):
            z, out = 3 + 30 * dice.unit() * dice.unit(), dice.between(0, 14)
            x, _z = road.at(z, road.edge_m(side) + side * out)
            w, d = dice.between(0.1, 0.5), dice.between(0.1, 0.5)
            spots.append(_flat(x - w, x + w, z - d, z + d))
        canvas.faces(np.array(spots), scaled(color, factor), classes.TREE, 0)


def _joints(canvas: Canvas, road: Road, side: int, end: float, beyond_m: float) -> None:
    """Lines between the slabs of a pavement, and of what is paved beyond it."""
    tone, joints = scaled(road.paved_color, 0.72), []
    far, wide = min(end, 28.0), _SLAB_M
    inner, outer = side * (road.half_m + 0.28), road.edge_m(side) + side * beyond_m
    z = 0.0
    while z < far:
        x, _ = road.at(z, 0)
        joints.append(_flat(x + inner, x + outer, z, z + 0.06 + 0.006 * z))
        z += wide
    canvas.faces(np.array(joints), tone, classes.PAVEMENT, 0)
    for k in range(1, int(abs(outer - inner) / wide) + 1):
        m = inner + side * wide * k
        canvas.face(_strip(road, m - 0.03, m + 0.03, far), tone, classes.PAVEMENT, 0)


def _wear(canvas: Canvas, road: Road, end: float, dice: Dice) -> None:
    """Tyre tracks, patches, manholes, cobbles: all of them road."""
    if road.cobbled:
        rows = []
        for k in range(34):
            z = 2 + 0.5 * k
            for j in range(int(2 * road.half_m / 0.7)):
                x, _ = road.at(z, -road.half_m + 0.7 * j + 0.35 * (k % 2))
                rows.append(_flat(x, x + 0.6, z, z + 0.4))
        canvas.faces(np.array(rows), scaled(road.color, 1.1), classes.ROAD, 0)
        return
    if road.lanes and dice.chance(0.6):
        for track in (-0.68, -0.32, 0.32, 0.68):
            m = track * road.half_m
            strip = _strip(road, m - 0.22, m + 0.22, end)
            canvas.face(strip, scaled(road.color, 0.93), classes.ROAD, 0)
    for _ in range(dice.integer(0, 6)):
        z, w = 3 + 22 * dice.unit() * dice.unit(), dice.between(0.3, 1.2)
        x, _z = road.at(z, dice.between(-0.7, 0.7) * road.half_m)
        patch = _flat(x - w, x + w, z, z + dice.between(0.6, 3))
        canvas.face(patch, scaled(road.color, dice.between(0.78, 1.15)), classes.ROAD, 0)


def _markings(canvas: Canvas, scene: Scene, end: float, dice: Dice) -> None:
    """Lines between lanes, edge lines, crosswalks."""
    road = scene.road
    zebras = [c.zebra_m for c in scene.crossings if c.zebra_m is not None]
    paint = mixed(MARKING, road.color, dice.between(0.05, 0.5))
    if road.lanes:
        width = 2 * road.half_m / road.lanes
        solid = dice.chance(0.3)
        dashes = []
        for lane in range(1, road.lanes):
            m = -road.half_m + lane * width
            if solid and 2 * lane == road.lanes:
                canvas.face(_strip(road, m - 0.07, m + 0.07, end), paint, classes.ROAD, 0)
                continue
            z = dice.between(0, 4)
            while z + 2.5 < end:
                a, b = road.at(z, m)[0], road.at(z + 2.5, m)[0]
                dash = [(a - 0.08, 0, z), (a + 0.08, 0, z), (b + 0.08, 0, z + 2.5)]
                dashes.append([*dash, (b - 0.08, 0, z + 2.5)])
                z += 6
        if dashes:
            canvas.faces(np.array(dashes, np.float64), paint, classes.ROAD, 0)
        if dice.chance(0.4):
            for side in (-1, 1):
                m = side * (road.half_m - 0.3)
                canvas.face(_strip(road, m - 0.06, m + 0.06, end), paint, classes.ROAD, 0)
    for z in zebras:
        bars = []
        for k in range(int(2 * road.half_m / 1.1)):
            x = road.at(z, -road.half_m + 0.4 + 1.1 * k)[0]
            bars.append(_flat(x, x + 0.55, z - 1.4, z + 1.4))
        canvas.faces(np.array(bars), paint, classes.ROAD, 0)


def finish_ground(canvas: Canvas, scene: Scene, shadows: list[list[Point]]) -> None:
    """Darkens what lies in shadow and hazes what is far; labels stay as they are."""
    top = max(0, int(scene.camera.horizon_px) + 1)
    height, width = canvas.pixels.shape[:2]
    mask = np.full((height, width), 256, np.uint16)
    for outline in shadows:
        polygon = canvas.camera.project(outline)
        if polygon is not None:
            cv2.fillPoly(mask, [polygon], int(256 * canvas.light.shadow))
    rows = np.arange(top, height) - scene.camera.horizon_px
    depth = scene.camera.focal_px * scene.camera.height_m / rows
    visibility = canvas.light.visibility_m
    near = (256 * visibility / (visibility + depth)).astype(np.uint16)[:, None]
    factor = (mask[top:] * near) >> 8
    haze = np.array(canvas.light.haze)
    added = ((256 - near) * haze).astype(np.uint16)[:, None]
    ground = canvas.pixels[top:, :, :3] * factor[..., None]
    ground += added
    ground >>= 8
    canvas.pixels[top:, :, :3] = ground
