"""What a run says of itself: lines on and off a terminal, the log, curves, and divergence."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from jaxseg.errors import UserError
from jaxseg.training.loop import Window
from jaxseg.training.report import Report, read_log
from jaxseg.training.terminal import Terminal, duration


def window(loss=2.0, steps=2, skipped=0):
    """Some good updates, then some that were skipped."""
    one = {
        "skipped": np.int32(0),
        "loss_sum": np.float32(loss * 50),
        "loss_count": np.float32(50),
        "grad_norm_sum": np.float32(1),
        "rate_sum": np.float32(0.1),
        "steps": np.int32(1),
        "hit": np.array([20, 0]),
        "true": np.array([30, 20]),
        "predicted": np.array([40, 10]),
    }
    none = {name: np.zeros_like(value) for name, value in one.items()} | {"skipped": np.int32(1)}
    sums = [one] * steps + [none] * skipped
    return Window(sums, images=8 * len(sums), wall_s=4.0, wait_s=1.0, macs=10**9)


def scores(miou=0.5):
    return {
        "split": "val",
        "miou": miou,
        "aacc": 0.7,
        "loss": 1.0,
        "wall_s": 2.0,
        "iou": [0.5, None],
    }


@pytest.fixture
def output():
    return io.StringIO()


@pytest.fixture
def report(tmp_path, output):
    made = Report(tmp_path, Terminal(100, Console(file=output, width=200)), step=0)
    yield made
    made.close()


def test_plain_lines_hold_what_one_looks_for(report, output, tmp_path):
    report.train(10, window())
    report.evaluated(10, scores() | {"sheet": np.zeros((8, 8, 3), np.uint8)})
    report.train(20, window())
    text = output.getvalue()
    # IoU by hand: 20/50 and 0/30.
    for part in (
        "step 10/100",
        "loss 2.000",
        "train 20.0 %",
        "4.0 img/s",
        "wait 25.0 %",
        "left ?",  # within these steps a program was compiled
        "left 2:40",
    ):
        assert part in text
    assert "val mIoU 50.0 %" in text and "val 50.0 %" in text
    assert (tmp_path / "pictures/overlays_0000010.png").exists()
    assert (tmp_path / "pictures/curves.png").stat().st_size > 1000
    assert any((tmp_path / "tensorboard").iterdir())
    kinds = [json.loads(x)["kind"] for x in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert kinds == ["train", "eval", "train"]


def test_combined_losses_are_told_one_by_one(report, tmp_path):
    terms = {"loss_sum/dice": np.float32(3), "loss_count/dice": np.float32(4)}
    joint = window()
    report.train(10, Window([x | terms for x in joint.sums], 8, 4.0, 1.0, 10**9))
    (line,) = read_log(tmp_path / "log.jsonl")
    assert line["loss"] == 2.0 and line["loss/dice"] == 0.75


def test_a_live_line_on_a_terminal(output):
    terminal = Terminal(100, Console(file=output, width=160, force_terminal=True))
    values = {"loss": 1.5, "miou": 0.25, "images_per_s": 3.0, "wait_frac": 0.0}
    terminal.train(10, values, window())
    terminal.close()
    assert "10/100" in output.getvalue() and "loss 1.500" in output.getvalue()


def test_skipped_updates_are_told_and_in_no_mean(report, output, tmp_path):
    report.train(7, window(skipped=2))
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["kind"] for line in lines] == ["skipped", "train"]
    assert lines[0]["skipped"] == 2 and "2 of" in output.getvalue()
    report.train(9, window(steps=0, skipped=1))
    assert [line["kind"] for line in read_log(tmp_path / "log.jsonl")][2:] == ["skipped"]


def test_a_resumed_log_forgets_what_was_not_saved(tmp_path, output):
    first = Report(tmp_path, Terminal(100, Console(file=output)), step=0, tensorboard=False)
    for step in (10, 20, 30):
        first.train(step, window())
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "tra')  # killed while writing
    again = Report(tmp_path, Terminal(100, Console(file=output)), step=20, tensorboard=False)
    assert [x["step"] for x in again.lines] == [10, 20]
    assert [x["step"] for x in read_log(tmp_path / "log.jsonl")] == [10, 20]


def test_a_damaged_log_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_text("nonsense\n{}\n")
    with pytest.raises(UserError, match="line 1 is not JSON"):
        read_log(tmp_path / "log.jsonl")


@pytest.mark.parametrize("reader", ["| true", "> /dev/full"])
def test_a_run_goes_on_when_nobody_reads_it(reader):
    code = (
        "import sys; from jaxseg.training.terminal import Terminal; t = Terminal(9)\n"
        "for i in range(200): t.say('x' * 1000)\n"
        "print('alive', file=sys.stderr)"
    )
    script = f'"{sys.executable}" -W error -c "{code}" {reader}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "alive\n")


def test_durations():
    assert [duration(x) for x in (5, 90, 3700, float("inf"))] == ["0:05", "1:30", "1:01:40", "?"]
