"""Draws a scene from back to front."""

import numpy as np

from jaxseg.data.toy_street.backdrop import draw_ground, draw_sky, draw_skyline, finish_ground
from jaxseg.data.toy_street.camera import Point
from jaxseg.data.toy_street.canvas import CIRCLE, Canvas
from jaxseg.data.toy_street.cars import draw_car
from jaxseg.data.toy_street.dice import Dice
from jaxseg.data.toy_street.furniture import draw_clutter, draw_fence, draw_post
from jaxseg.data.toy_street.houses import draw_building
from jaxseg.data.toy_street.palette import scaled
from jaxseg.data.toy_street.people import draw_bicyclist, draw_pedestrian
from jaxseg.data.toy_street.plants import draw_tree
from jaxseg.data.toy_street.scene import (
    Bicyclist,
    Building,
    Car,
    Clutter,
    Fence,
    Pedestrian,
    Post,
    Scene,
    Thing,
    Tree,
)
from jaxseg.types import IGNORE_LABEL

_SHADOW_FAR_M = 45.0


def paint(scene: Scene, dice: Dice, height_px: int, width_px: int) -> np.ndarray:
    """The scene as uint8 [height_px, width_px, 4]: red, green, blue, label."""
    canvas = Canvas(height_px, width_px, scene.camera, scene.light)
    draw_sky(canvas, scene, dice)
    draw_skyline(canvas, scene, dice)
    draw_ground(canvas, scene, dice)
    finish_ground(canvas, scene, _shadows(scene, dice))
    for thing in sorted(scene.things, key=lambda t: -_depth_m(scene, t)):
        _draw(canvas, thing, dice)
    _bonnet(canvas, scene)
    return canvas.pixels


def _depth_m(scene: Scene, thing: Thing) -> float:
    """Orders the things: a long wall counts from its far end, so all before it is drawn later."""
    depth = scene.camera.depth_m
    if isinstance(thing, Building):
        return max(depth(*thing.a), depth(*thing.b))
    if isinstance(thing, Fence):
        return (depth(*thing.a) + depth(*thing.b)) / 2
    return depth(thing.x_m, thing.z_m)


def _draw(canvas: Canvas, thing: Thing, dice: Dice) -> None:
    match thing:
        case Building():
            draw_building(canvas, thing, dice)
        case Tree():
            draw_tree(canvas, thing, dice)
        case Car():
            draw_car(canvas, thing)
        case Pedestrian():
            draw_pedestrian(canvas, thing)
        case Bicyclist():
            draw_bicyclist(canvas, thing)
        case Post():
            draw_post(canvas, thing, dice)
        case Fence():
            draw_fence(canvas, thing)
        case Clutter():
            draw_clutter(canvas, thing)


def _shadows(scene: Scene, dice: Dice) -> list[list[Point]]:
    """Outlines on the ground of what lies in shadow."""
    sx, sz = scene.light.sun
    found: list[list[Point]] = []
    for thing in scene.things:
        if _depth_m(scene, thing) > _SHADOW_FAR_M:
            continue
        if isinstance(thing, Car):
            # Even an overcast sky leaves it dark under a car.
            found.append(_under(thing, 0.0, 0.0, 1.08))
        if not scene.light.sunny:
            continue
        match thing:
            case Building():
                ox, oz = (thing.outward[0] * 3, thing.outward[1] * 3)
                ends = (thing.a, thing.b, (thing.b[0] + ox, thing.b[1] + oz))
                for p, q in zip(ends, ends[1:], strict=False):
                    found.append(_fall(p, q, thing.high_m, sx, sz))
            case Fence():
                found.append(_fall(thing.a, thing.b, thing.high_m, sx, sz))
            case Car():
                found.append(_under(thing, 0.9 * sx, 0.9 * sz, 1.0))
            case Tree():
                found += _tree_shadow(thing, sx, sz, dice)
            case Pedestrian() | Bicyclist() | Post() | Clutter():
                high = thing.high_m if not isinstance(thing, Bicyclist) else 1.7
                half = thing.thick_m / 2 if isinstance(thing, Post) else 0.2
                a, b = (thing.x_m - half, thing.z_m), (thing.x_m + half, thing.z_m)
                found.append(_fall(a, b, high, sx, sz))
    return found


def _fall(
    p: tuple[float, float], q: tuple[float, float], high: float, sx: float, sz: float
) -> list[Point]:
    """The shadow of an upright wall from p to q."""
    return [
        (p[0], 0.0, p[1]),
        (q[0], 0.0, q[1]),
        (q[0] + sx * high, 0.0, q[1] + sz * high),
        (p[0] + sx * high, 0.0, p[1] + sz * high),
    ]


def _under(car: Car, dx: float, dz: float, grow: float) -> list[Point]:
    """The ground under a car, moved."""
    hx, hz = car.heading
    long = grow * car.size * {"car": 2.15, "van": 2.5, "lorry": 3.75}[car.kind]
    half = grow * car.size * 0.95
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return [
        (car.x_m + dx + hx * long * s + hz * half * t, 0.0,
         car.z_m + dz + hz * long * s - hx * half * t)
        for s, t in corners
    ]  # fmt: skip


def _tree_shadow(tree: Tree, sx: float, sz: float, dice: Dice) -> list[list[Point]]:
    trunk = _fall((tree.x_m - 0.15, tree.z_m), (tree.x_m + 0.15, tree.z_m), tree.high_m / 2, sx, sz)
    if tree.kind == "bare":
        return [trunk]
    blots, r = [trunk], tree.crown_m
    height = tree.high_m * (0.45 if tree.kind == "bush" else 0.68)
    for _ in range(7):
        x = tree.x_m + sx * height + dice.between(-0.6, 0.6) * r
        z = tree.z_m + sz * height + dice.between(-0.6, 0.6) * r
        size = dice.between(0.25, 0.55) * r
        blots.append([(x + size * c, 0.0, z + size * s) for c, s in CIRCLE])
    return blots


def _bonnet(canvas: Canvas, scene: Scene) -> None:
    """The car that carries the camera, at the bottom: void."""
    share, color = scene.weather.bonnet, scene.weather.bonnet_color
    if not share:
        return
    height, width = canvas.pixels.shape[:2]
    for lift, tone in ((1.0, 0.85), (0.82, 1.0)):
        top = height - share * height * lift
        arch = [
            (width * k / 8, top + share * height * 0.35 * (k - 4) * (k - 4) / 16) for k in range(9)
        ]
        outline = np.array([(0, height), *arch, (width, height)], np.float64)
        ink = canvas.ink(scaled(color, tone), IGNORE_LABEL, 0)
        canvas.fill(np.floor(outline).astype(np.int32), ink)
