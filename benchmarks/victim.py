"""A small run to be disturbed: started through the public command, watched from outside, compared by its digest."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STEPS = 36
CONFIG = (
    "--config=configs/quickstart.py",
    "--config.model.width=0.125",
    "--config.model.aux=True",
    "--config.model.dropout=0.1",
    "--config.ema_decay=0.9",
    "--config.data.batch_size=4",
    "--config.data.height_px=64",
    "--config.data.width_px=96",
    "--config.data.augment.scale_max=1.5",
    "--config.data.augment.color_jitter=0.3",
    "--config.checkpoint.every_steps=3",
    "--config.log.every_steps=3",
    "--config.log.tensorboard=False",
    "--config.eval.every_steps=18",
    "--config.phases.main.optim.warm_up_steps=4",
    "--config.eval.num_pictures=0",
)
LIMIT_S = 240
"""A run that takes longer hangs."""


@dataclass(frozen=True)
class End:
    """How a process ended: status (negative: by a signal), its lines, and seconds from when it was told to end."""

    status: int
    out: str
    err: str
    seconds: float

    def one_line(self) -> bool:
        """Whether it said what is wrong in one line and nothing else."""
        said = [x for x in self.err.splitlines() if x and not x.startswith(("SIG", "[Gloo]"))]
        return len(said) == 1


class Victim:
    """A run in `folder`; `flags` come after CONFIG, `command` takes the place of python -m jaxseg.train."""

    def __init__(
        self, folder: Path, *flags: str, steps: int = STEPS, command: tuple[str, ...] = ()
    ):
        self.folder, self.steps, self.name = folder, steps, folder.name
        module = (*command, sys.executable, "-u", "-m", "jaxseg.train")
        length = f"--config.phases.main.steps={steps}"
        self.command = (*module, *CONFIG, length, f"--workdir={folder}", *flags)
        self.process: subprocess.Popen[str] | None = None

    def fresh(self) -> "Victim":
        """Without anything from before."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return self

    def start(self, *flags: str) -> "Victim":
        """In a session of its own, so that everything that comes of it can be found and ended."""
        self._told = self.folder.with_name(f"{self.name}.out")
        self._said = self.folder.with_name(f"{self.name}.err")
        with self._told.open("w") as out, self._said.open("w") as err:
            self.process = subprocess.Popen(
                [*self.command, *flags], stdout=out, stderr=err, start_new_session=True
            )
        return self

    def until(self, what: Callable[["Victim"], bool]) -> bool:
        """Waits for it; False if the process ended before."""
        limit = time.monotonic() + LIMIT_S
        while time.monotonic() < limit:
            if what(self):
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.002)
        raise RuntimeError(f"nothing happens: {self.tail()}")

    def said(self, text: str) -> bool:
        return text in self._told.read_text()

    def send(self, number: int) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, number)

    def end(self) -> End:
        """Waits for the end; a process that hangs is killed, and that is an error of the experiment's."""
        begin_s = time.monotonic()
        try:
            status = self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired as error:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise RuntimeError(f"hangs: {self.tail()}") from error
        seconds = round(time.monotonic() - begin_s, 2)
        return End(status, self._told.read_text(), self._said.read_text(), seconds)

    def to_end(self, *flags: str) -> End:
        """Starts and waits."""
        return self.start(*flags).end()

    def digest(self) -> str:
        """Of the whole state at the end of the run."""
        record = json.loads((self.folder / "run.json").read_text())
        if record["step"] != self.steps:
            raise RuntimeError(f"ended at step {record['step']}")
        return record["state_digest"]

    def saved(self) -> list[int]:
        """Steps of complete checkpoints."""
        folder = self.folder / "checkpoints"
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        return sorted(int(name) for name in names if name.isdecimal())

    def is_saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any((self.folder / "checkpoints").glob("*tmp*"))

    def resumed_at(self) -> int:
        """The step at which the process said that it goes on; 0 = it started."""
        for line in self._told.read_text().splitlines():
            if line.startswith("resuming at step "):
                return int(line.split()[3].rstrip(":"))
        return 0

    def left_over(self) -> list[str]:
        """Processes of this run that still live, some seconds after it ended: command lines."""
        limit = time.monotonic() + 5
        while alive := _members(self.process.pid):
            if time.monotonic() > limit:
                return alive
            time.sleep(0.1)
        return []

    def tail(self) -> str:
        return self._told.read_text()[-500:] + self._said.read_text()[-1500:]


def shared_memory() -> set[str]:
    """Names in /dev/shm that no living process has mapped: what somebody left behind."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return set()
    names = {p.name for p in folder.iterdir()}
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            text = maps.read_text()
        except OSError:
            continue
        names -= {name for name in names if f"/dev/shm/{name}" in text}
    return names


def size_bytes(folder: Path) -> int:
    """Of all files under it."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _members(session: int) -> list[str]:
    """Command lines of the living processes of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(line.strip())
    return found
