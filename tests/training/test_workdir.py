"""The folder of a run: held by one, written whole, mended after a kill."""

import errno
import json
import os
import subprocess
import sys

import pytest

from jaxseg.errors import RunFailed, UserError
from jaxseg.training import report, run
from jaxseg.training.workdir import CONFIG, MODEL, PROGRESS, Workdir, has_begun
from tests.training.test_run import phase, plan

SETTINGS = {"seed": 1, "max_steps": 0, "data": {"name": "fake"}}


def test_one_run_at_a_time(tmp_path):
    held = Workdir(tmp_path, SETTINGS)
    code = (
        f"from jaxseg import cli; from jaxseg.training.workdir import Workdir; import sys\n"
        f"sys.exit(cli.run(lambda argv: Workdir({str(tmp_path)!r}, {SETTINGS!r}) and None))"
    )
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert second.returncode == 2 and second.stderr.count("\n") == 1
    assert f"is in use: got a run that is not over, process {os.getpid()}" in second.stderr
    held.close()
    Workdir(tmp_path, SETTINGS).close()


def test_another_config_is_refused_and_nothing_changes(tmp_path):
    Workdir(tmp_path, SETTINGS).close()
    with pytest.raises(UserError, match=r"data\.name 'fake' -> 'other'"):
        Workdir(tmp_path, {**SETTINGS, "data": {"name": "other"}})
    Workdir(tmp_path, {**SETTINGS, "max_steps": 9}).close()
    assert json.loads((tmp_path / CONFIG).read_text())["max_steps"] == 9


def test_what_a_kill_left_is_mended(tmp_path):
    """A model folder in the middle of being replaced, and records half written."""
    Workdir(tmp_path, SETTINGS).close()
    for name, text in ((f".{MODEL}.old.77", "the last"), (f".{MODEL}.new.77", "half")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "arch.json").write_text(text)
    (tmp_path / f".{PROGRESS}.77").write_text('{"st')
    Workdir(tmp_path, SETTINGS).close()
    assert (tmp_path / MODEL / "arch.json").read_text() == "the last"
    hidden = [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert hidden == [".lock"] and not has_begun(tmp_path)


def test_a_model_that_came_stays(tmp_path):
    for name, text in ((MODEL, "the new"), (f".{MODEL}.old.77", "the old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "arch.json").write_text(text)
    Workdir(tmp_path, SETTINGS).close()
    assert (tmp_path / MODEL / "arch.json").read_text() == "the new"
    assert not (tmp_path / f".{MODEL}.old.77").exists()


def test_a_log_on_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(self, kind, step, values):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "log.jsonl"))

    monkeypatch.setattr(report.Report, "_write", full)
    with pytest.raises(RunFailed, match=r"^No space left on device: .*log\.jsonl; what was saved"):
        run.train(tmp_path, plan([phase("main", 2)]))
