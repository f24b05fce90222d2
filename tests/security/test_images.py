"""Pictures from anybody: no file that is none is opened, and no size is believed before it is possible."""

import io
import struct
import types
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import check, datasets, images, pairs
from jaxseg.errors import UserError
from jaxseg.inference.folder import predict_folder
from tests.data import raw
from tests.security.hostile import NO_FILES, at_most_mb, within


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width=16, height=16, *, bits=8, color=2, pixels=None, before=b"", after=b"", interlace=0):
    """A PNG that says what it is told to; `pixels` is the content of IDAT before compression."""
    if pixels is None:
        pixels = bytes(height * (1 + width * {0: 1, 2: 3, 3: 1}[color] * bits // 8))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlace))
    body = chunk(b"IDAT", zlib.compress(pixels)) + after + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + before + body


def jpeg(width=16, height=16):
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def jpeg_saying(width, height):
    data = bytearray(jpeg())
    size = data.index(b"\xff\xc0") + 5
    data[size : size + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def two_sizes():
    """One frame header says 16x16 px, the next 8x8."""
    other, data = jpeg_saying(8, 8), jpeg()
    start = data.index(b"\xff\xc0")
    stop = start + 2 + struct.unpack(">H", data[start + 2 : start + 4])[0]
    return data[:start] + other[start:stop] + data[start:]


TEXT = b"key\0\0"
LIES = {
    "2.5 gigapixels": (png(50_000, 50_000, pixels=b""), "absurd size 50000x50000 px"),
    "4 gigapixels of JPEG": (jpeg_saying(65_000, 65_000), "absurd size 65000x65000 px"),
    "169 megapixels": (
        png(13_000, 13_000, pixels=b""),
        "claims 13000x13000 px, more than 65 bytes",
    ),
    "169 megapixels of JPEG": (jpeg_saying(13_000, 13_000), "claims 13000x13000 px, more than"),
    "a negative side": (png(2**32 - 1, 8, pixels=b""), "absurd size"),
    "no pixels": (png(0, 16, pixels=b""), "damaged"),
    "fewer pixels than it says": (png(pixels=bytes(100)), "cannot be decoded"),
    "another size later on": (
        png(before=chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0))),
        "cannot be decoded|claims",
    ),
    "another size of JPEG later on": (two_sizes(), "cannot be decoded"),
    "3 bits": (png(bits=3), "damaged"),
    "7 channels": (png(color=2).replace(b"\x08\x02", b"\x08\x07", 1), "damaged"),
    "300 MB of text": (
        png(before=chunk(b"zTXt", TEXT + zlib.compress(bytes(300_000_000)))),
        "too large",
    ),
    "200 MB in 200 texts": (
        png(before=chunk(b"zTXt", TEXT + zlib.compress(bytes(1_000_000))) * 200),
        "Too much memory",
    ),
    "300 MB of colour profile": (
        png(before=chunk(b"iCCP", TEXT + zlib.compress(bytes(300_000_000)))),
        "too large",
    ),
    "a GIF": (b"GIF89a" + bytes(100), "neither PNG nor JPEG"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "neither PNG nor JPEG"),
    "an SVG": (b"<svg/>", "neither PNG nor JPEG"),
    "a pickle": (b"\x80\x04K\x01.", "neither PNG nor JPEG"),
    "the start of a PNG": (b"\x89PNG\r\n\x1a\n", "damaged"),
    "the start of a JPEG": (b"\xff\xd8\xff", "damaged"),
}


@pytest.mark.parametrize("kind", LIES)
@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_lies_are_one_line_and_cost_no_memory(kind, name, tmp_path, capfd):
    data, says = LIES[kind]
    (tmp_path / name).write_bytes(data)
    with within(10), at_most_mb(80), pytest.raises(UserError, match=says) as error:
        images.read_image(tmp_path / name)
    assert str(error.value).isprintable() and name in str(error.value)
    found = pairs.inspect(tmp_path, pairs.Pair("x", name, name), np.ones(256, bool))
    assert any(problem.file == name for problem in found.problems)


def test_more_data_than_pixels_is_read_no_further(tmp_path):
    """100 MB behind 16x16 px: decoders stop at the size of the header."""
    (tmp_path / "x.png").write_bytes(png(pixels=bytes(100_000_000)))
    with at_most_mb(20):
        assert images.read_image(tmp_path / "x.png").shape == (16, 16, 3)


@pytest.mark.parametrize("side", [8, 64, 1000])
def test_the_flattest_picture_that_there_is_is_not_refused(side, tmp_path):
    """The bounds on what bytes can hold are those of the formats: nothing true is beyond them."""
    black = np.zeros((side, side, 3), np.uint8)
    for suffix, options in (("png", {}), ("jpg", {"quality": 1}), ("jpg", {"progressive": True})):
        Image.fromarray(black).save(tmp_path / f"x.{suffix}", optimize=True, **options)
        assert images.read_image(tmp_path / f"x.{suffix}").shape == black.shape
    Image.fromarray(black[..., 0] > 0).save(tmp_path / "x.png", optimize=True)  # 1 bit
    assert images.read_image(tmp_path / "x.png").shape == black.shape


def test_what_a_file_is_counts_and_not_its_name(tmp_path):
    (tmp_path / "x.png").write_bytes(jpeg())
    (tmp_path / "x.jpg").write_bytes(png())
    for name in ("x.png", "x.jpg"):
        assert images.read_image(tmp_path / name).shape == (16, 16, 3)
    found = pairs.inspect(tmp_path, pairs.Pair("x", "x.jpg", "x.png"), np.ones(256, bool))
    assert found.problems[0].what.startswith("label is a JPEG")
    with pytest.raises(images.BadImage, match="no PNG"):
        images.decode_label(jpeg())


def test_a_decoder_that_sees_another_size_is_not_believed():
    header = images.read_header(png(24, 16))
    images.check_size(np.zeros((16, 24, 3)), header)
    for size in ((24, 16), (16, 25)):
        with pytest.raises(images.BadImage, match="says 24x16 px and holds"):
            images.check_size(np.zeros(size), header)
    images.check_size(np.zeros((24, 16)), header._replace(orientation=6))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_part_is_no_reason_to_refuse(tmp_path):
    junk = chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff")
    (tmp_path / "x.png").write_bytes(png(before=junk))
    assert images.read_image(tmp_path / "x.png").shape == (16, 16, 3)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("data", [png(24, 16), png(24, 16, bits=1, color=0), jpeg(24, 16)])
def test_random_damage_gives_the_size_of_the_header_or_one_line(data, capfd):
    rng, read = np.random.default_rng(0), 0
    for _ in range(300):
        spoilt = bytearray(data)
        for _ in range(rng.integers(1, 5)):
            spoilt[rng.integers(len(spoilt))] = rng.integers(256)
        if data[:4] == b"\x89PNG":  # as somebody would who knows the format
            spoilt = with_right_sums(spoilt)
        spoilt = bytes(spoilt)
        try:
            header = images.read_header(spoilt)
            if images.size_faults(header):
                continue
            images.check_size(images.decode_image(spoilt), header)
            if not images.label_faults(header):
                images.check_size(images.decode_label(spoilt), header._replace(orientation=1))
            read += 1
        except UserError as error:
            assert str(error).isprintable()
    assert read


def with_right_sums(data):
    """The PNG with the check sum of every chunk made right."""
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        end = at + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(bytes(data[at + 4 : end])))
        at = end + 4
    return data


