"""Joules from counters of a made-up machine: parts of packages are left out, wrapping is seen, absence is told."""

import sys

import pytest

from jaxseg.energy import Meter, counters


def zone(root, name, label, microjoules, most=1_000_000_000):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(label + "\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)


def test_packages_are_added_up_and_their_parts_are_not(tmp_path):
    one = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    two = zone(tmp_path, "intel-rapl:1", "package-1", 0)
    core = zone(tmp_path, "intel-rapl:0:0", "core", 0)
    meter = Meter(tmp_path)
    assert meter.joules() == 0
    one.write_text("7500000")
    two.write_text("1000000")
    core.write_text("900000")
    assert meter.joules() == pytest.approx(3.5)
    record = meter.record(10.0)
    assert record == {"joules": 13.5, "of": ["cpu package-0", "cpu package-1"], "absent": ""}


def test_a_counter_that_begins_again(tmp_path):
    file = zone(tmp_path, "intel-rapl:0", "package-0", 999_000_000)
    meter = Meter(tmp_path)
    file.write_text("2000000")
    assert meter.joules() == pytest.approx(3.0)
    file.write_text("4000000")
    assert meter.joules() == pytest.approx(5.0)


def test_absence_is_told(tmp_path):
    meter = Meter(tmp_path / "nothing")
    assert meter.joules() is None
    record = meter.record(3.0)
    assert record["joules"] is None and "no RAPL under" in record["absent"]
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("?")
    found, missing = counters(tmp_path)
    assert not found and "RAPL cannot be read" in missing


def test_a_sum_with_a_gap_is_not_known(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    record = Meter(tmp_path).record(None)
    assert record["joules"] is None and "earlier session" in record["absent"]
