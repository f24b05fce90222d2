"""An architecture is a value: frozen records, JSON in and out, and the counts that follow.

`Arch` says what a network is. A family (see `models/zoo.py`) turns it into a tuple of `BlockSpec`,
one per block and head, listing every convolution. The Flax modules and the counts below are both
made from those specs, so they cannot disagree on what is computed. Imports no JAX.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from jaxseg.errors import UserError
from jaxseg.flow import Op
from jaxseg.numbers import NumbersArch
from jaxseg.outside import as_record, parse_object
from jaxseg.types import IGNORE_LABEL

SCHEMA = 1
"""Version of the JSON form. A reader refuses any other."""

NOTHING, STATISTICS, ALL = OWN = ("", "statistics", "all")
"""What each pass through a loop has for itself: nothing, the running statistics of its batch norms, every variable."""

IMAGE = "image"
"""What a head calls the normalised image among its inputs; it has 3 channels and stride 1."""

IMAGE_CHANNELS = 3

LIMITS = {"blocks": 1000, "heads": 1000, "widths": 2**16, "repeats": 1000}
LIMITS |= {"stride": 32, "dilation": 128, "kernel": 31, "rates": 512}
"""Far beyond any published network; what is larger is refused before anything is made of it."""


def _check_limits(record: object, *fields: str) -> None:
    for field in fields:
        found, most = getattr(record, field), LIMITS[field]
        for value in found if isinstance(found, tuple) else (found,):
            if not 1 <= value <= most:
                raise UserError(field, got=value, expected=f"1 to {most}")


@dataclass(frozen=True)
class BlockArch:
    """One block of a backbone.

    kind:     which block it is, see the `KINDS` of the backbone files.
    widths:   output channels of each convolution in order; the last is the block's output (a
              projection shortcut follows the last; a depthwise convolution has none of its own).
    stride:   of the whole block.
    dilation: of its spatial convolutions.
    kernel:   height and width of its spatial convolutions, where the kind leaves a choice.
    repeats:  how often it runs, for the kinds that are loops.
    inputs:   what it reads: names of blocks before it, or 'image'; none says the block just before (the first: the
              image). `stride` counts from the first of them.
    choices:  of a cell (GAS): the operation on each of its edges.
    """

    kind: str
    widths: tuple[int, ...]
    stride: int = 1
    dilation: int = 1
    kernel: int = 3
    repeats: int = 1
    inputs: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    def __post_init__(self):
        _check_limits(self, "widths", "stride", "dilation", "kernel", "repeats")
        if self.kernel % 2 == 0:
            raise UserError("kernel", got=self.kernel, expected="an odd number")


@dataclass(frozen=True)
class BackboneArch:
    """Blocks in the order in which they run; block 0 is the stem. Block i is called `block_name(i)`."""

    name: str
    blocks: tuple[BlockArch, ...]

    def __post_init__(self):
        if not 1 <= len(self.blocks) <= LIMITS["blocks"]:
            raise UserError("blocks", got=len(self.blocks), expected=f"1 to {LIMITS['blocks']}")

    def reads(self, index: int) -> tuple[str, ...]:
        """What block `index` reads: names of blocks, or 'image'."""
        return self.blocks[index].inputs or (block_name(index - 1) if index else IMAGE,)

    def alive(self, index: int) -> tuple[str, ...]:
        """What was there before block `index` and is read from there on, in order; after the last block its result."""
        if index == len(self.blocks):
            return (block_name(index - 1),)
        wanted = {name for i in range(index, len(self.blocks)) for name in self.reads(i)}
        return tuple(n for n in (IMAGE, *map(block_name, range(index))) if n in wanted)


@dataclass(frozen=True)
class HeadArch:
    """A head: taps of the backbone in, K class scores out.

    kind:    'fcn', 'deeplabv3', ..; see `models/heads/` for the kinds and the order of `widths`.
    inputs:  names of blocks ('block_16'), or 'image'; the first is the main one, the others are skips.
    widths:  output channels of each normed convolution in order.
    rates:   dilations of the ASPP branches.
    dropout: probability of dropping an activation in training.
    """

    kind: str
    inputs: tuple[str, ...]
    widths: tuple[int, ...]
    rates: tuple[int, ...] = ()
    dropout: float = 0.0

    def __post_init__(self):
        # Equal values must have equal JSON: 0 and 0.0 print differently.
        object.__setattr__(self, "dropout", float(self.dropout))
        if not 0.0 <= self.dropout < 1.0:
            raise UserError("dropout", got=self.dropout, expected="a number in [0, 1)")
        _check_limits(self, "widths", "rates")


@dataclass(frozen=True)
class Arch:
    """A whole network: backbone, final head, auxiliary heads (training only), early exits."""

    num_classes: int
    backbone: BackboneArch
    head: HeadArch
    aux: tuple[HeadArch, ...] = ()
    exits: tuple[HeadArch, ...] = ()
    numbers: NumbersArch = NumbersArch()
    family: str = "segmenter"
    schema: int = SCHEMA

    def __post_init__(self):
        if not 1 <= self.num_classes <= IGNORE_LABEL:
            raise UserError("num_classes", got=self.num_classes, expected=f"1 to {IGNORE_LABEL}")
        for field, heads in (("aux", self.aux), ("exits", self.exits)):
            if len(heads) > LIMITS["heads"]:
                raise UserError(field, got=len(heads), expected=f"up to {LIMITS['heads']}")


def block_name(index: int) -> str:
    """'block_00', 'block_01', ...: the name of a backbone block and of its variables."""
    return f"block_{index:02d}"


# --- JSON ---


def to_json(arch: Arch) -> str:
    """The canonical JSON text: sorted keys, all fields, equal for equal values."""
    return json.dumps(dataclasses.asdict(arch), sort_keys=True, indent=1, allow_nan=False) + "\n"


def to_plain(arch: Arch) -> dict[str, Any]:
    """What `to_json` writes, as plain JSON values: lists for tuples."""
    return json.loads(to_json(arch))


def from_json(text: str | bytes) -> Arch:
    """The inverse of `to_json`. Fields that have defaults may be missing. The text may come from anywhere.

    Raises:
        UserError: not JSON, unknown schema, unknown or missing field, wrong type, impossible value.
    """
    record = parse_object(text, "an architecture")
    if record.get("schema", SCHEMA) != SCHEMA:
        raise UserError(
            "unknown schema of an architecture",
            got=repr(record["schema"]),
            expected=SCHEMA,
            do="use the version of jaxseg that wrote it",
        )
    return as_record(record, Arch, "arch")


def digest(arch: Arch) -> str:
    """16 hexadecimal digits that identify the architecture: the head of sha256 of its JSON."""
    return hashlib.sha256(to_json(arch).encode()).hexdigest()[:16]


# --- Specs ---

ACTIVATIONS = ("", "relu", "relu6", "sigmoid")
"""What may follow a convolution; '' is nothing."""

PADDINGS = ("symmetric", "same")


@dataclass(frozen=True)
class LayerSpec:
    """One convolution, with the bias, batch norm and activation that follow it, in this order.

    Whatever the padding, the output grid is ceil(H / out_stride) x ceil(W / out_stride) for an image
    of H x W pixels.

    name:       unique in its block; variables lie under [block name][layer name].
    kernel:     (height, width), odd.
    groups:     as in grouped convolution; = in_channels for a depthwise one.
    bias, norm: whether a bias is added; whether batch norm (scale and bias) follows.
    out_stride: output stride relative to the image; 0 = global (bins x bins cells after average pooling).
    activation: one of `ACTIVATIONS`.
    padding:    'symmetric' (torch: dilation * (kernel - 1) // 2 on both sides) or 'same' (TensorFlow:
                no more than needed, the odd row at the bottom, the odd column at the right).
    repeats:    how often it runs on one image.
    own:        one of `OWN`: the variables that each of these passes has for itself, along a first axis.
    bins:       of a global layer: cells per axis of its grid, whatever the size of the image.
    affine:     whether its norm has a scale and a bias; all have, but for cells that are searched.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: int
    dilation: int
    groups: int
    bias: bool
    norm: bool
    out_stride: int
    activation: str = ""
    padding: str = "symmetric"
    repeats: int = 1
    own: str = NOTHING
    bins: int = 1
    affine: bool = True

    @property
    def depthwise(self) -> bool:
        """Whether every channel is convolved with a kernel of its own."""
        return self.groups == self.in_channels == self.out_channels > 1

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        """HWIO."""
        return (*self.kernel, self.in_channels // self.groups, self.out_channels)

    @property
    def copies(self) -> int:
        """How many kernels there are: one, or one for each pass."""
        return self.repeats if self.own == ALL else 1

    def cells(self, height_px: int, width_px: int) -> int:
        """Cells of its output grid for an image of height_px x width_px."""
        return cells_at(self.out_stride, height_px, width_px) * self.bins**2


@dataclass(frozen=True)
class BlockSpec:
    """One block or head: everything its Flax module needs, and everything that counting needs.

    name:    'block_00', .., 'head', 'aux_0', 'exit_0': the top-level name of its variables.
    role:    'backbone', 'head', 'aux' or 'exit'.
    kind:    of the block or head that it was made from.
    layers:  every convolution, in the order of execution. Those whose name begins with 'logits' have
             one output channel per class.
    ops:     what it does with its maps, the layers among them.
    inputs:  what it reads, main one first: names of backbone blocks, or 'image'; none says the block before.
    dropout: heads only.
    pool:    (channels, output stride) of a map that is averaged over the whole image, or None.
    """

    name: str
    role: str
    kind: str
    layers: tuple[LayerSpec, ...]
    ops: tuple[Op, ...]
    out_channels: int
    out_stride: int
    inputs: tuple[str, ...] = ()
    dropout: float = 0.0
    pool: tuple[int, int] | None = None

    def folded(self) -> "BlockSpec":
        """The same block with a bias wherever it had a batch norm.

        Where passes share a kernel but no statistics the norm stays: folded, each pass would need a kernel.
        """

        def without(layer: LayerSpec) -> LayerSpec:
            stays = not layer.norm or layer.own == STATISTICS
            return layer if stays else dataclasses.replace(layer, bias=True, norm=False)

        return dataclasses.replace(self, layers=tuple(map(without, self.layers)))

    def has(self, name: str) -> bool:
        """Whether there is a layer `name`."""
        return any(layer.name == name for layer in self.layers)

    def layer(self, name: str) -> LayerSpec:
        """The layer `name`; KeyError if there is none."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"{self.name} has no layer {name!r}")


# --- Counts ---


@dataclass(frozen=True)
class Counts:
    """What one image costs. Addable, so `sum(parts, Counts())`.

    macs:          multiply-adds of convolutions (1 MAC = 1); biases, norms and resizes are free.
    params:        kernels, biases, and scale and bias of every batch norm.
    norm_elements: elements that batch norm is applied to.
    pool_elements: (h * w + 1) * C for every global average pooling.
    """

    macs: int = 0
    params: int = 0
    norm_elements: int = 0
    pool_elements: int = 0

    @property
    def operations(self) -> int:
        """Operations by thop's convention, in which MESS prints GFLOPs: batch norm 2 an element, pooling 1."""
        return self.macs + 2 * self.norm_elements + self.pool_elements

    def __add__(self, other: "Counts") -> "Counts":
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Counts(*(a + b for a, b in zip(mine, theirs, strict=True)))


def count(
    blocks: Iterable[BlockSpec],
    height_px: int,
    width_px: int,
    roles: tuple[str, ...] = ("backbone", "head"),
) -> Counts:
    """Cost of one image of height_px x width_px through all `blocks` that have one of `roles`."""
    total = Counts()
    for block in blocks:
        if block.role in roles:
            for layer in block.layers:
                total += layer_counts(layer, layer.cells(height_px, width_px))
            if block.pool:
                channels, stride = block.pool
                cells = cells_at(stride, height_px, width_px)
                total += Counts(pool_elements=(cells + 1) * channels)
    return total


def train_macs(
    blocks: Iterable[BlockSpec],
    height_px: int,
    width_px: int,
    trainable: Callable[[str], bool],
) -> int:
    """Convolution MACs of one training step on one image, auxiliary heads and trainable exits included.

    The convention, per block or head:
        1x for the forward pass,
        1x for the gradient of its input, if any backbone block before it is trainable
            (before: in the data flow; a loop comes before itself),
        1x for the gradient of its weights, if it is trainable itself.
    It is applied to whole blocks: gradients that flow between the layers of the first trainable block are not
    counted apart. An exit that is not trainable does not run. Batch norm, losses, the optimiser and what is worked out
    a second time for want of memory are free.
    """
    total = 0
    learns, last = {IMAGE: False}, IMAGE  # whether anything up to a map is trainable
    for block in blocks:
        if block.role == "exit" and not trainable(block.name):
            continue
        before = any(learns[name] for name in block.inputs or (last,))
        loop = any(layer.repeats > 1 for layer in block.layers)
        learns[block.name], last = before or bool(trainable(block.name)), block.name
        needs_input_grad = learns[block.name] if loop else before
        forward = count([block], height_px, width_px, roles=(block.role,)).macs
        total += forward * (1 + needs_input_grad + bool(trainable(block.name)))
    return total


def cells_at(out_stride: int, height_px: int, width_px: int) -> int:
    """Cells of the grid at `out_stride`; 1 where it is 0 (global)."""
    if out_stride == 0:
        return 1
    return -(-height_px // out_stride) * -(-width_px // out_stride)


def layer_counts(layer: LayerSpec, cells: int) -> Counts:
    """Cost of one layer, all passes, whose results lie on `cells` cells."""
    height, width, fan_in, out = layer.kernel_shape
    weights = height * width * fan_in * out
    return Counts(
        macs=weights * cells * layer.repeats,
        params=(weights + out * layer.bias + 2 * out * (layer.norm and layer.affine))
        * layer.copies,
        norm_elements=out * cells * layer.norm * layer.repeats,
    )
