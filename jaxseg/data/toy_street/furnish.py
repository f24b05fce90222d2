"""Puts the smaller things into a street: cars, people, posts, trees, railings, bins."""

from jaxseg.data.toy_street.dice import Dice
from jaxseg.data.toy_street.palette import SKIN, Palette, shade_of
from jaxseg.data.toy_street.scene import (
    Bicyclist,
    Car,
    Clutter,
    Crossing,
    Fence,
    Pedestrian,
    Post,
    Road,
    Thing,
    Tree,
)

SIGNS = dict(round=5, triangle=5, octagon=2, square=4, board=4, name=2)


def near_first(dice: Dice, low: float, high: float) -> float:
    """A distance along the street; near ones are likelier, so that things are big now and then."""
    u = dice.unit()
    return low + (high - low) * u * u


def furnish(
    dice: Dice, palette: Palette, road: Road, crossings: tuple[Crossing, ...]
) -> list[Thing]:
    """Everything that stands or moves on the street and its pavements."""
    clutter = dice.between(0.4, 1.0)
    end = 60.0 if road.end_m is None else road.end_m
    things: list[Thing] = []
    things += _cars(dice, palette, road, crossings, clutter, end)
    things += _people(dice, palette, road, crossings, clutter, end)
    things += _posts(dice, palette, road, crossings, clutter, end)
    for side in (-1, 1):
        if dice.chance(0.3):
            things += _street_trees(dice, palette, road, side, end)
        if dice.chance(0.38):
            things += _railing(dice, palette, road, side, end)
    for _ in range(dice.integer(0, 3)):
        x, z = _on_pavement(dice, road, 5, min(30, end))
        kind = dice.pick(("bin", "box", "cone"))
        high, wide = dice.between(0.7, 1.3), dice.between(0.45, 0.9)
        things.append(Clutter(x, z, high, wide, kind, palette.color(dice, "paint")))
    return things


def park(
    dice: Dice, palette: Palette, road: Road, side: int, near_m: float, far_m: float
) -> list[Thing]:
    """Trees and bushes beyond the pavement."""
    trees: list[Thing] = []
    for _ in range(dice.integer(1, 3)):
        kind = dice.weighted(dict(round=12, cone=4, bare=1, bush=8))
        offset = dice.between(1.0, 3.0) if kind == "bush" else dice.between(2, 12)
        x, z = road.at(dice.between(near_m, far_m), road.edge_m(side) + side * offset)
        trees.append(_tree(dice, palette, x, z, kind))
    return trees


def _tree(dice: Dice, palette: Palette, x: float, z: float, kind: str) -> Tree:
    low, high = dict(round=(5, 11), cone=(4, 10), bare=(5, 10), bush=(0.9, 2.2))[kind]
    tall = dice.between(low, high)
    crown = tall * dict(round=0.32, cone=0.24, bare=0.3, bush=0.75)[kind]
    return Tree(
        x_m=x,
        z_m=z,
        high_m=tall,
        crown_m=crown * dice.between(0.8, 1.25),
        kind=kind,
        leaf=palette.color(dice, "leaf"),
        bark=shade_of(dice, "brown"),
    )


def _on_pavement(dice: Dice, road: Road, low: float, high: float) -> tuple[float, float]:
    side, z = dice.side(), near_first(dice, low, high)
    paved = road.paved_m[side > 0]
    return road.at(z, side * (road.half_m + dice.between(0.35, max(0.5, paved - 0.3))))


def _cars(
    dice: Dice,
    palette: Palette,
    road: Road,
    crossings: tuple[Crossing, ...],
    clutter: float,
    end: float,
) -> list[Thing]:
    cars: list[Thing] = []

    def add(z: float, lateral: float, back: bool, heading: tuple[float, float] | None) -> None:
        x, z = road.at(z, lateral)
        hx, hz = heading or road.heading(z)
        kind = dice.weighted(dict(car=8, van=2, lorry=1))
        cars.append(
            Car(
                x_m=x,
                z_m=z,
                heading=(-hx, -hz) if back else (hx, hz),
                kind=kind,
                paint=palette.color(dice, "paint"),
                size=dice.between(0.92, 1.1),
            )
        )

    for side in (-1, 1):
        if road.half_m > 2.6 and dice.chance(0.5 * clutter + 0.1):
            z = near_first(dice, 5, 25)
            for _ in range(dice.integer(1, 6)):
                if z < end - 4:
                    add(z, side * (road.half_m - 1.0), dice.chance(0.5), None)
                z += dice.between(5.2, 11)
        if dice.chance(0.62 * clutter):
            z = near_first(dice, 8, 40)
            for _ in range(dice.integer(1, 3)):
                if z < end - 4:
                    add(z, side * road.half_m * dice.between(0.3, 0.45), side < 0, None)
                z += dice.between(7, 20)
    for c in crossings:
        if c.sides and dice.chance(0.4):
            side = dice.pick(c.sides)
            middle = (c.near_m + c.far_m) / 2
            add(middle, side * dice.between(-1, 9), dice.chance(0.5), (1.0, 0.0))
    return cars


