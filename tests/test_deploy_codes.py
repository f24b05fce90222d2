"""`deploy --numbers=int8` through the real commands: what it writes is scored, answers, and is not turned back."""

import json

import jax
import numpy as np
import pytest

import jaxseg
from jaxseg import bench, cli, defaults, evaluate, predict
from jaxseg.data import datasets
from jaxseg.inference.artifact import VARIABLES, Card, load_model, save_model
from jaxseg.inference.predictor import Model
from jaxseg.inference.ways import InputDependent
from jaxseg.models import mess, zoo
from tests.conversion.test_exact import on_grids
from tests.data import raw
from tests.fakes import small_arch
from tests.models.test_zoo import filled
from tests.test_deploy import CLASSES, exported, run

pytestmark = pytest.mark.usefixtures("cheap")
IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """Of a model for a small data set of three images."""
    root = tmp_path_factory.mktemp("data")
    raw.make_folder(root / "raw", splits=(("train", 2), ("val", 3), ("test", 2)), classes=CLASSES)
    config = cli.to_plain(defaults.get_config())
    data = {**config["data"], "name": "folder", "dir": str(root / "raw")}
    names = datasets.describe("folder", str(root / "raw")).class_names
    return Card(tuple(names), ((0, 0, 0),) * CLASSES, (0.5,) * 3, (0.25,) * 3, data, config["eval"])


def written(root, arch, card):
    save_model(root, arch, filled(arch), card)
    return root


@pytest.fixture(scope="module")
def plain(card, tmp_path_factory):
    """A network without exits, with an auxiliary head."""
    return written(tmp_path_factory.mktemp("plain") / "m", small_arch(aux=True), card)


@pytest.fixture(scope="module")
def made(plain, tmp_path_factory):
    """The same as an int8 network."""
    out = tmp_path_factory.mktemp("made") / "m"
    assert run(plain, out, "--numbers=int8", "--images=2") == 0
    return out


def told(folder, name="deploy.json"):
    return json.loads((folder / name).read_text())


def one_line(capsys, *words):
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert all(word in err for word in words), err


# --- A network without exits ---


def test_a_folder_of_codes_scores_as_it_was_told(plain, made):
    arch, variables, card = load_model(made)
    assert arch.numbers.in_codes and not arch.aux and set(variables) == {"params", "scales"}
    record = told(made)
    assert (record["conversion"], record["images"], record["split"]) == ("mse", 2, "val")
    assert (record["numbers"], record["num_images"], record["shape"]) == ("int8", 3, [24, 32])
    assert record["mean_ms"] > 0 and record["trained_mean_ms"] > 0 and record["timed_images"] == 1
    assert card.origin["deployed"]["conversion"] == "mse"
    assert cli.run(evaluate.main, [f"--workdir={made}", "--split=val"]) == 0
    assert told(made, "metrics_val.json")["miou"] == pytest.approx(record["miou"], abs=1e-9)
    assert cli.run(evaluate.main, [f"--workdir={plain}", "--split=val"]) == 0
    before = told(plain, "metrics_val.json")
    assert before["miou"] == pytest.approx(record["trained_miou"], abs=1e-3)
    # So small a network is mostly numbers per channel; auxiliary heads are not counted.
    assert record["bytes"] == sum(x.nbytes for x in jax.tree.leaves(variables))
    assert record["bytes"] < 0.45 * record["trained_bytes"]
    assert (made / VARIABLES).stat().st_size < 0.5 * (plain / VARIABLES).stat().st_size


def test_it_answers_like_the_floats_it_came_from(plain, made):
    before, after = jaxseg.load(plain)(IMAGE), jaxseg.load(made)(IMAGE)
    assert after.dtype == np.uint8 and np.mean(before == after) > 0.9


def test_other_commands_take_it(made, tmp_path):
    raw.write(tmp_path / "in" / "a.png", IMAGE)
    argv = [f"--workdir={made}", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
    assert cli.run(predict.main, argv) == 0
    assert (tmp_path / "out/labels/a.png").exists()
    argv = [f"--workdir={made}", "--height=24", "--width=32", "--rounds=1"]
    assert cli.run(bench.main, argv) == 0
    status, labels = exported(made, tmp_path / "file")
    assert status == 0
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), np.uint8)
    np.testing.assert_array_equal(labels, Model.load(made)(images))


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_other_calibrations(plain, made, tmp_path, method):
    flags = ("--numbers=int8", f"--calibration={method}", "--images=9")
    assert run(plain, tmp_path / "out", *flags) == 0
    record = told(tmp_path / "out")
    assert (record["conversion"], record["images"]) == (method, 3)
    before, after = (load_model(folder) for folder in (made, tmp_path / "out"))
    assert before[0].numbers.codes.image_step == after[0].numbers.codes.image_step
    different = jax.tree.map(lambda a, b: np.any(a != b), before[1]["scales"], after[1]["scales"])
    assert any(jax.tree.leaves(different))


