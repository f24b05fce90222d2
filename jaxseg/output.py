"""Standard output that may go away while a command runs: `| head`, a closed terminal, a full disk."""

import os
import select
import sys
from typing import Any

STDOUT = 1
"""Its descriptor."""


class Outlet:
    """Standard output as a file; once it cannot be written, what is written is dropped."""

    def __init__(self) -> None:
        self._stream = sys.stdout  # of now: a live line puts itself before it

    def write(self, text: str) -> int:
        """As a file's."""
        try:
            return self._stream.write(text)
        except OSError:
            drop_output()
            return len(text)

    def flush(self) -> None:
        """As a file's."""
        try:
            self._stream.flush()
        except OSError:
            drop_output()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def is_heard() -> bool:
    """Whether standard output is anything but a pipe whose reader is gone."""
    poll = select.poll()
    poll.register(STDOUT, 0)
    return not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def drop_output() -> None:
    """From here on what is printed goes nowhere, what waits in buffers included."""
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), STDOUT)
