"""Files of weights, whatever wrote them: name -> numpy array, and nothing else.

`.safetensors` is arrays by design; `.pth` and `.pt` are PyTorch's own format and are read as data (`torch_file`).
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxseg import tensors
from jaxseg.errors import UserError
from jaxseg.outside import read_file
from jaxseg.tensors import MAX_FILE_BYTES
from jaxseg.weights import torch_file
from jaxseg.weights.pickled import BadFile

SUFFIXES = (".pth", ".pt", ".safetensors")
PARALLEL_PREFIX = "module."
"""What torch's DataParallel puts before every name."""


class Weights(NamedTuple):
    """What a file holds.

    arrays: name -> array, as stored (bfloat16 widened to float32), perhaps read-only.
    sha256: of the file.
    notes:  what was taken off on the way, for people: a wrapper, a prefix.
    """

    arrays: dict[str, np.ndarray]
    sha256: str
    notes: tuple[str, ...] = ()


def read(path: Path, *, sha256: str = "") -> Weights:
    """The tensors of a file of weights.

    Args:
        path: ends in one of `SUFFIXES`. A torch file holds a state dict, or a dict that has one under one of
            `torch_file.WRAPPERS`; the prefix `PARALLEL_PREFIX` of all names is taken off.
        sha256: what the bytes must hash to; '' = anything. Compared before they are looked at.

    Raises:
        UserError: unreadable, another hash, damaged, or more than tensors in it.
    """
    data = _bytes(path)
    found = hashlib.sha256(data).hexdigest()
    if sha256 and found != sha256:
        raise UserError(
            f"{path} is not the published file",
            got=f"sha256 {found[:12]}",
            expected=sha256[:12],
            do="install or download it again",
        )
    try:
        if path.suffix == ".safetensors":
            arrays, wrapper = tensors.parse(data), ""
        else:
            arrays, wrapper = torch_file.read_state_dict(data)
    except (BadFile, UserError) as error:
        raise UserError(
            f"cannot read weights {path}",
            got=error,
            expected="tensors by name, as torch.save(model.state_dict(), path) or safetensors write them",
        ) from error
    notes = [f"the state dict was under {wrapper!r}"] if wrapper else []
    if all(name.startswith(PARALLEL_PREFIX) for name in arrays):
        arrays = {name.removeprefix(PARALLEL_PREFIX): array for name, array in arrays.items()}
        notes.append(f"the prefix {PARALLEL_PREFIX!r} of all names was taken off")
    return Weights(arrays, found, tuple(notes))


def _bytes(path: Path) -> bytes:
    try:
        return read_file(path, max_bytes=MAX_FILE_BYTES)
    except OSError as error:
        raise UserError(f"cannot read weights {path}", got=error.strerror) from error
