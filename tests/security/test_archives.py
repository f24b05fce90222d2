"""Archives that lie about their members. Paths, links, bombs and digests: `tests/data/test_camvid.py`."""

import io
import stat
import struct
import zipfile

import numpy as np
import pytest

from jaxseg.data.builders import camvid_download
from jaxseg.data.builders.camvid_download import download_camvid
from jaxseg.errors import UserError
from tests.security.hostile import at_most_mb, within

MEMBER = "S/CamVid/train/x.png"
CENTRAL = b"PK\x01\x02"


def zipped(*members, compression=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for member, data in members:
            archive.writestr(member, data)
    return bytearray(file.getvalue())


def saying(data, compressed=None, size=None):
    """The archive with other sizes of its first member in the central directory."""
    at = data.index(CENTRAL) + 20
    old = struct.unpack("<II", data[at : at + 8])
    data[at : at + 8] = struct.pack(
        "<II", *(b if a is None else a for a, b in zip((compressed, size), old, strict=True))
    )
    return data


def damaged_stream():
    data = zipped((MEMBER, bytes(range(256)) * 8))
    start = len(MEMBER) + 30
    data[start : start + 20] = b"\xff" * 20
    return data


def special(kind):
    member = zipfile.ZipInfo(MEMBER)
    member.create_system = 3
    member.external_attr = (kind | 0o666) << 16
    return zipped((member, "/etc/passwd"))


def encrypted():
    data = zipped((MEMBER, "x"))
    for sign, offset in ((b"PK\x03\x04", 6), (CENTRAL, 8)):
        data[data.index(sign) + offset] |= 1
    return data


def unknown_method():
    data = zipped((MEMBER, "x"))
    for sign, offset in ((b"PK\x03\x04", 8), (CENTRAL, 10)):
        data[data.index(sign) + offset] = 77
    return data


def local_name_of_another():
    """The central directory says x.png, the member itself ../../x.png."""
    data = zipped((MEMBER, "x" * 100))
    other = b"../../../../x.png".ljust(len(MEMBER), b"g")
    data[30 : 30 + len(MEMBER)] = other
    return data


HARM = {
    "a bomb": (lambda: zipped((MEMBER, bytes(60_000_000))), "ratio up to 10"),
    "a bomb that says it is well packed": (
        lambda: saying(zipped((MEMBER, bytes(60_000_000))), compressed=30_000_000),
        "not a sound zip|got 1 files|got 0 files",
    ),
    "a bomb that says it is small": (
        lambda: saying(zipped((MEMBER, bytes(60_000_000))), size=1000),
        "not a sound zip",
    ),
    "4 GB in one member": (
        lambda: saying(zipped((MEMBER, "x")), size=2**32 - 2, compressed=2**31),
        "the archive is not CamVid",
    ),
    "a stream that is none": (damaged_stream, "not a sound zip"),
    "a pipe": (lambda: special(stat.S_IFIFO), "a link or a device"),
    "a device": (lambda: special(stat.S_IFCHR), "a link or a device"),
    "a socket": (lambda: special(stat.S_IFSOCK), "a link or a device"),
    "bzip2": (lambda: zipped((MEMBER, "x"), compression=zipfile.ZIP_BZIP2), "in another way"),
    "LZMA": (lambda: zipped((MEMBER, "x"), compression=zipfile.ZIP_LZMA), "in another way"),
    "a password": (encrypted, "not a sound zip"),
    "an unknown packing": (unknown_method, "in another way"),
    "another name inside": (local_name_of_another, "not a sound zip"),
    "nothing": (lambda: zipped(), "got 0 files"),
    "a name of 10,000 characters": (lambda: zipped((f"CamVid/train/{'x' * 10_000}.png", "")), "too long|cannot write"),
}  # fmt: skip


def fetch(tmp_path, data, count=1):
    """Downloads the archive; all that may be left is the archive itself."""
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True, exist_ok=True)
    (inside / "x.zip").write_bytes(data)
    try:
        url = (inside / "x.zip").as_uri()
        return download_camvid(inside / "out", url=url, digests={}, counts={"train": count})
    finally:
        left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")}
        assert left == {"a", "a/b", "a/b/x.zip"}


@pytest.mark.parametrize("kind", HARM)
def test_harm_is_one_line_and_leaves_nothing(kind, tmp_path):
    make, says = HARM[kind]
    data = make()
    with within(20), at_most_mb(40), pytest.raises(UserError, match=says) as error:
        fetch(tmp_path, data)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_random_damage_is_one_line_and_leaves_nothing(compression, tmp_path):
    rng = np.random.default_rng(0)
    content = rng.integers(0, 4, 400, np.uint8).tobytes()
    good = zipped(
        (MEMBER, content), ("S/CamVid/trainannot/x.png", content), compression=compression
    )
    for _ in range(100):
        data = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        with pytest.raises(UserError) as error:
            fetch(tmp_path, data)
        assert str(error.value).isprintable()


def test_a_server_that_stops_or_speaks_nonsense(monkeypatch, tmp_path):
    import http.client

    for error in (http.client.IncompleteRead(b"x"), http.client.BadStatusLine("x"), TimeoutError()):

        def answer(*_, error=error, **__):
            raise error

        monkeypatch.setattr(camvid_download.urllib.request, "urlopen", answer)
        with pytest.raises(UserError, match="cannot fetch"):
            download_camvid(tmp_path / "out", url="http://localhost/x")
        assert not list(tmp_path.iterdir())
