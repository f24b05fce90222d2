"""Draws posts, signs, traffic lights, fences and clutter."""

from math import sqrt

import numpy as np

from jaxseg.data.toy_street import classes
from jaxseg.data.toy_street.canvas import CIRCLE, SCALE, Board, Canvas
from jaxseg.data.toy_street.dice import Dice
from jaxseg.data.toy_street.palette import scaled
from jaxseg.data.toy_street.scene import Clutter, Fence, Post
from jaxseg.types import IGNORE_LABEL

_TRIANGLE = ((-0.5, 0.07), (0.5, 0.07), (0.0, 0.93))
_PLATES = {
    "round": tuple((0.5 * c, 0.5 + 0.5 * s) for c, s in CIRCLE),
    "octagon": tuple((0.5 * c, 0.5 + 0.5 * s) for c, s in CIRCLE[1::2]),
    "triangle": _TRIANGLE,
    "square": ((-0.45, 0.05), (0.45, 0.05), (0.45, 0.95), (-0.45, 0.95)),
    "board": ((-0.5, 0.0), (0.5, 0.0), (0.5, 0.5), (-0.5, 0.5)),
    "name": ((0.0, 0.3), (1.0, 0.3), (1.0, 0.55), (0.0, 0.55)),
}
"""Outlines of plates of size 1, from the lower edge up."""
_LAMPS = ((230, 40, 30), (240, 170, 40), (50, 220, 120))


def draw_post(canvas: Canvas, post: Post, dice: Dice) -> None:
    """The post, and what it carries."""
    board = canvas.board(post.x_m, post.z_m, classes.POLE)
    if board is None:
        return
    thick, high = max(post.thick_m, SCALE / board.scale), post.high_m
    if post.kind == "board":
        for u in (-0.35, 0.35):
            board.box(u * post.size_m, 0, thick, high, post.color)
    else:
        board.box(0, 0, thick, high, post.color)
        if thick * board.scale >= 2 * SCALE:
            board.box(-0.3 * thick, 0, 0.3 * thick, high, scaled(post.color, 1.2))
    if post.kind == "lamp":
        _lamp(board, post, canvas.light.night)
    elif post.kind == "wood":
        for v in (0.9, 0.97):
            board.bar((-1.0, v * high), (1.0, v * high), 0.13, scaled(post.color, 0.85))
    elif post.kind == "bollard":
        board.box(0, 0.72 * high, thick, 0.14 * high, post.symbol)
    elif post.kind == "signals":
        _signals(board, post, dice)
    else:
        _plate(board, post)


def _lamp(board: Board, post: Post, night: bool) -> None:
    reach = post.arm * 1.5
    board.bar((0, post.high_m), (reach, post.high_m + 0.3), 0.11, post.color)
    head = [(reach - 0.35, 0.22), (reach + 0.35, 0.22), (reach + 0.25, 0.42), (reach - 0.25, 0.42)]
    color = (255, 232, 180) if night else scaled(post.color, 0.8)
    board.shape([(u, v + post.high_m) for u, v in head], color, lit=night)


def _signals(board: Board, post: Post, dice: Dice) -> None:
    """Three lamps in a dark case on top of the post."""
    size, low = post.size_m, post.high_m - 0.5 * post.size_m
    case = (34, 36, 36) if dice.chance(0.8) else post.symbol
    board.box(0, low, 0.42 * size, 1.1 * size, case, classes.SIGN)
    shown = dice.integer(0, 2)
    for k, color in enumerate(_LAMPS):
        v = low + (0.92 - 0.36 * k) * size
        on = k == shown
        tone = color if on else scaled(color, 0.25)
        board.disc(0, v, 0.14 * size, 0.14 * size, tone, classes.SIGN, lit=on)


def _plate(board: Board, post: Post) -> None:
    """Rim, face and a symbol of one colour."""
    size, low = post.size_m, post.high_m - 0.3 * post.size_m
    outline = _PLATES[post.kind]
    middle_u = sum(u for u, _ in outline) / len(outline)
    middle_v = sum(v for _, v in outline) / len(outline)

    def ring(factor: float) -> list[tuple[float, float]]:
        return [
            (
                (middle_u + (u - middle_u) * factor) * size,
                low + (middle_v + (v - middle_v) * factor) * size,
            )
            for u, v in outline
        ]

    face = (226, 224, 218) if post.kind in ("round", "triangle") else post.plate
    board.shape(ring(1.0), post.plate if face != post.plate else post.symbol, classes.SIGN)
    board.shape(ring(0.78 if post.kind in ("round", "triangle") else 0.9), face, classes.SIGN)
    v = low + middle_v * size
    ink = (30, 30, 34) if sum(face) > 330 else (228, 226, 220)
    if post.kind == "board":
        for k in range(3):
            line_v = low + (0.1 + 0.13 * k) * size
            board.bar(
                (-0.38 * size, line_v),
                ((0.1 + 0.1 * k) * size, line_v),
                0.05 * size,
                ink,
                classes.SIGN,
            )
    elif post.kind == "octagon":
        board.box(0, v - 0.1 * size, 0.6 * size, 0.2 * size, ink, classes.SIGN)
    elif post.kind == "name":
        board.bar((0.12 * size, v), (0.85 * size, v), 0.09 * size, ink, classes.SIGN)
    else:
        board.box(0, v - 0.18 * size, 0.14 * size, 0.36 * size, ink, classes.SIGN)


