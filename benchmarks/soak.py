"""Killed and started again, over and over: nothing is lost, nothing grows, nothing is left behind.

`make soak`, or `python -m benchmarks.run soak`.
"""

import random
import signal
import time
from pathlib import Path
from typing import Any

from benchmarks.victim import Victim, shared_memory, size_bytes

CLAIM = (
    "A run that is killed (kill -9) or stopped (SIGTERM) again and again at random moments loses no saved step, ends "
    "with the state of a run that nobody disturbed, and leaves no process, no shared memory and no growing folder."
)
SEEDS = (0,)
CYCLES = 52
STEPS_A_CYCLE = 6
STEPS = 10 * CYCLES
"""More than the cycles take: while one waits for a save, the run goes on."""


def soak(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """Cycles of start, some steps, and a kill; then to the end."""
    dice = random.Random(seed)
    whole = Victim(workdir / "whole", steps=STEPS).fresh()
    assert whole.to_end().status == 0, whole.tail()
    victim = Victim(workdir / "soaked", "--config.data.num_workers=2", steps=STEPS)
    # Not part of the config of `whole`: batches do not depend on who makes them.
    victim.fresh()
    memory = shared_memory()
    lost, left, sizes, known = 0, [], [], 0
    sent = {signal.SIGKILL: 0, signal.SIGTERM: 0}
    for _ in range(CYCLES):
        victim.start()
        # Before that a SIGTERM simply ends the process (status -15): there is nothing to save yet.
        victim.until(lambda v: v.said("resuming at step ") or v.said("starting: "))
        goal = known + STEPS_A_CYCLE
        reached = victim.until(lambda v, goal=goal: max(v.saved(), default=0) >= goal)
        lost += max(0, known - victim.resumed_at())
        if not reached:
            break  # it ended
        time.sleep(dice.uniform(0, 0.6))
        number = signal.SIGKILL if dice.random() < 0.7 else signal.SIGTERM
        known = max(victim.saved())  # complete before the signal
        victim.send(number)
        status = victim.end().status
        assert status in ((-9, 0) if number == signal.SIGKILL else (143, 0)), victim.tail()
        sent[number] += 1
        left += victim.left_over()
        sizes.append(size_bytes(victim.folder))
    end = victim.to_end()
    assert end.status == 0, victim.tail()
    return {
        "cycles": len(sizes),
        "kill_9": sent[signal.SIGKILL],
        "sigterm": sent[signal.SIGTERM],
        "steps": STEPS,
        "saved_steps_lost": lost,
        "same_state_at_the_end": victim.digest() == whole.digest(),
        "processes_left": len(left),
        "shared_memory_left": len(shared_memory() - memory),
        "folder_bytes_after_5": sizes[4],
        "folder_bytes_at_the_end": sizes[-1],
        "checkpoints_kept": len(victim.saved()),
    }


ARMS = {"soak": soak}
