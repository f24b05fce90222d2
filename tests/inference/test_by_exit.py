"""Scores of every exit over the images that it answered, against counting by hand."""

import numpy as np

from jaxseg.inference.evaluation import ByExit, ByGroup, watched
from jaxseg.objectives.metrics import confusion_matrix, scores_from_confusion
from jaxseg.types import IGNORE_LABEL


def test_images_count_where_they_left_and_padding_nowhere():
    rng = np.random.default_rng(0)
    answered: list[int] = []
    seen: list[int] = []
    by_exit = ByExit(answered, 3, 4)
    watch = watched(None, by_exit, lambda batch, maps: seen.append(len(maps)))
    expected = np.zeros((3, 4, 4), np.int64)
    for exits in ([2, 0], [0]):
        label = rng.choice([0, 1, 2, 3, IGNORE_LABEL], (3, 5, 6)).astype(np.uint8)
        said = rng.integers(0, 4, (3, 5, 6)).astype(np.uint8)
        weight = np.array([1, 0, 1] if len(exits) == 2 else [0, 1, 0], np.float32)
        answered.extend(exits)
        watch({"label": label, "weight": weight}, said)
        for row, exit_ in zip(np.flatnonzero(weight), exits, strict=True):
            expected[exit_] += confusion_matrix(label[row], said[row], 4)
    assert seen == [3, 3]
    wanted = [scores_from_confusion(expected[i])["miou"] for i in (0, 2)]
    assert by_exit.mious() == [wanted[0], None, wanted[1]]


def test_groups_are_counted_apart():
    rng = np.random.default_rng(1)
    by_group = ByGroup(["dusk", "day", "dusk"], 4)
    label = rng.choice([0, 1, 2, 3, IGNORE_LABEL], (4, 5, 6)).astype(np.uint8)
    said = rng.integers(0, 4, (4, 5, 6)).astype(np.uint8)
    weight = np.array([1, 1, 1, 0], np.float32)
    index = np.array([2, 1, 0, -1], np.int32)
    by_group({"label": label, "weight": weight, "index": index}, said)
    scores = by_group.scores()
    dusk = sum(confusion_matrix(label[i], said[i], 4) for i in (0, 2))
    assert list(scores) == ["day", "dusk"]
    assert scores["dusk"] == {"miou": scores_from_confusion(dusk)["miou"], "num_images": 2}
    assert scores["day"]["num_images"] == 1
