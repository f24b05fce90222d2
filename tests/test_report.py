"""Documents and results/ agree, and a number that was changed by hand is found."""

import shutil

import pytest

from benchmarks import report


def test_documents_say_what_results_say(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["report", "--check"])
    assert report.main() == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", report.DOCUMENTS)
def test_every_place_is_known(name):
    text = (report.ROOT / name).read_text()
    places = report.PLACE.findall(text)
    assert text.count("<!-- table:") == len(places) == text.count("<!-- end -->")
    assert {place[1] for place in places} <= set(report.TABLES)


def test_a_number_changed_by_hand_is_found(tmp_path, monkeypatch, capsys):
    shutil.copytree(report.ROOT / "results", tmp_path / "results", ignore=lambda *_: ["models"])
    for name in report.DOCUMENTS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(report.ROOT / name, tmp_path / name)
    changed = tmp_path / "docs" / "reliability.md"
    text = changed.read_text()
    first, last = text.index("<!-- table:"), text.index("<!-- end -->")
    digit = next(i for i in range(first, last) if text[i].isdigit())
    changed.write_text(text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :])
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["report", "--check"])
    assert report.main() == 1
    assert "docs/reliability.md: differs" in capsys.readouterr().out
