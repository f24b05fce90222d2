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
