"""Integer training (Yang et al., 2011.14504; WAGEUBN) as a function on architectures and one on phases.

    arch   = integer.architecture(arch, settings)     paths of numbers on grids, norms without squares and roots
    phases = integer.rounded(phases, settings)        gradients, momentum and stored weights on grids

Both take any network of the registry, with exits and loops too. Presets:
    paper         as the authors' code: the flavour of its DeepLab where there is batch norm, of its FCN-VGG16 where not
    wageubn       the parent method: batch norm with roots, gradients of constant magnitude
    integer_only  ours: every map between the image and the loss is a multiple of one step within fixed bounds, so that
                  sums, maxima and joined maps need no rescaling, and an integer network follows as is
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from jaxseg.arch import Arch
from jaxseg.errors import UserError, unknown_name
from jaxseg.models import zoo
from jaxseg.numbers import (
    DEVIATION,
    FIXED,
    FLAG,
    FLOAT,
    MAX,
    OPEN,
    PATHS,
    SHIFT,
    Grid,
    IntegerArch,
    NumbersArch,
    Override,
)
from jaxseg.training.fixed_point import CONSTANT, Updates
from jaxseg.training.phases import Phase

MOST_TAPS = 131_071
"""Products that a sum may have: with 8-bit codes a sum of more could exceed 32 bits."""


class Preset(NamedTuple):
    """Grids of the network and of its updates; what its norms are, and their constants."""

    grids: IntegerArch
    updates: Updates
    norm: str
    norm_eps: float
    norm_momentum: float


_ENDS = ("block_00/*", "*/logits*")

# What is off (32 bits) has the rule that it gets when a width is given to it.
_PAPER_DEEPLAB = Preset(
    IntegerArch(
        image=Grid(FLOAT, MAX),
        biases=Grid(FLOAT, FIXED, 8.0),
        maps=Grid(FLOAT, MAX),
        logits=Grid(FLOAT, MAX),
        norm_errors=Grid(FLOAT, SHIFT),
        weights=Grid(8, FIXED, 1.0),
        activations=Grid(8, MAX),
        errors=Grid(8, MAX),
        conv_errors=Grid(16, MAX),
        normalised=Grid(8, MAX),
        norm_params=Grid(8, OPEN, 2.0),
        norm_stats=Grid(16, OPEN, 2.0),
        float_layers=_ENDS,
    ),
    Updates(8, MAX, 0.1, stored_bits=24),
    DEVIATION,
    1e-3,
    0.95,
)

_PAPER_FCN = Preset(
    IntegerArch(
        image=Grid(8, OPEN, 1.0),
        weights=Grid(8, FIXED, 1.0),
        biases=Grid(8, FIXED, 1.0),
        activations=Grid(8, FIXED, 1.0),
        maps=Grid(8, OPEN, 1.0),
        logits=Grid(8, OPEN, 1.0),
        errors=Grid(8, SHIFT),
        conv_errors=Grid(FLOAT, SHIFT),
    ),
    Updates(8, CONSTANT, stored_bits=24),
    DEVIATION,
    1e-3,
    0.95,
)

_WAGEUBN = Preset(
    IntegerArch(
        image=Grid(FLOAT, OPEN, 1.0),
        biases=Grid(FLOAT, OPEN, 1.0),
        maps=Grid(FLOAT, OPEN, 1.0),
        logits=Grid(FLOAT, OPEN, 1.0),
        norm_errors=Grid(FLOAT, SHIFT),
        weights=Grid(8, FIXED, 1.0),
        activations=Grid(8, OPEN, 1.0),
        errors=Grid(8, SHIFT),
        conv_errors=Grid(8, FLAG),
        normalised=Grid(8, OPEN, 1.0),
        norm_params=Grid(8, OPEN, 1.0),
        norm_stats=Grid(16, OPEN, 1.0),
        float_layers=_ENDS,
    ),
    Updates(8, CONSTANT, momentum=Grid(13, OPEN, 1.0), stored_bits=24, float_layers=_ENDS),
    "batch",
    2.0**-15,
    0.9,
)

_INTEGER_ONLY = Preset(
    IntegerArch(
        image=Grid(8, FIXED, 4.0),
        weights=Grid(8, FIXED, 0.0),
        biases=Grid(16, FIXED, 8.0),
        activations=Grid(8, FIXED, 4.0),
        maps=Grid(8, FIXED, 4.0),
        logits=Grid(8, FIXED, 8.0),
        errors=Grid(8, SHIFT),
        conv_errors=Grid(8, FLAG),
        normalised=Grid(8, FIXED, 4.0),
        norm_params=Grid(8, FIXED, 2.0),
        norm_stats=Grid(16, OPEN, 2.0),
        norm_errors=Grid(16, SHIFT),
        reciprocal_bits=8,
    ),
    Updates(8, CONSTANT, momentum=Grid(24, FIXED, 1.0), stored_bits=24),
    DEVIATION,
    2.0**-10,
    1 - 2.0**-4,
)

PRESETS = ("paper", "integer_only", "wageubn")
UPDATE_WIDTHS = ("gradients", "momentum", "stored")
WIDTHS = (*PATHS, "reciprocal", *UPDATE_WIDTHS)
"""What can have another width than the preset's."""


