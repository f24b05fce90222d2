"""One made-up bad file of every kind: each is named, none stops the check, none can be prepared."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import check, datasets
from jaxseg.errors import UserError
from tests.data import raw


@pytest.fixture
def root(tmp_path):
    root = raw.make_folder(tmp_path / "raw", splits=(("train", 2),))
    (root / "classes.txt").write_text("a\nb\nc\n")
    return root


IMAGE, LABEL = "images/train/bad.png", "labels/train/bad.png"


def good_image(root):
    raw.write(root / IMAGE, raw.picture(0)[0])


def good_label(root):
    raw.write(root / LABEL, raw.picture(0)[1])


def wrong_values(root):
    label = raw.picture(0)[1]
    label[0, :9], label[1, :3] = 7, 99
    raw.write(root / LABEL, label)


def other_size(root):
    raw.write(root / LABEL, raw.picture(0, 24, 40)[1])


def coloured(root):
    raw.write(root / LABEL, raw.picture(0)[0])


def jpeg_label(root):
    out = io.BytesIO()
    Image.fromarray(raw.picture(0)[1]).save(out, "JPEG")
    (root / LABEL).write_bytes(out.getvalue())


def label_alpha(root):
    Image.fromarray(raw.picture(0)[1]).convert("LA").save(root / LABEL)


def alpha(root):
    Image.fromarray(raw.picture(0)[0]).convert("RGBA").save(root / IMAGE)


def cmyk(root):
    (root / IMAGE).unlink(missing_ok=True)
    Image.fromarray(raw.picture(0)[0]).convert("CMYK").save(root / "images/train/bad.jpg")


def turned(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(raw.picture(0)[0]).save(root / "images/train/bad.jpg", exif=exif)


def truncated_png(root):
    good_image(root)
    (root / IMAGE).write_bytes((root / IMAGE).read_bytes()[:-40])


def flipped_bit(root):
    good_image(root)
    data = bytearray((root / IMAGE).read_bytes())
    data[len(data) // 2] ^= 1
    (root / IMAGE).write_bytes(bytes(data))


def truncated_jpeg(root):
    Image.fromarray(np.kron(raw.picture(0)[0], np.ones((4, 4, 1), np.uint8))).save(
        root / "images/train/bad.jpg"
    )
    data = (root / "images/train/bad.jpg").read_bytes()
    (root / "images/train/bad.jpg").write_bytes(data[: len(data) // 2])


def gif(root):
    Image.fromarray(raw.picture(0)[1]).save(root / IMAGE, "GIF")


def empty(root):
    (root / IMAGE).write_bytes(b"")


def huge(root):
    (root / IMAGE).write_bytes(raw.png_header_only(20_000, 20_000))


def tiny(root):
    raw.write(root / IMAGE, np.zeros((4, 40, 3), np.uint8))


KINDS = [
    (wrong_values, LABEL, r"wrong label values 7 \(9 px\), 99 \(3 px\); allowed: 0..2, 255"),
    (other_size, LABEL, "label is 40x24 px, its image 32x24 px"),
    (coloured, LABEL, "RGB-coloured label"),
    (jpeg_label, LABEL, "label is a JPEG"),
    (label_alpha, LABEL, "label with alpha"),
    (lambda root: raw.sixteen_bit(root / LABEL, channels=1), LABEL, "16-bit label"),
    (lambda root: raw.sixteen_bit(root / IMAGE), IMAGE, "16-bit image"),
    (cmyk, "images/train/bad.jpg", "CMYK"),
    (turned, "images/train/bad.jpg", "Exif orientation 6"),
    (alpha, IMAGE, "alpha"),
    (truncated_png, IMAGE, "truncated or damaged"),
    (flipped_bit, IMAGE, "truncated or damaged"),
    (truncated_jpeg, "images/train/bad.jpg", "truncated or damaged"),
    (gif, IMAGE, "neither PNG nor JPEG"),
    (empty, IMAGE, "empty file"),
    (huge, IMAGE, "absurd size 20000x20000 px, more than 178 megapixels"),
    (tiny, IMAGE, "absurd size 40x4 px, less than 8 px"),
    (good_label, LABEL, "no image of this name in images/train/"),
    (good_image, IMAGE, "no label of this name in labels/train/"),
]


def name_of(value):
    return getattr(value, "__name__", None) if callable(value) else None


@pytest.mark.parametrize("spoil, file, what", KINDS, ids=name_of)
def test_every_kind_is_named_and_refused(root, tmp_path, capfd, spoil, file, what):
    if spoil is not good_label and file.startswith("labels"):
        good_image(root)
    if spoil is not good_image and file.startswith("images"):
        good_label(root)
    spoil(root)
    report = check.check("folder", str(root))
    found = [p.what for p in report.problems if p.file == file]
    assert len(found) == 1, report.problems
    assert re.search(what, found[0])
    assert {p.file for p in report.problems} <= {IMAGE, LABEL, "images/train/bad.jpg"}
    assert f"{file}: {found[0]}" in check.render(report).splitlines()
    with pytest.raises(UserError, match="problems in"):
        datasets.prepare("folder", dir=str(root), cache_dir=str(tmp_path / "cache"))
    # Decoders that write to stderr by themselves were not let near it.
    assert capfd.readouterr().err == ""


def test_all_at_once_and_the_good_ones_are_counted(root):
    for i in range(3):
        label = np.full((24, 32), 50 + i, np.uint8)
        raw.write(root / f"images/train/bad{i}.png", raw.picture(i)[0])
        raw.write(root / f"labels/train/bad{i}.png", label)
    (root / "images/train/gone.png").symlink_to(root / "nowhere.png")
    report = check.check("folder", str(root))
    assert [p.file for p in report.problems if "wrong" in p.what] == [
        f"labels/train/bad{i}.png" for i in range(3)
    ]
    assert report.num_images == {"train": 5}
    good = [np.array(Image.open(root / f"labels/train/{i}.png")) for i in range(2)]
    flat = np.concatenate([label.ravel() for label in good])
    counts = [int((flat == k).sum()) for k in (0, 1, 2, 255)]
    assert report.num_pixels.tolist() == counts
    assert sum(report.sizes_px.values()) == 5
    assert report.wrong == {50 + i: 24 * 32 for i in range(3)}
    share = 100 * 24 * 32 / (sum(counts) + 3 * 24 * 32)
    shown = ", ".join(f"{50 + i} ({share:.3f} %)" for i in range(3))
    assert f"values that are no class: {shown}; make them 255" in check.render(report)
    assert check.render(report).endswith(f"{len(report.problems)} problems in 3 files")


def test_unreadable_files_are_named(root):
    good_label(root)
    (root / IMAGE).mkdir()
    (root / "images/train/bad.jpg").symlink_to("/proc/self/mem")
    report = check.check("folder", str(root))
    assert [p.file for p in report.problems] == ["images/train/bad.jpg"]
    assert "cannot be read" in report.problems[0].what


def test_a_good_set_has_no_problems(root, tmp_path):
    report = check.check("folder", str(root))
    assert report.problems == [] and check.render(report).endswith("no problems")
    datasets.prepare("folder", dir=str(root), cache_dir=str(tmp_path / "cache"))


def test_camvid_layout(tmp_path):
    root = raw.make_camvid(tmp_path / "raw")
    label = raw.picture(0)[1]
    label[0, 0] = 12
    raw.write(root / "valannot" / "0001TP_000001.png", label)
    (root / "train" / "0001TP_000009.png").write_bytes(b"x")
    for name in ("camvid", "camvid_drives"):
        report = check.check(name, str(root))
        assert [p.file for p in report.problems] == [
            "train/0001TP_000009.png",
            "valannot/0001TP_000001.png",
        ]
        assert "12 (1 px); allowed: 0..11" in report.problems[1].what


def test_toy_street_and_unknown_names():
    assert "generated" in check.render(check.check("toy_street"))
    with pytest.raises(UserError, match="did you mean 'camvid'"):
        check.check("camvd")
