"""The reader of torch files: equal to torch and to the definition on good files, one line on all others, and never
running anything.
"""

import io
import itertools
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.weights import files, pickled, torch_file
from jaxseg.weights.pickled import BadFile
from tests.weights import torch_made
from tests.weights import torch_writer as w

ROOT = Path(__file__).resolve().parents[2]
BOTH = pytest.mark.parametrize("container", w.CONTAINERS)


def read(data):
    return torch_file.read_state_dict(data)[0]


# --- Good files ---


@pytest.mark.parametrize("kind", torch_made.FILES)
def test_files_of_torch_itself(kind, tmp_path):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(torch_made.FILES[kind])
    found = files.read(path)
    assert found.arrays.keys() == torch_made.EXPECTED.keys()
    for key, expected in torch_made.EXPECTED.items():
        assert found.arrays[key].dtype == expected.dtype, key
        np.testing.assert_array_equal(found.arrays[key], expected, strict=True)
    assert len(found.notes) == 2 and "state_dict" in found.notes[0] and "module." in found.notes[1]


@BOTH
def test_every_dtype(container):
    values = np.array([[0, 1, 2], [3, 100, 127]])
    arrays = {dtype: values.astype(dtype) for dtype in w.KINDS}
    found = read(w.state_dict_file(arrays, container))
    for key, array in arrays.items():
        np.testing.assert_array_equal(found[key], array, strict=True)
        assert not found[key].flags.writeable


@BOTH
def test_bfloat16_is_widened_exactly(container):
    """Sign, 8 bits of exponent and the first 7 of the fraction of a float32."""
    bits = np.array([0x0000, 0x3F80, 0xC049, 0x7F80, 0x0001, 0x8000, 0x4000], np.uint16)
    body = w.mapping({"a": w.tensor("0", "BFloat16Storage", 7, (7,))})
    extra = {"lengths": {"0": 7}} if container == "legacy" else {}
    found = read(w.CONTAINERS[container](body, {"0": bits.tobytes()}, **extra))["a"]
    expected = [0.0, 1.0, -3.140625, np.inf, 2.0**-133, -0.0, 2.0]
    np.testing.assert_array_equal(found, np.array(expected, np.float32), strict=True)
    assert np.signbit(found[5])


def test_views_are_by_definition_and_never_leave_their_storage():
    """a[i, j] = storage[offset + i * s0 + j * s1]; whatever does not fit is refused."""
    run, rng, good = np.arange(10, dtype=np.float32) ** 2, np.random.default_rng(0), 0
    for _ in range(300):
        size, stride = rng.integers(0, 4, 2).tolist(), rng.integers(0, 6, 2).tolist()
        offset = int(rng.integers(0, 6))
        data = w.zip_file(
            w.mapping({"a": w.tensor("0", "FloatStorage", 10, size, stride, offset)}),
            {"0": run.tobytes()},
        )
        cells = list(itertools.product(*map(range, size)))
        places = [offset + i * stride[0] + j * stride[1] for i, j in cells]
        if max(places, default=0) < 10:
            expected = np.array([run[p] for p in places], np.float32).reshape(size)
            np.testing.assert_array_equal(read(data)["a"], expected, strict=True)
            good += 1
        else:
            with pytest.raises(BadFile, match="larger than its storage"):
                read(data)
    assert 50 < good < 250


@BOTH
@pytest.mark.parametrize("wrapper", ["", *torch_file.WRAPPERS])
def test_wrappers(container, wrapper):
    data = w.state_dict_file({"a": np.ones(2, np.float32)}, container, wrapper)
    arrays, found = torch_file.read_state_dict(data)
    assert list(arrays) == ["a"] and found == wrapper


def test_strings_and_pairs_of_python_2():
    """Old model zoos: SHORT_BINSTRING keys, OrderedDict([[key, value], ..]), _rebuild_tensor."""
    key = b"U\x01a"
    value = w.tensor("0", "FloatStorage", 2, (2,)).replace(
        b"_rebuild_tensor_v2", b"_rebuild_tensor"
    )
    pair = b"](" + key + value + b"e"
    body = w.name("collections", "OrderedDict") + w.tuple_of(b"]" + pair + b"a") + b"R"
    data = w.zip_file(body, {"0": np.array([1, 2], np.float32).tobytes()})
    np.testing.assert_array_equal(read(data)["a"], [1, 2])


