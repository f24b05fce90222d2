"""What the TFDS builders have in common: encoded image and label bytes with a name, in ArrayRecord files.

No TensorFlow: TFDS writes and reads ArrayRecord by itself, OpenCV decodes. Records keep the order of the raw
set, so that a row of the prepared copy is a row of the folder.
"""

import abc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from jaxseg.data.images import MAX_FILE_BYTES
from jaxseg.data.pairs import Pair
from jaxseg.outside import read_file

Tell = Callable[[str, int, int], None]
"""(what, done, total): told of progress."""


class Encoded(NamedTuple):
    """An example as it is stored: file name without suffix, PNG or JPEG bytes, PNG bytes."""

    name: str
    image: bytes
    label: bytes


class PairBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A GeneratorBasedBuilder whose splits are given by `splits()` and `examples(split)`."""

    # TFDS looks for files of check sums beside the code, with a package that only TensorFlow brings along.
    # Nothing is downloaded through TFDS, so there is nothing to look for.
    code_path = None

    def __init__(self, *, data_dir: str | Path, tell: Tell):
        """Args: the folder to prepare in; who is told of progress."""
        self._tell = tell
        super().__init__(data_dir=str(data_dir), file_format="array_record")

    @abc.abstractmethod
    def splits(self) -> dict[str, int]:
        """Split -> number of examples."""

    @abc.abstractmethod
    def examples(self, split: str) -> Iterator[Encoded]:
        """The examples of a split, in order."""

    def _log_download_bytes(self) -> None:
        """TFDS would print to stdout, which belongs to the answers of our commands."""

    def _log_download_done(self) -> None:
        """As above."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            # Bytes are stored as they are: a JPEG stays a JPEG.
            "image": tfds.features.Image(shape=(None, None, 3), dtype=np.uint8),
            "label": tfds.features.Image(shape=(None, None, 1), dtype=np.uint8),
            "name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
        del dl_manager
        return {split: self._generate_examples(split) for split in self.splits()}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        total = self.splits()[split]
        for row, example in enumerate(self.examples(split)):
            yield row, example._asdict()
            self._tell(f"writing {split}", row + 1, total)


class FolderBuilder(PairBuilder, skip_registration=True):
    """Pairs of files under one raw folder."""

    def __init__(
        self, *, root: Path, pairs: dict[str, Sequence[Pair]], data_dir: str | Path, tell: Tell
    ):
        """Args: the raw folder; split -> pairs; and as for PairBuilder."""
        self._root, self._pairs = root, pairs
        super().__init__(data_dir=data_dir, tell=tell)

    def splits(self) -> dict[str, int]:
        return {split: len(pairs) for split, pairs in self._pairs.items()}

    def examples(self, split: str) -> Iterator[Encoded]:
        for pair in self._pairs[split]:
            files = (self._root / file for file in (pair.image, pair.label))
            yield Encoded(pair.name, *(read_file(f, max_bytes=MAX_FILE_BYTES) for f in files))
