"""Files of weights by suffix: safetensors equals torch's format, hashes are compared, sizes are limited."""

import hashlib
import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save

from jaxseg.errors import UserError
from jaxseg.weights import files
from tests.weights import torch_writer as w

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "bn.running_var": np.array([0.5, 2.0], np.float16),
    "bn.num_batches_tracked": np.array(3, np.int64),
}


def by_hand(dtype, shape, data):
    """A safetensors file of one array 'a', from the format's description."""
    entry = {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}
    head = json.dumps(entry).encode()
    return struct.pack("<Q", len(head)) + head + data


@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_format_gives_the_same(tmp_path, prefix):
    named = {prefix + key: value for key, value in ARRAYS.items()}
    contents = {
        "new.pth": w.state_dict_file(named),
        "old.pt": w.state_dict_file(named, "legacy"),
        "x.safetensors": save(named),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        found = files.read(tmp_path / name)
        assert found.sha256 == hashlib.sha256(data).hexdigest()
        assert [prefix in note for note in found.notes] == [True] * bool(prefix)
        assert found.arrays.keys() == ARRAYS.keys()
        for key, array in ARRAYS.items():
            np.testing.assert_array_equal(found.arrays[key], array, strict=True)


def test_a_prefix_of_some_names_stays(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(save({"module.a": np.ones(1), "b": np.ones(1)}))
    assert set(files.read(path).arrays) == {"module.a", "b"} and not files.read(path).notes


def test_safetensors_bfloat16(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(by_hand("BF16", [1, 2], struct.pack("<HH", 0x3FC0, 0xC040)))
    expected = np.array([[1.5, -3.0]], np.float32)
    np.testing.assert_array_equal(files.read(path).arrays["a"], expected, strict=True)


@pytest.mark.parametrize(
    "data, said",
    [
        (save(ARRAYS)[:-1], "no safetensors file"),
        (b"", "no safetensors file"),
        (save({}), "no tensors"),
        (by_hand("F8_E4M3", [1], b"x"), "the dtype F8_E4M3 of a"),
        (by_hand("F32", [2**40], b"1234"), "no safetensors file"),
    ],
)
def test_damaged_safetensors(tmp_path, data, said):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match=said) as error:
        files.read(path)
    assert "\n" not in str(error.value)


def test_another_hash_is_refused_before_anything_is_read(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(b"not even a checkpoint")
    with pytest.raises(UserError, match="not the published file: got sha256"):
        files.read(path, sha256="0" * 64)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot read weights .*No such file"):
        files.read(tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes(b"12345")
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 4)
    with pytest.raises(UserError, match="larger than 4 bytes"):
        files.read(tmp_path / "x.pth")