# --- Hostile pickles ---


def shell(folder):
    return f"touch {folder}/touched"


def by_reduce(folder, protocol):
    class Call:
        def __reduce__(self):
            return os.system, (shell(folder),)

    return pickle.dumps(Call(), protocol)


def by_eval(folder):
    code = f"__import__('pathlib').Path({str(folder / 'touched')!r}).touch()"
    return w.name("builtins", "eval") + w.tuple_of(w.text(code)) + b"R."


RUNS = {
    "REDUCE, protocol 2": lambda folder: by_reduce(folder, 2),
    "REDUCE, STACK_GLOBAL, protocol 4": lambda folder: by_reduce(folder, 4),
    "eval": by_eval,
    "INST": lambda folder: b"(" + w.text(shell(folder)) + b"ios\nsystem\n.",
    "OBJ": lambda folder: b"(" + w.name("os", "system") + w.text(shell(folder)) + b"o.",
    "text opcodes": lambda folder: f"cos\nsystem\n(V{shell(folder)}\ntR.".encode(),
}


@BOTH
@pytest.mark.parametrize("how", RUNS)
def test_nothing_is_run(how, container, tmp_path):
    program = RUNS[how](tmp_path)
    pickle.loads(program)  # so this does run where somebody lets it
    assert (tmp_path / "touched").exists()
    (tmp_path / "touched").unlink()
    path = tmp_path / "hostile.pth"
    body = program.removesuffix(b".")
    for nested in (body, w.mapping({"state_dict": w.mapping({"a": body})}), body + b"0}"):
        path.write_bytes(w.CONTAINERS[container](nested, {}))
        with pytest.raises(UserError) as error:
            files.read(path)
        assert_one_line(error)
        assert not (tmp_path / "touched").exists()


def assert_one_line(error):
    said = str(error.value)
    assert "\n" not in said and len(said) < 500 and "hostile.pth" in said


DEEP = 300_000
"""Hashing a nest of that many tuples overruns the C stack; a search for marks over as many would take hours."""

FLOAT = np.zeros(4, np.float32).tobytes()


def one(*arguments, **settings):
    return w.mapping({"a": w.tensor("0", "FloatStorage", 4, *arguments, **settings)})