def _people(
    dice: Dice,
    palette: Palette,
    road: Road,
    crossings: tuple[Crossing, ...],
    clutter: float,
    end: float,
) -> list[Thing]:
    people: list[Thing] = []

    def walker(x: float, z: float) -> None:
        high = dice.between(1.55, 1.95) if dice.chance(0.85) else dice.between(1.0, 1.4)
        people.append(
            Pedestrian(
                x_m=x,
                z_m=z,
                high_m=high,
                walking=dice.integer(-1, 1),
                top=palette.color(dice, "cloth"),
                legs=palette.color(dice, "cloth"),
                skin=dice.pick(SKIN),
                hair=shade_of(dice, dice.pick(("dark", "brown", "beige", "grey"))),
                skirt=dice.chance(0.2),
                bag=dice.chance(0.3),
            )
        )

    if dice.chance(0.55 + 0.4 * clutter):
        for _ in range(dice.integer(3, 9)):
            x, z = _on_pavement(dice, road, 3.5, min(11, end))
            for i in range(1 if dice.chance(0.65) else 2):
                walker(x + 0.7 * i, z)
    for c in crossings:
        if c.zebra_m is not None and dice.chance(0.5):
            for _ in range(dice.integer(1, 4)):
                walker(*road.at(c.zebra_m + dice.between(-1, 1), dice.between(-1, 1) * road.half_m))
    if dice.chance(0.4 + 0.45 * clutter):
        for _ in range(dice.integer(1, 3)):
            z = near_first(dice, 4, min(10, end))
            lateral = dice.side() * (road.half_m - dice.between(-0.8, 1.8))
            x, z = road.at(z, lateral)
            along = dice.chance(0.5)
            people.append(
                Bicyclist(
                    x_m=x,
                    z_m=z,
                    squeeze=dice.side()
                    * (dice.between(0.1, 0.3) if along else dice.between(0.6, 1)),
                    top=palette.color(dice, "jersey"),
                    legs=palette.color(dice, "cloth"),
                    skin=dice.pick(SKIN),
                    helmet=palette.color(dice, "paint"),
                    frame=palette.color(dice, "paint"),
                )
            )
    return people


def _posts(
    dice: Dice,
    palette: Palette,
    road: Road,
    crossings: tuple[Crossing, ...],
    clutter: float,
    end: float,
) -> list[Thing]:
    posts: list[Thing] = []
    color = palette.color(dice, "post")

    def add(
        kind: str, z: float, side: int, out: float, high: float, thick: float, size: float = 0.0
    ) -> None:
        x, z = road.at(z, side * (road.half_m + out))
        plate, symbol = palette.color(dice, "sign"), palette.color(dice, "sign")
        posts.append(Post(x, z, high, thick, kind, color, -side, plate, symbol, size))

    for side in (-1, 1):
        if dice.chance(0.55):
            kind = dice.weighted(dict(lamp=3, wood=2))
            high, thick = dice.between(4.5, 8), dice.between(0.4, 0.6)
            z, step = dice.between(4, 12), dice.between(9, 20)
            while z < min(end, 26):
                add(kind, z, side, 0.5, high, thick)
                z += step
        if dice.chance(0.2):
            z, step = dice.between(3, 9), dice.between(1.5, 3)
            for i in range(dice.integer(3, 8)):
                add("bollard", z + i * step, side, 0.3, 0.95, 0.26)
    if dice.chance(0.4 + 0.45 * clutter):
        for _ in range(dice.integer(1, 4)):
            z, kind = near_first(dice, 4, min(14, end)), dice.weighted(SIGNS)
            size = dice.between(2.0, 3.3) if kind == "board" else dice.between(1.1, 1.7)
            add(kind, z, dice.side(), dice.between(0.4, 1.2), dice.between(2.0, 3.0), 0.22, size)
    for c in crossings:
        if dice.chance(0.5):
            for side in (-1, 1):
                high = dice.between(2.6, 3.6)
                add(
                    "signals",
                    max(4.0, c.near_m - 1.5),
                    side,
                    0.4,
                    high,
                    0.24,
                    dice.between(0.9, 1.3),
                )
    return posts


def _street_trees(dice: Dice, palette: Palette, road: Road, side: int, end: float) -> list[Thing]:
    kind = dice.weighted(dict(round=12, cone=4, bare=1))
    z, step = dice.between(4, 14), dice.between(7, 15)
    trees: list[Thing] = []
    while z < end:
        x, _ = road.at(z, side * (road.half_m + min(0.9, road.paved_m[side > 0])))
        trees.append(_tree(dice, palette, x, z, kind))
        z += step
    return trees


def _railing(dice: Dice, palette: Palette, road: Road, side: int, end: float) -> list[Thing]:
    """Between carriageway and pavement."""
    color, kind = palette.color(dice, "fence"), dice.pick(("wall", "slats", "slats"))
    z, panel, high = dice.between(3, 12), dice.between(1.6, 2.4), dice.between(0.8, 1.15)
    panels: list[Thing] = []
    for _ in range(dice.integer(3, 10)):
        if z + panel < end:
            a = road.at(z, side * (road.half_m + 0.25))
            b = road.at(z + panel, side * (road.half_m + 0.25))
            panels.append(Fence(a, b, high, kind, color))
        z += panel
    return panels
