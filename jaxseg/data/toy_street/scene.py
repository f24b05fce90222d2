"""What a scene consists of: nothing but facts, in metres, by which it can be drawn.

Places are (x_m, z_m) on the ground (see camera.py). Headings are unit vectors on the ground.
"""

from dataclasses import dataclass
from math import sqrt

from jaxseg.data.toy_street.camera import Camera
from jaxseg.data.toy_street.canvas import Light
from jaxseg.data.toy_street.palette import Color


@dataclass(frozen=True)
class Road:
    """The street: a parabola seen from above, x(z) = bend * z^2.

    Attributes:
        bend: 1 / metres.
        half_m: half the width of the carriageway.
        paved_m: width of the pavement to the left and to the right; 0 is a bare verge.
        color, paved_color: of the two surfaces.
        lanes: number of lanes, 0 for no markings at all.
        cobbled, slabs: whether carriageway and pavement show joints.
        end_m: where it meets a cross road with nothing behind it, None if it goes on.
    """

    bend: float
    half_m: float
    paved_m: tuple[float, float]
    color: Color
    paved_color: Color
    lanes: int
    cobbled: bool
    slabs: bool
    end_m: float | None

    def at(self, z: float, lateral_m: float) -> tuple[float, float]:
        """The place that far along and to the right of the middle of the road."""
        return self.bend * z * z + lateral_m, z

    def heading(self, z: float) -> tuple[float, float]:
        """Which way the road runs there."""
        slope = 2 * self.bend * z
        length = sqrt(slope * slope + 1)
        return slope / length, 1 / length

    def edge_m(self, side: int) -> float:
        """Lateral offset of the outer edge of a pavement; side is -1 or 1."""
        return side * (self.half_m + self.paved_m[side > 0])


@dataclass(frozen=True)
class Crossing:
    """A side road (or, at the end of the street, the cross road) from `near_m` to `far_m`.

    Attributes:
        sides: -1 and/or 1.
        zebra_m: where a crosswalk lies on the street, None without.
    """

    near_m: float
    far_m: float
    sides: tuple[int, ...]
    zebra_m: float | None


@dataclass(frozen=True)
class Verge:
    """What the ground beside the pavement is: 'paved', 'grass' or 'asphalt'."""

    kind: str
    color: Color


@dataclass(frozen=True)
class Building:
    """A box over the wall from `a` to `b`; its back lies `deep_m` to the outside.

    Attributes:
        outward: unit vector from the street into the house.
        style: 'windows', 'glass', 'shop', 'blank'.
        gable_m: height of the roof, 0 for a flat one.
    """

    a: tuple[float, float]
    b: tuple[float, float]
    outward: tuple[float, float]
    deep_m: float
    high_m: float
    gable_m: float
    style: str
    wall: Color
    trim: Color
    roof: Color


@dataclass(frozen=True)
class Tree:
    x_m: float
    z_m: float
    high_m: float
    crown_m: float
    """Radius of the crown."""
    kind: str
    """'round', 'cone', 'bare', 'bush'."""
    leaf: Color
    bark: Color


@dataclass(frozen=True)
class Fence:
    """One panel from `a` to `b`; kind 'slats', 'rails', 'mesh', 'wall' (slats without gaps)."""

    a: tuple[float, float]
    b: tuple[float, float]
    high_m: float
    kind: str
    color: Color


@dataclass(frozen=True)
class Car:
    """kind 'car', 'van' or 'lorry'."""

    x_m: float
    z_m: float
    heading: tuple[float, float]
    kind: str
    paint: Color
    size: float


@dataclass(frozen=True)
class Pedestrian:
    x_m: float
    z_m: float
    high_m: float
    walking: int
    """-1 or 1 across the view, 0 along it."""
    top: Color
    legs: Color
    skin: Color
    hair: Color
    skirt: bool
    bag: bool


@dataclass(frozen=True)
class Bicyclist:
    x_m: float
    z_m: float
    squeeze: float
    """1 or -1 seen from the side, near 0 from behind."""
    top: Color
    legs: Color
    skin: Color
    helmet: Color
    frame: Color


@dataclass(frozen=True)
class Post:
    """kind 'lamp', 'wood', 'bollard', 'signals' (traffic lights), or a sign's: 'round', 'triangle',
    'octagon', 'square', 'board' (two posts), 'name'.
    """

    x_m: float
    z_m: float
    high_m: float
    thick_m: float
    kind: str
    color: Color
    arm: int
    """-1 or 1: to which side an arm reaches."""
    plate: Color
    symbol: Color
    size_m: float


@dataclass(frozen=True)
class Clutter:
    """A thing of no class (void): kind 'bin', 'box', 'cone'."""

    x_m: float
    z_m: float
    high_m: float
    wide_m: float
    kind: str
    color: Color


Thing = Building | Tree | Fence | Car | Pedestrian | Bicyclist | Post | Clutter


@dataclass(frozen=True)
class Weather:
    """Sky and lens.

    Attributes:
        zenith, horizon: colours of the sky.
        clouds: 0 none .. 1 overcast.
        cloud_color: their colour.
        exposure: brightness factor of the photo.
        contrast: slope about mid-grey.
        cast: factor per channel.
        noise: amplitude of the sensor's noise, grey levels.
        blur: passes of a small blur.
        bonnet: how much of the frame's height the car's own bonnet takes, 0 for none.
        bonnet_color: its colour.
    """

    zenith: Color
    horizon: Color
    clouds: float
    cloud_color: Color
    exposure: float
    contrast: float
    cast: Color
    noise: int
    blur: int
    bonnet: float
    bonnet_color: Color


@dataclass(frozen=True)
class Scene:
    """All of it. `skyline` is 'town', 'wood' or 'none'."""

    camera: Camera
    light: Light
    weather: Weather
    road: Road
    crossings: tuple[Crossing, ...]
    verges: tuple[Verge, Verge]
    skyline: str
    skyline_color: Color
    things: tuple[Thing, ...]
