"""Files of weights and prepared copies from anybody. Hostile pickles: `tests/weights/test_torch_file.py`."""

import json
import shutil
import sys

import numpy as np
import pytest

from jaxseg.data import datasets, store
from jaxseg.errors import UserError
from jaxseg.weights import files
from tests.data import raw
from tests.security.hostile import NO_FILES, at_most_mb, mutated, pickled, within
from tests.security.test_folders import safetensors

# --- Weights ---


def one(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


HEADERS = {
    "deep": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "negative": one(shape=[-1]),
    "overflow": one(shape=[2**63, 2]),
    "2^62 rows": one(shape=[2**62], offsets=(0, 2**64 - 1)),
    "empty, 2^62 columns": one(shape=[0, 2**62], offsets=(0, 0)),
    "100 axes": one(shape=[1] * 100),
    "over each other": {**one(), "b": one()["a"]},
    "beyond the end": one(shape=[2], offsets=(0, 8)),
    "complex": one("C64", offsets=(0, 8)),
    "8 bits of float": one("F8_E4M3", shape=[4]),
    "an unknown dtype": one("PICKLE"),
    "a list": "[]",
    "no text": b"\xff\xfe".decode("latin-1"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_safetensors_that_lie_are_one_line(kind, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors(HEADERS[kind], bytes(4)))
    with within(5), at_most_mb(50), pytest.raises(UserError, match="cannot read weights") as error:
        files.read(path)
    assert str(error.value).isprintable()


def test_any_value_in_a_header_gives_arrays_or_one_line(tmp_path):
    header = {"a": one(shape=[2, 3], offsets=(0, 24))["a"], "b": one(offsets=(24, 28))["a"]}
    path, read = tmp_path / "x.safetensors", 0
    for what, text in mutated(header, np.random.default_rng(0), 500):
        path.write_bytes(safetensors(text, bytes(28)))
        try:
            read += bool(files.read(path).arrays)
        except UserError as error:
            assert str(error).isprintable(), what
        except Exception as error:
            raise AssertionError(what) from error
    assert read


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_what_is_no_file_is_not_waited_for(suffix, tmp_path):
    for kind, make in NO_FILES.items():
        path = tmp_path / f"{kind}{suffix}"
        make(path)
        with within(5), at_most_mb(50), pytest.raises(UserError, match="cannot read weights"):
            files.read(path)


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_a_pickle_under_any_name_is_not_loaded(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(pickled(tmp_path / "canary"))
    with pytest.raises(UserError, match="cannot read weights"):
        files.read(path)
    assert not (tmp_path / "canary").exists()


# --- Prepared copies ---


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """(raw folder, cache with its prepared copy, and with decoded pixels)."""
    base = tmp_path_factory.mktemp("set")
    root = raw.make_folder(base / "raw", splits=(("train", 3),))
    open_it(root, base / "cache", decoded=True)
    return root, base / "cache"


@pytest.fixture
def copied(sound, tmp_path):
    root, cache = sound
    shutil.copytree(cache, tmp_path / "cache")
    return root, tmp_path / "cache"


def open_it(root, cache, decoded):
    options = dict(dir=str(root), cache_dir=str(cache), decoded_cache=decoded)
    split = datasets.open_split("folder", "train", **options)
    return [split[i] for i in range(len(split))]


def copy_of(cache):
    (index,) = cache.rglob("index.json")
    return index.parent


def refused(root, cache, decoded):
    with within(10), at_most_mb(100), pytest.raises(UserError, match="damaged; remove") as error:
        open_it(root, cache, decoded)
    return str(error.value)


def test_a_module_named_in_a_prepared_copy_is_not_imported(copied, tmp_path, monkeypatch):
    """TFDS imports the modules of the classes that its features.json names."""
    root, cache = copied
    (tmp_path / "hostile_features.py").write_text(
        f"import os; os.mkdir({str(tmp_path / 'canary')!r})"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (features,) = cache.rglob("features.json")
    good = json.loads(features.read_text())
    name = good["featuresDict"]["features"]["name"]
    for key in ("pythonClassName", "python_class_name", "type"):
        name.pop("pythonClassName", None)
        name[key] = "hostile_features.Text"
        features.write_text(json.dumps(good))
        refused(root, cache, decoded=False)
    assert "hostile_features" not in sys.modules and not (tmp_path / "canary").exists()


@pytest.mark.parametrize("file", ["images.bin", "labels.bin"])
@pytest.mark.parametrize("length", [0, 1, -1, 2**40])
def test_decoded_pixels_of_another_length(copied, file, length):
    root, cache = copied
    path = copy_of(cache) / "decoded" / "train" / file
    with path.open("r+b") as opened:
        opened.truncate(length if length >= 0 else path.stat().st_size - 1)
    refused(root, cache, decoded=True)


@pytest.mark.parametrize("file", ["images.bin", "labels.bin"])
def test_decoded_pixels_that_are_no_file(copied, file):
    root, cache = copied
    path = copy_of(cache) / "decoded" / "train" / file
    for make in NO_FILES.values():
        path.rmdir() if path.is_dir() else path.unlink()
        make(path)
        refused(root, cache, decoded=True)


@pytest.mark.parametrize("decoded", [True, False])
def test_sizes_and_names_that_are_not_those_of_the_records(copied, decoded):
    root, cache = copied
    path = copy_of(cache) / "index.json"
    good = json.loads(path.read_text())
    columns = good["splits"]["train"]
    for change in (
        {"height_px": [32, 24, 24]},
        {"width_px": [1] * 3},
        {"height_px": [2**27] * 3},
        {"height_px": [-24] * 3},
        {"height_px": columns["height_px"][:2]},
        {"name": ["../../x"] * 3} if not decoded else {"name": [1, 2, 3]},
    ):
        path.write_text(json.dumps(good | {"splits": {"train": columns | change}}))
        refused(root, cache, decoded)


def test_any_value_in_an_index_gives_columns_or_one_line(copied):
    _, cache = copied
    folder, read = copy_of(cache), 0
    good = json.loads((folder / "index.json").read_text())
    for what, text in mutated(good, np.random.default_rng(0), 500):
        (folder / "index.json").write_text(text)
        try:
            index = store.read_index(folder)
        except UserError:
            continue
        except Exception as error:
            raise AssertionError(what) from error
        read += 1
        assert (folder / index["tfds"]).resolve().is_relative_to(folder.resolve()), what
    assert read > 5
