"""Operations of an int8 network beside those of the float one: by hand, on small networks, and through `bench`."""

import json
from dataclasses import replace

import numpy as np
import pytest

from jaxseg import bench, cli, defaults
from jaxseg.arch import Arch, HeadArch
from jaxseg.conversion.calibrated import calibrated
from jaxseg.conversion.exact import exact
from jaxseg.conversion.steps import deployed_blocks
from jaxseg.data import datasets
from jaxseg.inference.artifact import Card, save_model
from jaxseg.inference.layer_quality import MOST_DB, Quality, Tally, as_float, qualities, sample
from jaxseg.inference.layer_table import joined, quality_table
from jaxseg.inference.layer_times import LayerTime
from jaxseg.inference.roofline import Peaks
from jaxseg.methods import integer
from jaxseg.models import zoo
from tests.data import raw
from tests.fakes import FakeSplit, small_arch
from tests.models.test_zoo import filled

MEAN, STD = (0.5,) * 3, (0.25,) * 3


def maps(*values, dtype=np.float32):
    """[1, 1, W, 1]."""
    return np.array(values, dtype).reshape(1, 1, -1, 1)


def codes(*values):
    return maps(*values, dtype=np.int8)


def made(arch: Arch, images):
    """(int8 network, float network)."""
    variables = filled(arch)
    batches = [image[None] for image in images]
    return calibrated(arch, variables, MEAN, STD, lambda: batches), as_float(arch, variables)


# --- By hand ---


def test_signal_to_noise_by_hand():
    """<x, c> = 3, <c, c> = 2, s = 1.5: the rest is (-.5, .5), of (1, 2) that is 5 / .5 = 10, that is 10 dB."""
    tally = Tally()
    tally.add(maps(1, 2), codes(1, 1))
    assert tally.quality().snr_db == pytest.approx(10)


def test_one_scale_for_all_images():
    """<x, c> = 3 + 8, <c, c> = 2 + 8: what would fit one image does not fit the other."""
    tally = Tally()
    tally.add(maps(1, 2, 1), codes(1, 1, 0))
    tally.add(maps(4, 0), codes(2, 2))
    s = 11 / 10
    rest = (1 - s) ** 2 + (2 - s) ** 2 + 1 + (4 - 2 * s) ** 2 + (2 * s) ** 2
    assert tally.quality().snr_db == pytest.approx(10 * np.log10(22 / rest))


@pytest.mark.parametrize(
    ("x", "c", "snr_db"),
    [
        ((0.5, -1.5, 2), (1, -3, 4), MOST_DB),
        ((3, 4), (0, 0), 0.0),
        ((1, 1), (1, -1), 0.0),
        ((0, 0), (0, 1), None),
    ],
    ids=["a copy", "nothing left", "nothing in common", "nothing to keep"],
)
def test_ends_of_the_scale(x, c, snr_db):
    tally = Tally()
    tally.add(maps(*x), codes(*c))
    assert tally.quality().snr_db == snr_db


def test_saturation_and_bits_by_hand():
    tally = Tally()
    tally.add(maps(*range(8)), codes(-127, -126, 0, 1, 126, 127, 127, 3))
    tally.add(maps(1, 2), codes(1, 2))
    found = tally.quality(np.array([[-3, 2, 0]], np.int8))
    assert (found.saturated, found.result_bits, found.weight_bits) == (0.3, 8, 3)
    assert tally.quality().weight_bits is None


def test_an_upper_bound_below_127_and_one_for_each_pass():
    six = Tally(np.array(60))
    six.add(maps(1, 2, 3, 4), codes(0, 59, 60, 60))
    assert six.quality().saturated == 0.5 and six.quality().result_bits == 7
    passes = Tally(np.array([60, 100]))
    both = np.stack([codes(59, 60), codes(60, 99)])
    passes.add(both.astype(float), both)
    assert passes.quality().saturated == 0.25


# --- Networks ---


def test_every_operation_of_a_calibrated_network():
    split = FakeSplit(n=3)
    images = sample(split, 2)
    (arch, variables), floating = made(small_arch(aux=True), images)
    found = qualities((arch, variables), floating, MEAN, STD, images)
    assert list(found) == [(b.name, op.name) for b in deployed_blocks(arch) for op in b.ops]
    assert (
        found["block_01", "conv1"].weight_bits == 8 and found["block_01", "sum"].weight_bits is None
    )
    assert all(q.result_bits <= 8 and 0 <= q.saturated < 0.2 for q in found.values())
    assert all(15 < q.snr_db < 70 for q in found.values())
    # A step four times too small clips most of what it is for.
    worse = dict(variables, scales={**variables["scales"]})
    leaves = dict(worse["scales"]["block_01"]["conv1"])
    leaves["shift"] = leaves["shift"] - 2
    worse["scales"]["block_01"] = {**worse["scales"]["block_01"], "conv1": leaves}
    clipped = qualities((arch, worse), floating, MEAN, STD, images)["block_01", "conv1"]
    assert clipped.saturated > 0.1 and clipped.snr_db < found["block_01", "conv1"].snr_db - 6


def test_passes_of_a_loop():
    images = [np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)]
    arch = zoo.named("itnet", 3, width=0.125, iterations=2, scales=1)
    (arch, variables), floating = made(arch, images)
    found = qualities((arch, variables), floating, MEAN, STD, images)
    assert variables["scales"]["block_03"]["fuse"]["top"].shape == (2,)
    assert found["block_03", "fuse"].snr_db > 10 and found["head", "logits"].snr_db > 10