def test_what_was_int8_before_stays_the_same(made, tmp_path):
    """By its own numbers, and when told so."""
    for flags in ((), ("--numbers=int8",)):
        assert run(made, tmp_path / "out", *flags) == 0
        assert told(tmp_path / "out")["conversion"] == "was int8 before"
        assert (tmp_path / "out" / VARIABLES).read_bytes() == (made / VARIABLES).read_bytes()


@pytest.mark.parametrize("numbers", ["float32", "bfloat16"])
def test_codes_are_not_turned_back(made, tmp_path, capsys, numbers):
    assert run(made, tmp_path / "out", f"--numbers={numbers}") == 2
    one_line(capsys, f"--numbers: got {numbers}; expected int8", "no floats left")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--max-latency-ms=5",), "--max-latency-ms: got a network without early exits"),
        (("--max-macs=5",), "--max-macs: got a network without early exits"),
        (("--min-miou=0.1", "--max-macs=5"), "--max-macs, --min-miou: got a network without"),
        (("--images=0",), "--images: got '0'"),
        (("--images=many",), "--images: got 'many'"),
        (("--calibration=best",), "--calibration"),
    ],
)
def test_mistakes_are_one_line(plain, tmp_path, capsys, flags, words):
    assert run(plain, tmp_path / "out", "--numbers=int8", *flags) == 2
    one_line(capsys, words)
    assert not (tmp_path / "out").exists()


def test_int7_is_one_line(plain, tmp_path, capsys):
    assert run(plain, tmp_path / "out", "--numbers=int7") == 2
    one_line(capsys, "--numbers", "int7")


# --- Trained on grids ---


def test_a_network_trained_on_grids_stays_what_it_is(card, tmp_path):
    """Code for code: the same labels, so the same score."""
    folder = written(tmp_path / "m", on_grids(small_arch()), card)
    assert run(folder, tmp_path / "out", "--numbers=int8") == 0
    record = told(tmp_path / "out")
    assert (record["conversion"], record["images"]) == ("exact", 0)
    assert record["miou"] == record["trained_miou"]
    np.testing.assert_array_equal(jaxseg.load(tmp_path / "out")(IMAGE), jaxseg.load(folder)(IMAGE))


# --- With exits, and loops ---


def test_exits_are_chosen_of_an_int8_network(card, tmp_path):
    arch = mess.with_exits(small_arch(), ("block_00", "block_01"), (mess.ExitDesign(4),), width=0.5)
    folder = written(tmp_path / "m", arch, card)
    out = tmp_path / "out"
    assert run(folder, out, "--numbers=int8", "--max-macs=1e12", "--setting=input") == 0
    record = told(out)
    assert (record["numbers"], record["conversion"], record["unit"]) == ("int8", "mse", "MACs")
    assert record["chosen"]["setting"] == "input" and record["num_images"] == 3
    model = jaxseg.load(out)
    assert isinstance(model, InputDependent) and model.arch.numbers.in_codes
    assert {x.dtype for x in model.limits} == {np.dtype(np.int32)}
    assert model(IMAGE).shape == (24, 32)
    assert cli.run(evaluate.main, [f"--workdir={out}", "--split=val"]) == 0
    scores = told(out, "metrics_val.json")
    # Whole numbers: what was searched is what happens.
    assert scores["miou"] == pytest.approx(record["chosen"]["miou"], abs=1e-6)
    shares = [x["frac_taken"] for x in scores["exits"]]
    assert shares == pytest.approx(record["chosen"]["taken"], abs=1e-6)
    small = tmp_path / "small"
    cost = 0.9 * record["final_only"]["cost"]
    assert run(folder, small, "--numbers=int8", f"--max-macs={cost}", "--setting=budgeted") == 0
    found, variables, _ = load_model(small)
    assert found.numbers.in_codes and not found.exits and len(found.backbone.blocks) < 3
    assert told(small)["chosen"]["cost"] <= cost


def test_a_loop_becomes_an_int8_network(card, tmp_path):
    arch = zoo.named("itnet", CLASSES, width=0.125, iterations=2, output_stride=4, scales=1)
    folder, out = written(tmp_path / "m", arch, card), tmp_path / "out"
    assert run(folder, out, "--numbers=int8", "--images=1") == 0
    for mode, more in (
        ("final", ()),
        ("budgeted", ("--config.eval.exits.chosen=(1,)",)),
        ("anytime", ()),
        ("input", ("--config.eval.exits.image=(0.5,)",)),
    ):
        assert (
            cli.run(evaluate.main, [f"--workdir={out}", "--split=val", f"--mode={mode}", *more])
            == 0
        )
        scores = told(out, "metrics_val.json")
        assert scores["way"] == mode and scores["num_images"] == 3
        if mode == "final":
            assert scores["miou"] == pytest.approx(told(out)["miou"], abs=1e-9)
