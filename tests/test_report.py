"""Documents and results/ agree, and a number that was changed by hand is found."""

import shutil

import pytest

from benchmarks import targets
from benchmarks.report import documents, speed
from benchmarks.report.__main__ import main
from benchmarks.report.markdown import ROOT, load


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


def test_a_record_that_is_missing_is_said_to_be(copy):
    (copy / "results" / "chaos.json").unlink()
    assert main([], copy) == 0
    text = (copy / "docs" / "reliability.md").read_text()
    assert "Not measured yet (`python -m benchmarks.run chaos`)" in text


def test_a_missed_target_is_said():
    record = load("input_share")
    for row in record["rows"]:
        row["ratio_real_to_resident"], row["wait_share"] = targets.REAL, targets.WAIT
    assert "missed" not in speed.input_share(record)
    record["rows"][0]["wait_share"] = targets.WAIT + 0.001
    assert speed.input_share(record).count("**missed**") == 1
