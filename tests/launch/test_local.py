"""launch/local.py with tiny children: what each is given, what happens when one dies, and that none is left behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LOCAL = Path(__file__).resolve().parents[2] / "launch" / "local.py"

# Every child first says who it is: a line in the file `starts`, with its rank, port and process number.
HEADER = """
import os, signal, sys, time
mark = [a for a in sys.argv if a.startswith("--distributed=")][0]
rank, count, port = mark.replace("=", "/").replace("@localhost:", "/").split("/")[1:]
def note(text, file="starts"):
    with open(file, "a") as f:
        f.write(text + "\\n")
"""
STARTED = 'note(f"{rank} {count} {port} {os.getpid()}")\n'


def command(processes: int, body: str, *own: str, child: tuple[str, ...] = ()) -> list[str]:
    """The launcher's command line; `body` runs in each child with `rank`, `count`, `port` and `note`."""
    python = [sys.executable, "-S", "-c", HEADER + body, *child]
    return [sys.executable, str(LOCAL), f"--processes={processes}", *own, "--", *python]


def launch(path: Path, *args, env: dict | None = None, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*args, **kwargs),
        cwd=path,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=30,
    )


def starts(path: Path) -> list[list[str]]:
    return [line.split() for line in (path / "starts").read_text().splitlines()]


def wait_for(condition, timeout_s: float = 10.0):
    """The first true value of `condition()`."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return value


def started(path: Path, count: int):
    return wait_for(
        lambda: (path / "starts").exists() and len(starts(path)) == count and starts(path)
    )


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_each_process_is_given_its_rank_and_one_free_port(tmp_path):
    body = STARTED + 'note(repr(sys.argv[1:]), f"args{rank}")'
    done = launch(tmp_path, 3, body, child=("--name=a b", "--quote='\"$"))
    assert (done.returncode, done.stderr) == (0, "")
    rows = starts(tmp_path)
    assert sorted(r[0] for r in rows) == ["0", "1", "2"]
    assert {r[1] for r in rows} == {"3"}
    (port,) = {r[2] for r in rows}
    assert 1024 <= int(port) < 65536
    for rank in range(3):
        given = (tmp_path / f"args{rank}").read_text().strip()
        expected = ["--name=a b", "--quote='\"$", f"--distributed={rank}/3@localhost:{port}"]
        assert given == repr(expected)


@pytest.mark.parametrize("own", [(), ("--all-output",)], ids=["rank 0", "all"])
def test_output_has_the_rank_before_each_line(tmp_path, own):
    body = 'print(f"out {rank}\\nsecond"); print(f"err {rank}", file=sys.stderr, end="")'
    done = launch(tmp_path, 2, body, *own)
    heard = "01" if own else "0"
    assert sorted(done.stdout.splitlines()) == sorted(
        line for r in heard for line in (f"[{r}] out {r}", f"[{r}] second")
    )
    assert sorted(done.stderr.splitlines()) == ["[0] err 0", "[1] err 1"]


def test_a_reader_that_goes_away_stops_nothing(tmp_path):
    body = "for i in range(20000): print('x' * 20)\n" + STARTED
    launcher = subprocess.Popen(command(1, body), cwd=tmp_path, stdout=subprocess.PIPE)
    assert launcher.stdout.readline() == b"[0] " + b"x" * 20 + b"\n"
    launcher.stdout.close()
    assert launcher.wait(20) == 0
    assert len(starts(tmp_path)) == 1


def test_devices_are_set_only_when_asked_for(tmp_path):
    body = 'note(repr([os.environ.get(k) for k in ("XLA_FLAGS", "CUDA_VISIBLE_DEVICES")]), f"env{rank}")'

    def seen(*own, env):
        assert launch(tmp_path, 2, body, *own, env=env).returncode == 0
        files = [tmp_path / f"env{rank}" for rank in range(2)]
        texts = [f.read_text().strip() for f in files]
        for f in files:
            f.unlink()
        return texts

    outer = {
        "XLA_FLAGS": "--a=1 --xla_force_host_platform_device_count=8",
        "CUDA_VISIBLE_DEVICES": "",
    }
    assert seen(env=outer) == [repr([outer["XLA_FLAGS"], ""])] * 2
    three = seen("--devices-per-process=3", env=outer)
    assert [re.sub(" +", " ", t) for t in three] == [
        repr(["--a=1 --xla_force_host_platform_device_count=3", ""])
    ] * 2
    gpus = seen("--gpus=4,5,6,7", env={"XLA_FLAGS": ""})
    assert gpus == [repr(["", "4,5"]), repr(["", "6,7"])]


def test_a_dead_process_takes_the_others_with_it_and_all_start_again(tmp_path):
    """Process 1 dies; 0 hangs and shuts its ears; both are started again, twice, each time on a fresh port."""
    body = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        + STARTED
        + "if rank == '1': sys.exit(7)\ntime.sleep(60)"
    )
    own = ("--restarts=2", "--grace-s=0.3")
    begin = time.monotonic()
    done = launch(tmp_path, 2, body, *own, child=("--heartbeat-s=0.1",))
    assert time.monotonic() - begin < 10
    assert done.returncode == 7, "the cause, not the 137 of the process that was killed for it"
    rows = starts(tmp_path)
    assert sorted(r[0] for r in rows) == ["0"] * 3 + ["1"] * 3
    ports = [{r[2] for r in rows[i : i + 2]} for i in (0, 2, 4)]
    assert all(len(p) == 1 for p in ports)
    assert len(set.union(*ports)) > 1, "a fresh one each time"
    assert not any(alive(int(r[3])) for r in rows)
    assert "[launch] process 1 ended with status 7" in done.stderr
    assert "killed: 0" in done.stderr
    assert done.stderr.count(": restart ") == 2


def test_the_others_may_end_by_themselves(tmp_path):
    body = "if rank == '1': sys.exit(7)\ntime.sleep(0.5)\nnote('saved')\nsys.exit(9)"
    done = launch(tmp_path, 2, body, "--restarts=0", child=("--heartbeat-s", "5"))
    assert done.returncode == 7
    assert (tmp_path / "starts").read_text() == "saved\n"
    assert "killed" not in done.stderr


def test_a_restart_that_succeeds_is_a_success(tmp_path):
    body = STARTED + "os._exit(0 if len(open('starts').readlines()) > 1 else 9)"
    done = launch(tmp_path, 1, body)
    assert (done.returncode, len(starts(tmp_path))) == (0, 2)


def test_death_by_signal_is_restarted_and_told_as_a_shell_would(tmp_path):
    done = launch(tmp_path, 1, STARTED + "os.kill(os.getpid(), signal.SIGKILL)", "--restarts=1")
    assert (done.returncode, len(starts(tmp_path))) == (137, 2)


@pytest.mark.parametrize("status", [2, 129, 130, 143])
def test_mistakes_and_stops_are_not_restarted(tmp_path, status):
    done = launch(tmp_path, 2, STARTED + f"sys.exit({status} if rank == '1' else 0)")
    assert (done.returncode, len(starts(tmp_path))) == (status, 2)


def test_a_mistake_is_worse_than_what_it_does_to_the_others(tmp_path):
    body = STARTED + "if rank == '1': sys.exit(2)\ntime.sleep(0.3)\nsys.exit(134)"
    done = launch(tmp_path, 2, body)
    assert (done.returncode, len(starts(tmp_path))) == (2, 2)


@pytest.mark.parametrize("number", SIGNALS, ids=[number.name for number in SIGNALS])
def test_a_signal_reaches_every_process_once(tmp_path, number):
    """Even sent to the launcher's whole group, as a terminal does: the children are not in it."""
    body = (
        "def told(n, _):\n    note(f'{rank} {n}', 'told')\n"
        "for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(n, told)\n"
        + STARTED
        + "end = time.monotonic() + 20\n"
        "while not (os.path.exists('told') and rank in open('told').read().split()[::2]):\n"
        "    assert time.monotonic() < end\n    time.sleep(0.02)\n"
        "time.sleep(0.3)\n"  # a second one would be noted, too
        f"sys.exit({128 + number})"
    )
    # These tests may run under nohup, which the launcher would inherit.
    heard = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    execute = [sys.executable, "-c", heard + "os.execv(sys.argv[1], sys.argv[1:])"]
    full = [*execute, *command(3, body)]
    launcher = subprocess.Popen(full, cwd=tmp_path, start_new_session=True)
    started(tmp_path, 3)
    os.killpg(launcher.pid, number)
    assert launcher.wait(20) == 128 + number
    assert sorted((tmp_path / "told").read_text().splitlines()) == [
        f"{r} {number:d}" for r in range(3)
    ]
    assert len(starts(tmp_path)) == 3, "not started again"