PICKLES = {
    # what is not in the list of names, however it is reached
    "a module": (w.name("torch.nn.modules.linear", "Linear") + b")\x81", "Linear"),
    "a harmless function": (w.name("builtins", "len") + w.tuple_of(b"]") + b"R", "builtins.len"),
    "an attribute path": (w.text("os") + w.text("path.join") + b"\x93", "os.path.join"),
    "names that are no text": (b"}]\x93", "dict where a str"),
    "a storage that is called": (w.name("torch", "FloatStorage") + b")R", "called"),
    "a call of a tensor": (b"}" + b")R", "dict where a _Name"),
    "the extension registry": (b"\x82\x01", "EXT1"),
    "attributes of a tensor": (one((4,))[:-1] + b"}b" + b"u", "Tensor where a dict"),
    "attributes of a list": (b"]}b", "list where a dict"),
    "bytes": (b"C\x01x", "SHORT_BINBYTES"),
    # sizes and places
    "beyond the storage": (one((5,)), "larger than its storage"),
    "beyond by stride": (one((2, 2), (3, 1)), "larger than its storage"),
    "beyond by offset": (one((2,), offset=3), "larger than its storage"),
    "a negative size": (one((-1,), (1,)), "no count"),
    "a negative stride": (one((4,), (-1,), offset=3), "no count"),
    "a negative offset": (one((2,), offset=-1), "no count"),
    "a size beyond int64": (one((2**70,), (1,)), "no count"),
    "a stride beyond int64": (one((1,), (2**70,)), "no count"),
    "terabytes out of one number": (one((2**40,), (0,)), "larger than its storage"),
    "nothing, of impossible size": (one((0, 2**40, 2**40), (1, 1, 1)), "impossible size"),
    "nine dimensions": (one((1,) * 9), "9 dimensions"),
    "size without stride": (one((2, 2), (1,)), "2 dimensions and 1"),
    "a truth as a size": (
        one((1,)).replace(w.tuple_of(w.number(1)), w.tuple_of(b"\x88"), 1),
        "bool where a int",
    ),
    "a negative length": (w.mapping({"a": w.tensor("0", "FloatStorage", -4, (4,))}), "no count"),
    "two lengths": (
        w.mapping({k: w.tensor("0", "FloatStorage", n, (2,)) for k, n in (("a", 4), ("b", 2))}),
        "two storages",
    ),
    "an unknown number format": (
        w.mapping({"a": w.tensor("0", "ComplexFloatStorage", 4, (4,))}),
        "ComplexFloatStorage",
    ),
    "a view of a storage": (
        one((4,)).replace(w.text("cpu") + w.number(4), w.text("cpu") + w.number(4) + b"]"),
        "unknown kind",
    ),
    # the machine itself
    "a deep nest of tuples as a key": (b"}" + b")" + b"\x85" * DEEP + b"Ns", "keys other than"),
    "a deep nest of tuples as a value": (
        b"}" + w.text("a") + b")" + b"\x85" * DEEP + b"s",
        "no tensors",
    ),
    "a deep nest of marks": (b"(" * DEEP + b"t" * DEEP, "tuple instead of a dict"),
    "a list in itself": (b"]q\x00h\x00ah\x00a", "list instead of a dict"),
    "a dict in itself": (b"}q\x00" + w.text("model") + b"h\x00s", "no tensors"),
    "an empty stack": (b"R", "damaged"),
    "no mark": (b"t", "damaged"),
    "a memo that is not there": (b"h\x07", "damaged"),
    "half a pair": (b"}(" + w.text("a") + b"u", "damaged"),
    "no instruction": (b"\xff", "damaged"),
    "a text beyond the end": (b"X\xff\xff\xff\xff", "damaged"),
    "a number": (w.number(3), "int instead of a dict"),
    "nothing": (b"}", "no tensors"),
}


@BOTH
@pytest.mark.parametrize("what", PICKLES)
def test_hostile_pickles_are_refused_in_one_line(what, container, tmp_path):
    body, said = PICKLES[what]
    path = tmp_path / "hostile.pth"
    storages = {"0": FLOAT} if b"Storage" in body else {}
    path.write_bytes(w.CONTAINERS[container](body, storages))
    with pytest.raises(UserError, match=said) as error:
        files.read(path)
    assert_one_line(error)


def test_endless_programs_end(monkeypatch):
    monkeypatch.setattr(pickled, "MAX_INSTRUCTIONS", 1000)
    with pytest.raises(BadFile, match="more than 1000"):
        pickled.load(io.BytesIO(b"N" * 2000 + b"."))


def test_the_reader_imports_nothing_for_what_it_reads():
    """Neither torch nor a module that a file names, in a fresh process."""
    code = """
import sys
from jaxseg.weights import torch_file
from tests.weights import torch_writer as w, torch_made
torch_file.read_state_dict(torch_made.FILES["zip"])
try:
    torch_file.read_state_dict(w.zip_file(w.name("antigravity", "geohash") + b")R", {}))
except ValueError:
    print(sorted({"torch", "antigravity"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# --- Damaged and hostile containers ---


GOOD = w.mapping({"a": w.tensor("0", "FloatStorage", 4, (4,))})


def doubled():
    file = io.BytesIO(w.zip_file(GOOD, {"0": FLOAT}))
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data/0", b"\1" * 16)
    return file.getvalue()


def overlapping():
    """Entries of the directory that all stand for the same bytes: an archive in an archive, 2000 times."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + GOOD + b".")
        archive.writestr("archive/data/0", FLOAT)
        archive.writestr("archive/data/1", bytes(200_000))
        entry = archive.getinfo("archive/data/1")
        for i in range(2, 2000):
            copy = zipfile.ZipInfo(f"archive/data/{i}")
            for field in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(copy, field, getattr(entry, field))
            archive.filelist.append(copy)
    return file.getvalue()


