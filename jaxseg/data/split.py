"""One split of a prepared data set, read by row. Pickles as paths, so workers open files themselves."""

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg import outside
from jaxseg.data import images, store
from jaxseg.data.spec import DatasetSpec
from jaxseg.errors import UserError

TFDS = "tensorflow_datasets.core.features"


def _image(channels: int) -> dict[str, Any]:
    shape = {"dimensions": ["-1", "-1", str(channels)]}
    return {
        "pythonClassName": f"{TFDS}.image_feature.Image",
        "image": {"dtype": "uint8", "shape": shape},
    }


FEATURES = {
    "pythonClassName": f"{TFDS}.features_dict.FeaturesDict",
    "featuresDict": {
        "features": {
            "image": _image(3),
            "label": _image(1),
            "name": {"pythonClassName": f"{TFDS}.text_feature.Text", "text": {}},
        }
    },
}
"""What features.json says of `builders.base`. TFDS imports every module that such a file names, so it must be this."""


class Split:
    """Examples of one split.

    name:     'train', 'calib', 'val', 'test', or a folder's own.
    spec:     the data set.
    sizes_px: int32 [N, 2], (height, width).
    names:    N file names without suffix.
    folder:   of the prepared copy.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        folder: Path,
        stored_split: str,
        *,
        rows: np.ndarray | None = None,
        decoded: Path | None = None,
    ):
        """Opens nothing but the index.

        Args:
            spec: the data set.
            folder: the prepared copy.
            stored_split: the split's name in it.
            rows: int [N], rows of the stored split that make up this one; None = all.
            decoded: folder of the decoded cache of the stored split; None = decode on every access.
        """
        index = store.read_index(folder)
        if stored_split not in index["splits"]:
            raise store.damaged(folder)
        columns = index["splits"][stored_split]
        self.name, self.spec = stored_split, spec
        self.folder, self._stored, self._decoded = folder, stored_split, decoded
        self._tfds = folder / index["tfds"]
        sizes = np.array([columns["height_px"], columns["width_px"]], np.int32).T.reshape(-1, 2)
        self._rows = np.arange(len(sizes)) if rows is None else np.asarray(rows)
        if self._rows.max(initial=-1) >= len(sizes):
            raise store.damaged(folder)
        pixels = sizes.astype(np.int64).prod(axis=1)
        self._total_pixels = int(pixels.sum())
        self._offsets = np.concatenate(([0], np.cumsum(pixels)))[self._rows]
        self.sizes_px = sizes[self._rows]
        self.names: list[str] = [columns["name"][row] for row in self._rows]
        self._records: Sequence[Any] | None = None
        self._pixels: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """{'image': uint8 [H, W, 3] RGB, 'label': uint8 [H, W] of 0..K-1 and 255, 'name': str}.

        From the decoded cache both are read-only views of a mapped file.

        Raises:
            IndexError: out of range.
            UserError: the prepared copy is damaged.
        """
        i = operator.index(i)
        if not -len(self) <= i < len(self):
            raise IndexError(f"{self.name} has {len(self)} examples, no {i}")
        i %= len(self)
        pair = self._mapped(i) if self._decoded else self.decode(i)
        return {"image": pair[0], "label": pair[1], "name": self.names[i]}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_records": None, "_pixels": None}

    def decode(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and label of row i, decoded from the stored bytes."""
        if self._records is None:
            self._records = _open_records(self._tfds, self._stored)
        try:
            record = self._records[int(self._rows[i])]
            # A cut-off ArrayRecord file gives empty records, not an error.
            if (record["name"] or b"").decode() != self.names[i]:
                raise ValueError("not the record that the index names")
            image = images.decode_image(record["image"])
            label = self.spec.label_map[images.decode_label(record["label"])]
            if not image.shape[:2] == label.shape == tuple(self.sizes_px[i]):
                raise ValueError("not of the size that the index names")
        except (images.BadImage, OSError, RuntimeError, ValueError, IndexError) as error:
            raise UserError(f"{self.names[i]}: {store.damaged(self.folder)}") from error
        return image, label

    def _mapped(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        if self._pixels is None:
            self._pixels = (
                _map(self._decoded / "images.bin", 3 * self._total_pixels),
                _map(self._decoded / "labels.bin", self._total_pixels),
            )
        height, width = (int(n) for n in self.sizes_px[i])
        start, size = int(self._offsets[i]), height * width
        flat_images, flat_labels = self._pixels
        image = flat_images[3 * start : 3 * (start + size)].reshape(height, width, 3)
        return image, flat_labels[start : start + size].reshape(height, width)


def _open_records(folder: Path, split: str) -> Sequence[Any]:
    # Here and not above: half a second that reading a decoded cache does not need.
    import tensorflow_datasets as tfds

    try:
        if outside.read_object(folder / "features.json") != FEATURES:
            raise store.damaged(folder)
        builder = tfds.builder_from_directory(str(folder))
        skip = {"image": tfds.decode.SkipDecoding(), "label": tfds.decode.SkipDecoding()}
        return builder.as_data_source(split=split, decoders=skip)
    except (OSError, ValueError, RuntimeError) as error:
        raise store.damaged(folder) from error


def _map(path: Path, size_bytes: int) -> np.ndarray:
    try:
        if not path.is_file() or path.stat().st_size != size_bytes:
            raise store.damaged(path.parent)
        return np.asarray(np.memmap(path, np.uint8, mode="r"))
    except (OSError, ValueError) as error:
        raise store.damaged(path.parent) from error
