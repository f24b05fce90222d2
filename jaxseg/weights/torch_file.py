"""PyTorch's checkpoint files, read without PyTorch and without running anything in them.

Such a file is a pickle that builds a dict of tensors, and the bytes of their storages beside it. A pickle is
a program; we walk through its instructions ourselves (`pickletools.genops` only decodes them) and know no more
than is needed to build dicts, lists, tuples, numbers, strings and tensors. No name is ever looked up, nothing is
called: the four names below are compared as text, and anything else is refused. So a hostile file can at worst
give wrong numbers.

Both formats are read: the zip archive (torch >= 1.6) and the sequence of pickles before it.
"""

import io
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.errors import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
ZIP_MAGIC = b"PK\x03\x04"
MAX_DIMENSIONS = 8

ORDERED_DICT = "collections OrderedDict"
TENSOR = "torch._utils _rebuild_tensor_v2"
PARAMETER = "torch._utils _rebuild_parameter"
STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype("<u2"),  # the upper half of a float32; widened below
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class BadFile(ValueError):
    """The file is damaged, or holds what we do not read. The text says what."""


@dataclass(frozen=True)
class _Name:
    """A global that the pickle mentions: 'module name'. Never looked up."""

    text: str


@dataclass(frozen=True)
class _Storage:
    kind: str
    key: str
    length: int


@dataclass(frozen=True)
class _Tensor:
    """Where a tensor lies in its storage, in elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


_MARK = object()


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint.

    Args:
        path: a file written by `torch.save` of a state dict, or of a dict that has one under 'state_dict',
            'model_state_dict' or 'model'.

    Returns:
        Name -> array in native byte order; bfloat16 becomes float32. Entries that are no tensors are left out.

    Raises:
        UserError: no such file, damaged, or more than tensors in it.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read weights {path}", got=error.strerror) from error
    try:
        found, storages = _read_zip(data) if data.startswith(ZIP_MAGIC) else _read_legacy(data)
        return {name: _array(tensor, storages) for name, tensor in _state_dict(found).items()}
    except (BadFile, zipfile.BadZipFile) as error:
        raise UserError(
            f"cannot read weights {path}",
            got=error,
            expected="a state dict of tensors, as torch.save(model.state_dict(), path) writes it",
        ) from error


# --- The two containers ---


def _read_zip(data: bytes) -> tuple[Any, dict[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if len(set(names)) != len(names):
            raise BadFile("two entries of the archive with one name")
        # torch stores, it does not compress: so no entry can be larger than the file that holds it.
        if any(e.compress_type != zipfile.ZIP_STORED for e in entries):
            raise BadFile("a compressed archive")
        if sum(e.file_size for e in entries) > len(data):
            raise BadFile("entries larger than the file")
        programs = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
        if len(programs) != 1:
            raise BadFile("no data.pkl in the archive")
        root = programs[0].split("/")[0]
        if f"{root}/byteorder" in names and archive.read(f"{root}/byteorder") != b"little":
            raise BadFile("big-endian numbers")
        prefix = f"{root}/data/"
        found = _run(io.BytesIO(archive.read(programs[0])))
        keys = [name for name in names if name.startswith(prefix)]
        return found, {name.removeprefix(prefix): archive.read(name) for name in keys}


def _read_legacy(data: bytes) -> tuple[Any, dict[str, bytes]]:
    file = io.BytesIO(data)
    if _run(file) != LEGACY_MAGIC or _run(file) != LEGACY_PROTOCOL:
        raise BadFile("not a file of torch.save")
    system = _run(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise BadFile("big-endian numbers")
    seen: dict[str, _Storage] = {}
    found, keys = _run(file, seen), _run(file)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(seen):
        raise BadFile("a list of storages that does not fit the tensors")
    storages = {}
    for key in keys:
        length = int.from_bytes(file.read(8), "little", signed=True)
        if length != seen[key].length:
            raise BadFile(f"storage {key} of {length} elements, not {seen[key].length}")
        size = length * STORAGES[seen[key].kind].itemsize
        storages[key] = file.read(size)
        if len(storages[key]) != size:
            raise BadFile("the end of the file is missing")
    return found, storages


# --- The pickle ---


def _run(file: io.BytesIO, seen: dict[str, _Storage] | None = None) -> Any:
    """The value of the pickle that begins here; `seen` collects the storages that it mentions."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for op, arg, _ in pickletools.genops(file):
            if op.name == "STOP":
                return stack.pop()
            _step(op.name, arg, stack, memo, seen)
    except BadFile:
        raise
    except (
        Exception
    ) as error:  # whatever a damaged pickle trips over: an empty stack, an unhashable key, ...
        raise BadFile(f"a damaged pickle ({type(error).__name__}: {error})") from error
    raise BadFile("a pickle without an end")


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE")
_VALUES += ("SHORT_BINUNICODE", "BINUNICODE8")


