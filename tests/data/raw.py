"""Small raw data sets, and one made-up bad file of every kind."""

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[2]


def camvid_dir() -> Path:
    """The real CamVid, or skips with the reason."""
    path = Path(os.environ.get("JAXSEG_CAMVID") or REPOSITORY / "../shared/data/camvid")
    if not (path / "train").is_dir():
        pytest.skip("CamVid is not here: set JAXSEG_CAMVID to its folder")
    return path


def picture(seed: int, height: int = 24, width: int = 32, classes: int = 3):
    """A label of 8 px blocks and an image whose red value is 40 * class: uint8 [H, W, 3], uint8 [H, W]."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, (-(-height // 8), -(-width // 8))).astype(np.uint8)
    label = label.repeat(8, 0).repeat(8, 1)[:height, :width]
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    image[..., 0] = 40 * label
    return image, np.ascontiguousarray(label)


def write(path: Path, pixels: np.ndarray) -> None:
    """A PNG or JPEG, by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_folder(root: Path, splits=(("train", 4), ("val", 2)), classes: int = 3) -> Path:
    """A set for `folder`, images of differing sizes, one of them a JPEG."""
    for split, count in splits:
        for i in range(count):
            image, label = picture(i, 24 + 8 * (i % 2), 32 + 8 * (i % 3), classes)
            # The last block holds every class, so that counting finds all of them.
            label[-1, :classes] = np.arange(classes)
            label[0, 0] = 255
            suffix = "jpg" if i == 1 else "png"
            write(root / "images" / split / f"{i}.{suffix}", image)
            write(root / "labels" / split / f"{i}.png", label)
    return root


def make_camvid(root: Path, splits=(("train", 3), ("val", 2))) -> Path:
    """A small set in CamVid's layout, void included."""
    for split, count in splits:
        for i in range(count):
            image, label = picture(i, classes=12)
            write(root / split / f"0001TP_{i:06d}.png", image)
            write(root / f"{split}annot" / f"0001TP_{i:06d}.png", label)
    return root


def write_palette(path: Path, label: np.ndarray, colors) -> None:
    """A palette PNG whose indices are the label, as PASCAL VOC's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(label, mode="P")
    image.putpalette([value for color in colors for value in color])
    image.save(path)


def make_cityscapes(root: Path, splits=(("train", 3), ("val", 2))) -> Path:
    """A small set in the layout of Cityscapes, two cities per split; labels are published ids 0 to 33."""
    for split, count in splits:
        for i in range(count):
            image, label = picture(i, classes=34)
            city = f"{split}city{i % 2}"
            stem = f"{city}_{i:06d}_000019"
            write(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", image)
            write(root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", label)
            # What lies beside it in the published set and must not be taken for a label.
            write(root / "gtFine" / split / city / f"{stem}_gtFine_color.png", image)
    return root


def make_voc2012(root: Path, augmented: str = "") -> Path:
    """A small VOCdevkit/VOC2012; `augmented`: '' | 'names' | 'paths', the form of its trainaug list."""
    voc, names = root / "VOCdevkit" / "VOC2012", [f"2007_{i:06d}" for i in range(5)]
    colors = [(0, 0, 0), (128, 0, 0), (0, 128, 0)] + [(9, 9, 9)] * 253
    for i, name in enumerate(names):
        image, label = picture(i, 24 + 8 * (i % 2), classes=21)
        label[0, :3] = 255
        write(voc / "JPEGImages" / f"{name}.jpg", image)
        write_palette(voc / "SegmentationClass" / f"{name}.png", label, colors)
    lists = {"train": names[:2], "val": names[2:4], "trainval": names[:4]}
    if augmented:
        lists["trainaug"] = [names[0], names[4]]
        # The augmented labels are plain grey PNGs; here they are told by their class.
        for name in lists["trainaug"]:
            grey = np.full(
                picture(int(name[-1]), 24 + 8 * (int(name[-1]) % 2))[1].shape, 7, np.uint8
            )
            write(voc / "SegmentationClassAug" / f"{name}.png", grey)
    folder = voc / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True, exist_ok=True)
    for split, listed in lists.items():
        form = (
            "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png" if augmented == "paths" else "{0}"
        )
        form = form if split == "trainaug" else "{0}"
        (folder / f"{split}.txt").write_text("".join(form.format(n) + "\n" for n in listed))
    return root


def make_ade20k(root: Path, first: int, ignored: int) -> Path:
    """A small ADEChallengeData2016; classes begin at `first`, `ignored` is what is none."""
    for split, count in (("training", 3), ("validation", 2)):
        for i in range(count):
            image, label = picture(i, 24 + 8 * (i % 2), classes=150)
            label += np.uint8(first)
            label[0] = ignored
            name = f"ADE_{split[:5]}_{i:08d}"
            write(root / "images" / split / f"{name}.jpg", image)
            write(root / "annotations" / split / f"{name}.png", label)
    return root


def png_header_only(width: int, height: int) -> bytes:
    """A sound PNG that claims to be huge and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 10))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def sixteen_bit(path: Path, height: int = 24, width: int = 32, channels: int = 3) -> None:
    """A PNG with 16 bits per channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width, channels) if channels > 1 else (height, width)
    cv2.imwrite(str(path), np.full(shape, 300, np.uint16))
