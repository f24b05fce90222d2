"""Draws trees and bushes from clumps of leaves."""

import numpy as np

from jaxseg.data.toy_street import classes
from jaxseg.data.toy_street.canvas import CIRCLE, Board, Canvas
from jaxseg.data.toy_street.dice import Dice
from jaxseg.data.toy_street.palette import scaled
from jaxseg.data.toy_street.scene import Tree

_BLOB = CIRCLE[::2]
_TONES = (0.62, 0.78, 0.94, 1.1, 1.26)
"""Brightness of leaves."""
_SMALL_PX = 22.0
"""A crown of a smaller radius gets few clumps."""


def draw_tree(canvas: Canvas, tree: Tree, dice: Dice) -> None:
    """Trunk, branches, crown; light falls on one side of it."""
    board = canvas.board(tree.x_m, tree.z_m, classes.TREE)
    if board is None:
        return
    h, r = tree.high_m, tree.crown_m
    if tree.kind == "bush":
        _clumps(board, tree, 0.0, h * 0.45, r, h * 0.6, canvas, dice)
        return
    trunk = 0.045 * h
    bottom = h * 0.1 if tree.kind == "cone" else max(1.6, h - 2.3 * r)
    board.shape(
        [(-trunk * 0.7, 0), (trunk * 0.7, 0), (trunk * 0.4, h * 0.7), (-trunk * 0.4, h * 0.7)],
        tree.bark,
    )
    board.shape([(-trunk * 0.7, 0), (-trunk * 0.2, 0), (0, h * 0.6)], scaled(tree.bark, 0.75))
    if tree.kind == "cone":
        _cone(board, tree, bottom, dice)
        return
    for _ in range(10 if tree.kind == "bare" else 4):
        v = dice.between(0.35, 0.7) * h
        tip = (dice.between(-0.9, 0.9) * r, min(h, v + dice.between(0.15, 0.35) * h))
        board.bar((0, v), tip, 0.016 * h, tree.bark)
        if tree.kind == "bare":
            for _ in range(3):
                twig = (tip[0] + dice.between(-0.4, 0.4) * r, tip[1] + dice.between(0, 0.12) * h)
                board.bar((tip[0] * 0.6, (v + tip[1]) / 2), twig, 0.008 * h, tree.bark)
    if tree.kind == "round":
        middle = (bottom + h) / 2
        _clumps(board, tree, 0.0, middle, r, (h - bottom) / 2, canvas, dice)


def _blob(board: Board, u: float, v: float, r: float, color: tuple, dice: Dice) -> None:
    outline = []
    for c, s in _BLOB:
        bump = r * dice.between(0.75, 1.2)
        outline.append((u + c * bump, max(0.0, v + s * bump)))
    board.shape(outline, color)


def _clumps(
    board: Board,
    tree: Tree,
    u: float,
    v: float,
    ru: float,
    rv: float,
    canvas: Canvas,
    dice: Dice,
) -> None:
    """A dark heart, clumps about it, then lighter and lighter leaves towards the light."""
    sun = -1 if canvas.light.sun[0] > 0 else 1
    detail = min(1.0, ru * board.scale / (4 * _SMALL_PX))
    for _ in range(5):
        du, dv = dice.between(-0.5, 0.5), dice.between(-0.5, 0.5)
        _blob(board, u + du * ru, v + dv * rv, 0.55 * min(ru, rv), scaled(tree.leaf, 0.68), dice)
    for _ in range(5 + int(11 * detail)):
        du, dv = _in_circle(dice)
        light = 0.78 + 0.16 * dv + 0.1 * sun * du
        radius = dice.between(0.2, 0.34) * min(ru, rv)
        _blob(board, u + du * 0.85 * ru, v + dv * 0.85 * rv, radius, scaled(tree.leaf, light), dice)
    count = 10 + int(240 * detail)
    draws = dice.bytes(4, count) / 255.0
    du, dv = 2 * draws[0] - 1, 2 * draws[1] - 1
    inside = du * du + dv * dv < 0.88
    light = 0.84 + 0.22 * dv + 0.12 * sun * du + 0.44 * (draws[2] - 0.5)
    middles = np.stack([u + du * ru, np.maximum(v + dv * rv, 0.03)], axis=-1)
    # A crown that fills the view shows smaller leaves.
    radii = (0.035 + 0.055 * draws[3]) * (1.5 - 0.5 * detail) * min(ru, rv)
    edges = (-1.0, *_TONES, 9.0)
    for low, tone, high in zip(edges[:-2], _TONES, edges[2:], strict=True):
        # Each leaf takes the nearest tone; leaves of one tone are drawn at once.
        wears = inside & (light >= (low + tone) / 2) & (light < (tone + high) / 2)
        board.diamonds(middles[wears], radii[wears], scaled(tree.leaf, tone))


def _in_circle(dice: Dice) -> tuple[float, float]:
    while True:
        a, b = dice.between(-1, 1), dice.between(-1, 1)
        if a * a + b * b < 1:
            return a, b


def _cone(board: Board, tree: Tree, bottom: float, dice: Dice) -> None:
    """A fir: tiers of branches, narrower to the top."""
    tiers = 7
    for k in range(tiers):
        v0 = bottom + (tree.high_m - bottom) * k / tiers
        v1 = min(tree.high_m, v0 + (tree.high_m - bottom) * 2.2 / tiers)
        r = tree.crown_m * (1 - 0.85 * k / tiers)
        tone = scaled(tree.leaf, dice.between(0.68, 0.9))
        fringe = [(r * (i - 4) / 4, v0 - (0.14 * r if i % 2 else 0)) for i in range(9)]
        board.shape([*[(u, max(0.0, v)) for u, v in fringe], (0.0, v1)], tone)
        lit = [(0.1 * r, v0 + 0.05 * r), (0.6 * r, v0 + 0.05 * r), (0.0, v1)]
        board.shape(lit, scaled(tone, 1.18))
