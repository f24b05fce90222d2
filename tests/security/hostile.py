"""What hostile files are made of, and how to see that nothing came of them."""

import contextlib
import copy
import json
import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VALUES = (
    *(None, True, -1, 0, 2, 10**12, 10**30, 1e300, float("nan"), 0.5),
    *("", "x", "../../x", "\x1b[2J\n", "\ud800", [], [[]], {}, {"a": 1}),
)
"""What may stand where something else belongs."""


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of everything in a JSON value, itself included."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))


def put(value: Any, path: tuple, other: Any) -> Any:
    """A copy of `value` with `other` at `path`."""
    if not path:
        return other
    made = copy.deepcopy(value)
    node = made
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = other
    return made


def mutated(record: dict, rng, count: int) -> Iterator[tuple[str, str]]:
    """(what was done, JSON text): each place once with a drawn value, then `count` more draws."""
    places = list(leaves(record))
    drawn = [*places, *(places[i] for i in rng.integers(0, len(places), count))]
    for path in drawn:
        other = VALUES[rng.integers(len(VALUES))]
        yield f"{path} = {other!r}", json.dumps(put(record, path, other))


class Touch:
    """Pickled: a program that makes a file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def pickled(canary: Path) -> bytes:
    """A pickle that makes `canary` where somebody loads it."""
    return pickle.dumps(Touch(canary))


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails instead of waiting, for a pipe that nobody writes to or a device without an end."""

    def late(*_):
        raise AssertionError(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def at_most_mb(limit: float) -> Iterator[None]:
    """Resident memory never rises by more than `limit` MB. Measured on Linux only."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not os.access(reset, os.W_OK):
        yield
        return

    def peak_mb() -> float:
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3

    reset.write_text("5")  # the peak becomes what is held now
    before = peak_mb()
    yield
    assert peak_mb() - before <= limit


def _directory(path: Path) -> None:
    path.mkdir()


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


NO_FILES = {
    "pipe": os.mkfifo,
    "directory": _directory,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "1 TiB of nothing": _sparse,
    "link to nowhere": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
}
"""What may lie where a file belongs: path -> makes it."""