def test_a_failure_after_a_stop_is_not_restarted(tmp_path):
    body = "signal.signal(signal.SIGTERM, lambda *_: os._exit(1))\n" + STARTED + "time.sleep(60)"
    launcher = subprocess.Popen(command(1, body), cwd=tmp_path)
    started(tmp_path, 1)
    launcher.terminate()
    assert launcher.wait(10) == 1
    assert len(starts(tmp_path)) == 1


def test_no_process_outlives_a_launcher_that_is_killed(tmp_path):
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + STARTED + "time.sleep(60)"
    launcher = subprocess.Popen(command(2, body), cwd=tmp_path)
    pids = [int(row[3]) for row in started(tmp_path, 2)]
    assert all(alive(p) for p in pids)
    launcher.kill()
    launcher.wait(10)
    wait_for(lambda: not any(alive(p) for p in pids))


def test_what_a_process_leaves_running_is_ended(tmp_path):
    """A data worker that its parent forgot, and that holds the parent's standard error open."""
    body = (
        "import subprocess\n"
        "worker = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])\n"
        "note(str(worker.pid))"
    )
    done = launch(tmp_path, 1, body)
    assert done.returncode == 0
    assert not alive(int((tmp_path / "starts").read_text()))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "--processes"),
        (("--processes=0", "--", "true"), "--processes=0: expected 1 or more"),
        (("--processes=two", "--", "true"), "two"),
        (("--processes=1", "--restarts=-1", "--", "true"), "--restarts=-1: expected 0 or more"),
        (("--processes=1", "--process=1", "--", "true"), "--process=1"),
        (("--processes=1", "python"), "python"),
        (("--processes=1",), "no command"),
        (("--processes=1", "--"), "no command"),
        (("--processes=1", "--", "no-such-program"), "no-such-program"),
        (("--processes=1", "--", "true", "--distributed=auto"), "leave it out"),
        (("--processes=1", "--", "true", "--heartbeat-s=soon"), "--heartbeat-s=soon"),
        (("--processes=2", "--gpus=0,1,2", "--", "true"), "3 cannot be shared evenly"),
        (("--processes=2", "--gpus=0,0", "--", "true"), "different ids"),
        (("--processes=1", "--gpus=0", "--devices-per-process=1", "--", "true"), "for CPUs"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(args, said):
    done = subprocess.run([sys.executable, "-S", LOCAL, *args], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: .+\n", done.stderr), done.stderr
    assert said in done.stderr