@dataclass(frozen=True)
class Settings:
    """Which numbers a run has.

    preset: one of `PRESETS`.
    widths: name of `WIDTHS` -> bits, 2 to 31, 32 = not rounded; of those that differ from the preset.
    layers: '<block>/<layer>:<path>=<bits>', globs allowed before the colon, such as 'head/*:weights=4'.
    """

    preset: str
    widths: Mapping[str, int] = field(default_factory=dict)
    layers: tuple[str, ...] = ()

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise unknown_name("integer.preset", self.preset, PRESETS)
        for name, bits in self.widths.items():
            if name not in WIDTHS:
                raise unknown_name("width in integer.widths", name, WIDTHS)
            _grid(f"integer.widths.{name}", Grid(), bits)
        tuple(map(_override, self.layers))

    def of(self, arch: Arch, image_reach: float = 4.0) -> Preset:
        """The preset for a network, with the changes of these settings; `image_reach` as in `architecture`."""
        normed = any(layer.norm for block in zoo.blocks(arch) for layer in block.layers)
        chosen = {"wageubn": _WAGEUBN, "integer_only": _INTEGER_ONLY}
        chosen["paper"] = _PAPER_DEEPLAB if normed else _PAPER_FCN
        preset, widths = chosen[self.preset], self.widths
        change = lambda name, grid: _grid(name, grid, widths.get(name, grid.bits))  # noqa: E731
        grids = replace(
            preset.grids,
            **{path: change(path, getattr(preset.grids, path)) for path in PATHS},
            reciprocal_bits=widths.get("reciprocal", preset.grids.reciprocal_bits),
            overrides=tuple(map(_override, self.layers)),
        )
        if grids.image.rule == FIXED:
            reach = 2.0 ** math.ceil(math.log2(image_reach))
            grids = replace(grids, image=replace(grids.image, reach=reach))
        updates = replace(
            preset.updates,
            gradient_bits=widths.get("gradients", preset.updates.gradient_bits),
            momentum=change("momentum", preset.updates.momentum),
            stored_bits=widths.get("stored", preset.updates.stored_bits),
        )
        return preset._replace(grids=grids, updates=updates)


def _grid(name: str, grid: Grid, bits: int) -> Grid:
    """`grid` with other bits, a mistake in them told by name."""
    if not 2 <= bits <= 32:
        raise UserError(
            name, got=bits, expected="2 to 31 bits, or 32 for numbers that stay floating"
        )
    return replace(grid, bits=bits)


def _override(text: str) -> Override:
    layers, _, change = text.partition(":")
    path, _, bits = change.partition("=")
    if not (layers and bits.isdecimal()):
        raise UserError(
            "integer.layers",
            got=repr(text),
            expected="'<block>/<layer>:<path>=<bits>', such as 'head/*:weights=4'",
        )
    _grid(f"bits in integer.layers {text!r}", Grid(), int(bits))
    return Override(layers, path, int(bits))


def architecture(arch: Arch, settings: Settings, *, image_reach: float = 4.0) -> Arch:
    """The same network on integer grids.

    Args:
        arch: any of the registry.
        settings: of the method.
        image_reach: largest absolute value of a normalised image; the reach of its grid is the next power of two.

    Raises:
        UserError: a layer that 32-bit sums cannot hold, settings of layers that do not exist, bfloat16.
    """
    preset = settings.of(arch, image_reach)
    layers = {f"{b.name}/{layer.name}": layer for b in zoo.blocks(arch) for layer in b.layers}
    for change in preset.grids.overrides:
        # Exits come later, with names of their own.
        late = change.layers.startswith("exit_")
        if not late and not any(fnmatchcase(name, change.layers) for name in layers):
            raise unknown_name("layer in integer.layers", change.layers, layers)
    for name, layer in layers.items():
        height, width, fan_in, _ = layer.kernel_shape
        if height * width * fan_in > MOST_TAPS:
            raise UserError(
                f"{name} as an integer layer",
                got=f"{height * width * fan_in} products in a sum",
                expected=f"at most {MOST_TAPS}, which 32 bits hold",
            )
    numbers = NumbersArch(
        compute=arch.numbers.compute,
        norm_eps=preset.norm_eps,
        norm_momentum=preset.norm_momentum,
        norm=preset.norm,
        integer=preset.grids,
    )
    return replace(arch, numbers=numbers)


def rounded(phases: Sequence[Phase], arch: Arch, settings: Settings) -> tuple[Phase, ...]:
    """The run with every phase's updates on grids.

    Args:
        phases: a run, with all that other methods add.
        arch: of the run.
        settings: of the method.

    Raises:
        UserError: an optimiser that needs more than shifts, such as a learning rate that is no power of two.
    """
    updates, made = settings.of(arch).updates, []
    for phase in phases:
        try:
            made.append(replace(phase, optim=replace(phase.optim, updates=updates)))
        except UserError as error:
            raise UserError(f"phase {phase.name}: {error}") from error
    return tuple(made)
