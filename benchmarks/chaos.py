"""Faults of every kind, done to real runs through the public commands; `docs/reliability.md` tells what came of it.

`make chaos`, or `python -m benchmarks.run chaos`. A test adds up what the tries took in the record: under 20 minutes on
2 CPU cores. Every arm ends with the same question: is the state at the end that of a run that nobody disturbed, bit for
bit?
"""

import functools
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.victim import End, Victim, shared_memory

CLAIM = (
    "Whatever befalls a run, it ends with a documented status and one line, and the same command then ends with the "
    "state of a run that nobody disturbed."
)
SEEDS = (0,)
HEARTBEAT_S = 10
KILLS = 5


@functools.cache
def undisturbed(folder: Path) -> str:
    """The digest that every arm must arrive at."""
    whole = Victim(folder / "whole").fresh()
    end = whole.to_end()
    assert end.status == 0, whole.tail()
    return whole.digest()


def arm(trial: Callable[[Victim, random.Random], dict[str, Any]], tries: int, *flags: str) -> Any:
    """An arm of `tries` trials; what they give is counted (booleans, whole numbers) or listed (all else)."""

    def run(seed: int, workdir: Path, data: str) -> dict[str, Any]:
        expected = undisturbed(workdir.parent.parent)
        dice = random.Random(seed)
        victim = Victim(workdir / "victim", *flags)
        memory = shared_memory()
        told: list[dict[str, Any]] = []
        left = 0
        for _ in range(tries):
            answer = trial(victim.fresh(), dice)
            if victim.process.poll() is None:
                victim.end()
            end = victim.to_end()
            assert end.status == 0, victim.tail()
            left += len(victim.left_over())
            told.append({"same_state": victim.digest() == expected, **answer})
        row: dict[str, Any] = {"tries": tries, "processes_left": left}
        row["shared_memory_left"] = len(shared_memory() - memory)
        for key in told[0]:
            values = [x[key] for x in told]
            row[key] = sum(values) if isinstance(values[0], int) else sorted(values)
        return row

    run.tries = tries
    return run


def signalled(number: int, victim: Victim, dice: random.Random) -> dict[str, Any]:
    """A signal at any moment between the start of compilation and the end."""
    victim.start()
    victim.until(lambda v: v.said("phase main"))
    time.sleep(dice.uniform(0, 5))
    victim.send(number)
    end = victim.end()
    done = end.status == 0  # it came after the end
    documented = end.status == (-number if number == signal.SIGKILL else 128 + number)
    return {"as_documented": documented or done, "seconds_to_end": end.seconds}


def killed_around_saves(victim: Victim, dice: random.Random) -> dict[str, Any]:
    """By kill -9, within the first tenths of a second after a save began, several times in one run."""
    kills, restored, known = 0, 0, 0
    for _ in range(KILLS):
        victim.start()
        victim.until(lambda v: v.said("resuming at step ") or v.said("starting: "))
        goal = known + dice.choice((3, 6))
        found = victim.until(
            lambda v, goal=goal: v.is_saving() and max(v.saved(), default=0) >= goal - 3
        )
        restored += victim.resumed_at() >= known
        if not found:
            break
        time.sleep(dice.uniform(0, 0.15))
        known = max(victim.saved(), default=0)
        victim.send(signal.SIGKILL)
        victim.end()
        kills += 1
    return {"kills": kills, "newest_complete_step_restored": restored}


def told_twice(victim: Victim, dice: random.Random) -> dict[str, Any]:
    """A second signal right after the first."""
    victim.start()
    victim.until(lambda v: bool(v.saved()))
    victim.send(signal.SIGTERM)
    victim.until(lambda v: "SIGTERM" in v.tail())
    victim.send(signal.SIGTERM)
    end = victim.end()
    return {"as_documented": end.status == 143, "seconds_to_end": end.seconds}


def damaged(how: str, victim: Victim, dice: random.Random) -> dict[str, Any]:
    """The newest of two checkpoints has one file flipped by a bit, cut, emptied or gone."""
    victim.to_end("--config.max_steps=12")
    newest = victim.folder / "checkpoints" / str(victim.saved()[-1])
    files = sorted(p for p in newest.rglob("*") if p.is_file() and p.stat().st_size)
    # Large files hold nearly all bits.
    file = dice.choices(files, [p.stat().st_size for p in files])[0]
    data = bytearray(file.read_bytes())
    if how == "flipped":
        bit = dice.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
    elif how == "cut":
        file.write_bytes(data[: dice.randrange(len(data))])
    else:
        file.unlink()
    end = victim.to_end("--config.max_steps=15")
    noticed = " is damaged (" in end.out
    if end.err:
        print(end.err[:2000])  # for whoever runs it; a record is no place for paths of a machine
    return {
        "went_on": end.status == 0,
        "found_damaged": noticed,
        "one_line_of_it": not noticed or not end.err,
    }


