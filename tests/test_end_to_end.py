"""As a new user: a data set laid out in a folder, from check to predict, through the public commands."""

import json
import shutil
from dataclasses import replace

import cv2
import jax
import numpy as np
import pytest

import jaxseg
from jaxseg import bench, cli, evaluate, export, predict, train
from jaxseg.data import __main__ as data
from jaxseg.errors import UserError
from jaxseg.inference import artifact
from jaxseg.inference.exported import exported
from jaxseg.models import zoo
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


def test_evaluate_as_papers_report_it(workdir, capsys):
    ok(evaluate.main, f"--workdir={workdir}", "--split=train")
    plain = json.loads((workdir / "metrics_train.json").read_text())
    assert plain["mode"]["description"] == "whole image, 1 scale, no flip"
    assert "boundary_f1" not in plain
    table = (workdir / "confusion_train.csv").read_text().splitlines()
    assert table[0] == "truth \\ prediction,red,green,blue"
    counts = np.array([[int(x) for x in row.split(",")[1:]] for row in table[1:]])
    union = counts.sum(axis=0) + counts.sum(axis=1) - np.diagonal(counts)
    np.testing.assert_allclose(
        list(plain["per_class_iou"].values()), np.diagonal(counts) / union, rtol=1e-12
    )
    assert cv2.imread(str(workdir / "pictures/confusion_train.png")) is not None

    mode = ["window_px=(32,32)", "flip=True", "scales=(1.0,1.5)", "boundary_f1=True"]
    capsys.readouterr()
    ok(
        evaluate.main,
        f"--workdir={workdir}",
        "--split=train",
        *[f"--config.eval.{m}" for m in mode],
    )
    printed = capsys.readouterr().out
    record = json.loads((workdir / "metrics_train.json").read_text())
    assert record["mode"] == {
        "description": "windows of 32x32 px (overlap 0.333), scales 1 1.5, flip",
        "window_px": [32, 32],
        "window_overlap_frac": 1 / 3,
        "flip": True,
        "scales": [1.0, 1.5],
    }
    assert record["mode"]["description"] in printed and "boundary F1 within 0.47 to 0.52" in printed
    assert set(record["per_class_boundary_f1"]) == {"red", "green", "blue"}
    assert 0 <= record["boundary_f1"] <= 1
    assert record["boundary_tolerance_px"] == pytest.approx([0.4686, 0.5161], abs=1e-3)
    assert record["num_images"] == 6 and record["loss"] != plain["loss"]


@pytest.mark.parametrize(
    "setting, says",
    [
        ("window_px=(16,16)", "window_px: got"),
        ("window_px=(64,)", "window_px: got"),
        ("window_overlap_frac=1.0", "window_overlap_frac: got 1.0"),
        ("scales=(1.0,0.0)", "scales: got"),
        ("scales=()", "scales: got"),
        ("flip=perhaps", "expected bool"),
        ("boundary_tolerance_frac=0", "eval.boundary_tolerance_frac"),
    ],
)
def test_answers_that_cannot_be_are_one_line(workdir, setting, says, capsys):
    for main in (evaluate.main, predict.main):
        argv = [f"--workdir={workdir}", f"--config.eval.{setting}"]
        argv += ["--input=x", "--output=y"] if main is predict.main else []
        assert cli.run(main, argv) == cli.MISTAKE
        printed = capsys.readouterr().err
        assert says in printed and printed.count("\n") == 1


def test_an_older_model_without_the_settings_is_answered_plainly(workdir, tmp_path):
    shutil.copytree(workdir / "model", tmp_path / "old")
    card = json.loads((tmp_path / "old/model.json").read_text())
    card["evaluation"] = {"split": "val", "batch_size": 4}
    (tmp_path / "old/model.json").write_text(json.dumps(card))
    ok(evaluate.main, f"--workdir={tmp_path / 'old'}")
    record = json.loads((tmp_path / "old/metrics_val.json").read_text())
    assert record["mode"]["description"] == "whole image, 1 scale, no flip"


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


