"""A deployable model is one folder: `arch.json`, `variables.safetensors`, `model.json`.

Reading it runs no code: JSON and raw arrays only, every value within bounds, and every array checked against the
architecture. It may come from anybody.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from safetensors.numpy import save as save_arrays

from jaxseg import outside, tensors
from jaxseg.arch import Arch, from_json, to_json
from jaxseg.conversion.check import check
from jaxseg.errors import UserError, short
from jaxseg.models import zoo

ARCH, VARIABLES, CARD = "arch.json", "variables.safetensors", "model.json"
SCHEMA = 1


@dataclass(frozen=True)
class Card:
    """What a model needs besides weights, and where it comes from (`model.json`).

    class_names, class_colors: K names and RGB triples.
    mean, std: of RGB scaled to [0, 1]; the network sees (image / 255 - mean) / std.
    data, evaluation: the config sections `data` and `eval` that it was trained with.
    origin: step, config name, seed, jaxseg and jax versions, commit, scores: for people and records.
    sizes: how large an image of which complexity is answered in the mode 'slim', a `SizeRule` as JSON; {} = all alike.
    """

    class_names: tuple[str, ...]
    class_colors: tuple[tuple[int, int, int], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: dict[str, Any]
    evaluation: dict[str, Any]
    origin: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)


def save_model(
    folder: Path,
    arch: Arch,
    variables: dict[str, Any],
    card: Card,
    *,
    dtype: DTypeLike = np.float32,
) -> None:
    """Writes or replaces the folder; a reader sees the old one or the new one, never a mixture.

    Args:
        folder: parents are made.
        arch, variables, card: what `load_model` gives back.
        dtype: of floating values: float32, or float16 for half the size; what float16 cannot hold is refused.

    Raises:
        UserError: the folder cannot be written, or a value is out of range.
    """
    arrays = {k: np.asarray(v) for k, v in flatten(variables).items()}
    largest = float(np.finfo(dtype).max)
    floating = {k: v for k, v in arrays.items() if np.issubdtype(v.dtype, np.floating)}
    for path, value in floating.items():
        extreme = float(np.abs(value).max(initial=0))
        if extreme > largest:
            raise UserError(
                f"{path} does not fit into {np.dtype(dtype)}",
                got=extreme,
                expected=f"at most {largest}",
            )
    stored = arrays | {path: value.astype(dtype) for path, value in floating.items()}
    # safetensors writes memory as it lies.
    stored = {path: np.asarray(value, order="C") for path, value in stored.items()}
    folder = Path(folder)
    fresh, old = (_beside(folder, x, os.getpid()) for x in ("new", "old"))
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        data = save_arrays(stored)
        (fresh / ARCH).write_text(to_json(arch) + "\n")
        (fresh / VARIABLES).write_bytes(data)
        record = {"schema": SCHEMA, "sha256": hashlib.sha256(data).hexdigest(), **asdict(card)}
        (fresh / CARD).write_text(json.dumps(record, indent=2) + "\n")
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    except OSError as error:
        raise UserError(f"cannot write model folder {folder}", got=error.strerror) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _beside(folder: Path, what: str, process: object) -> Path:
    return folder.with_name(f".{folder.name}.{what}.{process}")


def mend(folder: Path) -> None:
    """After a kill in the middle of `save_model`: the old folder takes its place again, and nothing is left over.

    To be called only while nobody writes the folder.
    """
    for old in folder.parent.glob(_beside(folder, "old", "*").name):
        if not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    for fresh in folder.parent.glob(_beside(folder, "new", "*").name):
        shutil.rmtree(fresh, ignore_errors=True)


def load_model(folder: Path) -> tuple[Arch, dict[str, Any], Card]:
    """Reads a folder written by `save_model`.

    Returns:
        (arch, {'params', 'batch_stats'} of float32 numpy arrays, card). Arrays stored in float16 or bfloat16 are
        widened. Of an int8 network {'params', 'scales'} of whole numbers.

    Raises:
        UserError: a file is missing, damaged, of another schema, or does not fit the architecture; or a value in it
            cannot be.
    """
    folder = Path(folder)
    record = outside.parse_object(_read(folder / CARD), str(folder / CARD))
    if record.get("schema") != SCHEMA:
        raise UserError(f"{folder / CARD} schema", got=record.get("schema"), expected=SCHEMA)
    arch = from_json(_read(folder / ARCH))
    card = _card(record, arch.num_classes, folder / CARD)
    data = _read(folder / VARIABLES, max_bytes=tensors.MAX_FILE_BYTES)
    found = hashlib.sha256(data).hexdigest()
    if found != record.get("sha256"):
        raise UserError(
            f"{folder / VARIABLES} is damaged",
            got=f"sha256 {found[:12]}",
            expected=str(record.get("sha256"))[:12],
            do="copy the folder again",
        )
    try:
        arrays = tensors.parse(data)
    except UserError as error:
        raise UserError(f"{folder / VARIABLES} is not a safetensors file", got=error) from error
    variables = _checked(arrays, arch, folder)
    if arch.numbers.in_codes:
        try:
            check(arch, variables, card.mean, card.std)
        except UserError as error:
            raise UserError(f"{folder / VARIABLES} cannot be used: {error}") from error
    return arch, variables, card


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> {'params/block_00/conv1/kernel': array}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def _checked(arrays: dict[str, np.ndarray], arch: Arch, folder: Path) -> dict[str, Any]:
    """The arrays as float32 variables, those of an int8 network as they are; all compared with the architecture."""
    template = flatten(zoo.template(arch))
    wanted = {k: v.shape for k, v in template.items()}
    codes = arch.numbers.in_codes
    # Auxiliary heads may have been stripped; nothing else may be missing.
    for name in sorted(wanted.keys() | arrays.keys()):
        shape, want = arrays[name].shape if name in arrays else None, wanted.get(name)
        if shape is None and name.split("/")[1].startswith("aux_"):
            continue
        if shape != want:
            raise UserError(
                f"{folder / VARIABLES} does not fit {ARCH} at {name}",
                got="nothing" if shape is None else list(shape),
                expected="nothing" if want is None else list(want),
            )
        dtypes = (template[name].dtype,) if codes else (np.float32, np.float16)
        if arrays[name].dtype not in dtypes:
            raise UserError(
                f"{folder / VARIABLES} at {name}",
                got=arrays[name].dtype,
                expected=" or ".join(str(np.dtype(x)) for x in dtypes),
            )
    return unflatten(arrays if codes else {k: v.astype(np.float32) for k, v in arrays.items()})


def _card(record: dict[str, Any], num_classes: int, path: Path) -> Card:
    """The card, every value of it checked: names are printed, colours painted, mean and std divide."""

    def need(key: str, holds: bool, expected: str) -> None:
        if not holds:
            raise UserError(f"{path} {key}", got=short(record[key]), expected=expected)

    record = {"sizes": {}, **record}  # models of before there were such do not say it
    if missing := [key for key in Card.__dataclass_fields__ if key not in record]:
        raise UserError(f"{path} is not complete", got=f"no {', '.join(missing)}")
    names, colors, mean, std = (record[k] for k in ("class_names", "class_colors", "mean", "std"))
    need(
        "class_names",
        _list_of(names, num_classes, lambda x: type(x) is str and x.isprintable() and len(x) < 200)
        and len(set(names)) == num_classes,
        f"{num_classes} different names of printable characters",
    )
    need(
        "class_colors",
        _list_of(colors, num_classes, lambda x: _list_of(x, 3, _is_byte)),
        f"{num_classes} times [red, green, blue] of 0 to 255",
    )
    need("mean", _list_of(mean, 3, _is_small), "three numbers")
    need("std", _list_of(std, 3, lambda x: _is_small(x) and x > 0), "three numbers above 0")
    for key in ("data", "evaluation", "origin", "sizes"):
        need(key, type(record[key]) is dict, "a JSON object")
    return Card(
        class_names=tuple(names),
        class_colors=tuple((r, g, b) for r, g, b in colors),
        mean=tuple(mean),
        std=tuple(std),
        data=record["data"],
        evaluation=record["evaluation"],
        origin=record["origin"],
        sizes=record["sizes"],
    )


def _list_of(value: Any, length: int, holds: Callable[[Any], bool]) -> bool:
    return type(value) is list and len(value) == length and all(map(holds, value))


def _is_byte(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255


def _is_small(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= 1e6


def _read(path: Path, *, max_bytes: int = outside.MAX_JSON_BYTES) -> bytes:
    try:
        return outside.read_file(path, max_bytes=max_bytes)
    except OSError as error:
        raise UserError(
            f"no model at {path.parent}: cannot read {path.name}",
            got=error.strerror,
            do="give a training folder with a finished evaluation, or a deployed folder",
        ) from error
