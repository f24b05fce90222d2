"""Folders of int8 networks: what is written comes back byte for byte, and what does not fit is one line."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save as save_arrays

from jaxseg import cli, evaluate, predict
from jaxseg.errors import UserError
from jaxseg.inference.artifact import VARIABLES, flatten, load_model, save_model
from jaxseg.inference.predictor import Model
from jaxseg.models import zoo
from jaxseg.numbers import CodesArch, NumbersArch
from tests.conversion.test_check import NETWORKS, small
from tests.inference.test_artifact import CARD, cut, edit, flip
from tests.security.test_folders import set_variables


@functools.cache
def model():
    """A tiny int8 network."""
    return *small(), CARD


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "m", *model())
    return tmp_path / "m"


@pytest.mark.parametrize("name", NETWORKS)
def test_round_trip(tmp_path, name):
    """With gates and bounds, norms that round, and passes of a loop: the same arrays in the same formats."""
    arch, variables = NETWORKS[name]()
    names = tuple(f"class {k}" for k in range(arch.num_classes))
    card = dataclasses.replace(CARD, class_names=names)
    save_model(tmp_path / "m", arch, variables, card)
    found_arch, found, found_card = load_model(tmp_path / "m")
    assert (found_arch, found_card) == (arch, card) and found_arch.numbers.in_codes
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    for path, x in flatten(variables).items():
        y = flatten(found)[path]
        assert (y.dtype, y.shape) == (x.dtype, x.shape), path
        np.testing.assert_array_equal(y, x)
    assert {x.dtype.kind for x in jax.tree.leaves(found)} == {"i"}


def test_a_loaded_model_answers_as_the_one_that_was_written(folder):
    image = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), np.uint8)
    np.testing.assert_array_equal(Model.load(folder)(image), Model(*model())(image))


@pytest.mark.parametrize("of", [np.float32, np.int8])
def test_arrays_are_written_row_by_row_however_they_lie(tmp_path, of):
    """What was spread over passes, turned over or cut out lies otherwise in memory."""
    arch = zoo.named("itnet", 3, width=0.125, iterations=2, sharing="nothing")
    if of == np.int8:
        arch = dataclasses.replace(arch, numbers=small()[0].numbers)
    rng = np.random.default_rng(0)

    def other(x):
        value = (rng.integers(1, 12, x.shape[::-1])).astype(x.dtype)
        return value.T

    variables = jax.tree.map(other, zoo.template(arch))
    assert not all(x.flags["C_CONTIGUOUS"] for x in jax.tree.leaves(variables))
    save_model(tmp_path / "m", arch, variables, CARD)
    jax.tree.map(np.testing.assert_array_equal, load_model(tmp_path / "m")[1], variables)


def test_a_format_of_floats_changes_no_code(tmp_path):
    save_model(tmp_path / "m", *model(), dtype=np.float16)
    for a, b in zip(
        *map(jax.tree.leaves, (load_model(tmp_path / "m")[1], model()[1])), strict=True
    ):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_bytes_are_about_a_quarter(tmp_path):
    """Of a network of full width: an int8 kernel for one of floats, 7 bytes a channel for 4 times 4."""
    arch = zoo.named("deeplabv3plus_resnet18", 19)
    codes = NumbersArch(compute="int8", norm="folded", codes=CodesArch(2.0**-5, 2.0**-4))
    names = tuple(f"class {k}" for k in range(19))
    card = dataclasses.replace(CARD, class_names=names, class_colors=((0, 0, 0),) * 19)
    size = {}
    for name, made in (("floats", arch), ("codes", dataclasses.replace(arch, numbers=codes))):
        variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), zoo.template(made))
        save_model(tmp_path / name, made, variables, card)
        size[name] = sum(file.stat().st_size for file in (tmp_path / name).iterdir())
    assert 1e7 < size["codes"] <= 0.27 * size["floats"]


# --- Damage ---


def of(path, change):
    """One array replaced by what `change` makes of it; None takes it away."""

    def harm(folder):
        arrays = flatten(load_model(folder)[1])
        new = change(arrays.pop(path))
        if new is not None:
            arrays[path] = np.array(new, order="C")
        set_variables(folder, save_arrays(arrays))

    return harm


def added(folder):
    arrays = flatten(load_model(folder)[1])
    set_variables(folder, save_arrays({**arrays, "scales/head/more/shift": np.int8([1])}))


def floats(folder):
    """All that an untrained network of floats would have."""
    arch = dataclasses.replace(model()[0], numbers=NumbersArch())
    template = zoo.template(arch)
    arrays = {k: np.zeros(x.shape, x.dtype) for k, x in flatten(template).items()}
    set_variables(folder, save_arrays(arrays))


def change_card(key, value):
    return lambda folder: edit(key, value)(folder / "model.json")


def change_numbers(**changes):
    def harm(folder):
        record = json.loads((folder / "arch.json").read_text())
        record["numbers"] |= changes
        (folder / "arch.json").write_text(json.dumps(record))

    return harm


KERNEL, CONV = "params/block_01/conv1/kernel", "scales/block_01/conv1"
WRONG = {
    "float32 for a kernel": (of(KERNEL, np.float32), f"at {KERNEL}: got float32; expected int8"),
    "float16 for a kernel": (of(KERNEL, np.float16), "got float16; expected int8"),
    "uint8 for a kernel": (of(KERNEL, lambda x: x.view(np.uint8)), "got uint8; expected int8"),
    "int32 for a multiplier": (
        of(f"{CONV}/multiplier", np.int32),
        f"at {CONV}/multiplier: got int32; expected int16",
    ),
    "int8 for a multiplier": (of(f"{CONV}/multiplier", np.int8), "got int8; expected int16"),
    "int64 for an offset": (of(f"{CONV}/offset", np.int64), "got int64; expected int32"),
    "float32 for an offset": (of(f"{CONV}/offset", np.float32), "got float32; expected int32"),
    "int32 for a shift": (of(f"{CONV}/shift", np.int32), "got int32; expected int8"),
    "float32 for a shift": (of("scales/block_02/sum/shift", np.float32), "expected int8"),
    "no kernel": (of(KERNEL, lambda _: None), f"does not fit arch.json at {KERNEL}: got nothing"),
    "no shift": (
        of(f"{CONV}/shift", lambda _: None),
        f"at {CONV}/shift: got nothing; expected [8]",
    ),
    "no sum": (of("scales/block_01/sum/multiplier", lambda _: None), "got nothing; expected [2]"),
    "one too many": (added, "at scales/head/more/shift: got [1]; expected nothing"),
    "a kernel turned over": (of(KERNEL, lambda x: x[..., :3]), f"fit arch.json at {KERNEL}"),
    "one shift for all": (of(f"{CONV}/shift", lambda x: x[:1]), "got [1]; expected [8]"),
    "floats for all": (floats, "does not fit arch.json at batch_stats/block_00"),
    "a weight of -128": (
        of(KERNEL, lambda x: np.where(x == x.max(), -128, x).astype(np.int8)),
        "cannot be used: block_01/conv1 of an int8 network: got a weight of -128",
    ),
    "a shift of 0": (of(f"{CONV}/shift", np.zeros_like), "cannot be used: block_01/conv1"),
    "a card of another world": (
        change_card("std", [1e-9] * 3),
        "cannot be used: mean and std of an int8 network",
    ),
    "the end cut off": (lambda folder: cut(folder / VARIABLES), "is damaged: got sha256"),
    "another bit": (lambda folder: flip(folder / VARIABLES), "is damaged: got sha256"),
    "another hash": (change_card("sha256", "0" * 64), "expected 000000000000"),
    "the end cut off, vouched for": (
        lambda folder: set_variables(folder, (folder / VARIABLES).read_bytes()[:-20]),
        "is not a safetensors file",
    ),
    "no arrays": (lambda folder: (folder / VARIABLES).unlink(), "cannot read variables"),
    "a step of nothing": (
        change_numbers(codes={"image_step": 0.0, "score_step": 1.0}),
        "image_step: got 0.0",
    ),
    "a step beyond numbers": (
        change_numbers(codes={"image_step": 1.0, "score_step": 1e300}),
        "score_step: got 1e+300",
    ),
    "a norm that floats": (change_numbers(norm="batch"), "norm of an int8 network: got batch"),
    "called floats": (change_numbers(compute="float32"), "does not fit arch.json"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_fit_is_one_line(folder, kind):
    harm, says = WRONG[kind]
    harm(folder)
    with pytest.raises(UserError) as error:
        load_model(folder)
    told = str(error.value)
    assert says in told and "\n" not in told and len(told) < 500, told


@pytest.mark.parametrize("kind", ["float32 for a kernel", "a weight of -128", "no shift"])
def test_commands_say_so(folder, tmp_path, capfd, kind):
    harm, says = WRONG[kind]
    harm(folder)
    for main, more in (
        (evaluate.main, []),
        (predict.main, [f"--input={tmp_path}", f"--output={tmp_path / 'out'}"]),
    ):
        assert cli.run(main, [f"--workdir={folder}", *more]) == cli.MISTAKE
        printed = capfd.readouterr()
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
        assert says in printed.err and printed.out == ""
