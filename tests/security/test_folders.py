"""Deployed folders from anybody: what is wrong with one is said in one line, and nothing in it is run."""

import dataclasses
import hashlib
import json
import shutil
import struct

import jax
import numpy as np
import pytest

from jaxseg import bench, build, cli, defaults, evaluate, export, predict
from jaxseg.errors import UserError
from jaxseg.inference.artifact import load_model, save_model
from jaxseg.inference.predictor import Model
from jaxseg.models import zoo
from tests.fakes import small_arch
from tests.inference.test_artifact import CARD
from tests.security.hostile import NO_FILES, mutated, pickled, within

FILES = ("arch.json", "model.json", "variables.safetensors")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder with nothing wrong in it, its card as training writes it."""
    path, arch = tmp_path_factory.mktemp("sound") / "m", small_arch(aux=True)
    settings = cli.to_plain(defaults.get_config())
    card = dataclasses.replace(CARD, data=settings["data"], evaluation=settings["eval"])
    save_model(path, arch, jax.device_get(zoo.init(arch, jax.random.PRNGKey(0))), card)
    return path


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "m")


def answers(folder):
    """All that commands do with a folder before they look at an image."""
    arch, variables, card = load_model(folder)
    config = build.evaluation_config(card, [])
    return Model(arch, variables, card, build.answer_mode(config.eval))


def set_variables(folder, data):
    """Replaces the arrays, with a card that vouches for them."""
    (folder / "variables.safetensors").write_bytes(data)
    card = json.loads((folder / "model.json").read_text())
    card["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "model.json").write_text(json.dumps(card))


def split_safetensors(folder):
    data = (folder / "variables.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def safetensors(header, body):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + body


# --- A drawn value in each place ---


@pytest.mark.parametrize("name, count", [("arch.json", 150), ("model.json", 150)])
def test_any_value_anywhere_works_or_is_one_line(folder, name, count):
    good, outcomes = json.loads((folder / name).read_text()), []
    for what, text in mutated(good, np.random.default_rng(0), count):
        (folder / name).write_text(text)
        try:
            outcomes.append(isinstance(answers(folder), Model))
        except UserError as error:
            outcomes.append(False)
            assert str(error).isprintable() and len(str(error)) < 1000, what
        except Exception as error:
            raise AssertionError(what) from error
    assert 0 < sum(outcomes) < 0.5 * len(outcomes), "most of these are mistakes, not all"


def test_any_value_in_the_header_of_the_arrays_works_or_is_one_line(folder):
    header, body = split_safetensors(folder)
    header = {"__metadata__": {"format": "np"}, **header}
    right = 0
    for what, text in mutated(header, np.random.default_rng(0), 0):
        set_variables(folder, safetensors(text, body))
        try:
            right += isinstance(answers(folder), Model)
        except UserError as error:
            assert str(error).isprintable(), what
        except Exception as error:
            raise AssertionError(what) from error
    assert right < 20, "hardly anything else than the right header fits"


# --- Chosen harm ---


def edit(name, *keys, value):
    def change(folder, tmp_path):
        record = json.loads((folder / name).read_text())
        node = record
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value
        (folder / name).write_text(json.dumps(record))

    return change


def replaced(name, kind):
    def change(folder, tmp_path):
        (folder / name).unlink()
        NO_FILES[kind](folder / name)

    return change


def pickle_for_arrays(folder, tmp_path):
    set_variables(folder, pickled(tmp_path / "canary"))


def pickle_for_json(folder, tmp_path):
    (folder / "model.json").write_bytes(pickled(tmp_path / "canary"))


def deep(folder, tmp_path):
    (folder / "arch.json").write_text('{"head":' * 100_000)


def huge_claim(folder, tmp_path):
    """A file of a few bytes whose tensor has 2^62 rows."""
    header = {"params/x": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 2**64 - 1]}}
    set_variables(folder, safetensors(header, b""))


def empty_but_vast(folder, tmp_path):
    header, body = split_safetensors(folder)
    header["params/x"] = {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}
    set_variables(folder, safetensors(header, body))


def other_dtype(folder, tmp_path):
    """Bytes of the right number, but integers."""
    header, body = split_safetensors(folder)
    for entry in header.values():
        entry["dtype"] = "I32"
    set_variables(folder, safetensors(header, body))


def other_shape(folder, tmp_path):
    header, body = split_safetensors(folder)
    kernel = header["params/head/logits/kernel"]
    kernel["shape"] = kernel["shape"][::-1]
    set_variables(folder, safetensors(header, body))


HARM = {
    "10^12 channels": (edit("arch.json", "head", "widths", value=[10**12]), "1 to 65536"),
    "65536 channels everywhere": (
        edit("arch.json", "backbone", "blocks", 1, "widths", value=[2**16, 2**16]),
        "does not fit arch.json",
    ),
    "1001 blocks": (
        edit("arch.json", "backbone", "blocks", value=[{"kind": "basic", "widths": [1]}] * 1001),
        "blocks: got 1001; expected 1 to 1000",
    ),
    "endless padding": (
        edit("arch.json", "backbone", "blocks", 1, "dilation", value=10**9),
        "dilation: got 1000000000",
    ),
    "deep JSON": (deep, "not valid JSON"),
    "a pickle for the arrays": (pickle_for_arrays, "not a safetensors file"),
    "a pickle for JSON": (pickle_for_json, "not valid JSON"),
    "a tensor of 2^62 rows": (huge_claim, "not a safetensors file"),
    "an empty tensor of 2^62 columns": (empty_but_vast, "the shape of params/x"),
    "integers for floats": (other_dtype, "expected float32 or float16"),
    "another shape": (other_shape, "does not fit arch.json at params/head/logits/kernel"),
    "a network's name that is a path": (
        edit("arch.json", "family", value="../../evil"),
        "unknown family",
    ),
    "a name that clears the screen": (
        edit("model.json", "class_names", value=["\x1b[2J", "b", "c"]),
        "printable",
    ),
    "10^9 workers": (edit("model.json", "data", "num_workers", value=10**9), "num_workers"),
    "an image of 10^9 px": (edit("model.json", "data", "height_px", value=10**9), "height_px"),
    "a scale of 1e300": (edit("model.json", "evaluation", "scales", value=[1e300]), "scales"),
    **{f"a {kind} for {name}": (replaced(name, kind), name) for name in FILES for kind in NO_FILES},
}
COMMANDS = {
    "predict": (predict, ["--input={out}/none", "--output={out}"]),
    "evaluate": (evaluate, []),
    "bench": (bench, []),
    "export": (export, ["--output={out}/x.stablehlo"]),
}


@pytest.mark.parametrize("kind", HARM)
def test_every_command_refuses_in_one_line(folder, tmp_path, capfd, kind):
    harm, says = HARM[kind]
    harm(folder, tmp_path)
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    for module, argv in COMMANDS.values():
        argv = [f"--workdir={folder}", *(a.replace("{out}", str(tmp_path / "out")) for a in argv)]
        with within(20):
            status = cli.run(module.main, argv)
        printed = capfd.readouterr()
        assert status == cli.MISTAKE, printed.err
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed.err
        assert says in printed.err and printed.out == ""
    # Neither a canary nor anything else was made.
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["folder", "camvid", "cityscapes", "voc2012", "ade20k", "../x"])
@pytest.mark.parametrize("dir", ["", "a\0b", "/dev", "/proc/self/fd", "x" * 5000, "\x1b[2J", "~"])
def test_the_place_of_data_is_not_the_card_s_to_misuse(folder, capsys, name, dir):
    edit("model.json", "data", "name", value=name)(folder, None)
    edit("model.json", "data", "dir", value=dir)(folder, None)
    with within(20):
        assert cli.run(evaluate.main, [f"--workdir={folder}"]) == cli.MISTAKE
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error[:-1].isprintable()


def test_settings_of_other_versions_are_no_harm(folder):
    edit("model.json", "evaluation", "some.day", value={"x": [1]})(folder, None)
    record = json.loads((folder / "model.json").read_text())
    del record["evaluation"]["flip"]
    (folder / "model.json").write_text(json.dumps(record))
    assert answers(folder).mode.flip is False


def test_python_beside_the_model_is_not_run(folder, tmp_path, monkeypatch):
    for name in ("__init__.py", "arch.py", "model.py", "config.py", "conftest.py", "numpy.py"):
        (folder / name).write_text(f"import os; os.mkdir({str(tmp_path / 'canary')!r})")
    assert isinstance(answers(folder), Model) and not (tmp_path / "canary").exists()


def test_results_are_not_written_through_links(folder, tmp_path, capsys):
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("mine")
    (folder / "bench.json").symlink_to(canary / "file")
    (folder / "pictures").symlink_to(canary)
    argv = [f"--workdir={folder}", "--height=32", "--width=32", "--rounds=1"]
    assert cli.run(bench.main, argv) == cli.OK
    assert json.loads((folder / "bench.json").read_text())["shape"] == [32, 32]
    with within(20):
        assert cli.run(evaluate.main, [f"--workdir={folder}"]) == cli.MISTAKE
    assert "is a link" in capsys.readouterr().err
    assert [p.name for p in canary.iterdir()] == ["file"]
    assert (canary / "file").read_text() == "mine"
