"""launch/slurm.sbatch and launch/tpu_vm.sh with stand-ins for srun, scontrol and gcloud that record their arguments."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "launch"
SBATCH, TPU_VM = FOLDER / "slurm.sbatch", FOLDER / "tpu_vm.sh"

RECORD = """#!{python} -S
import json, os, subprocess, sys
with open({log!r}, "a") as f:
    f.write(json.dumps([{name!r}, *sys.argv[1:]]) + "\\n")
{then}
"""


def stand_in(folder: Path, name: str, then: str = "") -> Path:
    """A program that adds its name and arguments to `log` beside it and then does `then`."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    log = str(folder / "log")
    program.write_text(RECORD.format(python=sys.executable, log=log, name=name, then=then))
    program.chmod(0o755)
    return program


def calls(folder: Path) -> list[list[str]]:
    log = folder / "log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.parametrize("script", [SBATCH, TPU_VM], ids=lambda p: p.name)
def test_the_shell_can_read_it(script):
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


# SLURM


@pytest.fixture
def project(tmp_path):
    """A folder to submit from, with a config whose name has a space, and srun ending with status $SRUN_STATUS."""
    (tmp_path / "configs").mkdir()
    for name in ("quickstart.py", "my own.py"):
        (tmp_path / "configs" / name).touch()
    stand_in(tmp_path / "bin", "srun", 'sys.exit(int(os.environ.get("SRUN_STATUS", "0")))')
    stand_in(tmp_path / "bin", "scontrol")
    stand_in(tmp_path / "bin", "the python")
    return tmp_path


