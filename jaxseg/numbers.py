"""Formats of numbers: what a network computes in, and onto which grids integer networks round. Imports no JAX.

An integer network is described by one `Grid` per path that numbers take: weights, activations, errors, batch norm.
What follows from a grid is in `quant/`; which grids make up a published method is in `methods/integer.py`.
"""

import math
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase

from jaxseg.errors import UserError, unknown_name

COMPUTE = ("float32", "bfloat16")
"""Formats of activations that networks train in; parameters, statistics and logits are always float32."""

INT8 = "int8"
"""Format of networks that hold no float at all: what `jaxseg.conversion` makes of a trained one."""

BATCH, FOLDED, DEVIATION = NORMS = ("batch", "folded", "deviation")
"""Batch norm by variance; batch norm that is written into the convolutions before it; by mean absolute deviation."""

FLOAT = 32
"""Bits of a path that is not rounded."""

FIXED, OPEN, MAX, SHIFT, FLAG = RULES = ("fixed", "open", "max", "shift", "flag")


@dataclass(frozen=True)
class Grid:
    """The numbers onto which a tensor is rounded: multiples of 2^(1 - bits) reach, halves to even.

    bits:  2 to 31, the sign included; 32 = the tensor is left as it is.
    rule:  'fixed': reach is that number, and what is beyond is clipped to (1 - 2^(1 - bits)) reach.
           'open':  the same without clipping, so more than `bits` bits where the tensor is larger.
           'max':   reach is the largest absolute value of the tensor.
           'shift': it is the power of two nearest to that, by its logarithm.
           'flag':  as 'shift', with a grid 2^(bits - 1) times as fine for what is smaller than a step.
    reach: of 'fixed' and 'open', a power of two. 0 is for weights: by the layer, see `layers.conv.kernel_reach`.
    """

    bits: int = FLOAT
    rule: str = FIXED
    reach: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "reach", float(self.reach))
        if not 2 <= self.bits <= FLOAT:
            raise UserError(
                "bits",
                got=self.bits,
                expected=f"2 to 31, or {FLOAT} for numbers that stay floating",
            )
        if self.rule not in RULES:
            raise unknown_name("rule of a grid", self.rule, RULES)
        if self.reach and not (0 < self.reach < math.inf and is_power_of_two(self.reach)):
            raise UserError("reach of a grid", got=self.reach, expected="a power of two, or 0")

    @property
    def off(self) -> bool:
        """Whether tensors are left as they are."""
        return self.bits == FLOAT


def is_power_of_two(value: float) -> bool:
    """Whether `value` is 2^k, k any whole number."""
    return value > 0 and math.frexp(value)[0] == 0.5


@dataclass(frozen=True)
class Override:
    """Another width for some layers.

    layers: glob over '<block>/<layer>', such as 'head/*'.
    path:   a name of `PATHS`, but not the image.
    bits:   of that path there.
    """

    layers: str
    path: str
    bits: int

    def __post_init__(self):
        of_layers = [path for path in PATHS if path != "image"]
        if self.path not in of_layers:
            raise unknown_name("path of a layer's numbers", self.path, of_layers)
        Grid(self.bits)


@dataclass(frozen=True)
class IntegerArch:
    """The grids of a network, forward and backward. The default rounds nothing.

    image:       of the normalised image.
    weights:     of kernels.                            biases: of biases.
    activations: of what follows an activation.         logits: of scores.
    maps:        of what else a layer reads: results without an activation, sums, averages, resized and joined maps.
    errors:      of gradients of whatever is on one of these grids (E1 in the papers).
    conv_errors: of gradients of convolutions' results (E2).
    normalised:  of normalised values.                  norm_params: of scale and bias of norms.
    norm_stats:  of mean and deviation, and of the means in the norm's gradient.
    norm_errors: of the norm's gradient before it is divided by the deviation.
    reciprocal_bits: of one over the deviation, each with a power of two of its own; 32 = divided.
    float_layers: globs over '<block>/<layer>': their kernels, biases and conv_errors are left as they are.
    overrides:   other widths for some layers, float ones included; later ones win.
    """

    image: Grid = Grid()
    weights: Grid = Grid()
    biases: Grid = Grid()
    activations: Grid = Grid()
    maps: Grid = Grid()
    logits: Grid = Grid()
    errors: Grid = Grid()
    conv_errors: Grid = Grid()
    normalised: Grid = Grid()
    norm_params: Grid = Grid()
    norm_stats: Grid = Grid()
    norm_errors: Grid = Grid()
    reciprocal_bits: int = FLOAT
    float_layers: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()

    def __post_init__(self):
        Grid(self.reciprocal_bits)

    @property
    def off(self) -> bool:
        """Whether nothing is rounded."""
        return all(getattr(self, path).off for path in PATHS) and self.reciprocal_bits == FLOAT

    def at(self, layer: str) -> "IntegerArch":
        """The grids of one layer, '<block>/<layer>'."""
        if self.off:
            return self
        here = replace(self, float_layers=(), overrides=())
        if any(fnmatchcase(layer, glob) for glob in self.float_layers):
            off = {path: replace(getattr(self, path), bits=FLOAT) for path in OF_KERNELS}
            here = replace(here, **off)
        for change in self.overrides:
            if fnmatchcase(layer, change.layers):
                grid = replace(getattr(here, change.path), bits=change.bits)
                here = replace(here, **{change.path: grid})
        return here


