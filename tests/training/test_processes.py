"""Two processes are one run: the same bits as one, one folder, one step to stop at, and no survivor that hangs."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import chex
import jax
import numpy as np
import pytest

from jaxseg import processes
from jaxseg.errors import RunFailed, UserError
from jaxseg.inference.artifact import load_model
from jaxseg.training import run
from jaxseg.training.parallel import Parallel
from jaxseg.training.report import read_log
from tests.training.test_run import phase, plan

HEARTBEAT_S = 10


def make_plan(mode, parallel, **changes):
    """As `plan`, on so many devices."""
    main = phase("main", 6)
    if mode == "pmap":
        main = replace(main, steps=2)
    return plan([main], parallel=parallel, **changes)


def alone(folder, mode, devices=2, **changes):
    parallel = Parallel.over(mode, 4, jax.devices()[:devices])
    return run.train(folder, make_plan(mode, parallel, **changes))


def together(folder, what, mode="jit"):
    """(status, stdout, stderr) of both, and the seconds between the end of one and of the other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.training.member"]
    both = [
        subprocess.Popen(
            [*command, str(rank), str(port), str(folder), what, mode],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    ends, limit = [], time.monotonic() + 120
    while len(ends) < 2 and time.monotonic() < limit:
        ends += [time.monotonic() for p in both if p.poll() is not None][len(ends) :]
        time.sleep(0.05)
    for process in both:
        process.kill()
    told = [(p.returncode, *p.communicate()) for p in both]
    assert len(ends) == 2, f"hangs: {told}"
    return told, ends[1] - ends[0]


def test_two_processes_equal_one_and_take_over_from_each_other(tmp_path):
    whole = alone(tmp_path / "whole", "jit")
    folder = tmp_path / "pieces"
    alone(folder, "jit", max_steps=1)  # one process, then two
    told, _ = together(folder, "term")
    assert [status for status, *_ in told] == [143, 143], told
    steps = {int(p.name) for p in (folder / "checkpoints").iterdir()}
    assert 1 < max(steps) < 6  # both saved, at the same step, since there is one folder
    told, apart_s = together(folder, "kill")
    assert told[1][0] == -signal.SIGKILL
    assert told[0][0] in (1, -signal.SIGABRT), told[0]
    # JAX ends a process that is still compiling when it hears of it; one that waits is told by what it waits for.
    said = r"^error: another of the 2 processes is gone|Terminating process because the JAX dist"
    assert re.search(said, told[0][2], re.MULTILINE)
    assert "Traceback" not in told[0][2]
    assert apart_s < HEARTBEAT_S + 5
    told, _ = together(folder, "run")
    assert [status for status, *_ in told] == [0, 0], told
    for _, out, _ in told:
        assert f"ended 6 {whole['state_digest']}" in out
    log = read_log(folder / "log.jsonl")
    assert [x["step"] for x in log if x["kind"] == "eval"] == [1, 3, 6]
    scores = [x["miou"] for x in log if x["kind"] == "eval"][1:]
    expected = read_log(tmp_path / "whole" / "log.jsonl")
    assert scores == [x["miou"] for x in expected if x["kind"] == "eval"]
    again = alone(folder, "jit", devices=2)  # two processes, then one
    assert again["state_digest"] == whole["state_digest"]


@pytest.mark.slow
def test_two_processes_under_pmap(tmp_path):
    whole = alone(tmp_path / "whole", "pmap")
    told, _ = together(tmp_path / "two", "run", "pmap")
    assert f"ended 2 {whole['state_digest']}" in told[0][1], told


@pytest.mark.slow
def test_what_one_cannot_save_ends_both(tmp_path):
    told, apart_s = together(tmp_path / "full", "full")
    assert told[0][0] == 1 and "error: No space left on device: checkpoints" in told[0][2], told[0]
    assert told[1][0] not in (0, 2) and apart_s < HEARTBEAT_S + 5


@pytest.mark.slow
def test_a_checkpoint_of_four_devices_goes_on_on_two_and_on_one(tmp_path):
    code = (
        "import sys, jax; jax.config.update('jax_num_cpu_devices', 4)\n"
        "from pathlib import Path; from tests.training.test_processes import alone\n"
        "alone(Path(sys.argv[1]), 'jit', 4, max_steps=3)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "four")], check=True)
    alone(tmp_path / "whole", "jit", 1)
    _, whole, _ = load_model(tmp_path / "whole" / "model")
    for devices in (1, 2):
        folder = tmp_path / f"on_{devices}"
        shutil.copytree(tmp_path / "four", folder)
        assert alone(folder, "jit", devices)["step"] == 6
        evaluated = [x["step"] for x in read_log(folder / "log.jsonl") if x["kind"] == "eval"]
        assert evaluated == [3, 6]
        _, variables, _ = load_model(folder / "model")
        chex.assert_trees_all_close(variables, whole, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("text", ["2", "0/2", "2/2@localhost:1", "0/2@localhost", "a/b@c:1"])
def test_a_mistyped_group_is_one_line(text):
    with pytest.raises(UserError, match="RANK/COUNT@HOST:PORT"):
        processes.join(text)


def test_auto_without_a_cluster_is_one_line():
    code = (
        "import sys; from jaxseg import cli, processes\n"
        "sys.exit(cli.run(lambda argv: processes.join('auto')))"
    )
    keep = ("PATH", "HOME", "PYTHONPATH")
    env = {k: v for k, v in os.environ.items() if k in keep}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 2 and done.stderr.startswith("error: --distributed=auto found no")
    assert done.stderr.count("\n") == 1


def test_alone_nothing_is_sent():
    tree = {"a": np.array([-0.0, np.nan], np.float32)}
    assert processes.share(tree) is tree
    with pytest.raises(RunFailed):
        processes.on_first(lambda: (_ for _ in ()).throw(RunFailed("x")))
