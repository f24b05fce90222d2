"""Samples a scene: which street, which hour, and where its buildings stand."""

from dataclasses import replace
from math import sqrt

from jaxseg.data.toy_street.camera import Camera
from jaxseg.data.toy_street.canvas import Light
from jaxseg.data.toy_street.dice import Dice
from jaxseg.data.toy_street.furnish import furnish, park
from jaxseg.data.toy_street.palette import Palette, mixed, shade_of
from jaxseg.data.toy_street.scene import (
    Building,
    Crossing,
    Fence,
    Road,
    Scene,
    Thing,
    Tree,
    Verge,
    Weather,
)

SIDES = dict(terrace=36, villas=24, park=22, works=18)
"""What stands along one side of the street, by weight."""

FAR_M = 85.0
"""Nothing but the skyline stands farther away."""


def sample_scene(dice: Dice, height_px: int, width_px: int) -> Scene:
    """A scene for a canvas of that size."""
    palette = Palette(dice)
    road = _road(dice, palette)
    crossings = _crossings(dice, road)
    light, weather = _sky(dice, palette)
    kinds = (dice.weighted(SIDES), dice.weighted(SIDES))
    verges = tuple(_verge(dice, palette, kind) for kind in kinds)
    things: list[Thing] = []
    for side, kind in zip((-1, 1), kinds, strict=True):
        things += _side(dice, palette, road, crossings, side, kind)
    if road.end_m is not None:
        things += _across(dice, palette, road, crossings[-1].far_m)
    things += furnish(dice, palette, road, crossings)
    return Scene(
        camera=_camera(dice, road, height_px, width_px),
        light=light,
        weather=weather,
        road=road,
        crossings=crossings,
        verges=verges,
        skyline=dice.weighted(dict(town=5, wood=4, none=1)),
        skyline_color=palette.color(dice, dice.pick(("wall", "leaf"))),
        things=tuple(things),
    )


def _camera(dice: Dice, road: Road, height_px: int, width_px: int) -> Camera:
    """Mostly on the road, looking along it; now and then on the pavement or looking aside."""
    if dice.chance(0.12):
        side = dice.side()
        x = side * (road.half_m + 0.5 * road.paved_m[side > 0])
    else:
        x = dice.between(-0.75, 0.75) * road.half_m
    turn = dice.between(-0.09, 0.09) if dice.chance(0.7) else dice.between(-0.18, 0.18)
    turn -= 0.06 * x / road.half_m
    # With t = tan(yaw / 2), sin and cos are ratios: no library function to round differently.
    norm = 1 + turn * turn
    return Camera(
        focal_px=width_px * dice.between(0.9, 1.25),
        centre_px=width_px / 2,
        horizon_px=height_px * dice.between(0.36, 0.52),
        height_m=dice.between(1.1, 1.9) if dice.chance(0.75) else dice.between(1.9, 3.2),
        x_m=x,
        cos=(1 - turn * turn) / norm,
        sin=2 * turn / norm,
    )


def _road(dice: Dice, palette: Palette) -> Road:
    straight = dice.chance(0.5)
    lanes = dice.integer(1, 4) if dice.chance(0.8) else 0
    return Road(
        bend=dice.between(-0.0008, 0.0008) if straight else dice.between(-0.006, 0.006),
        half_m=1.0 + 1.6 * max(lanes, 1) / dice.between(0.9, 1.3)
        if lanes
        else dice.between(2.2, 4),
        paved_m=tuple(dice.between(1.2, 5.0) if dice.chance(0.9) else 0.3 for _ in range(2)),
        color=palette.color(dice, "road"),
        paved_color=palette.color(dice, "pavement"),
        lanes=lanes,
        cobbled=dice.chance(0.04),
        slabs=dice.chance(0.97),
        end_m=dice.between(16, 50) if dice.chance(0.25) else None,
    )


def _crossings(dice: Dice, road: Road) -> tuple[Crossing, ...]:
    """Side roads, near to far; the last one is the cross road where the street ends."""
    found: list[Crossing] = []
    z, end = dice.between(5, 30), road.end_m if road.end_m is not None else FAR_M
    while dice.chance(0.55) and z + 14 < end:
        far = z + dice.between(5, 11)
        sides = dice.pick(((-1,), (1,), (-1, 1)))
        found.append(Crossing(z, far, sides, z - 2.5 if dice.chance(0.5) else None))
        z = far + dice.between(14, 40)
    if not found and dice.chance(0.2):
        z = dice.between(6, 15)
        found.append(Crossing(z, z, (), z))
    if road.end_m is not None:
        zebra = end - 3 if dice.chance(0.4) else None
        found.append(Crossing(end, end + dice.between(6, 10), (-1, 1), zebra))
    return tuple(found)


