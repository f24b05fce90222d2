"""The tools of benchmarks."""

import time
from pathlib import Path

from benchmarks.in_turn import in_turn


def one(pause_s: float, log: str) -> dict:
    """A step that is slow where the other side has had its turn in between."""

    def step() -> None:
        text = Path(log).read_text() if Path(log).exists() else ""
        Path(log).write_text(text + "x")
        time.sleep(0 if text.endswith("x") else pause_s)

    return {"step": step}


def two(pause_s: float, log: str) -> dict:
    """The other side, which only writes that it was there."""
    return {"step": lambda: Path(log).write_text(Path(log).read_text() + "y") and None}


def test_the_first_step_of_a_turn_is_not_measured(tmp_path):
    log = tmp_path / "log"
    found = in_turn({"one": one, "two": two}, (0.5, str(log)), rounds=3, steps=2)
    assert {name: len(times) for name, times in found.items()} == {"one step": 4, "two step": 4}
    assert max(found["one step"]) < 400  # ms
    assert log.read_text() == 3 * ("xxx" + "yyy")