def draw_fence(canvas: Canvas, fence: Fence) -> None:
    """One panel, in perspective."""
    (ax, az), (bx, bz), h = fence.a, fence.b, fence.high_m
    dx, dz = bx - ax, bz - az
    depth = canvas.camera.depth_m(ax + dx / 2, az + dz / 2)
    if depth < 1.5:
        return
    length = sqrt(dx * dx + dz * dz)
    light = canvas.light.facing(dz / length, -dx / length)
    parts: list[tuple[float, float, float, float]] = []
    # (from, to) along the panel as fractions, (from, to) above the ground in metres.
    if fence.kind == "wall":
        parts = [(0, 1, 0, h)]
    else:
        rail, post = (0.15, 0.045) if fence.kind == "rails" else (0.1, 0.04)
        levels = {"rails": (0.2, 0.5, 0.85), "slats": (0.25, 0.75), "mesh": (0.06, 0.92)}
        parts += [(0, 1, h * v, h * v + rail) for v in levels[fence.kind]]
        parts += [(u, u + 2 * post, 0, h) for u in (0.0, 1 - 2 * post)]
        count = {"rails": 0, "slats": 8, "mesh": 9}[fence.kind]
        wide = {"rails": 0.0, "slats": 0.75, "mesh": 0.45}[fence.kind]
        if fence.kind == "mesh":
            parts += [(0, 1, h * 0.3 * k, h * 0.3 * k + 0.05) for k in range(1, 3)]
        slats = [
            ((k + 0.12) / count, (k + 0.12 + wide) / count, 0.05, h * 0.97) for k in range(count)
        ]
        _quads(canvas, fence, slats, scaled(fence.color, light), depth)
    for part in parts:
        _quads(canvas, fence, [part], scaled(fence.color, 0.9 * light), depth)
    if fence.kind == "wall":
        seams = [((k + 0.46) / 8, (k + 0.54) / 8, 0, h) for k in range(8)]
        _quads(canvas, fence, seams, scaled(fence.color, 0.78 * light), depth)
        _quads(canvas, fence, [(0, 1, h - 0.08, h)], scaled(fence.color, 1.12 * light), depth)


def _quads(canvas: Canvas, fence: Fence, parts: list[tuple], color: tuple, depth: float) -> None:
    if not parts:
        return
    r = np.array(parts, np.float64)
    u, v = r[:, (0, 1, 1, 0)], r[:, (2, 2, 3, 3)]
    dx, dz = fence.b[0] - fence.a[0], fence.b[1] - fence.a[1]
    points = np.stack([fence.a[0] + dx * u, v, fence.a[1] + dz * u], axis=-1)
    canvas.faces(points, color, classes.FENCE, depth)


def draw_clutter(canvas: Canvas, thing: Clutter) -> None:
    """Void: of no class."""
    board = canvas.board(thing.x_m, thing.z_m, IGNORE_LABEL)
    if board is None:
        return
    h, w = thing.high_m, thing.wide_m
    if thing.kind == "cone":
        board.shape([(-w / 2, 0), (w / 2, 0), (0.06, h), (-0.06, h)], (225, 95, 40))
        low, high = (w / 3.4, 0.4 * h), (w / 5, 0.62 * h)
        stripe = [(-low[0], low[1]), low, high, (-high[0], high[1])]
        board.shape(stripe, (230, 228, 222))
    elif thing.kind == "bin":
        board.shape(
            [(-0.42 * w, 0), (0.42 * w, 0), (0.5 * w, 0.85 * h), (-0.5 * w, 0.85 * h)], thing.color
        )
        board.box(0, 0.85 * h, 1.08 * w, 0.15 * h, scaled(thing.color, 0.75))
    else:
        board.box(0, 0, w, h, thing.color)
        board.box(0, 0.3 * h, 0.8 * w, 0.12 * h, scaled(thing.color, 0.8))
        board.box(0, 0.65 * h, 0.8 * w, 0.12 * h, scaled(thing.color, 0.8))