def other_size():
    """The directory claims a storage of 4 GB."""
    data = w.zip_file(GOOD, {"0": FLOAT})
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/data/0"))
    sizes = struct.pack("<II", 2**32 - 2, 2**32 - 2)
    return data[: at + 20] + sizes + data[at + 28 :]


def encrypted():
    data = bytearray(w.zip_file(GOOD, {"0": FLOAT}))
    data[data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/data/0")) + 8] |= 1
    return bytes(data)


CONTAINER_DAMAGE = {
    "zip: compressed": (
        lambda: w.zip_file(GOOD, {"0": bytes(10**7)}, compression=zipfile.ZIP_DEFLATED),
        "compressed",
    ),
    "zip: one name twice": (doubled, "one name"),
    "zip: overlapping": (overlapping, "larger than itself"),
    "zip: a false size": (other_size, "larger than itself"),
    "zip: encrypted": (encrypted, "damaged zip"),
    "zip: big-endian": (lambda: w.zip_file(GOOD, {"0": FLOAT}, byteorder=b"big"), "big-endian"),
    "zip: no storage": (lambda: w.zip_file(GOOD, {}), "damaged zip"),
    "zip: a short storage": (lambda: w.zip_file(GOOD, {"0": FLOAT[:-1]}), "cut off"),
    "zip: cut off": (lambda: w.zip_file(GOOD, {"0": FLOAT})[:-30], "damaged zip"),
    "zip: of something else": (
        lambda: w.zip_file(GOOD, {"0": FLOAT}).replace(b"data.pkl", b"data.txt"),
        "no checkpoint",
    ),
    "zip: a flipped bit": (
        lambda: w.zip_file(GOOD, {"0": b"\5" * 16}).replace(b"\5" * 16, b"\5" * 15 + b"\4"),
        "damaged zip",
    ),
    "legacy: big-endian": (
        lambda: w.legacy_file(GOOD, {"0": FLOAT}, little_endian=False),
        "big-endian",
    ),
    "legacy: cut off": (lambda: w.legacy_file(GOOD, {"0": FLOAT})[:-1], "cut off"),
    "legacy: no numbers": (lambda: w.legacy_file(GOOD, {"0": FLOAT})[:-20], "cut off"),
    "legacy: a false length": (
        lambda: w.legacy_file(GOOD, {"0": FLOAT}, lengths={"0": 2**60}),
        "another length",
    ),
    "legacy: a negative length": (
        lambda: w.legacy_file(GOOD, {"0": FLOAT}, lengths={"0": -4}),
        "another length",
    ),
    "legacy: no storage": (lambda: w.legacy_file(GOOD, {}), "does not fit"),
    "legacy: one too many": (
        lambda: w.legacy_file(GOOD, {"0": FLOAT, "1": FLOAT}),
        "does not fit",
    ),
    "an empty file": (lambda: b"", "no file of torch.save"),
    "a text": (lambda: b"<!DOCTYPE html>", "no file of torch.save"),
}


@pytest.mark.parametrize("what", CONTAINER_DAMAGE)
def test_damaged_containers_are_refused_in_one_line(what, tmp_path):
    make, said = CONTAINER_DAMAGE[what]
    path = tmp_path / "hostile.pth"
    path.write_bytes(make())
    with pytest.raises(UserError, match=said) as error:
        files.read(path)
    assert_one_line(error)


@pytest.mark.parametrize("kind", torch_made.FILES)
def test_random_damage_gives_numbers_or_one_kind_of_error(kind):
    good, dice = torch_made.FILES[kind], random.Random(0)
    refused = 0
    for _ in range(600):
        data = bytearray(good)
        for _ in range(dice.randrange(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        if dice.random() < 0.2:
            del data[dice.randrange(len(data)) :]
        try:
            read(bytes(data))
        except BadFile:
            refused += 1
    assert refused > 300
