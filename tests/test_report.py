"""Documents and results/ agree, and a number that was changed by hand is found."""

import json
import shutil

import jax
import pytest

from benchmarks import chaos, common, targets
from benchmarks.report import documents, faults, speed, together
from benchmarks.report.__main__ import main
from benchmarks.report.markdown import ROOT, load
from jaxseg.inference.artifact import Card, load_model, save_model
from jaxseg.models import zoo
from tests.fakes import small_arch


@pytest.fixture
def copy(tmp_path):
    """Documents and records, to be changed."""
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=lambda *_: ["models"])
    for name in documents.NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_documents_say_what_results_say(capsys):
    assert main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", documents.NAMES)
def test_every_place_is_known(name):
    text = (ROOT / name).read_text()
    places = documents.PLACE.findall(text)
    assert text.count("<!-- table:") == len(places) == text.count("<!-- end -->")
    assert {place[1] for place in places} <= set(documents.TABLES)


def test_a_number_changed_by_hand_is_found(copy, capsys):
    changed = copy / "docs" / "reliability.md"
    text = changed.read_text()
    first, last = text.index("<!-- table:"), text.index("<!-- end -->")
    digit = next(i for i in range(first, last) if text[i].isdigit())
    changed.write_text(text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :])
    assert main(["--check"], copy) == 1
    assert "docs/reliability.md: differs" in capsys.readouterr().out


def test_chaos_takes_as_long_as_it_says():
    rows = json.loads((ROOT / "results" / "chaos.json").read_text())["rows"]
    assert {row["arm"] for row in rows} == set(chaos.ARMS)
    tries = {name: getattr(arm, "tries", 1) for name, arm in chaos.ARMS.items()}
    planned_s = sum(row["wall_s"] / row["tries"] * tries[row["arm"]] for row in rows)
    assert planned_s < 1200
    assert f"{planned_s:.0f} s" in (ROOT / "Makefile").read_text()


def test_all_that_was_counted_is_told():
    rows = json.loads((ROOT / "results" / "chaos.json").read_text())["rows"]
    named = {
        *faults.COUNTED,
        "arm",
        "seed",
        "commit",
        "cpu",
        "wall_s",
        "tries",
        "kills",
        "seconds_to_end",
    }
    # What was always nothing, and what says more than how often.
    assert not any(row["processes_left"] or row["shared_memory_left"] for row in rows)
    named |= {"processes_left", "shared_memory_left", "survivor_status"}
    assert {key for row in rows for key in row} <= named


def test_a_record_that_is_missing_is_said_to_be(copy):
    (copy / "results" / "chaos.json").unlink()
    assert main([], copy) == 0
    text = (copy / "docs" / "reliability.md").read_text()
    assert "Not measured yet (`python -m benchmarks.run chaos`)" in text


def test_models_of_the_results_load_and_name_no_folder():
    folders = sorted((ROOT / "results" / "models").iterdir())
    assert folders
    for folder in folders:
        _, _, card = load_model(folder)  # the digest of the weights holds
        assert card.data["dir"] == ""


def test_a_model_is_written_without_the_folder_of_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arch = small_arch()
    card = Card(("a", "b", "c"), ((0, 0, 0),) * 3, (0.5,) * 3, (0.25,) * 3, {"dir": "/home/me"}, {})
    save_model(tmp_path / "run" / "model", arch, zoo.init(arch, jax.random.PRNGKey(0)), card)
    written = load_model(common.deployed(tmp_path / "run", "one"))[2]
    assert written.data == {"dir": ""}


def test_a_missed_target_is_said():
    record = load("input_share")
    for row in record["rows"]:
        row["ratio_real_to_resident"], row["wait_share"] = targets.REAL, targets.WAIT
    assert "missed" not in speed.input_share(record)
    record["rows"][0]["wait_share"] = targets.WAIT + 0.001
    assert speed.input_share(record).count("**missed**") == 1


def test_tables_of_all_together_by_hand(tmp_path):
    def network(arm, seed, miou, wall_s, **more):
        final = {"miou": miou, "macs": 2e6, "params": 3000, "bytes": 4000}
        return {"arm": arm, "seed": seed, "final": final, "train_wall_s": wall_s, **more}

    rows = []
    for seed in (0, 1):
        ms = {"plain": 2.0, "all": 1.0, "all within": 0.5, "without_mess": 4.0}
        rows += [
            network("plain", seed, 0.5, 10.0, train_steady_s=8.0),
            network(
                "all", seed, 0.4 + 0.1 * seed, 20.0, train_steady_s=15.0, search_wall_s=5.0,
                within={"miou": 0.3, "macs": 1e6, "params": 3000, "bytes": 4000},
            ),
            network("without_mess", seed, 0.4, 50.0, train_steady_s=45.0),
            {"arm": "measured", "seed": seed, "ms": ms},
        ]  # fmt: skip
    lines = together.added({"rows": rows}).splitlines()
    assert lines[2].startswith("| plain: cells by hand, floats | 50.0 (50.0 to 50.0) | 1.00 ")
    assert "| 45.0 (40.0 to 50.0) | 0.50 (0.50 to 0.50) | 2.0 | 3 | 4 | 25 | 15 | 2 |" in lines[3]
    assert "9/10 of its time | 30.0 (30.0 to 30.0) | 0.25 (0.25 to 0.25) | 1.0 " in lines[4]
    (line,) = together.left_out({"rows": rows}).splitlines()[2:]
    assert line == "| exits | +5.0 (+0.0, +10.0) | 0.25 (0.25 to 0.25) | 0.50 (0.50 to 0.50) |"
    for row in rows:
        row["arm"] = {"all": "mess", "without_mess": "dance"}.get(row["arm"], row["arm"])
        if "ms" in row:
            row["ms"] = {"plain": 2.0, "mess": 1.0, "mess within": 0.5, "dance": 4.0}
    assert together.pareto({"rows": rows}).count("\n") == 6
    together.draw({"rows": rows}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
