"""toy_street samples as PNG, made by helper processes: drawing holds Python's lock, so threads would not help.

Helpers are plain subprocesses of this module and not `multiprocessing`: that would either fork a process full of
JAX threads or import the user's script again, which fails for a script without `if __name__ == "__main__"`.
"""

import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import cv2

from jaxseg.data import images, toy_street

LENGTHS = struct.Struct("<QQ")
WORTH_S = 3.0
"""Helpers are started where drawing alone would take longer than this; below, starting them costs as much."""


def encoded(split: str, index: int) -> tuple[bytes, bytes]:
    """Image and label of one sample as PNG."""
    image, label = toy_street.sample(split, index)
    return images.encode_png(image), images.encode_png(label)


def all_encoded(split: str, count: int) -> Iterator[tuple[bytes, bytes]]:
    """The first `count` samples of a split, in order; drawn by as many processes as there are CPUs, 8 at most."""
    helpers = min(8, len(os.sched_getaffinity(0)))
    start_s = time.perf_counter()
    encoded(split, 0)
    alone_s = count * (time.perf_counter() - start_s)
    if alone_s < WORTH_S or helpers < 2:
        return (encoded(split, index) for index in range(count))
    return _from_helpers(split, count, helpers)


def _from_helpers(split: str, count: int, helpers: int) -> Iterator[tuple[bytes, bytes]]:
    """Helper k draws samples k, k + helpers, ..; a full pipe makes it wait, so none runs far ahead."""
    package_parent = str(Path(__file__).parents[3])
    path = os.pathsep.join(p for p in (package_parent, os.environ.get("PYTHONPATH")) if p)
    started = [
        subprocess.Popen(
            [sys.executable, "-m", __spec__.name, split, str(k), str(count), str(helpers)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        for k in range(helpers)
    ]
    try:
        for index in range(count):
            process = started[index % helpers]
            sizes = LENGTHS.unpack(_read(process, LENGTHS.size))
            yield _read(process, sizes[0]), _read(process, sizes[1])
    finally:
        for process in started:
            process.kill()
            # Closes the pipe and waits.
            process.communicate()


def _read(process: subprocess.Popen, size: int) -> bytes:
    data = process.stdout.read(size)
    if len(data) < size:
        raise RuntimeError(f"a helper drawing toy_street ended early, status {process.wait()}")
    return data


def main(argv: list[str], out: IO[bytes]) -> None:
    """A helper: split, first index, end, step -> lengths and bytes of each sample."""
    # There is a helper for every CPU already.
    cv2.setNumThreads(1)
    split, (first, count, step) = argv[0], (int(a) for a in argv[1:])
    for index in range(first, count, step):
        image, label = encoded(split, index)
        out.write(LENGTHS.pack(len(image), len(label)) + image + label)
        out.flush()


if __name__ == "__main__":
    try:
        main(sys.argv[1:], sys.stdout.buffer)
    except (KeyboardInterrupt, BrokenPipeError):
        # The main process was stopped and says so itself. Not sys.exit: that would flush into a closed pipe.
        os._exit(1)