def _verge(dice: Dice, palette: Palette, kind: str) -> Verge:
    weights = dict(
        terrace=dict(paved=9, grass=1),
        villas=dict(paved=3, grass=7),
        park=dict(paved=1, grass=9),
        works=dict(paved=5, grass=4, asphalt=1),
    )
    verge = dice.weighted(weights[kind])
    mix = {"paved": "pavement", "grass": "leaf", "asphalt": "road"}[verge]
    return Verge(verge, palette.color(dice, mix))


def _sky(dice: Dice, palette: Palette) -> tuple[Light, Weather]:
    hour = dice.weighted(dict(clear=46, cloudy=32, overcast=18, dusk=2, fog=2))
    white = shade_of(dice, "white")
    zenith, horizon = shade_of(dice, "blue"), mixed(shade_of(dice, "blue"), white, 0.6)
    tint, clouds = (1.0, 1.0, 1.0), dice.between(0, 0.35)
    if hour in ("cloudy", "clear"):
        warm = dice.between(0, 0.12)
        tint = (1.04 + warm, 1.02, 1.0 - warm)
        clouds = dice.between(0.35, 0.8) if hour == "cloudy" else clouds
    elif hour in ("overcast", "fog"):
        zenith = mixed(shade_of(dice, "grey"), white, 0.8)
        horizon = mixed(zenith, white, dice.between(0.1, 0.7))
        tint, clouds = (0.86, 0.87, 0.9), dice.between(0.7, 1.0)
    else:
        zenith = mixed(shade_of(dice, "dark"), shade_of(dice, "blue"), 0.4)
        horizon = mixed(zenith, shade_of(dice, dice.pick(("brick", "yellow", "beige"))), 0.7)
        dim = dice.between(0.5, 0.75)
        tint = (dim * dice.between(0.95, 1.15), dim, dim * dice.between(0.85, 1.15))
    # Shadows fall in any direction but never get so long that all is dark.
    across = dice.side() * dice.between(0.15, 1.0)
    light = Light(
        tint=tint,
        haze=mixed(horizon, zenith, 0.2),
        visibility_m=dice.between(35, 70) if hour == "fog" else dice.between(140, 700),
        sun=(across * dice.between(0.4, 1.4), dice.between(-0.7, 0.7)),
        sunny=hour in ("clear", "cloudy"),
        shadow=dice.between(0.45, 0.68),
        night=hour == "dusk",
    )
    weather = Weather(
        zenith=zenith,
        horizon=horizon,
        clouds=clouds,
        cloud_color=mixed(white, shade_of(dice, "grey"), dice.between(0.0, 0.35)),
        exposure=dice.between(0.88, 1.1),
        contrast=dice.between(0.9, 1.15),
        cast=tuple(dice.between(0.95, 1.05) for _ in range(3)),
        noise=dice.integer(1, 3),
        blur=dice.weighted({0: 9, 1: 1}),
        bonnet=dice.between(0.04, 0.13) if dice.chance(0.22) else 0.0,
        bonnet_color=palette.color(dice, "paint"),
    )
    return light, weather


