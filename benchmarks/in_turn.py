"""Frameworks timed in turn on one machine, each in a process of its own.

So neither's threads wait inside the other's time, and what else the machine does falls on all alike: a ratio is one
of medians over the same minutes.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Environment of every process: on Linux it saves jaxseg and torch alike the handling of small pages."""

Step = Callable[[], None]
"""Does once what is timed, and waits for it."""


def in_turn(
    makers: dict[str, Callable[..., dict[str, Step]]],
    arguments: tuple,
    *,
    rounds: int = 6,
    steps: int = 3,
) -> dict[str, list[float]]:
    """Times every step of every framework.

    Args:
        makers: framework -> importable function of `arguments` that gives its steps by name.
        arguments: picklable.
        rounds: how often each is asked; the first round warms up and is left out.
        steps: measured in a row, each time, after one that is not.

    Returns:
        '<framework> <step>' -> milliseconds, one after the other.
    """
    spawn = multiprocessing.get_context("spawn")
    os.environ.update(HUGE_PAGES)
    wires, names = {}, []
    for framework, make in makers.items():
        wires[framework], theirs = spawn.Pipe()
        spawn.Process(target=_serve, args=(theirs, make, arguments, steps), daemon=True).start()
        theirs.close()  # so that a process that fails is an EOFError here, not a wait for ever
        names += [(framework, step) for step in wires[framework].recv()]
    # What does the same comes together: names begin with what is done.
    names.sort(key=lambda pair: pair[1])
    found: dict[str, list[float]] = {f"{framework} {step}": [] for framework, step in names}
    for turn in range(rounds):
        for framework, step in names:
            wires[framework].send(step)
            times = wires[framework].recv()
            found[f"{framework} {step}"] += times if turn else []
    for wire in wires.values():
        wire.send(None)
    return found


def _serve(wire: Connection, make: Callable, arguments: tuple, number: int) -> None:
    """A process: answers the name of a step with the milliseconds that each of `number` took."""
    steps = make(*arguments)
    wire.send(list(steps))
    while (name := wire.recv()) is not None:
        times = []
        steps[name]()  # finds caches that the other side filled, so it is not measured
        for _ in range(number):
            begin_s = time.perf_counter()
            steps[name]()
            times.append(1e3 * (time.perf_counter() - begin_s))
        wire.send(times)