def submit(project: Path, *args, **env) -> subprocess.CompletedProcess:
    """The job script as slurmd would run it; the environment has nothing of a real SLURM."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SRUN"))}
    path = f"{project / 'bin'}:{os.environ['PATH']}"
    given = {"PATH": path, "SLURM_JOB_ID": "77", "PYTHON": "the python"} | env
    return subprocess.run(
        ["bash", SBATCH, *args],
        cwd=project,
        env={k: v for k, v in (clean | given).items() if v is not None},
        capture_output=True,
        text=True,
    )


def test_sbatch_options():
    options = dict(
        re.fullmatch(r"#SBATCH --([\w-]+)(?:=(\S+))?", line).groups()
        for line in SBATCH.read_text().splitlines()
        if line.startswith("#SBATCH")
    )
    assert options["signal"] == "TERM@120", "without B: the job's tasks get it and not the shell"
    assert "requeue" in options
    assert options["open-mode"] == "append", "or a restart would wipe the log"
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    # sbatch reads its options up to the first command.
    before = SBATCH.read_text().partition("\nset -u")[0].splitlines()
    assert all(line.startswith("#") or not line for line in before)
    assert sum(line.startswith("#SBATCH") for line in before) == len(options)


def test_srun_is_given_the_command_word_for_word(project):
    done = submit(project, "configs/my own.py", "/runs/a b", "--config.seed=3", "--x=$HOME 'q'")
    assert (done.returncode, done.stderr) == (0, "")
    (call,) = calls(project / "bin")
    assert call == [
        *("srun", "--kill-on-bad-exit=0", "--wait=0", "--gpu-bind=none"),
        *("the python", "-m", "jaxseg.train", "--config=configs/my own.py", "--workdir=/runs/a b"),
        *("--distributed=auto", "--config.seed=3", "--x=$HOME 'q'"),
    ]


@pytest.mark.parametrize("args", [(), ("configs/my own.py",)], ids=["none", "config"])
def test_sbatch_defaults(project, args):
    assert submit(project, *args).returncode == 0
    (call,) = calls(project / "bin")
    config = args[0] if args else "configs/quickstart.py"
    tail = [f"--config={config}", "--workdir=runs/quickstart", "--distributed=auto"]
    assert call[-3:] == tail


@pytest.mark.parametrize(
    ("status", "restarts", "expected", "requeued"),
    [
        (0, None, 0, False),
        (2, None, 2, False),
        (143, None, 0, True),
        (130, None, 0, True),
        (129, None, 0, True),
        (143, "99", 0, True),  # time limits and preemptions are no failures
        (1, None, 0, True),
        (134, "9", 0, True),
        (134, "10", 134, False),
    ],
)
def test_what_is_queued_again(project, status, restarts, expected, requeued):
    done = submit(project, SRUN_STATUS=str(status), SLURM_RESTART_COUNT=restarts)
    assert done.returncode == expected
    queued = [c for c in calls(project / "bin") if c[0] == "scontrol"]
    assert queued == ([["scontrol", "requeue", "77"]] if requeued else [])


def test_a_requeue_that_is_refused_leaves_the_status(project):
    stand_in(project / "bin", "scontrol", "sys.exit(1)")
    assert submit(project, SRUN_STATUS="143").returncode == 143


@pytest.mark.parametrize(
    ("args", "env", "said"),
    [
        (("configs/none.py", "w"), {}, "configs/none.py"),
        ((), {"SLURM_JOB_ID": None}, "sbatch"),
        ((), {"PYTHON": "no-python"}, "no-python"),
        (("configs/quickstart.py", "--config.seed=1"), {}, "--config.seed=1"),
    ],
)
def test_a_mistake_in_submitting_starts_nothing(project, args, env, said):
    done = submit(project, *args, **env)
    assert (done.returncode, done.stdout, calls(project / "bin")) == (2, "", [])
    assert re.fullmatch(r"error: .+\n", done.stderr)
    assert said in done.stderr


# TPU VM


@pytest.fixture
def tpu(tmp_path, monkeypatch):
    """A gcloud that runs its --command as a host would: in a shell that starts in the home folder."""
    home = tmp_path / "home"
    (home / "jax seg").mkdir(parents=True)
    then = (
        'commands = [a[10:] for a in sys.argv if a.startswith("--command=")]\n'
        'sys.exit(subprocess.run(["bash", "-c", *commands], cwd=os.environ["REMOTE_HOME"]).returncode)'
    )
    stand_in(tmp_path / "bin", "gcloud", then)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("REMOTE_HOME", str(home))
    monkeypatch.setenv("REMOTE_DIR", "jax seg")
    monkeypatch.setenv("PYTHON", "./the python")
    # The script as it is but for its one fixed path, which tests running side by side would share.
    script = tmp_path / "tpu_vm.sh"
    text = TPU_VM.read_text()
    assert text.count("/tmp/jaxseg.pid") == 1
    script.write_text(text.replace("/tmp/jaxseg.pid", str(tmp_path / "pid")))
    return tmp_path


def host(tpu: Path, *args) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", tpu / "tpu_vm.sh", *args], capture_output=True, text=True)


def test_words_reach_the_python_of_every_host_unchanged(tpu):
    remote = tpu / "home" / "jax seg"
    stand_in(remote, "the python", "print(os.getcwd())")
    words = ("--x=a  b", "--y=$HOME `id` \\ \"'", "--z=é*?\n;")
    done = host(tpu, "my-tpu", "us-central1-a", "configs/my own.py", "/runs/it's", *words)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{remote}\n")
    (call,) = calls(tpu / "bin")
    fixed = "gcloud compute tpus tpu-vm ssh my-tpu --zone=us-central1-a --worker=all".split()
    assert call[:-1] == fixed
    assert calls(remote) == [
        [
            *("the python", "-m", "jaxseg.train", "--config=configs/my own.py"),
            *("--workdir=/runs/it's", "--distributed=auto", *words),
        ]
    ]


def test_the_status_comes_back(tpu):
    stand_in(tpu / "home" / "jax seg", "the python", "sys.exit(143)")
    assert host(tpu, "t", "z", "c", "w").returncode == 143


def test_no_project_on_a_host_is_a_mistake(tpu, monkeypatch):
    monkeypatch.setenv("REMOTE_DIR", "elsewhere")
    assert host(tpu, "t", "z", "c", "w").returncode == 2


def test_a_run_is_started_once_and_can_be_stopped(tpu):
    """A second start while the first lives is refused, without losing the first's number; stop reaches the process."""
    then = (
        "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(143))\n"
        'print("up", flush=True)\ntime.sleep(60)'
    )
    stand_in(tpu / "home" / "jax seg", "the python", then)
    start = ["bash", tpu / "tpu_vm.sh", "t", "z", "c", "w"]
    first = subprocess.Popen(start, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert first.stdout.readline() == b"up\n"
        assert host(tpu, "t", "z", "c", "w").returncode == 75
        assert host(tpu, "stop", "t", "z").returncode == 0
        assert first.wait(10) == 143
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
        first.stdout.close()
        first.wait(10)


@pytest.mark.parametrize("args", [(), ("stop", "t"), ("t", "z", "c")], ids=len)
def test_too_few_words_are_a_mistake(tpu, args):
    done = host(tpu, *args)
    assert (done.returncode, calls(tpu / "bin")) == (2, [])
    assert re.fullmatch(r"error: usage: .+\n", done.stderr)
