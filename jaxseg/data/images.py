"""Reading PNG and JPEG files from outside: the header first, then pixels. Nothing else is ever decoded.

Labels are class ids in pixel values. OpenCV would turn a palette into colours and stretch 1-, 2- and 4-bit grey
to 0..255, so those two kinds are read another way.
"""

import io
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from jaxseg.errors import UserError
from jaxseg.outside import read_file

MAX_PIXELS = 178_956_970
"""Twice Pillow's limit for a warning, where Pillow itself refuses: half a gigabyte of RGB."""
MAX_FILE_BYTES = 2**30
MIN_SIDE_PX = 8
MAX_PNG_RATIO = 1032
"""What deflate can do at most: 258 bytes for two bits."""
MAX_JPEG_PIXELS_PER_BYTE = 512
"""A code of at least one bit for each block of 8x8 in the first scan."""
PNG_GREY, PNG_RGB, PNG_PALETTE, PNG_GREY_ALPHA, PNG_RGBA = 0, 2, 3, 4, 6
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
EXIF_ORIENTATION = 0x0112


class BadImage(UserError):
    """A file's content is not usable. The message does not name the file: the caller knows it."""


class Header(NamedTuple):
    """What a file says of itself before anything is decoded.

    format: 'PNG' or 'JPEG'. height_px, width_px: as stored.
    bits:   per channel. color: a PNG_* number; JPEGs have PNG_GREY, PNG_RGB, or -1 for CMYK.
    alpha:  whether there is transparency. orientation: Exif, 1 = upright.
    num_bytes: of the file.
    """

    format: str
    height_px: int
    width_px: int
    bits: int
    color: int
    alpha: bool
    orientation: int
    num_bytes: int


def read_header(data: bytes) -> Header:
    """The header of an encoded image.

    Raises:
        BadImage: neither PNG nor JPEG, a broken header, or a PNG with a broken or missing part.
    """
    try:
        # The classes and not Image.open: its warning about large images is process-wide state, and
        # the limit is checked by us before anything is decoded.
        if data[:8] == PNG_SIGNATURE:
            with PngImageFile(io.BytesIO(data)) as image:
                width, height = image.size
                bits, color = data[24], data[25]
                alpha = color in (PNG_GREY_ALPHA, PNG_RGBA) or "transparency" in image.info
                turned = image.getexif().get(EXIF_ORIENTATION, 1) if "exif" in image.info else 1
                # Reads on and compares check sums without decoding, before libpng would complain on stderr.
                image.verify()
            return Header("PNG", height, width, bits, color, alpha, turned, len(data))
        if data[:3] == b"\xff\xd8\xff":
            with JpegImageFile(io.BytesIO(data)) as image:
                width, height = image.size
                color = {"L": PNG_GREY, "RGB": PNG_RGB}.get(image.mode, -1)
                turned = image.getexif().get(EXIF_ORIENTATION, 1)
            return Header("JPEG", height, width, 8, color, False, turned, len(data))
    # A warning, of an Exif part that is damaged, is one only where warnings are errors.
    except (OSError, SyntaxError, ValueError, KeyError, IndexError, EOFError, Warning) as error:
        raise BadImage(f"truncated or damaged ({error})") from error
    raise BadImage("empty file" if not data else "neither PNG nor JPEG")


