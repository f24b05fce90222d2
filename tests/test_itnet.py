"""A looped model through the real commands: every way of `--mode`, and mistakes as one line."""

import json

import jax
import numpy as np
import pytest

import jaxseg
from jaxseg import bench, cli, defaults, evaluate, export, predict
from jaxseg.data import datasets
from jaxseg.inference.artifact import Card, load_model, save_model
from jaxseg.inference.itnet import Punctual
from jaxseg.inference.predictor import Model
from jaxseg.inference.ways import Way, parts
from jaxseg.models import zoo
from jaxseg.models.itnet import account
from tests.data import raw
from tests.models.test_zoo import filled

CLASSES, N = 3, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A loop with random weights, and a small data set."""
    root = tmp_path_factory.mktemp("itnet")
    raw.make_folder(root / "raw", splits=(("train", 2), ("val", 1)), classes=CLASSES)
    arch = zoo.named("itnet", CLASSES, width=0.125, iterations=N)
    config = cli.to_plain(defaults.get_config())
    data = {**config["data"], "name": "folder", "dir": str(root / "raw")}
    names = datasets.describe("folder", str(root / "raw")).class_names
    card = Card(tuple(names), ((0, 0, 0),) * CLASSES, (0.5,) * 3, (0.25,) * 3, data, config["eval"])
    save_model(root / "model", arch, filled(arch), card)
    return root / "model"


def scored(folder, *flags):
    assert cli.run(evaluate.main, [f"--workdir={folder}", *flags]) == cli.OK
    return json.loads((folder / "metrics_val.json").read_text())


def test_evaluate_in_every_way(folder):
    final = scored(folder)
    assert final["way"] == "final" and "exits" not in final
    anytime = scored(folder, "--mode=anytime")
    assert [row["name"] for row in anytime["exits"]] == ["pass_1", "pass_2", "pass_3"]
    assert anytime["exits"][-1]["miou"] == pytest.approx(final["miou"], abs=0.01)
    arch = load_model(folder)[0]
    size_px = tuple(first_size(folder))
    for n, row in enumerate(anytime["exits"], start=1):
        expected = account(arch, size_px, n)._asdict()
        assert {key: row[key] for key in expected} == expected
    one = scored(folder, "--mode=budgeted", "--config.eval.exits.chosen=(1,)")
    assert one["miou"] == pytest.approx(anytime["exits"][0]["miou"], abs=0.01)
    # With a mirror image every number of passes is a network of its own.
    flipped = scored(
        folder, "--mode=anytime", "--config.eval.flip=True", "--config.eval.exits.chosen=(1,)"
    )
    assert [row["name"] for row in flipped["exits"]] == ["pass_1", "final"]
    sure = scored(folder, "--mode=input", "--config.eval.exits.image=(0.0,)")
    assert [row["frac_taken"] for row in sure["exits"]] == [1.0, 0.0, 0.0]
    assert sure["mean_macs"] == anytime["exits"][0]["macs"] < sure["final_only_macs"]
    late = scored(folder, "--mode=deadline", "--config.eval.exits.deadline_ms=0.001")
    assert late["late_frac"] == 1.0 and late["mean_passes"] == 1.0
    assert late["miou"] == pytest.approx(one["miou"], abs=0.01)


def first_size(folder):
    """(H, W) of the first image of val."""
    card = load_model(folder)[2]
    return datasets.open_split("folder", "val", dir=card.data["dir"]).sizes_px[0].tolist()


@pytest.mark.parametrize(
    "flags, says",
    [
        (("--mode=anytime", "--config.eval.exits.chosen=(4,)"), "got (4,); expected 1 to 3"),
        (("--mode=input",), "got 0 thresholds; expected 2"),
        (("--mode=deadline",), "eval.exits.deadline_ms: got 0.0; expected milliseconds above 0"),
        (
            ("--mode=deadline", "--config.eval.exits.deadline_ms=5", "--config.eval.flip=True"),
            "mode deadline",
        ),
    ],
)
def test_mistakes_are_one_line(folder, flags, says, capsys):
    assert cli.run(evaluate.main, [f"--workdir={folder}", *flags]) == cli.MISTAKE
    printed = capsys.readouterr().err
    assert says in printed and printed.count("\n") == 1


def test_predict_after_every_pass_and_by_a_deadline(folder, tmp_path, capsys):
    images = load_model(folder)[2].data["dir"] + "/images/val"
    args = [f"--workdir={folder}", f"--input={images}"]
    assert cli.run(predict.main, [*args, f"--output={tmp_path / 'a'}", "--mode=anytime"]) == cli.OK
    made = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert made == ["final", "pass_1", "pass_2"]
    assert all(len(list((tmp_path / "a" / name / "labels").iterdir())) == 1 for name in made)
    late = ["--mode=deadline", "--config.eval.exits.deadline_ms=0.001"]
    assert cli.run(predict.main, [*args, f"--output={tmp_path / 'b'}", *late]) == cli.OK
    assert "images that were late: 1 of 1" in capsys.readouterr().out


def test_bench_by_layer_counts_every_pass(folder, tmp_path):
    out = tmp_path / "b.json"
    flags = ["--rounds=2", "--layers", "--height=24", "--width=32", f"--output={out}"]
    assert cli.run(bench.main, [f"--workdir={folder}", *flags]) == cli.OK
    record = json.loads(out.read_text())
    arch = load_model(folder)[0]
    assert record["macs"] == account(arch, (24, 32), N).macs
    assert sum(row["macs"] for row in record["layers"]) == record["macs"]


def test_a_folder_that_says_so_answers_by_its_deadline(folder, tmp_path):
    arch, variables, card = load_model(folder)
    card.evaluation["exits"] |= {"mode": "deadline", "deadline_ms": 1e6}
    save_model(tmp_path / "m", arch, variables, card)
    model = jaxseg.load(tmp_path / "m")
    assert isinstance(model, Punctual)
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    np.testing.assert_array_equal(model(image), jaxseg.load(folder)(image))
    assert model.done[0].passes == N and not model.done[0].late


def test_a_file_holds_as_many_passes_as_were_asked_for(folder, tmp_path, capsys):
    flags = (f"--workdir={folder}", f"--output={tmp_path / 'file'}", "--platforms=cpu", "--check")
    budget = ("--mode=budgeted", "--config.eval.exits.chosen=(1,)")
    for more in ((), budget):
        assert cli.run(export.main, [*flags, *more]) == cli.OK
    image = np.random.default_rng(0).integers(0, 256, (1, 192, 256, 3), np.uint8)
    labels = np.asarray(
        jax.export.deserialize(bytearray((tmp_path / "file").read_bytes())).call(image)
    )
    model = Model.load(folder)
    shares = [
        np.mean(labels == parts(model, way)[""](image)) for way in (Way("budgeted", (1,)), Way())
    ]
    assert shares[0] > 0.99 > shares[1]
    capsys.readouterr()
    assert cli.run(export.main, [*flags, "--mode=deadline"]) == cli.MISTAKE
    assert "mode deadline" in capsys.readouterr().err
