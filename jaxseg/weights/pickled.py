"""The pickle in a torch checkpoint, read as data: nothing in it is looked up, imported or called.

A pickle is a program for a small stack machine. `pickle.Unpickler` with its own `find_class` would do, but what
remains allowed is then spread over the opcodes of that machine (BUILD sets attributes, NEWOBJ and REDUCE call,
EXT looks into a registry, any object may be a key and is hashed). Here are the instructions that `torch.save`
needs for dicts, lists, tuples, numbers, strings and tensors, and no others. Names are compared as text with `NAMES`;
a tensor becomes a description of where it lies. So a hostile file can give wrong numbers or an error.

Only argument readers are borrowed from `pickletools`, and only those of the known instructions.
"""

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_INSTRUCTIONS = 2_000_000
"""About 35 make a tensor, so this is far beyond any network."""

MAX_DIMENSIONS = 8
MAX_COUNT = 2**48
"""Sizes, strides and lengths are below this, so that no product of ours leaves int64 unnoticed."""

STORAGES = (
    "FloatStorage",
    "HalfStorage",
    "BFloat16Storage",
    "DoubleStorage",
    "LongStorage",
    "IntStorage",
    "ShortStorage",
    "CharStorage",
    "ByteStorage",
    "BoolStorage",
)
"""torch's names for runs of float32, float16, bfloat16, float64, int64, int32, int16, int8, uint8, bool."""


class BadFile(ValueError):
    """The file is damaged, or holds what we do not read. The text says what."""


@dataclass(frozen=True)
class Storage:
    """A run of `length` numbers of one of `STORAGES`, called `key` in the file."""

    kind: str
    key: str
    length: int


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in its storage; offset and strides in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Name:
    """A name of `NAMES` or of a storage, as text."""

    text: str


def load(file: io.BytesIO) -> tuple[Any, dict[str, Storage]]:
    """Reads one pickle and stops right after it.

    Args:
        file: at the start of the pickle; in memory, so that no length in it can ask for more than there is.

    Returns:
        (value, storages): dicts, lists, tuples, str, int, float, bool, None and `Tensor`; the storages that were
        mentioned, by key.

    Raises:
        BadFile: cut off, damaged, too long, or anything besides those values.
    """
    machine = _Machine()
    for _ in range(MAX_INSTRUCTIONS):
        code = file.read(1).decode("latin-1")
        if code not in pickletools.code2op:
            raise BadFile("a pickle that is damaged or cut off")
        instruction = pickletools.code2op[code]
        if instruction.name not in _INSTRUCTIONS:
            raise BadFile(f"a pickle with the instruction {instruction.name}")
        try:
            argument = _argument(instruction, file)
            _INSTRUCTIONS[instruction.name](machine, argument)
        except BadFile:
            raise
        # An empty stack, an unknown memo, a cut.
        except (IndexError, KeyError, ValueError) as error:
            raise BadFile(f"a pickle that is damaged or cut off at {instruction.name}") from error
        if instruction.name == "STOP":
            return machine.result, machine.storages
    raise BadFile(f"a pickle of more than {MAX_INSTRUCTIONS} instructions")


def _argument(instruction: pickletools.OpcodeInfo, file: io.BytesIO) -> Any:
    if instruction.name == "GLOBAL":  # the reader of pickletools would interpret escapes
        lines = [file.readline() for _ in range(2)]
        return tuple(line.decode("utf-8").removesuffix("\n") for line in lines)
    return instruction.arg.reader(file) if instruction.arg else None


