"""Segments a file or a folder of images; one bad file does not stop the others."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxseg.data.images import read_image
from jaxseg.errors import UserError
from jaxseg.inference import pictures
from jaxseg.inference.predictor import Model

SUFFIXES = (".png", ".jpg", ".jpeg")
PAD_MULTIPLE_PX = 32


def predict_folder(
    model: Model, source: Path, output: Path, *, say: Callable[[str], None]
) -> tuple[int, list[tuple[Path, str]]]:
    """Writes `labels/`, `colors/` and `overlays/` under `output`, PNGs named like the inputs.

    Where more than two sizes occur, images are padded to multiples of 32 px (and the answer cut back), so
    that a folder of photographs does not compile a program for each of them; `evaluate` does the same.

    Args:
        model: called on each image.
        source: a PNG or JPEG file, or a folder searched deeply.
        output: made if it is not there.
        say: told of progress, a line at a time.

    Returns:
        (number of images segmented, [(path, reason)] of those that could not be read).

    Raises:
        UserError: nothing to segment, or `output` cannot be written.
    """
    files = image_files(source)
    root = source if source.is_dir() else source.parent
    names = _output_names(files, root)
    failed: list[tuple[Path, str]] = []
    shapes: set[tuple[int, ...]] = set()
    for number, path in enumerate(files, 1):
        try:
            image = read_image(path)
        except UserError as error:
            failed.append((path, str(error)))
            continue
        shapes.add(image.shape)
        labels = model(image) if len(shapes) <= 2 else _padded(model, image)
        _write(output, names[path], image, labels, model)
        if number % 50 == 0:
            say(f"{number} of {len(files)}")
    return len(files) - len(failed), failed


def image_files(source: Path) -> list[Path]:
    """The image files at `source`, sorted.

    Raises:
        UserError: no such file or folder, or no image in it.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError("--input", got=repr(str(source)), expected="an existing file or folder")
    files = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError("--input holds no images", got=str(source), expected=", ".join(SUFFIXES))
    return files


def _output_names(files: list[Path], root: Path) -> dict[Path, Path]:
    """a/b.jpg -> a/b.png; where b.jpg and b.png lie side by side, b.jpg.png and b.png.png."""
    plain = {path: path.relative_to(root).with_suffix(".png") for path in files}
    times = Counter(plain.values())
    return {
        path: name if times[name] == 1 else path.relative_to(root).with_name(path.name + ".png")
        for path, name in plain.items()
    }


def _padded(model: Model, image: np.ndarray) -> np.ndarray:
    """The model on the image padded at the bottom and right with the mean colour."""
    height, width = image.shape[:2]
    fill = np.round(255 * np.asarray(model.card.mean)).astype(np.uint8)
    grid = tuple(-(-n // PAD_MULTIPLE_PX) * PAD_MULTIPLE_PX for n in (height, width))
    canvas = np.broadcast_to(fill, (*grid, 3)).copy()
    canvas[:height, :width] = image
    return model(canvas)[:height, :width]


def _write(
    output: Path, relative: Path, image: np.ndarray, labels: np.ndarray, model: Model
) -> None:
    colors = model.card.class_colors
    made = {
        "labels": labels,
        "colors": pictures.colorize(labels, colors),
        "overlays": pictures.overlay(image, labels, colors),
    }
    for kind, picture in made.items():
        path = output / kind / relative
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make {path.parent}", got=error.strerror) from error
        pictures.write_png(path, picture)
