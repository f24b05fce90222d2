"""Signals in every part of a run: it saves, says so by its status, and goes on to the same bits."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.errors import Interrupted, RunFailed
from jaxseg.inference.artifact import load_model
from jaxseg.training import run
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.interrupt import Interrupts
from jaxseg.training.report import read_log
from tests.fakes import FakeSplit
from tests.training.test_run import phase, plan


def make_plan(**changes):
    return plan([phase("main", 6)], **changes)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The digest of a run that nobody disturbed."""
    return run.train(tmp_path_factory.mktemp("straight"), make_plan())["state_digest"]


class Signalling(FakeSplit):
    """Sends a signal to this process when its n-th example is read."""

    def __init__(self, name, n, at, number):
        super().__init__(name, n)
        self._left, self._signal = at, number

    def __getitem__(self, i):
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._signal)
        return super().__getitem__(i)


def traced(number):
    """A step that signals while it is traced, which is part of its compilation."""
    main, sent = phase("main", 6), []

    def make(arch, phase, **axis):
        step = main.make_step(arch, phase, **axis)

        def signalling(state, batch):
            if not sent:
                sent.append(number)
                os.kill(os.getpid(), number)
            return step(state, batch)

        return signalling

    return plan([replace(main, make_step=make)])


PLACES = {
    "data": lambda number: make_plan(train_split=Signalling("train", 12, 9, number)),
    "evaluation": lambda number: make_plan(eval_split=Signalling("val", 5, 3, number)),
    "the last evaluation": lambda number: make_plan(eval_split=Signalling("val", 5, 8, number)),
    "compilation": traced,
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_saves_and_the_run_goes_on_exactly(straight, tmp_path, place, number):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as stop:
        run.train(tmp_path, PLACES[place](number))
    assert stop.value.status == 128 + number
    assert signal.getsignal(number) is before
    record = run.train(tmp_path, make_plan())
    assert record["state_digest"] == straight
    told = [x["step"] for x in read_log(tmp_path / "log.jsonl") if x["kind"] == "eval"]
    assert told == [3, 6]  # an evaluation that was cut off is made up for, and none is told twice


def test_a_signal_during_saving(straight, tmp_path, monkeypatch):
    save, sent = Checkpoints.save, []

    def signalling(self, state, journal, scores):
        if journal.step == 2 and not sent:
            sent.append(2)
            os.kill(os.getpid(), signal.SIGTERM)
        save(self, state, journal, scores)

    monkeypatch.setattr(Checkpoints, "save", signalling)
    with pytest.raises(Interrupted):
        run.train(tmp_path, make_plan())
    monkeypatch.undo()
    assert run.train(tmp_path, make_plan())["state_digest"] == straight


def test_a_second_signal_ends_at_once():
    code = (
        "import os, signal, time\n"
        "from jaxseg.training.interrupt import Interrupts\n"
        "with Interrupts():\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print('first', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print('second', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 143 and done.stdout == "first\n"
    assert done.stderr.count("SIGTERM: saving at the next step") == 1


@pytest.mark.parametrize("deaf", [False, True], ids=["terminal", "nohup"])
def test_a_closed_terminal_is_told_twice_and_by_nohup_never(deaf):
    code = (
        "import os, signal\n"
        "from jaxseg.training.interrupt import Interrupts\n"
        f"signal.signal(signal.SIGHUP, signal.{'SIG_IGN' if deaf else 'SIG_DFL'})\n"
        "with Interrupts() as told:\n"
        "    os.close(2)\n"
        "    for _ in range(2): os.kill(os.getpid(), signal.SIGHUP)\n"
        "print(told.signal)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "None\n" if deaf else "1\n")


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        assert not interrupts
        interrupts.check()
    assert signal.getsignal(signal.SIGTERM) is before


# --- Updates that are no number ---


def poisoned(steps, num_steps=6):
    """A run whose loss is no number at these steps."""
    main = phase("main", num_steps)

    def make(arch, phase, **axis):
        step = main.make_step(arch, phase, **axis)

        def bad(state, batch):
            hit = jnp.any(state.step == jnp.asarray(steps))
            return step(state, {**batch, "weight": jnp.where(hit, jnp.nan, batch["weight"])})

        return bad

    return plan([replace(main, make_step=make)])


def test_a_poisoned_update_is_skipped_and_resuming_is_exact(tmp_path):
    whole = run.train(tmp_path / "whole", poisoned([1, 2, 4]))
    for stop in (2, 3, 0):
        record = run.train(tmp_path / "pieces", replace(poisoned([1, 2, 4]), max_steps=stop))
    assert record["state_digest"] == whole["state_digest"] and record["step"] == 6


def test_a_row_of_them_ends_the_run_and_names_the_images(tmp_path):
    with pytest.raises(RunFailed, match="in the 3 updates from step 3 to 5") as error:
        run.train(tmp_path, replace(poisoned([2, 3, 4, 5]), max_skipped=3))
    assert "train_" in str(error.value) and "\n" not in str(error.value)
    _, variables, _ = load_model(tmp_path / "model")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
