"""Scores of a network over a split. Memory does not grow with the number of images."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxseg.inference.predictor import Score
from jaxseg.objectives.boundary import BoundaryTally
from jaxseg.objectives.metrics import confusion_matrix, scores_from_confusion
from jaxseg.types import Batch

Watch = Callable[[Batch, np.ndarray], None]


@dataclass
class Tally:
    """Sums over a split: confusion int64 [K, K] (rows truth), loss sum and count, images."""

    confusion: np.ndarray
    loss_sum: float = 0.0
    loss_count: float = 0.0
    num_images: int = 0

    def scores(self) -> dict[str, Any]:
        """miou, macc, aacc, iou per class, loss, num_images."""
        loss = self.loss_sum / self.loss_count if self.loss_count else None
        return {
            **scores_from_confusion(self.confusion),
            "loss": loss,
            "num_images": self.num_images,
        }


def evaluate(
    score: Score,
    variables: Any,
    batches: Iterable[Batch],
    num_classes: int,
    *,
    put: Callable[[Batch], Any] = jax.device_put,
    watch: Watch | None = None,
) -> Tally:
    """Runs over the batches once.

    Args:
        score: from `predictor.make_score`.
        variables: {'params', 'batch_stats'} on the device.
        batches: padded images have weight 0 and label IGNORE_LABEL; they count for nothing.
        num_classes: K.
        put: places a batch on the devices.
        watch: sees each host batch with its label maps uint8 [B, H, W], in order.

    Returns:
        The sums.
    """
    return evaluate_each(score, variables, batches, num_classes, 1, put=put, watch=watch)[0]


def evaluate_each(
    score: Score,
    variables: Any,
    batches: Iterable[Batch],
    num_classes: int,
    answers: int,
    *,
    put: Callable[[Batch], Any] = jax.device_put,
    watch: Watch | None = None,
) -> list[Tally]:
    """As `evaluate` for several answers to each image.

    Args:
        score: everything that it gives has a first axis of `answers`, if there is more than one.
        answers: how many.
        variables, batches, num_classes, put: see `evaluate`.
        watch: sees the last answer.

    Returns:
        The sums of each.
    """
    tallies = [Tally(np.zeros((num_classes, num_classes), np.int64)) for _ in range(answers)]
    waiting: tuple[Batch, Any] | None = None

    def take(batch: Batch, answer: Any) -> None:
        labels, loss_sums, loss_counts = (
            np.asarray(x).reshape(answers, *shape)
            for x, shape in zip(answer, (batch["label"].shape, (), ()), strict=True)
        )
        real = batch["weight"] > 0
        for i, tally in enumerate(tallies):
            tally.confusion += confusion_matrix(batch["label"][real], labels[i, real], num_classes)
            tally.loss_sum += float(loss_sums[i])
            tally.loss_count += float(loss_counts[i])
            tally.num_images += int(real.sum())
        if watch is not None:
            watch(batch, labels[-1])

    # One batch behind: the host counts batch t while the device works on t + 1.
    for batch in batches:
        on_device = put({k: batch[k] for k in ("image", "label", "weight")})
        answer = score(variables, on_device)
        if waiting is not None:
            take(*waiting)
        waiting = (batch, answer)
    if waiting is not None:
        take(*waiting)
    return tallies


class Album:
    """A `watch` that keeps the first `limit` images with their label maps, for overlays."""

    def __init__(self, limit: int):
        self._limit = limit
        self.images: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.predictions: list[np.ndarray] = []

    def __call__(self, batch: Batch, predictions: np.ndarray) -> None:
        for i, (h, w) in itertools.islice(_true_sizes(batch), self._limit - len(self.images)):
            self.images.append(np.array(batch["image"][i, :h, :w]))
            self.labels.append(np.array(batch["label"][i, :h, :w]))
            self.predictions.append(predictions[i, :h, :w])


class ByExit:
    """A `watch` that adds up one confusion matrix per exit, over the images that it answered.

    answered: the exit of every image so far, in order; whoever answers appends to it.
    exits:    how many there are.
    """

    def __init__(self, answered: Sequence[int], exits: int, num_classes: int):
        self._answered, self._classes = answered, num_classes
        self._confusion = np.zeros((exits, num_classes, num_classes), np.int64)

    def __call__(self, batch: Batch, predictions: np.ndarray) -> None:
        real = np.flatnonzero(np.asarray(batch["weight"]) > 0)
        for row, exit_ in zip(real, self._answered[-len(real) :], strict=True):
            found = confusion_matrix(batch["label"][row], predictions[row], self._classes)
            self._confusion[exit_] += found

    def mious(self) -> list[float | None]:
        """Of each exit on the images that it answered; None where there were none."""
        return [scores_from_confusion(c)["miou"] if c.any() else None for c in self._confusion]


class ByGroup:
    """A `watch` that adds up one confusion matrix per group of images: drives, cities.

    groups: of every image of the split, by its index in it.
    """

    def __init__(self, groups: Sequence[str], num_classes: int):
        self._groups, self._classes = tuple(groups), num_classes
        self._confusion: dict[str, np.ndarray] = {}
        self._images: Counter[str] = Counter()

    def __call__(self, batch: Batch, predictions: np.ndarray) -> None:
        for row in np.flatnonzero(np.asarray(batch["weight"]) > 0).tolist():
            group = self._groups[int(batch["index"][row])]
            found = confusion_matrix(batch["label"][row], predictions[row], self._classes)
            self._confusion[group] = found + self._confusion.get(group, 0)
            self._images[group] += 1

    def scores(self) -> dict[str, dict[str, Any]]:
        """Group -> miou and num_images, by name."""
        return {
            group: {
                "miou": scores_from_confusion(self._confusion[group])["miou"],
                "num_images": number,
            }
            for group, number in sorted(self._images.items())
        }


def watched(*watches: Watch | None) -> Watch:
    """All of them, one after another."""

    def watch(batch: Batch, predictions: np.ndarray) -> None:
        for one in watches:
            if one is not None:
                one(batch, predictions)

    return watch


def watch_boundaries(tally: BoundaryTally) -> Watch:
    """A `watch` that adds every image to `tally`, at its true size."""

    def watch(batch: Batch, predictions: np.ndarray) -> None:
        for i, (h, w) in _true_sizes(batch):
            tally.add(batch["label"][i, :h, :w], predictions[i, :h, :w])

    return watch


def _true_sizes(batch: Batch) -> Iterator[tuple[int, tuple[int, int]]]:
    """(row, (height, width)) of the images that count: what was padded on is not part of the picture."""
    for i in np.flatnonzero(batch["weight"] > 0).tolist():
        yield i, tuple(batch["size_px"][i] if "size_px" in batch else batch["label"][i].shape)
