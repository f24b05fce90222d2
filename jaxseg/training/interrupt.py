"""Signals: a run that is told to stop saves at the next step and ends with a status that says so."""

import contextlib
import os
import signal
import threading
from types import FrameType

from jaxseg.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What schedulers send, Ctrl-C, and a terminal that is closed."""


class Interrupts:
    """While the block runs, the first signal is remembered and a second one ends the process at once.

    Not so SIGHUP: a shell and the system may both send it for one terminal. Under `nohup` it stays ignored.

    Python runs the handler between two of its own instructions, so a signal that comes in the middle of a compilation,
    a step or a copy is seen right after it. Outside the main thread nothing can be installed: there the block does
    nothing.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            deaf = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            heard = [number for number in SIGNALS if not (deaf and number == signal.SIGHUP)]
            self._before = {number: signal.signal(number, self._handle) for number in heard}
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
            if number == signal.SIGHUP:
                return
            os._exit(128 + number)  # no clean-up: whoever asks twice means now
        self.signal = number
        # Not print: the signal may have come in the middle of one.
        name = signal.Signals(number).name
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, f"\n{name}: saving at the next step; a second one ends at once\n".encode())
