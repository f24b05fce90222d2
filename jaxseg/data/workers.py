"""Processes that make batches, each with a pipe of its own.

A pipe whose only writer is the worker ends when the worker does, even in the middle of a message. Queues of
multiprocessing, which grain's worker processes share with their parent, do not: a worker that was killed left a reader
that waited for the rest for ever (measured; it is the usual moment, since a full queue keeps every worker writing).
No shared memory and no semaphores either, so nothing can be left behind.
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import cv2

from jaxseg.errors import RunFailed

CLOSE_S = 5.0


def one_opencv_thread() -> None:
    """Batches are made side by side; OpenCV's own threads would only get in each other's way."""
    cv2.setNumThreads(1)


class Workers(Iterator[Any]):
    """make(start), make(start + 1), ... make(stop - 1), made in processes. Close it: the processes are gone then."""

    def __init__(
        self, make: Callable[[int], Any], start: int, stop: int, *, count: int, ahead: int
    ):
        """Args: what makes an item, pickled; first and last + 1; number of processes; items made ahead by each."""
        context = multiprocessing.get_context("spawn")
        self._pipes, self._processes = [], []
        for first in range(start, start + count):
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(
                target=_work, args=(make, range(first, stop, count), writer, ahead), daemon=True
            )
            process.start()
            writer.close()  # the worker has its own; with this one open the pipe would never end
            self._pipes.append(reader)
            self._processes.append(process)
        # Unpickling takes as long as a copy, which the step need not wait for.
        self._queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(1)
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(stop - start,), daemon=True)
        self._reader.start()

    def __next__(self) -> Any:
        """The next item.

        Raises:
            StopIteration: there is none.
            RunFailed: a worker is gone.
        """
        item, error = self._queue.get()
        if error is not None:
            self._queue.put((None, error))  # and again, whoever asks again
            raise error
        return item

    def close(self) -> None:
        """Ends the workers; may be called twice."""
        self._closing.set()
        for process in self._processes:
            process.terminate()
        while self._reader.is_alive():  # its pipes end now; it may wait for room
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.02)
        for process in self._processes:
            process.join(CLOSE_S)
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self._pipes:
            pipe.close()

    def _read(self, total: int) -> None:
        error: BaseException = StopIteration()
        for number in range(total):
            try:
                item = self._pipes[number % len(self._pipes)].recv()
            except (EOFError, OSError):
                error = self._gone(number % len(self._pipes))
                break
            self._queue.put((item, None))
            if self._closing.is_set():
                return
        self._queue.put((None, error))

    def _gone(self, which: int) -> RunFailed:
        self._processes[which].join(CLOSE_S)
        code = self._processes[which].exitcode
        how = f"by signal {-code}" if code and code < 0 else f"with status {code}"
        return RunFailed(
            f"a process that makes batches ended {how}, most likely for want of memory; make room or lower "
            "data.num_workers and data.prefetch; the same command goes on from the last checkpoint"
        )


def _work(make: Callable[[int], Any], numbers: Sequence[int], pipe: Connection, ahead: int) -> None:
    """The life of a worker: makes items while a thread sends those that are made."""
    # Ctrl-C reaches the whole group; when to stop is for the run to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    one_opencv_thread()
    made: queue.Queue[Any] = queue.Queue(ahead)

    def send() -> None:
        try:
            for _ in numbers:
                pipe.send(made.get())
        except OSError:
            os._exit(1)  # nobody reads any more: the run was killed

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    for number in numbers:
        made.put(make(number))
    sender.join()
