"""Draws pedestrians and bicyclists from limbs."""

from jaxseg.data.toy_street import classes
from jaxseg.data.toy_street.canvas import CIRCLE, Canvas
from jaxseg.data.toy_street.palette import scaled
from jaxseg.data.toy_street.scene import Bicyclist, Pedestrian

_SOLID_PX = 9.0
"""Wheels of a smaller radius are drawn solid: their spokes fill them."""


def draw_pedestrian(canvas: Canvas, person: Pedestrian) -> None:
    """Legs, torso, arms, head; measures are fractions of the height."""
    board = canvas.board(person.x_m, person.z_m, classes.PEDESTRIAN)
    if board is None:
        return
    h, way = person.high_m, person.walking
    stride = 0.13 * h if way else 0.05 * h
    shoe, dark = (30, 28, 28), scaled(person.top, 0.82)
    for step in (-1, 1):
        foot = (step * stride, 0.02 * h)
        legs = person.skin if person.skirt else person.legs
        board.bar((step * 0.035 * h, 0.5 * h), foot, 0.085 * h, legs)
        board.bar(foot, (foot[0] + way * 0.05 * h, 0.0), 0.05 * h, shoe)
    if person.skirt:
        hem = [(-0.12 * h, 0.26 * h), (0.12 * h, 0.26 * h), (0.07 * h, 0.54 * h)]
        board.shape([*hem, (-0.07 * h, 0.54 * h)], person.legs)
    swing = 0.12 * h if way else 0.03 * h
    for step in (-1, 1):
        shoulder = (step * 0.1 * h if not way else 0.0, 0.8 * h)
        hand = (step * (0.14 * h if not way else swing), 0.48 * h)
        if step > 0 or not way:
            board.bar(shoulder, hand, 0.06 * h, dark)
            board.disc(*hand, 0.025 * h, 0.025 * h, person.skin)
    wide = 0.125 * h if not way else 0.09 * h
    board.shape(
        [(-0.75 * wide, 0.46 * h), (0.75 * wide, 0.46 * h), (wide, 0.78 * h),
         (0.6 * wide, 0.83 * h), (-0.6 * wide, 0.83 * h), (-wide, 0.78 * h)],
        person.top,
    )  # fmt: skip
    if way:
        board.bar((0, 0.78 * h), (-0.6 * swing, 0.5 * h), 0.06 * h, dark)
    if person.bag:
        board.box((-way or 1) * 0.14 * h, 0.4 * h, 0.1 * h, 0.16 * h, scaled(person.legs, 0.7))
    board.bar((0, 0.82 * h), (0, 0.88 * h), 0.05 * h, scaled(person.skin, 0.85))
    board.disc(0, 0.92 * h, 0.058 * h, 0.075 * h, person.hair)
    board.disc(way * 0.018 * h, 0.905 * h, 0.042 * h, 0.055 * h, person.skin)


def draw_bicyclist(canvas: Canvas, rider: Bicyclist) -> None:
    """Two wheels, a frame and somebody who leans forward."""
    board = canvas.board(rider.x_m, rider.z_m, classes.BICYCLIST, rider.squeeze)
    if board is None:
        return
    r, base = 0.34, 0.53
    for u in (-base, base):
        if r * board.scale < _SOLID_PX:
            board.disc(u, r, r, r, (52, 52, 54))
            continue
        rim = [(u + c * r, r + s * r) for c, s in CIRCLE]
        for a, b in zip(rim, rim[1:] + rim[:1], strict=True):
            board.bar(a, b, 0.075, (30, 30, 32))
        for a, b in zip(rim[:8:2], rim[8::2], strict=True):
            board.bar(a, b, 0.012, (110, 110, 112))
    crank, saddle, head = (-0.05, 0.32), (-0.2, 0.92), (0.38, 0.88)
    for a, b in (
        ((-base, r), crank),
        (crank, head),
        (saddle, crank),
        ((-0.16, 0.8), head),
        ((-base, r), (-0.16, 0.8)),
        (head, (base, r)),
        (head, (0.44, 1.02)),
    ):
        board.bar(a, b, 0.06, rider.frame)
    hip, shoulder, hand = (-0.2, 1.0), (0.16, 1.46), (0.46, 1.04)
    for knee, foot in (((0.22, 0.8), (0.08, 0.4)), ((0.12, 0.66), (-0.12, 0.2))):
        board.bar(hip, knee, 0.17, rider.legs)
        board.bar(knee, foot, 0.13, rider.legs)
        board.bar(foot, (foot[0] + 0.16, foot[1] - 0.02), 0.08, (28, 26, 26))
    # A back is as broad from behind as it is deep from the side.
    broad = 0.26 if abs(rider.squeeze) > 0.5 else 0.42 / max(abs(rider.squeeze), 0.2) * 0.5
    board.shape(
        [(hip[0] - broad / 2, hip[1] - 0.05), (hip[0] + broad / 2, hip[1] - 0.05),
         (shoulder[0] + broad / 2, shoulder[1]), (shoulder[0] - broad / 2, shoulder[1] + 0.03)],
        rider.top,
    )  # fmt: skip
    board.bar(shoulder, hand, 0.1, scaled(rider.top, 0.85))
    round_u = 0.115 / max(abs(rider.squeeze), 0.3)
    board.disc(0.25, 1.62, round_u, 0.13, rider.skin)
    board.shape(
        [(0.25 + c * 1.1 * round_u, 1.64 + max(s, 0) * 0.13) for c, s in CIRCLE], rider.helmet
    )
