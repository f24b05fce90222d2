"""The tools of benchmarks."""

import json
import time
from pathlib import Path

import pytest

from benchmarks import as_deployed, int8_litert
from benchmarks import zoo as shipped
from benchmarks.in_turn import in_turn
from benchmarks.report import speed
from jaxseg.arch import count
from jaxseg.models import zoo


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


def test_the_network_beside_litert_is_the_one_of_the_file():
    """The file's own layers, read once by its schema: all but the classifier, 256 to 21, are ours too."""
    ours = int8_litert.our_layers(int8_litert.architecture())
    assert (
        int8_litert.macs(ours)
        == count(zoo.blocks(int8_litert.architecture()), *int8_litert.SIZE).macs
    )
    extra = {("3x3", 256, 8, 1, 33 * 33): 1, ("1x1", 8, 21, 1, 33 * 33): 1}
    theirs = ours - int8_litert.Counter(extra) + int8_litert.Counter([("1x1", 256, 21, 1, 33 * 33)])
    assert sum(theirs.values()) == 55 and int8_litert.macs(theirs) == 2_740_709_056


def test_litert_is_asked_for_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match="error: --data: got .*; expected LiteRT's .tflite file"):
        int8_litert.compare(0, tmp_path, str(tmp_path / "none.tflite"))


def test_the_table_beside_litert():
    row = {
        "shape": [513, 513],
        "median_ms": {"jax infer float32": 53.4, "jax infer int8": 39.6, "litert infer int8": 33.1},
        "macs": {"jax": 2_755_109_992, "litert": 2_740_709_056},
        "ratio_int8_float32": 0.742,
        "ratio_int8_litert": 1.196,
    }
    assert speed.int8_litert({"rows": [row]}).splitlines()[-1] == (
        "| DeepLabV3 on MobileNetV2, 513x513 | 53 | 40 | 33 | 2.755 / 2.741 | 0.74 | 1.20 |"
    )


def test_models_are_compared_with_their_rows(tmp_path, monkeypatch, capsys):
    rows = {"a": {"val_miou": 0.5}, "b": {"val_miou": 0.4}, "gone": {"val_miou": 0.1}}
    found = {"a": {"val_miou": 0.5004}, "b": {"val_miou": 0.41}, "new": {"val_miou": 0.2}}
    told = shipped.differences(rows, found)
    assert [line.split(":")[0] for line in told] == ["new", "gone", "b"]
    assert told[2] == "b: val mIoU 41.00 %, its row says 40.00 %"
    assert shipped.differences({"a": rows["a"]}, {"a": found["a"]}) == []


def test_every_shipped_model_has_a_row():
    rows = json.loads(shipped.RECORD.read_text())["rows"]
    assert sorted(row["arm"] for row in rows) == shipped.names()


def test_steady_seconds_leave_compiling_out(tmp_path):
    """Two phases of batches of 4: windows that compile are as long as the others in the middle of their phase."""
    lines = [
        {"kind": "phase", "step": 0},
        {"kind": "train", "step": 20, "images_per_s": 1.0},
        {"kind": "train", "step": 40, "images_per_s": 40.0},
        {"kind": "eval", "step": 40},
        {"kind": "train", "step": 60, "images_per_s": 50.0},
        {"kind": "phase", "step": 60},
        {"kind": "train", "step": 70, "images_per_s": 20.0},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (tmp_path / "config.json").write_text(json.dumps({"data": {"batch_size": 4}}))
    assert as_deployed.steady_s(tmp_path) == pytest.approx(60 * 4 / 40 + 10 * 4 / 20)
