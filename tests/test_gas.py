"""The search after GAS through the real commands: a table, a search that uses it, its cells elsewhere, mistakes."""

import json

import pytest

from jaxseg import bench, cli, train
from jaxseg.inference.artifact import load_model
from jaxseg.models.backbones.gas import BY_HAND, genotype_of
from tests.data import raw

CLASSES = 3
CONFIG = "configs/gas_toy_street.py"


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """A small data set, and a config small enough for it."""
    folder = tmp_path_factory.mktemp("gas") / "raw"
    raw.make_folder(folder, splits=(("train", 6), ("val", 2)), classes=CLASSES)
    changes = {
        "data.name": "folder",
        "data.dir": folder,
        "data.height_px": 32,
        "data.width_px": 32,
        "data.batch_size": 2,
        "model.width": 0.125,
        "gas.cells": 3,
        "gas.search.steps": 3,
        "gas.search.optim.warm_up_steps": 0,
        "phases.main.steps": 2,
        "phases.main.optim.warm_up_steps": 0,
        "eval.batch_size": 2,
        "eval.every_steps": 0,
        "log.tensorboard": False,
        "loss.class_weights": "()",
    }
    return [f"--config={CONFIG}", *(f"--config.{k}={v}" for k, v in changes.items())]


def said(main, capsys, *argv):
    """The one line of a mistake."""
    assert cli.run(main, argv) == cli.MISTAKE
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_measure_search_and_train_elsewhere(flags, tmp_path):
    table = tmp_path / "table.json"
    size = ("--height=32", "--width=32")
    assert cli.run(bench.main, [*flags, f"--table={table}", "--rounds=1", *size]) == cli.OK
    record = json.loads(table.read_text())
    assert (
        record["size_px"] == [32, 32] and record["device"] and min(record["entries"].values()) == 0
    )
    search = tmp_path / "search"
    argv = [*flags, f"--workdir={search}", f"--config.gas.latency={table}"]
    assert cli.run(train.main, argv) == cli.OK
    found = genotype_of(load_model(search / "model")[0].backbone)
    assert len(found) == 3
    # Another network, of those cells; and what is not asked for is by hand.
    for genotype, expected in ((search, found), ("", BY_HAND[:3])):
        other = tmp_path / f"other_{bool(genotype)}"
        argv = [*flags, f"--workdir={other}", f"--config.gas.genotype={genotype}"]
        argv += ["--config.gas.search.steps=0", "--config.phases.main.steps=1"]
        assert cli.run(train.main, argv) == cli.OK
        assert genotype_of(load_model(other / "model")[0].backbone) == expected


@pytest.mark.parametrize(
    "changes, says",
    [
        (("gas.search.steps=0", "gas.genotype=nowhere"), "gas.genotype: cannot read nowhere"),
        (("gas.genotype=nowhere",), "gas.genotype beside gas.search.steps"),
        (("gas.guide=grph",), "did you mean 'graph'"),
        (("gas.sharing=shared",), "no neighbours"),
        (("gas.temperatures=(1.0, 0.0)",), "two numbers above 0"),
        (("gas.temperatures=(1.0,)",), "gas.temperatures"),
        (("gas.latency=nowhere",), "cannot read nowhere"),
        (("mess.num_exits=2",), "mess.num_exits beside gas.search.steps"),
        (("dance.network.share=0.5",), "dance.network.share beside gas.search.steps"),
        (("integer.preset=integer_only",), "integer.preset beside gas.search.steps"),
        (("model.name=fcn_resnet18",), "expected model.name=gas"),
    ],
)
def test_mistakes_are_one_line(flags, tmp_path, capsys, changes, says):
    line = said(
        train.main, capsys, *flags, f"--workdir={tmp_path}", *(f"--config.{c}" for c in changes)
    )
    assert says in line


def test_a_table_is_of_a_network_to_be_searched(flags, tmp_path, capsys):
    line = said(bench.main, capsys, *flags, f"--table={tmp_path}/t", "--config.gas.search.steps=0")
    assert "expected a config with gas.search.steps" in line
    assert "--table" in said(bench.main, capsys, f"--workdir={tmp_path}", f"--table={tmp_path}/t")
