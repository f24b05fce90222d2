"""PyTorch's checkpoint files, read without PyTorch and without running anything in them.

Such a file is a pickle that builds a dict of tensors (see `pickled`), and the bytes of their storages beside it. Both
containers are read: the zip archive (torch >= 1.6), and the sequence of pickles and raw storages before it.
Every length is compared with the bytes that are there, and arrays are views of those bytes, so reading takes about
as much memory as the file, whatever it says of itself.
"""

import io
import math
import struct
import zipfile
from typing import Any

import numpy as np

from jaxseg.tensors import widen_bfloat16
from jaxseg.weights import pickled
from jaxseg.weights.pickled import BadFile, Storage, Tensor

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
ZIP_MAGIC = b"PK\x03\x04"

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Where training scripts put the state dict inside a checkpoint."""

DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype("<u2"),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("u1"),
}
"""How the elements of a storage lie in the file."""


def read_state_dict(data: bytes) -> tuple[dict[str, np.ndarray], str]:
    """The tensors of a checkpoint.

    Args:
        data: the whole file, as `torch.save` writes it: of a state dict, or of a dict that has one under one of
            `WRAPPERS`.

    Returns:
        (name -> array, wrapper): read-only views; bfloat16 becomes float32; entries that are no tensors are left
        out. The wrapper is the key under which the state dict was, or ''.

    Raises:
        BadFile: damaged, or more than tensors in it.
    """
    found, storages = _read_zip(data) if data.startswith(ZIP_MAGIC) else _read_legacy(data)
    wrappers = [key for key in WRAPPERS if type(found) is dict and type(found.get(key)) is dict]
    wrapper = wrappers[0] if wrappers else ""
    inner = found[wrapper] if wrapper else found
    if type(inner) is not dict:
        raise BadFile(f"a {type(inner).__name__} instead of a dict of tensors")
    tensors = {k: v for k, v in inner.items() if type(k) is str and type(v) is Tensor}
    if not tensors:
        raise BadFile("no tensors")
    return {name: _view(tensor, storages) for name, tensor in tensors.items()}, wrapper


# --- The two containers: bytes -> (value, storages by key) ---


def _read_zip(data: bytes) -> tuple[Any, dict[str, np.ndarray]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read_archive(archive, len(data))
    except BadFile:
        raise
    # zipfile raises any of these for some kind of damage.
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        NotImplementedError,
        RuntimeError,
        OSError,
        EOFError,
        KeyError,
        ValueError,
        OverflowError,
        struct.error,
    ) as error:
        raise BadFile(f"a damaged zip archive ({type(error).__name__})") from error


def _read_archive(archive: zipfile.ZipFile, size_bytes: int) -> tuple[Any, dict[str, np.ndarray]]:
    entries = archive.infolist()
    names = {entry.filename for entry in entries}
    if len(names) != len(entries):
        raise BadFile("two entries of the archive with one name")
    # torch stores, it does not compress. Without either of these an archive could unpack to any size.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise BadFile("a compressed archive")
    if sum(entry.file_size for entry in entries) > size_bytes:
        raise BadFile("an archive whose entries are larger than itself")
    roots = [name.split("/")[0] for name in names if name.split("/")[1:] == ["data.pkl"]]
    if len(roots) != 1:
        raise BadFile("a zip archive that is no checkpoint (one data.pkl)")
    root = roots[0]
    if f"{root}/byteorder" in names and archive.read(f"{root}/byteorder") != b"little":
        raise BadFile("big-endian numbers")
    found, storages = pickled.load(io.BytesIO(archive.read(f"{root}/data.pkl")))
    return found, {
        key: _elements(storage, archive.read(f"{root}/data/{key}"))
        for key, storage in storages.items()
    }


def _read_legacy(data: bytes) -> tuple[Any, dict[str, np.ndarray]]:
    file = io.BytesIO(data)
    try:
        magic, _ = pickled.load(file)
        known = type(magic) is int and magic == LEGACY_MAGIC
    except BadFile:
        known = False
    if not known:
        raise BadFile("no file of torch.save")
    version, _ = pickled.load(file)
    if type(version) is not int or version != LEGACY_PROTOCOL:
        raise BadFile("an unknown version of the old format")
    system, _ = pickled.load(file)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise BadFile("big-endian numbers")
    found, storages = pickled.load(file)
    keys, _ = pickled.load(file)
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise BadFile("no list of storages")
    if len(keys) != len(storages) or set(keys) != set(storages):
        raise BadFile("a list of storages that does not fit the tensors")
    rest, start, runs = memoryview(data), file.tell(), {}
    for key in keys:  # each: int64 number of elements, then the elements
        storage = storages[key]
        count = int.from_bytes(rest[start : start + 8], "little", signed=True)
        stop = start + 8 + storage.length * DTYPES[storage.kind].itemsize
        if count != storage.length or stop > len(data):
            raise BadFile("a storage that is cut off or of another length")
        runs[key] = _elements(storage, rest[start + 8 : stop])
        start = stop
    return found, runs


# --- From bytes to arrays ---


def _elements(storage: Storage, data: bytes | memoryview) -> np.ndarray:
    """The whole storage, [length]."""
    dtype = DTYPES[storage.kind]
    if len(data) != storage.length * dtype.itemsize:
        raise BadFile("a storage that is cut off or of another length")
    values = np.frombuffer(data, dtype)
    if storage.kind == "BFloat16Storage":
        return widen_bfloat16(values)
    return values != 0 if storage.kind == "BoolStorage" else values


def _view(tensor: Tensor, storages: dict[str, np.ndarray]) -> np.ndarray:
    """The tensor as a read-only view of its storage, never beyond it."""
    values = storages[tensor.storage.key]
    cells = math.prod(tensor.size)
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.size, tensor.stride, strict=True))
    # A stride of 0 makes an array of any size out of one number: no weight needs that.
    if cells > values.size or (cells and last >= values.size):
        raise BadFile("a tensor that is larger than its storage")
    step = values.itemsize
    # An axis of one element may have any stride, and so may all axes of an empty tensor.
    strides = [
        s * step if cells and n > 1 else 0 for n, s in zip(tensor.size, tensor.stride, strict=True)
    ]
    offset = tensor.offset * step if cells else 0
    try:  # numpy compares with the buffer once more
        array = np.ndarray(tensor.size, values.dtype, values, offset, strides)
    except ValueError as error:
        raise BadFile("a tensor of an impossible size") from error
    array.flags.writeable = False
    return array