def test_a_network_trained_on_grids_loses_nothing():
    """Its values are its codes times steps, whatever their number; a missing bit anywhere would show."""
    settings = integer.Settings("integer_only", {}, ())
    arch = integer.architecture(small_arch(), settings, image_reach=2.0)
    variables = filled(arch)
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    found = qualities(exact(arch, variables), as_float(arch, variables), MEAN, STD, [image])
    assert {q.snr_db for q in found.values()} <= {MOST_DB, None}
    assert sum(q.snr_db is not None for q in found.values()) > 8


def test_rows_and_table_by_hand():
    arch = replace(small_arch(), head=HeadArch("linear", ("block_02",), ()))
    blocks = [b for b in deployed_blocks(arch) if b.name in ("block_01", "head")]
    times = [LayerTime("block_01", "conv1", 7, 8, 1.5), LayerTime("-", "-", 0, 0, 0.25)]
    float_times = [
        LayerTime("block_01", "conv1", 7, 32, 3.0),
        LayerTime("block_01", "-", 0, 0, 2.0),
    ]
    found = {("block_01", op.name): Quality(None, 8, 0.0, None) for op in blocks[0].ops}
    found["block_01", "conv1"] = Quality(8, 7, 0.0125, 31.26)
    rows = joined(blocks, times, float_times, found)
    names = [op.name for op in blocks[0].ops]
    assert [(r["block"], r["layer"]) for r in rows] == [
        *(("block_01", n) for n in (*names, "-")),
        ("-", "-"),
    ]
    by_name = {(r["block"], r["layer"]): r for r in rows}
    first = by_name["block_01", "conv1"]
    assert (first["macs"], first["num_bytes"], first["ms"], first["float_ms"]) == (7, 8, 1.5, 3.0)
    assert (first["weight_bits"], first["result_bits"], first["snr_db"]) == (8, 7, 31.26)
    assert (
        by_name["block_01", "sum"]["ms"] is None and by_name["block_01", "sum"]["float_ms"] is None
    )
    assert (by_name["block_01", "-"]["ms"], by_name["block_01", "-"]["float_ms"]) == (0.0, 2.0)
    (line,) = [x for x in quality_table(rows).splitlines() if "conv1" in x]
    assert line.split() == ["block_01", "conv1", "1.500", "3.000", "8", "7", "1.25%", "31.3"]


# --- bench ---


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A trained folder, the int8 one made from it, and one of another architecture; a small data set."""
    root = tmp_path_factory.mktemp("quality")
    raw.make_folder(root / "raw", splits=(("train", 2), ("val", 3)), classes=3)
    config = cli.to_plain(defaults.get_config())
    data = {
        **config["data"],
        "name": "folder",
        "dir": str(root / "raw"),
        "height_px": 32,
        "width_px": 32,
    }
    names = tuple(datasets.describe("folder", str(root / "raw")).class_names)
    card = Card(names, ((0, 0, 0),) * 3, MEAN, STD, data, config["eval"])
    arch = small_arch(aux=True)
    variables = filled(arch)
    save_model(root / "trained", arch, variables, card)
    image = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), np.uint8)
    save_model(root / "int8", *calibrated(arch, variables, MEAN, STD, lambda: [image]), card)
    other = replace(arch, head=HeadArch("fcn", ("block_01",), (8,), dropout=0.1))
    save_model(root / "other", other, filled(other), card)
    return root


def run(*flags):
    return cli.run(bench.main, ["--rounds=2", *flags])


def test_bench_shows_the_float_network_beside(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "peaks", lambda dtype: Peaks(1e9, 1e9))
    out = tmp_path / "b.json"
    flags = (f"--workdir={folders / 'int8'}", "--layers", f"--beside={folders / 'trained'}")
    assert run(*flags, f"--output={out}") == cli.OK
    printed, record = capsys.readouterr().out, json.loads(out.read_text())
    assert record["quality_images"] == {"split": "val", "count": 3}
    rows = {(row["block"], row["layer"]): row for row in record["layers"]}
    assert sum(row["macs"] for row in rows.values()) == record["macs"]
    conv = rows["block_01", "conv1"]
    assert conv["ms"] >= 0 and conv["float_ms"] > 0 and conv["weight_bits"] == 8
    assert rows["block_01", "sum"]["snr_db"] > 10 and rows["block_01", "sum"]["ms"] is None
    assert not any(name.startswith("aux") for name, _ in rows)
    assert "SNR dB" in printed and "roofline" in printed


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--workdir={int8}", "--beside={trained}"), "--layers"),
        (
            ("--config=configs/quickstart.py", "--layers", "--beside={trained}"),
            "--workdir of an int8",
        ),
        (
            ("--workdir={trained}", "--layers", "--beside={trained}"),
            "got a network in float32 as --workdir",
        ),
        (("--workdir={int8}", "--layers", "--beside={int8}"), "the float one before it"),
        (("--workdir={int8}", "--layers", "--beside={other}"), "another architecture"),
        (("--workdir={int8}", "--layers", "--beside={none}"), "no such folder"),
        (("--workdir={int8}", "--layers", "--beside={trained}", "--split=test"), "test"),
        (("--workdir={int8}", "--layers", "--beside={trained}", "--split=vla"), "--split=vla"),
        (
            ("--workdir={int8}", "--layers", "--beside={trained}", "--config.data.dir={none}"),
            "none",
        ),
    ],
)
def test_mistakes_are_one_line(folders, capsys, flags, says):
    names = {name: folders / name for name in ("trained", "int8", "other", "none")}
    assert run(*(flag.format(**names) for flag in flags)) == cli.MISTAKE
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and says in err
    assert not (folders / "int8" / "bench.json").exists()


def test_no_images_are_a_mistake():
    with pytest.raises(ValueError, match="holds no images"):
        sample(FakeSplit(n=0))
    assert len(sample(FakeSplit(n=3))) == 3 and len(sample(FakeSplit(n=20))) == 8
