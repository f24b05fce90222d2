"""Bytes and JSON from outside: read within bounds or refused; written through nobody's link."""

import json
import os

import numpy as np
import pytest

from jaxseg import outside
from jaxseg.arch import from_json
from jaxseg.errors import UserError
from tests.security.hostile import NO_FILES, within


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused_at_once(kind, tmp_path):
    NO_FILES[kind](tmp_path / "x")
    with within(5), pytest.raises(OSError) as error:
        outside.read_file(tmp_path / "x", max_bytes=2**20)
    assert error.value.strerror


def test_sizes_are_bounded_and_links_to_files_followed(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("x")
    assert outside.read_file(tmp_path / "link", max_bytes=5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        outside.read_file(tmp_path / "x", max_bytes=4)
    # Its size is said to be 0.
    with pytest.raises(OSError, match="larger than 4 bytes"):
        outside.read_file(outside.Path("/proc/self/status"), max_bytes=4)


def test_writing_replaces_a_link_and_leaves_what_it_led_to(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "out" / "x.json"
    canary.write_text("mine")
    path.parent.mkdir()
    path.symlink_to(canary)
    (path.parent / f".x.json.{os.getpid()}").symlink_to(canary)
    outside.write_file(path, b"ours")
    assert canary.read_text() == "mine" and path.read_bytes() == b"ours" and not path.is_symlink()
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]
    with pytest.raises(OSError):
        outside.write_file(tmp_path / "none" / "x", b"")


GOOD = {"a": [1, -2.5e-3, True, None, "ü\n\U0001f600"], "b": {"": {}}}


@pytest.mark.parametrize("text", [json.dumps(GOOD), json.dumps(GOOD, ensure_ascii=False).encode()])
def test_good_json(text):
    assert outside.parse_object(text, "x") == GOOD == json.loads(text)


DEEP = {
    "lists": b"[" * 100_000 + b"]" * 100_000,
    "open lists": b"[" * 100_000,
    "objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "just too deep": b'{"a":' * 33 + b"1" + b"}" * 33,
    "below the interpreter's limit": b'{"a":' + b"[" * 500 + b"]" * 500 + b"}",
}
REFUSED = {
    **{f"deep {kind}": (text, "within each other|Expecting value") for kind, text in DEEP.items()},
    "a list": (b"[1]", "got a list; expected a JSON object"),
    "nothing": (b"", "not valid JSON"),
    "NaN": (b'{"a": NaN}', "NaN, which is no number"),
    "infinity": (b'{"a": -Infinity}', "no number"),
    "beyond float64": (b'{"a": 1e999}', "1e999, which is no number"),
    "thousands of digits": (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON.*4300"),
    "a name twice": (b'{"a": {"b": 1, "b": 2}}', "the name 'b' twice"),
    "Latin-1": ('{"a": "ü"}'.encode("latin-1"), "utf-8"),
    "UTF-16": ('{"a": "ü"}'.encode("utf-16"), "utf-8"),
    "half a pair": (b'{"a": ["\\ud800"]}', "surrogates"),
    "half a pair as a name": (b'{"\\udfff": 1}', "surrogates"),
    "a comment": (b"{} // x", "Extra data"),
    "a pickle": (b"\x80\x04}.", "utf-8"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_json_that_is_refused_in_one_line(kind):
    text, says = REFUSED[kind]
    for read in (lambda: outside.parse_object(text, "x"), lambda: from_json(text)):
        with within(5), pytest.raises(UserError, match=says) as error:
            read()
        assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_the_depth_that_is_promised():
    text = b'{"a":' * outside.MAX_JSON_DEPTH + b"1" + b"}" * outside.MAX_JSON_DEPTH
    assert outside.parse_object(text, "x")


def test_many_names_once_and_one_twice_take_no_time():
    names = ", ".join(f'"{i}": 0' for i in range(200_000))
    with within(5), pytest.raises(UserError, match="the name '199999' twice"):
        outside.parse_object(f'{{{names}, "199999": 1}}', "x")


def test_an_error_shows_a_terminal_nothing_to_obey():
    error = UserError("what\x1b[2J", got="a\x00b\u2028c\ud800", expected="ü" * 5000)
    text = str(error)
    assert text.isprintable() and len(text) < 4200
    assert text.startswith("what\\x1b[2J: got a\\x00b c\\ud800; expected üü")


def test_random_bytes_are_an_object_or_one_line():
    rng, good = np.random.default_rng(0), json.dumps(GOOD).encode()
    parsed = 0
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(32, 128)
        try:
            parsed += isinstance(outside.parse_object(bytes(data), "x"), dict)
        except UserError as error:
            assert str(error).isprintable()
    assert 50 < parsed < 1500
