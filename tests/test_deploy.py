"""`deploy` from a folder with exits to one that answers by itself, and `export`, through the real commands."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxseg
from benchmarks import mess as benchmark
from jaxseg import build, cli, defaults, deploy, evaluate, export
from jaxseg.data import datasets
from jaxseg.inference.artifact import Card, load_model, save_model
from jaxseg.inference.exits import Policy
from jaxseg.inference.predictor import Model
from jaxseg.inference.search import Deployment
from jaxseg.inference.ways import AnyTime, InputDependent, Way, parts
from jaxseg.models import mess, zoo
from jaxseg.models.mess import ExitDesign
from tests.data import raw
from tests.models.test_zoo import filled

CLASSES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network with a head behind each of two blocks, random, and a small data set."""
    root = tmp_path_factory.mktemp("deploy")
    raw.make_folder(root / "raw", splits=(("train", 2), ("val", 3), ("test", 2)), classes=CLASSES)
    plain = zoo.named("deeplabv3plus_resnet18", CLASSES, width=0.125)
    arch = mess.with_exits(plain, ("block_03", "block_06"), (ExitDesign(4),))
    config = cli.to_plain(defaults.get_config())
    data = {**config["data"], "name": "folder", "dir": str(root / "raw")}
    names = datasets.describe("folder", str(root / "raw")).class_names
    card = Card(tuple(names), ((0, 0, 0),) * CLASSES, (0.5,) * 3, (0.25,) * 3, data, config["eval"])
    save_model(root / "model", arch, filled(arch), card)
    return root / "model"


def run(folder, output, *flags):
    return cli.run(
        deploy.main, [f"--workdir={folder}", f"--output={output}", "--split=val", *flags]
    )


def test_a_deployed_folder_answers_as_it_was_chosen(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "out", "--setting=input", "--min-miou=0.000001") == 0
    told = json.loads((tmp_path / "out" / "deploy.json").read_text())
    assert told["chosen"]["setting"] == "input" and told["num_images"] == 3
    assert told["configurations"] > 1000 and (tmp_path / "out" / "pareto.png").exists()
    assert sum(told["taken_measured"]) == pytest.approx(1)
    arch, _, card = load_model(tmp_path / "out")
    assert len(arch.exits) == len(told["chosen"]["pixel"]) and not arch.aux
    model = jaxseg.load(tmp_path / "out")
    assert isinstance(model, InputDependent)
    image = np.zeros((24, 32, 3), np.uint8)
    assert model(image).shape == (24, 32) and sum(model.left) == 1
    assert cli.run(evaluate.main, [f"--workdir={tmp_path / 'out'}", "--split=val"]) == 0
    scores = json.loads((tmp_path / "out" / "metrics_val.json").read_text())
    # The search knew: the same images, the same decisions.
    assert scores["miou"] == pytest.approx(told["chosen"]["miou"], abs=0.02)
    shares = [x["frac_taken"] for x in scores["exits"]]
    assert shares == pytest.approx(told["chosen"]["taken"], abs=0.34)
    for row in scores["exits"]:
        assert (row["miou"] is None) == (row["frac_taken"] == 0) and row["latency_ms"] > 0


def test_a_budget_cuts_the_network(folder, tmp_path):
    final = tmp_path / "final"
    assert run(folder, final, "--setting=final", "--max-macs=1e12") == 0
    whole = json.loads((final / "deploy.json").read_text())["chosen"]["cost"]
    small = tmp_path / "small"
    flags = (f"--max-macs={0.7 * whole}", "--setting=budgeted", "--numbers=bfloat16")
    assert run(folder, small, *flags) == 0
    arch, _, _ = load_model(small)
    assert len(arch.backbone.blocks) < 9 and not arch.exits and arch.numbers.compute == "bfloat16"
    assert json.loads((small / "deploy.json").read_text())["chosen"]["cost"] <= 0.7 * whole


def test_any_time_is_chosen_timed_and_answers(folder, tmp_path):
    """Every answer costs what has run until it is there, the heads before it included."""
    out = tmp_path / "out"
    assert run(folder, out, "--setting=anytime") == 0
    told = json.loads((out / "deploy.json").read_text())
    assert told["chosen"]["setting"] == "anytime" and told["taken_measured"][-1] == 1.0
    assert [x["setting"] for x in told["pareto"]] == ["anytime"]
    assert sum(told["taken_measured"]) == 1 and told["mean_ms"] > 0
    arch, variables, card = load_model(out)
    assert len(arch.exits) == 1
    assert cli.run(evaluate.main, [f"--workdir={out}", "--split=val"]) == 0
    scores = json.loads((out / "metrics_val.json").read_text())
    assert scores["way"] == "anytime" and len(scores["exits"]) == 2
    costs = mess.costs(arch, (24, 32))
    assert [x["macs"] for x in scores["exits"]] == [costs.anytime((0,)), costs.anytime((0, 1))]
    assert 0 < scores["exits"][0]["latency_ms"] < scores["exits"][1]["latency_ms"]
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    one = AnyTime.of(Model(arch, variables, card), Way("anytime"))
    assert len(list(one.answers(image))) == 2
    assert np.mean(one(image) == jaxseg.load(folder)(image)) > 0.99


