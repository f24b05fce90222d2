"""Files of weights, whatever wrote them: name -> numpy array, and nothing else.

`.safetensors` is arrays by design; `.pth` and `.pt` are PyTorch's own format and are read as data (`torch_file`).
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, deserialize

from jaxseg.errors import UserError
from jaxseg.weights import torch_file
from jaxseg.weights.pickled import BadFile

SUFFIXES = (".pth", ".pt", ".safetensors")
MAX_FILE_BYTES = 4 * 2**30
"""No segmentation network is larger; a file is read into memory whole."""

PARALLEL_PREFIX = "module."
"""What torch's DataParallel puts before every name."""

_SAFETENSORS_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


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
            arrays, wrapper = _read_safetensors(data), ""
        else:
            arrays, wrapper = torch_file.read_state_dict(data)
    except BadFile as error:
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
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise UserError(
                f"weights {path}", got=f"{size} bytes", expected=f"at most {MAX_FILE_BYTES}"
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read weights {path}", got=error.strerror) from error


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    try:
        entries = deserialize(data)
    except SafetensorError as error:
        raise BadFile(f"no safetensors file ({error})") from error
    if not entries:
        raise BadFile("no tensors")
    return {name: _array(name, entry) for name, entry in entries}


def _array(name: str, entry: dict) -> np.ndarray:
    dtype = _SAFETENSORS_DTYPES.get(entry["dtype"])
    if dtype is None:
        raise BadFile(f"the dtype {entry['dtype']} of {name}")
    values = np.frombuffer(entry["data"], dtype)
    if entry["dtype"] == "BF16":
        values = torch_file.widen_bfloat16(values)
    return values.reshape(entry["shape"])
