"""Progress of long host work: a bar on a terminal, plain lines anywhere else, or the caller's own."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tell = Callable[[str, int, int], None]
"""(what, done, total)."""

LINE_EVERY_S = 10.0


@contextmanager
def reporting(on_progress: Tell | None, title: str) -> Iterator[Tell]:
    """A callable to tell progress to; everything goes to stderr unless `on_progress` is given.

    Args:
        on_progress: the caller's own, used as it is.
        title: what is being done.
    """
    if on_progress is not None:
        yield on_progress
    elif sys.stderr.isatty():
        with _bar(title) as tell:
            yield tell
    else:
        yield _lines(title)


def _lines(title: str) -> Tell:
    """Nothing for short work, then a line now and then: logs should stay readable."""
    last_s = time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= LINE_EVERY_S:
            last_s = time.monotonic()
            print(f"{title}: {what} {done}/{total}", file=sys.stderr, flush=True)

    return tell


@contextmanager
def _bar(title: str) -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, int] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(f"{title}: {what}", total=total)
            bar.update(tasks[what], completed=done)

        yield tell
