"""As a new user: a data set laid out in a folder, from check to predict, through the public commands."""

import json

import cv2
import numpy as np
import pytest

import jaxseg
from jaxseg import bench, cli, evaluate, predict, train
from jaxseg.data import __main__ as data
from tests.fakes import FakeSplit


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """images/<split>/ and labels/<split>/ with pictures of two sizes."""
    root = tmp_path_factory.mktemp("raw")
    for split, n in (("train", 6), ("val", 4)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(n):
            size = (40, 48) if i % 2 else (56, 40)
            example = FakeSplit(split, n, *size)[i]
            cv2.imwrite(str(root / f"images/{split}/{i}.png"), example["image"][..., ::-1])
            cv2.imwrite(str(root / f"labels/{split}/{i}.png"), example["label"])
    (root / "classes.txt").write_text("red 255 0 0\ngreen 0 255 0\nblue 0 0 255\n")
    return root


@pytest.fixture(scope="module")
def config(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("config") / "mine.py"
    path.write_text(f"""
from jaxseg import defaults

def get_config():
    config = defaults.get_config()
    config.data.name, config.data.dir = 'folder', {str(raw)!r}
    config.data.height_px, config.data.width_px, config.data.batch_size = 32, 32, 4
    config.model.name, config.model.width, config.model.output_stride = 'fcn_resnet18', 0.125, 32
    config.eval.every_steps, config.eval.batch_size = 2, 4
    config.phases.main = defaults.phase(3, name='adamw')
    return config
""")
    return f"--config={path}"


def ok(main, *argv):
    assert cli.run(main, [str(a) for a in argv]) == cli.OK


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    ok(train.main, config, f"--workdir={folder}")
    return folder


def test_check_and_stats(config, capsys):
    ok(data.main, "check", config)
    ok(data.main, "prepare", config)
    ok(data.main, "stats", config)
    printed = capsys.readouterr().out
    assert "class_weights = (" in printed and "green" in printed


def test_check_finds_and_names(config, raw, capsys):
    bad = raw / "labels/train/0.png"
    good = bad.read_bytes()
    try:
        cv2.imwrite(str(bad), np.full((56, 40), 77, np.uint8))
        assert cli.run(data.main, ["check", config]) == cli.MISTAKE
        assert "0.png" in capsys.readouterr().out
    finally:
        bad.write_bytes(good)


def test_evaluate_writes_what_the_design_fixes(workdir):
    ok(evaluate.main, f"--workdir={workdir}", "--split=val")
    record = json.loads((workdir / "metrics_val.json").read_text())
    keys = (
        "schema split num_images miou macc aacc per_class_iou loss checkpoint_step arch_hash commit"
    )
    assert set(keys.split()) <= set(record)
    assert record["num_images"] == 4 and record["checkpoint_step"] == 3
    assert set(record["per_class_iou"]) == {"red", "green", "blue"}
    before = record["miou"]
    ok(evaluate.main, f"--workdir={workdir / 'model'}", "--config.eval.batch_size=1")
    alone = json.loads((workdir / "model" / "metrics_val.json").read_text())
    assert alone["miou"] == pytest.approx(before, abs=1e-6)
    ok(evaluate.main, f"--workdir={workdir}", "--checkpoint=best")


def test_evaluate_takes_data_and_eval_overrides_only(workdir, capsys):
    status = cli.run(evaluate.main, [f"--workdir={workdir}", "--config.model.width=1"])
    assert status == cli.MISTAKE
    assert "only data.* and eval.* can be overridden" in capsys.readouterr().err


def test_evaluate_names_the_splits_that_exist(workdir, capsys):
    assert cli.run(evaluate.main, [f"--workdir={workdir}", "--split=test"]) == cli.MISTAKE
    assert "expected one of train, val" in capsys.readouterr().err


def test_predict_and_samples(workdir, config, tmp_path, capsys):
    ok(data.main, "samples", config, "--split=val", "--count=3", f"--output={tmp_path / 'in'}")
    ok(predict.main, f"--workdir={workdir}", f"--input={tmp_path / 'in'}", f"--output={tmp_path}")
    assert len(list((tmp_path / "overlays").glob("*.png"))) == 3
    (tmp_path / "in" / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    status = cli.run(
        predict.main,
        [f"--workdir={workdir}", f"--input={tmp_path / 'in'}", f"--output={tmp_path}"],
    )
    printed = capsys.readouterr()
    assert status == cli.MISTAKE and "broken.jpg" in printed.err
    assert "3 images segmented" in printed.out


def test_bench_writes_what_the_design_fixes(workdir):
    ok(bench.main, f"--workdir={workdir}", "--rounds=3")
    record = json.loads((workdir / "bench.json").read_text())
    keys = (
        "schema device jax dtype batch shape macs params median_ms p95_ms images_per_s peak_bytes"
    )
    assert set(keys.split()) <= set(record)
    assert record["shape"] == [32, 32] and record["macs"] > 0


def test_the_python_api(workdir):
    model = jaxseg.load(workdir)
    labels = model(np.zeros((50, 61, 3), np.uint8))
    assert labels.shape == (50, 61) and labels.dtype == np.uint8
    module, variables = jaxseg.create("fcn_resnet18", num_classes=3, width=0.125, output_stride=32)
    outputs = module.apply(variables, np.zeros((1, 64, 64, 3), np.float32))
    assert outputs.logits.shape == (1, 2, 2, 3)


def test_training_again_resumes_and_another_config_is_refused(config, workdir, capsys):
    ok(train.main, config, f"--workdir={workdir}")
    assert "already finished at step 3" in capsys.readouterr().out
    status = cli.run(train.main, [config, f"--workdir={workdir}", "--config.seed=5"])
    assert status == cli.MISTAKE
    assert "seed 0 -> 5" in capsys.readouterr().err