@pytest.mark.parametrize("mode, part", [("budgeted", ""), ("anytime", "final")])
def test_a_folder_that_says_so_answers_in_its_mode(folder, tmp_path, mode, part):
    arch, variables, card = load_model(folder)
    card.evaluation["exits"] |= {"mode": mode, "chosen": [1]}
    save_model(tmp_path / "m", arch, variables, card)
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    answer = jaxseg.load(tmp_path / "m")(image)
    expected = parts(Model(arch, variables, card), Way(mode, chosen=(1,)))[part](image)
    np.testing.assert_array_equal(answer, expected)
    differs = np.mean(answer != jaxseg.load(folder)(image))
    assert (differs > 0.1) == (mode == "budgeted")


@pytest.mark.parametrize(
    "name, words",
    [
        ("fcn_resnet18", "--config.mess.num_exits"),
        ("itnet", "evaluate --mode=budgeted"),
    ],
)
def test_without_exits_there_is_nothing_to_choose(folder, tmp_path, capsys, name, words):
    options = {"iterations": 2} if name == "itnet" else {}
    arch = zoo.named(name, CLASSES, width=0.125, **options)
    save_model(tmp_path / "model", arch, filled(arch), load_model(folder)[2])
    assert run(tmp_path / "model", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: deploy: got ") and err.count("\n") == 1 and words in err
    assert not (tmp_path / "out").exists()


def test_a_size_that_no_image_has_is_said_before_the_work(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(deploy.collecting, "collect", lambda *_, **__: pytest.fail("it looked"))
    assert run(folder, tmp_path / "out", "--width=33") == 2
    assert "--height, --width: got (24, 33)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_benchmark_scores_what_is_deployed(folder):
    arch, variables, card = load_model(folder)
    one = Deployment("input", (0, 1, 2), (0.5, 0.5), (0.3, 0.3), 0.0, 0.0, (0.0, 0.0, 1.0))
    config = build.evaluation_config(card, ())
    found = benchmark._executed(arch, variables, one, Policy(), card, config)
    assert 0 <= found <= 1


def exported(folder, file, *flags):
    """Status of the command, and the answers of the file to some noise where there is one."""
    flags = (f"--workdir={folder}", f"--output={file}", "--platforms=cpu", *flags)
    status = cli.run(export.main, [*flags, "--height=24", "--width=32"])
    if not file.exists():
        return status, None
    image = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), np.uint8)
    return status, np.asarray(jax.export.deserialize(bytearray(file.read_bytes())).call(image))


def test_a_file_has_the_answer_that_was_asked_for(folder, tmp_path):
    model = Model.load(folder)
    image = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), np.uint8)
    ways = {"final": Way(), "budgeted": Way("budgeted", (0,))}
    size = {}
    for name, way in ways.items():
        file = tmp_path / name
        flags = (f"--mode={name}", f"--config.eval.exits.chosen={way.chosen}")
        status, labels = exported(folder, file, *flags)
        assert status == 0
        assert np.mean(labels == parts(model, way)[""](image)) > 0.99
        told = json.loads((tmp_path / f"{name}.json").read_text())
        assert (told["way"], told["chosen"]) == (name, list(way.chosen))
        size[name] = file.stat().st_size
    assert size["budgeted"] < 0.5 * size["final"]  # the rest of the network is not in it


@pytest.mark.parametrize("mode", ["anytime", "input", "deadline"])
def test_a_way_that_no_file_has_is_refused_in_one_line(folder, tmp_path, capsys, mode):
    """As a flag, and as what a deployed folder says of itself."""
    arch, variables, card = load_model(folder)
    exits = {**card.evaluation["exits"], "mode": mode}
    evaluation = {**card.evaluation, "exits": exits}
    save_model(tmp_path / "model", arch, variables, replace(card, evaluation=evaluation))
    for where, flags in ((folder, (f"--mode={mode}",)), (tmp_path / "model", ())):
        assert exported(where, tmp_path / "file", *flags) == (2, None)
        err = capsys.readouterr().err
        assert err.startswith(f"error: export: got mode {mode}; expected final or budgeted")
        assert "--mode=final" in err and err.count("\n") == 1
    assert exported(tmp_path / "model", tmp_path / "file", "--mode=final")[0] == 0


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--max-macs=1",), "closest one"),
        (("--min-miou=0.999",), "closest one"),
        (("--max-macs=-1",), "--max-macs: got '-1'; expected a number above 0"),
        (("--max-macs=5", "--max-latency-ms=5"), "not both"),
        (("--height=17",), "the size of some images"),
        (("--split=calib",), "images/calib and labels/calib, or give --split=val"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, capsys, flags, words):
    assert run(folder, tmp_path / "out", *flags) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and words in err
    assert ("there is:\n  mIoU" in out) == (words == "closest one")