# --- Things in folders that are no pictures ---


def spoilt_folder(root):
    for kind, make in NO_FILES.items():
        make(root / f"{kind}.png")


def test_predict_reports_what_is_no_picture_and_does_the_rest(tmp_path):
    """A stand-in for the network: what is tested is the reading."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.png").write_bytes(png())
    spoilt_folder(folder)
    card = types.SimpleNamespace(class_colors=((1, 2, 3),), mean=(0.5, 0.5, 0.5))

    class Model:
        def __call__(self, image):
            return np.zeros(image.shape[:2], np.uint8)

    model = Model()
    model.card = card
    with within(20):
        done, failed = predict_folder(model, folder, tmp_path / "out", say=print)
    assert done == 1 and {path.stem for path, _ in failed} == set(NO_FILES)
    assert all(why.isprintable() and "cannot read" in why for _, why in failed)
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 1


def test_a_data_set_with_such_things_is_refused_and_they_are_named(tmp_path):
    root = raw.make_folder(tmp_path / "raw", splits=(("train", 2),))
    (root / "classes.txt").write_text("a\nb\nc\n")
    for kind in ("images", "labels"):
        spoilt_folder(root / kind / "train")
    with within(20):
        report = check.check("folder", str(root))
    # What is no file is not even listed; what says that it is one is opened, and refused.
    named = {(p.file.split("/")[2], p.what) for p in report.problems}
    assert named == {("1 TiB of nothing.png", "cannot be read (larger than 1073741824 bytes)")}
    with pytest.raises(UserError, match="problems in"):
        datasets.prepare("folder", dir=str(root), cache_dir=str(tmp_path / "cache"))


def test_a_pipe_that_takes_the_place_of_a_listed_file_is_not_waited_for(tmp_path):
    raw.write(tmp_path / "label.png", raw.picture(0)[1])
    for kind, make in NO_FILES.items():
        make(tmp_path / f"{kind}.png")
        pair = pairs.Pair("x", f"{kind}.png", "label.png")
        with within(5):
            found = pairs.inspect(tmp_path, pair, np.ones(256, bool))
        assert [p.what.startswith("cannot be read (") for p in found.problems] == [True], kind


def test_names_that_are_no_text_are_named(tmp_path, capsys):
    root = raw.make_folder(tmp_path / "raw", splits=(("train", 2),))
    (root / "classes.txt").write_text("a\nb\nc\n")
    for kind in ("images", "labels"):
        (root / kind / "train" / "0.png").rename(root / kind / "train" / "\udcff\x1b[2J.png")
    report = check.check("folder", str(root))
    assert [p.what for p in report.problems] == ["name with bytes that are no text"]
    print(check.render(report).encode().decode())
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, says",
    [
        (b"a\n\xff\n", "UTF-8"),
        (b"a\nb\x1b[2J\n", "printable"),
        (b"a 1 2 " + b"9" * 5000, "got 1 classes; expected|wrong label values|printable|classes"),
        (b"x\n" * 2**24, "larger than"),
    ],
)
def test_lists_of_classes(tmp_path, text, says):
    root = raw.make_folder(tmp_path / "raw", splits=(("train", 2),))
    (root / "classes.txt").write_bytes(text)
    with pytest.raises(UserError, match=says):
        datasets.prepare("folder", dir=str(root), cache_dir=str(tmp_path / "cache"))