def test_export_answers_as_the_model_does(workdir, raw, tmp_path, capsys):
    file = tmp_path / "model.stablehlo"
    flags = [f"--workdir={workdir}", f"--output={file}", "--height=40", "--width=48", "--check"]
    ok(export.main, *flags)
    ok(export.main, *flags, f"--input={raw / 'images/train'}")
    printed = capsys.readouterr().out
    assert "with 4 images" in printed and "with 6 images" in printed
    assert printed.count("0 of ") == 2
    image = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), np.uint8)
    answer = jax.export.deserialize(bytearray(file.read_bytes())).call(image)
    np.testing.assert_array_equal(answer, jaxseg.load(workdir)(image))
    record = json.loads((tmp_path / "model.stablehlo.json").read_text())
    assert record["class_names"] == ["red", "green", "blue"]
    assert record["input"]["shape"] == ["batch", 40, 48, 3] and record["platforms"][0] == "cpu"


def test_export_notices_another_answer(workdir, tmp_path, monkeypatch):
    flags = [f"--workdir={workdir}", f"--output={tmp_path / 'm'}", "--check", "--platforms=cpu"]
    other = lambda model, *size: exported(turned(model), *size)  # noqa: E731

    def turned(model):
        params = {k: dict(v) for k, v in model.variables["params"].items()}
        params["head"]["logits"] = jax.tree.map(lambda x: -x, params["head"]["logits"])
        return replace(model, variables={**model.variables, "params": params})

    monkeypatch.setattr(export, "exported", other)
    assert cli.run(export.main, flags) == cli.FAILED


@pytest.mark.parametrize(
    "flag, says",
    [
        ("--platforms=cpu,rocm", "rocm"),
        ("--format=onnx", "stablehlo"),
        ("--height=tall", "a whole number"),
        ("--output=/no/such/folder/m", "cannot write"),
    ],
)
def test_mistakes_of_export_are_one_line(workdir, tmp_path, flag, says, capsys):
    flags = [f"--workdir={workdir}", f"--output={tmp_path / 'm'}", "--platforms=cpu", flag]
    assert cli.run(export.main, flags) == cli.MISTAKE
    printed = capsys.readouterr().err
    assert says in printed and printed.count("\n") == 1


def test_bench_writes_what_the_design_fixes(workdir):
    ok(bench.main, f"--workdir={workdir}", "--rounds=3")
    record = json.loads((workdir / "bench.json").read_text())
    keys = (
        "schema device jax dtype batch shape macs params median_ms p95_ms images_per_s peak_bytes"
    )
    assert set(keys.split()) <= set(record)
    assert record["shape"] == [32, 32] and record["macs"] > 0


def test_bench_tells_the_time_of_each_layer(workdir, tmp_path, capsys):
    ok(bench.main, f"--workdir={workdir}", "--rounds=3", "--layers", f"--output={tmp_path}/b.json")
    record = json.loads((tmp_path / "b.json").read_text())
    rows = {(row["block"], row["layer"]): row for row in record["layers"]}
    first = rows["block_00", "conv1"]
    assert first["ms"] > 0 and sum(row["macs"] for row in rows.values()) == record["macs"]
    arch = artifact.load_model(workdir / "model")[0]
    expected = {(b.name, layer.name) for b in zoo.blocks(arch) for layer in b.layers}
    assert {place for place in rows if "-" not in place} == {
        place for place in expected if not place[0].startswith("aux")
    }
    assert "floor" in capsys.readouterr().out


def test_the_python_api(workdir):
    model = jaxseg.load(workdir)
    labels = model(np.zeros((50, 61, 3), np.uint8))
    assert labels.shape == (50, 61) and labels.dtype == np.uint8
    image = np.random.default_rng(0).integers(0, 256, (50, 61, 3), np.uint8)
    flip = jaxseg.load(workdir, flip=True, window_px=(32, 32), window_overlap_frac=0.0)
    assert flip(image).shape == (50, 61)
    with pytest.raises(UserError, match="scales"):
        jaxseg.load(workdir, scales=(0.0,))
    module, variables = jaxseg.create("fcn_resnet18", num_classes=3, width=0.125, output_stride=32)
    outputs = module.apply(variables, np.zeros((1, 64, 64, 3), np.float32))
    assert outputs.logits.shape == (1, 2, 2, 3)


def test_training_again_resumes_and_another_config_is_refused(config, workdir, capsys):
    ok(train.main, config, f"--workdir={workdir}")
    assert "already finished at step 3" in capsys.readouterr().out
    status = cli.run(train.main, [config, f"--workdir={workdir}", "--config.seed=5"])
    assert status == cli.MISTAKE
    assert "seed 0 -> 5" in capsys.readouterr().err