class _Machine:
    """Stack, marks and memo. Each method is one instruction; `argument` is what it carries."""

    def __init__(self):
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.result: Any = None

    def stop(self, _: Any) -> None:
        self.result = self.stack.pop()

    def skip(self, _: Any) -> None:
        pass

    def push(self, argument: Any) -> None:
        self.stack.append(argument)

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def remember(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def recall(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def tuple_since_mark(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append(tuple(items))

    def pop(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise IndexError
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        return items

    def append(self, _: Any) -> None:
        (item,) = self.pop(1)
        _of(list, self.stack[-1]).append(item)

    def extend(self, _: Any) -> None:
        items = self.since_mark()
        _of(list, self.stack[-1]).extend(items)

    def set_item(self, _: Any) -> None:
        _update(self.stack[-3], [self.pop(2)])

    def set_items(self, _: Any) -> None:
        items = self.since_mark()
        _update(self.stack[-1], list(zip(items[::2], items[1::2], strict=True)))

    def name(self, names: tuple[str, str]) -> None:
        text = ".".join(_of(str, name) for name in names)
        if text not in NAMES and text not in _STORAGE_NAMES:
            raise BadFile(f"the name {text[:80]!r} in it, which is no part of a tensor")
        self.stack.append(_Name(text))

    def call(self, _: Any) -> None:
        """Not a call: what the few known constructors would have built."""
        name, arguments = self.pop(2)
        build = NAMES.get(_of(_Name, name).text)
        if build is None:
            raise BadFile("a storage that is called")
        self.stack.append(build(_of(tuple, arguments)))

    def ignore_attributes(self, _: Any) -> None:
        """Those of an OrderedDict, where torch notes the versions of modules."""
        self.pop(1)
        _of(dict, self.stack[-1])

    def storage(self, _: Any) -> None:
        """('storage', type, key, device, length), then None in old files; all else would be a view."""
        (identity,) = self.pop(1)
        word, name, key, _device, length, *view = _of(tuple, identity)
        kind = _STORAGE_NAMES.get(_of(_Name, name).text)
        if word != "storage" or kind is None or any(v is not None for v in view):
            raise BadFile("a storage of an unknown kind")
        storage = Storage(kind, _of(str, key), _count(length))
        if self.storages.setdefault(storage.key, storage) != storage:
            raise BadFile(f"two storages called {storage.key[:80]!r}")
        self.stack.append(storage)


# --- What may be built ---


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise BadFile(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _count(value: Any) -> int:
    if not 0 <= _of(int, value) < MAX_COUNT:
        raise BadFile("a size, stride, offset or length that is no count")
    return value


def _update(target: Any, pairs: list[Any]) -> dict[Any, Any]:
    """Keys are strings and integers: hashing a deep nest of tuples would overrun the C stack."""
    for pair in pairs:
        if type(pair) not in (tuple, list) or len(pair) != 2 or type(pair[0]) not in (str, int):
            raise BadFile("a dict with keys other than strings and integers")
    _of(dict, target).update(pairs)
    return target


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    return _update({}, _of(list, arguments[0]) if arguments else [])


def _parameter(arguments: tuple[Any, ...]) -> Tensor:
    return _of(Tensor, arguments[0])


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    """(storage, offset, size, stride, ...): gradients and hooks, which follow, are of no use here."""
    storage, offset, size, stride = arguments[:4]
    if len(_of(tuple, size)) != len(_of(tuple, stride)) or len(size) > MAX_DIMENSIONS:
        raise BadFile(f"a tensor of {len(size)} dimensions and {len(stride)} strides")
    return Tensor(
        _of(Storage, storage),
        _count(offset),
        tuple(_count(n) for n in size),
        tuple(_count(n) for n in stride),
    )


NAMES: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}
"""Every name that may be called, as text, and what stands in for it."""

_STORAGE_NAMES = {f"{m}.{kind}": kind for m in ("torch", "torch.storage") for kind in STORAGES}

_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.skip,
    "FRAME": _Machine.skip,
    "STOP": _Machine.stop,
    "MARK": _Machine.mark,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "BININT": _Machine.push,
    "BININT1": _Machine.push,
    "BININT2": _Machine.push,
    "LONG1": _Machine.push,
    "BINFLOAT": _Machine.push,
    "BINUNICODE": _Machine.push,
    "BINUNICODE8": _Machine.push,
    "SHORT_BINUNICODE": _Machine.push,
    "BINSTRING": _Machine.push,  # str of Python 2
    "SHORT_BINSTRING": _Machine.push,
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.push(machine.pop(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.pop(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.pop(3)),
    "TUPLE": _Machine.tuple_since_mark,
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.extend,
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": _Machine.remember,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": lambda machine, _: machine.name(machine.pop(2)),
    "REDUCE": _Machine.call,
    "BUILD": _Machine.ignore_attributes,
    "BINPERSID": _Machine.storage,
}