def _step(name: str, arg: Any, stack: list, memo: dict, seen: dict | None) -> None:
    """One instruction of the pickle machine."""
    if name in ("PROTO", "FRAME"):
        pass
    elif name in _VALUES:
        stack.append(arg)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in _EMPTY:
        stack.append(_EMPTY[name]())
    elif name == "MARK":
        stack.append(_MARK)
    elif name in ("BINPUT", "LONG_BINPUT"):
        memo[arg] = stack[-1]
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[arg])
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(name[-1])
        stack[-count:] = [tuple(stack[-count:])]
    elif name == "TUPLE":
        stack.append(tuple(_since_mark(stack)))
    elif name in ("APPEND", "APPENDS"):
        items = _since_mark(stack) if name == "APPENDS" else [stack.pop()]
        _of(list, stack[-1]).extend(items)
    elif name in ("SETITEM", "SETITEMS"):
        items = _since_mark(stack) if name == "SETITEMS" else [stack.pop() for _ in "kv"][::-1]
        _of(dict, stack[-1]).update(zip(items[::2], items[1::2], strict=True))
    elif name == "GLOBAL":
        stack.append(_Name(arg))
    elif name == "STACK_GLOBAL":
        attribute, module = stack.pop(), stack.pop()
        stack.append(_Name(f"{module} {attribute}"))
    elif name == "REDUCE":
        arguments, function = stack.pop(), stack.pop()
        stack.append(_built(function, arguments))
    elif name == "BUILD":
        stack.pop()  # attributes of an OrderedDict (torch notes versions of modules there)
        _of(dict, stack[-1])
    elif name == "BINPERSID":
        stack.append(_storage(stack.pop(), seen))
    else:
        raise BadFile(f"the pickle instruction {name}")


def _since_mark(stack: list) -> list:
    """Takes everything above the last mark off the stack, and the mark."""
    at = max(i for i, value in enumerate(stack) if value is _MARK)
    items = stack[at + 1 :]
    del stack[at:]
    return items


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise BadFile(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _built(function: Any, arguments: Any) -> Any:
    """What the few known constructors would build."""
    text, arguments = _of(_Name, function).text, _of(tuple, arguments)
    if text == ORDERED_DICT and not arguments:
        return {}
    if text == ORDERED_DICT and len(arguments) == 1:
        return dict(_of(list, arguments[0]))
    if text == PARAMETER and arguments:
        return _of(_Tensor, arguments[0])
    if text == TENSOR and len(arguments) >= 4:
        storage, offset, size, stride = arguments[:4]
        numbers = (offset, *_of(tuple, size), *_of(tuple, stride))
        if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
            raise BadFile(f"a tensor of size {size} and stride {stride}")
        if not all(type(n) is int and n >= 0 for n in numbers):
            raise BadFile("a tensor with a size, stride or offset that is no count")
        return _Tensor(_of(_Storage, storage), offset, size, stride)
    raise BadFile(f"{text.replace(' ', '.')}, which is no tensor")


def _storage(identity: Any, seen: dict | None) -> _Storage:
    """('storage', type, key, device, length, ...)."""
    kind, name, key, _, length = _of(tuple, identity)[:5]
    module, _, dtype = _of(_Name, name).text.partition(" ")
    if kind != "storage" or module not in ("torch", "torch.storage") or dtype not in STORAGES:
        raise BadFile(f"a storage of type {module}.{dtype}")
    if type(key) is not str or type(length) is not int or length < 0:
        raise BadFile("a storage without a name and a length")
    storage = _Storage(dtype, key, length)
    if seen is not None and seen.setdefault(key, storage) != storage:
        raise BadFile(f"two storages called {key}")
    return storage


# --- From tensors to arrays ---


def _state_dict(found: Any) -> dict[str, _Tensor]:
    """The tensors by name: of the dict itself or of the one inside it, 'module.' of DataParallel cut off."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    if not isinstance(found, dict):
        raise BadFile(f"a {type(found).__name__}")
    tensors = {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, _Tensor)}
    if not tensors:
        raise BadFile("no tensors")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _array(tensor: _Tensor, storages: dict[str, bytes]) -> np.ndarray:
    dtype, data = STORAGES[tensor.storage.kind], storages.get(tensor.storage.key)
    if data is None or len(data) < tensor.storage.length * dtype.itemsize:
        raise BadFile(f"storage {tensor.storage.key} is missing or too short")
    values = np.frombuffer(data, dtype, tensor.storage.length)
    cells = int(np.prod(tensor.size, dtype=object))
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.size, tensor.stride, strict=True))
    # A stride of 0 could make an array of any size out of one number: no weight needs that.
    if cells and (last >= values.size or cells > values.size):
        raise BadFile(f"a tensor of size {tensor.size} in a storage of {values.size} elements")
    if not cells:
        array = np.zeros(tensor.size, dtype)
    else:
        strides = tuple(s * dtype.itemsize for s in tensor.stride)
        array = np.lib.stride_tricks.as_strided(
            values[tensor.offset :], tensor.size, strides, writeable=False
        )
    if tensor.storage.kind == "BFloat16Storage":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(dtype.newbyteorder("="))
