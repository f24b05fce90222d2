"""The procedural street scenes as a TFDS builder, stored as PNG."""

from collections.abc import Iterator

import tensorflow_datasets as tfds

from jaxseg.data import toy_street
from jaxseg.data.builders import toy_samples
from jaxseg.data.builders.base import Encoded, PairBuilder
from jaxseg.data.spec import DatasetSpec, identity_map
from jaxseg.types import IGNORE_LABEL


class ToyStreet(PairBuilder, skip_registration=True):
    """Generated, so there is nothing to download; another content is another version."""

    VERSION = tfds.core.Version("1.0.0")

    def splits(self) -> dict[str, int]:
        return dict(toy_street.SPLITS)

    def examples(self, split: str) -> Iterator[Encoded]:
        samples = toy_samples.all_encoded(split, toy_street.SPLITS[split])
        for index, (image, label) in enumerate(samples):
            yield Encoded(example_name(split, index), image, label)


def example_name(split: str, index: int) -> str:
    """Such as 'train_0007'."""
    return f"{split}_{index:04d}"


def spec() -> DatasetSpec:
    """Classes, colours and label values."""
    return DatasetSpec(
        name="toy_street",
        class_names=toy_street.CLASS_NAMES,
        class_colors=toy_street.CLASS_COLORS,
        splits=tuple(toy_street.SPLITS),
        label_map=identity_map(len(toy_street.CLASS_NAMES), IGNORE_LABEL),
    )