def _side(
    dice: Dice, palette: Palette, road: Road, crossings: tuple[Crossing, ...], side: int, kind: str
) -> list[Thing]:
    """Whatever stands along one side, from beside the camera to far away."""
    things: list[Thing] = []
    setback = dict(terrace=0.0, villas=dice.between(2, 7), park=0.0, works=dice.between(0, 10))[
        kind
    ]
    if kind == "terrace" and dice.chance(0.3):
        setback = dice.between(0.5, 4)
    lateral = road.edge_m(side) + side * setback
    storeys, end = dice.integer(2, 6), FAR_M if road.end_m is None else road.end_m - 1
    gaps = [(c.near_m - 1, c.far_m + 1) for c in crossings if side in c.sides]
    z = dice.between(-4, 3)
    while z < end:
        gap = next((g for g in gaps if g[0] - 2 < z < g[1]), None)
        if gap is not None:
            z = gap[1] + 0.5
            continue
        stop = min([end] + [g[0] for g in gaps if g[0] > z])
        long = dict(terrace=(5, 14), villas=(7, 12), park=(6, 12), works=(10, 26))[kind]
        far = min(z + dice.between(*long), stop)
        if kind == "park" or (kind == "works" and dice.chance(0.3)):
            things += park(dice, palette, road, side, z, far)
        elif far - z > 2:
            a, b = road.at(z, lateral), road.at(far, lateral)
            things.append(_building(dice, palette, a, b, side, kind, storeys))
        z = far
        if kind == "villas":
            things += park(dice, palette, road, side, z, z + 3)
            z += dice.between(1.5, 7)
        elif kind == "works" and dice.chance(0.5):
            z += dice.between(2, 14)
    if (setback > 1.2 or kind == "park") and dice.chance(0.6):
        things += _boundary(dice, palette, road, side, gaps, end)
    return things


def _building(
    dice: Dice,
    palette: Palette,
    a: tuple[float, float],
    b: tuple[float, float],
    side: int,
    kind: str,
    storeys: int,
) -> Building:
    """A house over the wall from a to b, to the right of it where side is 1."""
    dx, dz = b[0] - a[0], b[1] - a[1]
    length = sqrt(dx * dx + dz * dz)
    if kind == "villas":
        storeys = dice.integer(1, 2)
    elif kind == "works":
        storeys = dice.integer(1, 5)
    high = 3.0 * max(1, storeys + dice.integer(-1, 1)) + dice.between(0.3, 1.5)
    gabled = dice.chance(dict(terrace=0.4, villas=0.9, works=0.1)[kind])
    styles = dict(
        terrace=dict(windows=5, shop=4, glass=1),
        villas=dict(windows=1),
        works=dict(blank=4, glass=3, windows=3),
    )
    return Building(
        a=a,
        b=b,
        outward=(side * dz / length, -side * dx / length),
        deep_m=dice.between(6, 11),
        high_m=high,
        gable_m=dice.between(1.5, 3.5) if gabled else 0.0,
        style=dice.weighted(styles[kind]),
        wall=palette.color(dice, "wall"),
        trim=palette.color(dice, "wall"),
        roof=palette.color(dice, "roof"),
    )


def _across(dice: Dice, palette: Palette, road: Road, far_m: float) -> list[Thing]:
    """What faces the camera beyond a cross road."""
    things: list[Thing] = []
    middle = road.at(far_m, 0)[0]
    z = far_m + dice.between(2.5, 5)
    x, stop = middle - 42, middle + 42
    green = dice.chance(0.3)
    while x < stop:
        wide = dice.between(7, 16)
        if green or dice.chance(0.12):
            tree = park(dice, palette, replace(road, bend=0.0, half_m=0.0), 1, 0, wide)
            things += [
                replace(t, x_m=x + t.z_m, z_m=z + abs(t.x_m)) for t in tree if isinstance(t, Tree)
            ]
        else:
            kind = dice.pick(("terrace", "villas", "works"))
            house = _building(dice, palette, (x + wide, z), (x, z), -1, kind, dice.integer(2, 5))
            things.append(replace(house, outward=(0.0, 1.0)))
        x += wide + (dice.between(1, 4) if dice.chance(0.3) else 0)
    return things


def _boundary(
    dice: Dice,
    palette: Palette,
    road: Road,
    side: int,
    gaps: list[tuple[float, float]],
    end: float,
) -> list[Thing]:
    """A fence at the outer edge of the pavement."""
    kind = dice.weighted(dict(slats=5, rails=1, wall=5))
    color, high = palette.color(dice, "fence"), dice.between(1.2, 2.2)
    lateral, panel = road.edge_m(side) + side * 0.1, dice.between(1.8, 3)
    fences: list[Thing] = []
    z = dice.between(0, 5)
    while z + panel < min(end, 50):
        inside = any(g[0] < z + panel and z < g[1] for g in gaps)
        if not inside and not dice.chance(0.06):
            a, b = road.at(z, lateral), road.at(z + panel, lateral)
            fences.append(Fence(a, b, high, kind, color))
        z += panel
    return fences
