"""Signals: a run that is told to stop saves at the next step and ends with a status that says so."""

import os
import signal
import threading
from types import FrameType

from jaxseg.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What schedulers send, and Ctrl-C."""


class Interrupts:
    """While the block runs, the first signal is remembered and a second one ends the process at once.

    Python runs the handler between two of its own instructions, so a signal that comes in the middle of a compilation,
    a step or a copy is seen right after it. Outside the main thread nothing can be installed: there the block does
    nothing.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        """Whether the run has been told to stop."""
        return self.signal is not None

    def check(self, told: int = 0) -> None:
        """Raises `Interrupted` if the run has been told to stop, here or (`told`, a signal's number) elsewhere."""
        if number := told or self.signal:
            raise Interrupted(number)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)  # no clean-up: whoever asks twice means now
        self.signal = number
        # Not print: the signal may have come in the middle of one.
        name = signal.Signals(number).name
        os.write(2, f"\n{name}: saving at the next step; a second one ends at once\n".encode())