def size_faults(header: Header) -> list[str]:
    """What is wrong with the size; a file with such a fault must not be decoded."""
    height, width = header.height_px, header.width_px
    if height * width > MAX_PIXELS:
        return [f"absurd size {width}x{height} px, more than {MAX_PIXELS // 10**6} megapixels"]
    if min(height, width) < MIN_SIDE_PX:
        return [f"absurd size {width}x{height} px, less than {MIN_SIDE_PX} px on a side"]
    # Before memory is taken for pixels that cannot be there.
    if header.format == "PNG":
        channels = {PNG_RGB: 3, PNG_GREY_ALPHA: 2, PNG_RGBA: 4}.get(header.color, 1)
        needed = height * (1 + width * channels * header.bits // 8) // MAX_PNG_RATIO
    else:
        needed = height * width // MAX_JPEG_PIXELS_PER_BYTE
    if needed > header.num_bytes:
        return [f"claims {width}x{height} px, more than {header.num_bytes} bytes can hold"]
    return []


def check_size(pixels: np.ndarray, header: Header) -> None:
    """Refuses an image [H, W, ...] that is not of the size its header said, or that size turned.

    Raises:
        BadImage: as said.
    """
    said = (header.height_px, header.width_px)
    if pixels.shape[:2] not in (said, said[:: -1 if header.orientation >= 5 else 1]):
        height, width = pixels.shape[:2]
        raise BadImage(f"says {said[1]}x{said[0]} px and holds {width}x{height} px")


def image_faults(header: Header) -> list[str]:
    """Why an image is not fit to train on (sizes apart): what decoding would change without a word."""
    faults = []
    if header.bits == 16:
        faults.append("16-bit image; save it with 8 bits per channel")
    if header.color == -1:
        faults.append("CMYK image; save it as RGB")
    if header.alpha:
        faults.append("image with alpha (transparency); save it without")
    if header.orientation != 1:
        faults.append(f"Exif orientation {header.orientation}; turn the pixels themselves upright")
    return faults


def label_faults(header: Header) -> list[str]:
    """Why a label file cannot hold class ids (sizes apart)."""
    if header.format != "PNG":
        return ["label is a JPEG, which changes values; save it as PNG"]
    if header.bits == 16:
        return ["16-bit label; save it with 8 bits"]
    if header.color in (PNG_RGB, PNG_RGBA):
        return ["RGB-coloured label; pixel values must be class ids (one channel or a palette)"]
    if header.color == PNG_GREY_ALPHA:
        return ["label with alpha (transparency); save it without"]
    return []


def decode_image(data: bytes) -> np.ndarray:
    """Pixels of a PNG or JPEG, uint8 [H, W, 3] RGB; turned upright where Exif says so.

    Raises:
        BadImage: the pixels cannot be decoded.
    """
    image = _decode(data, cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise BadImage("truncated or damaged (pixels cannot be decoded)")
    return image


def decode_label(data: bytes) -> np.ndarray:
    """Raw values of a label PNG without `label_faults`, uint8 [H, W]; a palette gives its indices.

    Raises:
        BadImage: the pixels cannot be decoded.
    """
    if data[:8] != PNG_SIGNATURE or len(data) < 26 or data[24] not in (1, 2, 4, 8):
        raise BadImage("no PNG of up to 8 bits")
    bits, color = data[24], data[25]
    if color == PNG_PALETTE:
        try:
            with PngImageFile(io.BytesIO(data)) as image:
                return np.array(image, np.uint8)
        except (OSError, SyntaxError, ValueError) as error:
            raise BadImage(f"truncated or damaged ({error})") from error
    label = _decode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if label is None:
        raise BadImage("truncated or damaged (pixels cannot be decoded)")
    return label // (255 // (2**bits - 1)) if bits < 8 else label


def read_image(path: Path) -> np.ndarray:
    """An image file for prediction, uint8 [H, W, 3] RGB. Alpha is dropped, 16 bits become 8, grey becomes RGB.

    Raises:
        UserError: one line that names the file and what is wrong.
    """
    try:
        data = read_file(Path(path), max_bytes=MAX_FILE_BYTES)
        header = read_header(data)
        faults = size_faults(header) or (["CMYK image"] if header.color == -1 else [])
        if faults:
            raise BadImage(faults[0])
        image = decode_image(data)
        check_size(image, header)
        return image
    except OSError as error:
        raise UserError(f"cannot read {path}", got=error.strerror) from error
    except BadImage as error:
        raise UserError(f"cannot read {path}", got=error, expected="a PNG or JPEG image") from error


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 3] RGB or [H, W] as PNG, lossless."""
    swapped = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(swapped))
    if not done:
        raise RuntimeError(f"OpenCV cannot encode an array of shape {pixels.shape}")
    return encoded.tobytes()


def _decode(data: bytes, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