def full_disk(victim: Victim, dice: random.Random) -> dict[str, Any]:
    """The folder lies on a tmpfs that is full after some checkpoints; then there is room again."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={dice.randrange(9, 14)}m", "tmpfs"]
    subprocess.run([*mount, str(victim.folder)], check=True)
    try:
        (victim.folder / "other").write_bytes(b"0" * 2_000_000)
        end = victim.to_end()
        saved = victim.saved()
        subprocess.run(["mount", "-o", "remount,size=200m", str(victim.folder)], check=True)
        victim.start()
        victim.until(lambda v: v.said("resuming at step ") or v.said("starting: "))
        answer = {
            "status_1": end.status == 1,
            "one_line": end.one_line(),
            "newest_complete_step_restored": victim.resumed_at() >= max(saved, default=0),
        }
        victim.end()
        kept = victim.folder.with_name("kept")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(victim.folder, kept)
    finally:
        subprocess.run(["umount", "-l", str(victim.folder)], check=True)
    shutil.copytree(kept, victim.folder, dirs_exist_ok=True)
    return answer


def worker_killed(victim: Victim, dice: random.Random) -> dict[str, Any]:
    """One of two processes that make batches gets kill -9."""
    victim.start()
    victim.until(lambda v: bool(v.saved()))
    workers = _children(victim.process.pid, "spawn_main")
    subprocess.run(["kill", "-9", str(dice.choice(workers))], check=True)
    end = victim.end()
    return {"status_1": end.status == 1, "one_line": end.one_line(), "seconds_to_end": end.seconds}


def parent_killed(victim: Victim, dice: random.Random) -> dict[str, Any]:
    """The run gets kill -9; the processes that make its batches must not stay."""
    victim.start()
    victim.until(lambda v: bool(v.saved()))
    victim.send(signal.SIGKILL)
    victim.end()
    return {"workers_gone": not victim.left_over()}


def data_removed(victim: Victim, dice: random.Random) -> dict[str, Any]:
    """The prepared data go in the middle of a run: it goes on with the open files or ends in one line."""
    cache = Path(victim.command[-1].partition("=")[2])
    victim.start()
    victim.until(lambda v: bool(v.saved()))
    shutil.rmtree(cache / "prepared")
    end = victim.end()
    return {"status_0_or_2": end.status in (0, 2), "one_line": end.status == 0 or end.one_line()}


def two_in_one_folder(victim: Victim, dice: random.Random) -> dict[str, Any]:
    """A second run in the folder of one that is not over."""
    victim.start()
    victim.until(lambda v: bool(v.saved()))
    second = subprocess.run(victim.command, capture_output=True, text=True)
    end = End(second.returncode, second.stdout, second.stderr, 0.0)
    return {"status_2": end.status == 2, "one_line": end.one_line()}


def of_two(fault: str, victim: Victim, dice: random.Random) -> dict[str, Any]:
    """Two processes, and one of them is stopped, killed or frozen; then two go on to the end."""
    first, second = pair(victim)
    first.until(lambda v: bool(v.saved()))
    time.sleep(dice.uniform(0, 1))
    hit, other = (first, second) if dice.random() < 0.5 else (second, first)
    number = {"stopped": signal.SIGTERM, "killed": signal.SIGKILL, "frozen": signal.SIGSTOP}[fault]
    hit.send(number)
    begin_s = time.monotonic()
    end = other.end()
    taken_s = round(time.monotonic() - begin_s, 2)
    if fault == "frozen":
        hit.send(signal.SIGKILL)
    status = hit.end().status
    if fault == "stopped":
        good = end.status == status and status in (0, 143)
    else:
        good = end.status not in (0, 2) and taken_s < HEARTBEAT_S + 5
    for one in pair(victim):
        assert one.end().status == 0, one.tail()
    return {
        "as_documented": good,
        "survivor_status": [end.status],
        "seconds_to_end": taken_s,
        "same_state": victim.digest() == undisturbed_pair(victim.folder.parent.parent.parent),
    }


@functools.cache
def undisturbed_pair(folder: Path) -> str:
    """The digest of two processes that nobody disturbed: sums over two devices have bits of their own."""
    whole = Victim(folder / "whole_pair").fresh()
    for one in pair(whole):
        assert one.end().status == 0, one.tail()
    return whole.digest()


def pair(victim: Victim) -> tuple[Victim, Victim]:
    """Two processes of one run, started."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    second = Victim(victim.folder)
    second.name = f"{victim.folder.name}_second"
    for rank, one in enumerate((victim, second)):
        one.start(f"--distributed={rank}/2@localhost:{port}", f"--heartbeat-s={HEARTBEAT_S}")
    return victim, second


def _children(parent: int, what: str) -> list[int]:
    listed = subprocess.run(
        ["pgrep", "-P", str(parent), "-f", what], capture_output=True, text=True, check=True
    )
    return [int(line) for line in listed.stdout.split()]


def _with_own_data(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    cache = (workdir / "cache").absolute()
    return arm(data_removed, 1, f"--config.data.cache_dir={cache}")(seed, workdir, data)


WORKERS = "--config.data.num_workers=2"
# What the record has more tries of is from an earlier, longer list.
ARMS = {
    "kill_9_around_a_save": arm(killed_around_saves, 3),
    "sigterm": arm(functools.partial(signalled, signal.SIGTERM), 3),
    "sigint": arm(functools.partial(signalled, signal.SIGINT), 1),
    "sigterm_twice": arm(told_twice, 1),
    "bit_flipped": arm(functools.partial(damaged, "flipped"), 2),
    "file_cut": arm(functools.partial(damaged, "cut"), 2),
    "file_gone": arm(functools.partial(damaged, "gone"), 2),
    "disk_full": arm(full_disk, 1),
    "worker_killed": arm(worker_killed, 1, WORKERS),
    "parent_of_workers_killed": arm(parent_killed, 1, WORKERS),
    "data_removed": _with_own_data,
    "two_runs_in_one_folder": arm(two_in_one_folder, 1),
    "one_of_two_stopped": arm(functools.partial(of_two, "stopped"), 1),
    "one_of_two_killed": arm(functools.partial(of_two, "killed"), 1),
    "one_of_two_frozen": arm(functools.partial(of_two, "frozen"), 1),
}