OF_KERNELS = ("weights", "biases", "conv_errors")
"""The paths that a float layer leaves as they are."""

PATHS = tuple(field.name for field in fields(IntegerArch) if field.type is Grid)
"""The fields of `IntegerArch` that are grids."""


@dataclass(frozen=True)
class CodesArch:
    """What the first and the last codes of an int8 network stand for; everything between is in its variables.

    image_step: value of one step of the normalised image's codes.
    score_step: of the codes of scores, of all heads alike.
    """

    image_step: float = 1.0
    score_step: float = 1.0

    def __post_init__(self):
        for name in ("image_step", "score_step"):
            object.__setattr__(self, name, float(getattr(self, name)))
            if not 2.0**-20 <= getattr(self, name) <= 2.0**20:
                raise UserError(name, got=getattr(self, name), expected="2^-20 to 2^20")


FEW = (1, 2, 3, 4, 5, 6, 7, 8)
"""Bits that kernels and activations can have after DoReFa-Net and BFCN."""


@dataclass(frozen=True)
class BitsArch:
    """Few bits in the forward pass, gradients floating (after DoReFa-Net and BFCN, see `quant.dorefa`).

    weights:     of kernels, 1 to 8, or 32 = floating.
    activations: of what convolutions read; clipped to [0, reach] before. The image is left as it is.
    ends:        of both in the first block and in the layers of scores.
    reach:       the largest activation; 1 in the authors' code.
    """

    weights: int = FLOAT
    activations: int = FLOAT
    ends: int = FLOAT
    reach: float = 1.0

    def __post_init__(self):
        if not 0 < self.reach < float("inf"):
            raise UserError("reach of activations", got=self.reach, expected="above 0")
        for name in ("weights", "activations", "ends"):
            bits = getattr(self, name)
            if bits not in (*FEW, FLOAT):
                raise UserError(f"bits of {name}", got=bits, expected=f"1 to 8, or {FLOAT}")

    @property
    def off(self) -> bool:
        """Whether everything is floating."""
        return self.weights == self.activations == self.ends == FLOAT

    def at(self, block: str, layer: str) -> "BitsArch":
        """Of a layer: `weights` and `activations` are its own."""
        if block == "block_00" or layer.startswith("logits"):
            return replace(self, weights=self.ends, activations=self.ends)
        return self


@dataclass(frozen=True)
class NumbersArch:
    """Format of activations, constants of batch norm (momentum as in Flax: new = m * old + ...), integer grids.

    compute: one of `COMPUTE`, or 'int8'. codes: of an int8 network.
    norm: 'batch'; 'folded': every layer with batch norm has a bias instead (inference, see `models.folding`);
          'deviation': by mean absolute deviation, without squares and roots.
    bits: few bits of kernels and activations; not beside integer grids.
    """

    compute: str = "float32"
    norm_eps: float = 1e-5
    norm_momentum: float = 0.9
    norm: str = BATCH
    integer: IntegerArch = IntegerArch()
    codes: CodesArch = CodesArch()
    bits: BitsArch = BitsArch()

    def __post_init__(self):
        object.__setattr__(self, "norm_eps", float(self.norm_eps))
        object.__setattr__(self, "norm_momentum", float(self.norm_momentum))
        for name, value in (("norm_eps", self.norm_eps), ("norm_momentum", self.norm_momentum)):
            if not 0.0 <= value <= 1.0:
                raise UserError(name, got=value, expected="a number in [0, 1]")
        if self.compute not in (*COMPUTE, INT8):
            raise unknown_name("compute format", self.compute, (*COMPUTE, INT8))
        if self.norm not in NORMS:
            raise unknown_name("kind of norm", self.norm, NORMS)
        if self.compute != "float32" and not self.integer.off:
            raise UserError(
                "compute format of a network on integer grids",
                got=self.compute,
                expected="float32: bfloat16 cannot hold sums of 8-bit products, and int8 needs no grids",
            )
        if not self.bits.off and (self.in_codes or not self.integer.off or self.norm != BATCH):
            raise UserError(
                "a network of few bits", expected="batch norm, no integer grids, no int8"
            )
        if self.in_codes and self.norm == BATCH:
            raise UserError("norm of an int8 network", got=self.norm, expected=(FOLDED, DEVIATION))

    @property
    def in_codes(self) -> bool:
        """Whether maps are int8 codes, and nothing is floating."""
        return self.compute == INT8

    @property
    def foldable(self) -> bool:
        """Whether batch norms can be written into the convolutions before them."""
        return self.norm == BATCH and self.integer.off and self.bits.off and not self.in_codes
