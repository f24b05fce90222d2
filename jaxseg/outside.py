"""Files that come from outside: read as data, within bounds, and written without following anybody's links.

A folder that somebody sent may hold a pipe under the name of a picture, a JSON text nested a hundred thousand deep,
or a link where we are about to write. All that ends here, as an `OSError` or in one line.
"""

import dataclasses
import json
import os
import stat
import types
import typing
from pathlib import Path
from typing import Any

from jaxseg.errors import UserError, short, unknown_name

MAX_TEXT_BYTES = 16 * 2**20
"""Of lists of names and the like."""

MAX_JSON_BYTES = 4 * 2**20
MAX_JSON_DEPTH = 32
"""Objects and lists within each other; ours have 6, and what walks over them may then recurse."""


class NotRegular(OSError):
    """A directory, pipe, socket or device where a file belongs."""


def read_file(path: Path, *, max_bytes: int) -> bytes:
    """The bytes of a regular file; links are followed.

    Raises:
        OSError: with `strerror` as always; also for what is no regular file (never waiting for it), or is larger than
            `max_bytes`.
    """
    # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegular(0, "not a regular file", str(path))
        # Not the size alone: it may be wrong by the time of reading.
        data = b"" if status.st_size > max_bytes else file.read(max_bytes + 1)
        if max(status.st_size, len(data)) > max_bytes:
            raise OSError(0, f"larger than {max_bytes} bytes", str(path))
    return data


def write_file(path: Path, data: bytes) -> None:
    """Writes or replaces a file, whole or not at all. A link of that name is replaced, never written through.

    Raises:
        OSError: as always.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    try:
        with open(fresh, "xb") as file:  # x: not through a link either
            file.write(data)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def read_object(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        OSError: as `read_file`.
        UserError: as `parse_object`.
    """
    return parse_object(read_file(path, max_bytes=max_bytes), str(path))


def parse_object(text: bytes | str, what: str) -> dict[str, Any]:
    """The JSON object that a text is, by RFC 8259 and in UTF-8; stricter than `json.loads`.

    Args:
        text: of bounded size.
        what: it is, for the error.

    Raises:
        UserError: not JSON; not an object; NaN, infinity or a number beyond float64; a name twice in one object; nested
            more than `MAX_JSON_DEPTH` deep; half a surrogate pair, which nothing can print.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        found = json.loads(
            text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_once
        )
        _check(found)
    except RecursionError as error:
        raise UserError(f"{what} is not valid JSON for us", got=_TOO_DEEP) from error
    except ValueError as error:  # also UnicodeDecodeError, and integers of thousands of digits
        raise UserError(f"{what} is not valid JSON", got=error) from error
    if not isinstance(found, dict):
        raise UserError(what, got=f"a {type(found).__name__}", expected="a JSON object")
    return found


def as_record(value: object, hint: object, path: str) -> typing.Any:
    """A value as decoded from JSON, checked against a type and turned into it.

    Args:
        value: from `parse_object`, or within it.
        hint: a dataclass of such types, tuple[X, ...], str, int (of 64 bits) or float.
        path: of the value, for the error.

    Raises:
        UserError: another type, an unknown or a missing field.
    """
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UserError(path, got=short(value), expected="an object")
        hints = typing.get_type_hints(hint)
        for name in value:
            if name not in hints:
                raise unknown_name(f"field of {path}", name, hints)
        for field in dataclasses.fields(hint):
            if field.default is dataclasses.MISSING and field.name not in value:
                raise UserError(f"{path} lacks the field {field.name!r}")
        return hint(**{k: as_record(v, hints[k], f"{path}.{k}") for k, v in value.items()})
    if isinstance(hint, types.GenericAlias):  # tuple[X, ...] is the only generic we use
        if not isinstance(value, list):
            raise UserError(path, got=short(value), expected="a list")
        item = typing.get_args(hint)[0]
        return tuple(as_record(v, item, f"{path}[{i}]") for i, v in enumerate(value))
    accepted = (int, float) if hint is float else hint
    huge = isinstance(value, int) and abs(value) >= 2**63
    if not isinstance(value, accepted) or isinstance(value, bool) or huge:
        raise UserError(path, got=short(value), expected=f"a value of type {hint.__name__}")
    return value


_TOO_DEEP = f"more than {MAX_JSON_DEPTH} objects and lists within each other"


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant}, which is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if abs(value) != float("inf") else _refuse(digits[:40])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the name {twice[:80]!r} twice in one object")
    return made


def _check(found: Any) -> None:
    """Depth and strings, level by level and so without recursion."""
    level = [found]
    for _ in range(MAX_JSON_DEPTH + 1):
        following: list[Any] = []
        for value in level:
            if isinstance(value, str):
                value.encode("utf-8")
            elif isinstance(value, dict):
                following += [*value.keys(), *value.values()]
            elif isinstance(value, list):
                following += value
        if not following:
            return
        level = following
    raise ValueError(_TOO_DEEP)
