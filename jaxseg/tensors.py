"""The safetensors format: bytes -> name and numpy array, and nothing else."""

import numpy as np
from safetensors import SafetensorError, deserialize

from jaxseg.errors import UserError

MAX_FILE_BYTES = 4 * 2**30
"""No segmentation network is larger; a file is read into memory whole."""

_DTYPES = {
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


def parse(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, as stored; bfloat16 is widened to float32.

    Raises:
        UserError: damaged, no tensors in it, or one that is no array of ours. The file is not named: the caller
            knows it.
    """
    try:
        entries = deserialize(data)
    except SafetensorError as error:
        raise UserError("no safetensors file", got=error) from error
    if not entries:
        raise UserError("no tensors")
    return {name: _array(name, entry) for name, entry in entries}


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """uint16 [N], the upper halves of float32 numbers -> float32 [N]."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _array(name: str, entry: dict) -> np.ndarray:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise UserError(f"the dtype {entry['dtype']} of {name}")
    values = np.frombuffer(entry["data"], dtype)
    if entry["dtype"] == "BF16":
        values = widen_bfloat16(values)
    try:
        return values.reshape(entry["shape"])
    # Empty tensors may have any other side, and any tensor any number of sides of 1.
    except (ValueError, OverflowError) as error:
        raise UserError(f"the shape of {name}", got=error) from error
