"""Starts N processes of one jaxseg command on this host and treats them as one run.

    python launch/local.py --processes=2 -- python -m jaxseg.train --config=configs/quickstart.py --workdir=W

Process i is given `--distributed=i/N@localhost:PORT` with a port that was free. Its standard error, and process 0's
standard output, are passed on with `[i] ` before each line. SIGTERM, Ctrl-C and SIGHUP (a closed terminal; not under
`nohup`) go to every process once. If one fails,
the others have its `--heartbeat-s` and `--grace-s` to end by themselves before they are killed, and all are started
again, at most `--restarts` times. Exit status: 2 if any process ended with 2 (a mistake; never restarted), else that of
the first that failed, else 143, 130 or 129 (told to stop), else 0.

Standard library only, Linux only: its kernel kills the processes when the launcher dies, even by SIGKILL.
"""

import argparse
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

MISTAKE = 2
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STOPPED = tuple(128 + number for number in SIGNALS)
HEARTBEAT_S = 100.0  # the default of --heartbeat-s in jaxseg.train
POLL_S = 0.05
READER_S = 5.0  # for the last lines; only a process that left the group can still hold the pipe
PR_SET_PDEATHSIG = 1  # linux/prctl.h
DEVICE_COUNT = "--xla_force_host_platform_device_count"
LIBC = ctypes.CDLL(None)


class Mistake(Exception):
    """The user's: one line, status 2."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise Mistake(f"{message} (see --help)")


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Splits at the first `--`: the launcher's own arguments, and the command."""
    parser = Parser(
        prog="launch/local.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage="%(prog)s --processes=N [options] -- COMMAND ...",
    )
    add = parser.add_argument
    add("--processes", type=int, required=True, help="how many processes, 1 or more")
    add("--restarts", type=int, default=3, help="how often to start again after a failure (3)")
    add("--devices-per-process", type=int, help="CPU only: how many devices XLA makes of the CPU")
    add("--gpus", help="ids such as 0,1,2,3, shared out evenly and in order")
    add("--all-output", action="store_true", help="standard output of all processes, not only of 0")
    add("--grace-s", type=float, default=10.0, help="seconds beyond the heartbeat (10)")
    own, rest = list(argv), []
    if "--" in own:
        own, rest = own[: own.index("--")], own[own.index("--") + 1 :]
    args = parser.parse_args(own)
    args.gpus = args.gpus.split(",") if args.gpus is not None else None
    check(args, rest)
    return args, rest


def check(args: argparse.Namespace, command: Sequence[str]) -> None:
    """Raises `Mistake` for what could only fail later."""
    for name, least in (
        ("processes", 1),
        ("restarts", 0),
        ("devices_per_process", 1),
        ("grace_s", 0),
    ):
        value = getattr(args, name)
        if value is not None and not value >= least:
            raise Mistake(f"--{name.replace('_', '-')}={value}: expected {least} or more")
    if args.gpus and args.devices_per_process:
        raise Mistake("--devices-per-process is for CPUs: leave it out with --gpus")
    if args.gpus is not None:
        if not all(args.gpus) or len(set(args.gpus)) != len(args.gpus):
            raise Mistake(f"--gpus={','.join(args.gpus)}: expected different ids such as 0,1")
        if len(args.gpus) % args.processes:
            raise Mistake(
                f"--gpus: {len(args.gpus)} cannot be shared evenly by {args.processes} processes"
            )
    if not command:
        raise Mistake(
            "no command: write it after --, as in `-- python -m jaxseg.train --config=...`"
        )
    if shutil.which(command[0]) is None:
        raise Mistake(f"no program {command[0]!r} on the path")
    if any(x == "--distributed" or x.startswith("--distributed=") for x in command):
        raise Mistake("--distributed in the command: leave it out, it is added to each process")
    heartbeat_s(command)


def heartbeat_s(command: Sequence[str]) -> float:
    """After how many seconds the command's processes take a silent one for dead."""
    value = str(HEARTBEAT_S)
    for here, following in zip(command, [*command[1:], ""], strict=True):
        name, equals, given = here.partition("=")
        if name == "--heartbeat-s":
            value = given if equals else following
    try:
        return float(value)
    except ValueError:
        raise Mistake(f"--heartbeat-s={value}: expected a number of seconds") from None


def free_port() -> int:
    """A port that no one listens on now, on any address: JAX's coordinator binds them all.

    Another program may take it before the coordinator does; the run then fails, and a restart takes another one.
    """
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def environment(args: argparse.Namespace, rank: int) -> dict[str, str]:
    """The launcher's own, with the share of devices of process `rank`."""
    env = dict(os.environ)
    if args.devices_per_process is not None:
        others = re.sub(rf"{DEVICE_COUNT}=\S*", "", env.get("XLA_FLAGS", ""))
        env["XLA_FLAGS"] = f"{others} {DEVICE_COUNT}={args.devices_per_process}".strip()
    if args.gpus is not None:
        share = len(args.gpus) // args.processes
        env["CUDA_VISIBLE_DEVICES"] = ",".join(args.gpus[rank * share : (rank + 1) * share])
    return env


def severity(status: int) -> int:
    """0 done, 1 told to stop, 2 failed, 3 a mistake."""
    if status == 0:
        return 0
    if status in STOPPED:
        return 1
    return 3 if status == MISTAKE else 2


