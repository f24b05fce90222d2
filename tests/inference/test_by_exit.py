"""Scores of every exit over the images that it answered, against counting by hand."""

import numpy as np

from jaxseg.inference.evaluation import ByExit, watched
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