def failed(status: int) -> bool:
    """Whether another start could help."""
    return severity(status) == 2


class Signals:
    """Remembers what tells to stop for the loop that forwards it."""

    def __init__(self) -> None:
        self.pending: list[int] = []
        self.first: int | None = None
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def _handle(self, number: int, _: object) -> None:
        self.first = self.first or number
        self.pending.append(number)

    def take(self) -> list[int]:
        taken, self.pending = self.pending, []
        return taken


def write(fd: int, data: bytes) -> None:
    """All of it, unbuffered. A reader that has gone (`| head`) must not stop the training: then nothing."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        pass


def say(text: str) -> None:
    write(2, f"[launch] {text}\n".encode())


class Process:
    """One process of the run, in a process group of its own, so that a terminal's Ctrl-C reaches only the launcher."""

    def __init__(self, rank: int, command: Sequence[str], env: dict[str, str], all_output: bool):
        launcher = os.getpid()

        def die_with_launcher() -> None:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != launcher:  # it died before the call
                os._exit(1)

        self.rank = rank
        self.status: int | None = None
        shown = rank == 0 or all_output
        try:
            self._popen = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if shown else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                process_group=0,
                preexec_fn=die_with_launcher,  # safe: no thread runs while processes are started
            )
        except OSError as error:
            raise Mistake(f"cannot start {command[0]!r}: {error.strerror}") from error
        self._readers: list[threading.Thread] = []

    def read(self, lock: threading.Lock) -> None:
        """Starts to pass the output on, line by line."""
        for source, fd in ((self._popen.stdout, 1), (self._popen.stderr, 2)):
            if source is not None:
                reader = threading.Thread(
                    target=self._pass_on, args=(source, fd, lock), daemon=True
                )
                reader.start()
                self._readers.append(reader)

    def _pass_on(self, source, fd: int, lock: threading.Lock) -> None:
        for line in source:
            with lock:
                write(fd, f"[{self.rank}] ".encode() + line.removesuffix(b"\n") + b"\n")

    def send(self, number: int) -> None:
        # Not to the group: data workers would die before the process has saved.
        os.kill(self._popen.pid, number)

    def ended(self) -> bool:
        """Whether the process has ended; if so, what it left running in its group is killed."""
        # Looked at without reaping: until it is reaped, its id and its group's cannot be anyone else's.
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        if self.status is None and os.waitid(os.P_PID, self._popen.pid, look) is not None:
            self.kill()
        return self.status is not None

    def kill(self) -> None:
        """Kills the group, if that is still to be done, and waits."""
        if self.status is not None:
            return
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        code = self._popen.wait()
        self.status = code if code >= 0 else 128 - code
        for reader in self._readers:
            reader.join(READER_S)


def run_once(
    starters: Sequence[Callable[[], Process]], grace_s: float, signals: Signals
) -> list[int]:
    """From the start of all processes to the end of all.

    Returns the exit statuses in the order in which the processes ended (128 + n for one that signal n killed), so that
    the first failure in it is the cause of the others.
    """
    processes: list[Process] = []
    statuses: list[int] = []
    lock = threading.Lock()
    deadline = None
    try:
        for start in starters:
            processes.append(start())
        for process in processes:
            process.read(lock)
        waiting = list(processes)
        while waiting:
            for number in signals.take():
                for process in waiting:
                    process.send(number)
            for process in [p for p in waiting if p.ended()]:
                waiting.remove(process)
                statuses.append(process.status)
                if severity(process.status) >= 2 and deadline is None:
                    deadline = time.monotonic() + grace_s
                    say(f"process {process.rank} ended with status {process.status}")
            if waiting and deadline is not None and time.monotonic() > deadline:
                names = ", ".join(str(p.rank) for p in waiting)
                say(f"still running after {grace_s:g} s, killed: {names}")
                for process in waiting:
                    process.kill()
            time.sleep(POLL_S if waiting else 0)
    finally:
        for process in processes:
            process.kill()
    return statuses


def launch(args: argparse.Namespace, command: Sequence[str]) -> int:
    """Runs, and runs again after a failure; returns the exit status."""
    signals = Signals()
    grace_s = heartbeat_s(command) + args.grace_s

    def starter(rank: int, port: int) -> Callable[[], Process]:
        full = [*command, f"--distributed={rank}/{args.processes}@localhost:{port}"]
        return lambda: Process(rank, full, environment(args, rank), args.all_output)

    for restart in range(args.restarts + 1):
        port = free_port()
        statuses = run_once([starter(i, port) for i in range(args.processes)], grace_s, signals)
        status = max(statuses, key=severity)
        if not failed(status) or signals.first is not None:
            return status
        if restart < args.restarts:
            say(f"status {status}: restart {restart + 1} of {args.restarts}")
    return status


def main() -> int:
    try:
        if sys.platform != "linux":
            raise Mistake(f"launch/local.py runs on Linux, not on {sys.platform}")
        args, command = parse(sys.argv[1:])
        return launch(args, command)
    except Mistake as error:
        write(2, f"error: {error}\n".encode())
        return MISTAKE


if __name__ == "__main__":
    sys.exit(main())
