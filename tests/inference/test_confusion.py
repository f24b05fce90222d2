"""The confusion matrix as a picture and as a table."""

import csv

import cv2
import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.inference.confusion import draw_confusion, write_confusion


@pytest.mark.parametrize("count", [1, 3, 30, 150])
def test_the_picture_is_written_at_any_number_of_classes(count, tmp_path):
    confusion = np.random.default_rng(0).integers(0, 2**40, (count, count))
    confusion[-1] = 0  # a class that the truth does not hold
    names = [f"class {i}" for i in range(count)]
    names[0] = "50 $ or $_{x"  # a name is text, not mathematics
    path = tmp_path / "made" / "c.png"
    draw_confusion(confusion, names, path)
    height, width = cv2.imread(str(path)).shape[:2]
    assert 200 < height < 3000 and 200 < width < 3000


def test_the_picture_shows_shares_of_the_truth(tmp_path):
    """Dark where a row's share is high, whatever the sizes of the classes."""

    def darkness(confusion):
        draw_confusion(np.array(confusion), ["a", "b"], tmp_path / "c.png")
        return cv2.imread(str(tmp_path / "c.png"))

    np.testing.assert_array_equal(darkness([[9, 1], [50, 50]]), darkness([[900, 100], [5, 5]]))
    assert (darkness([[9, 1], [50, 50]]) != darkness([[1, 9], [50, 50]])).any()


def test_the_table_holds_the_counts(tmp_path):
    confusion = np.array([[2**53 + 1, 2], [0, 7]], np.int64)
    write_confusion(confusion, ['say "a", b', "c"], tmp_path / "c.csv")
    with (tmp_path / "c.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["truth \\ prediction", 'say "a", b', "c"]
    assert [row[0] for row in rows[1:]] == rows[0][1:]
    np.testing.assert_array_equal(np.array([row[1:] for row in rows[1:]], np.int64), confusion)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        draw_confusion(np.eye(2, dtype=np.int64), ["a", "b"], tmp_path / "file" / "c.png")
    with pytest.raises(UserError, match="cannot write"):
        write_confusion(np.eye(2, dtype=np.int64), ["a", "b"], tmp_path / "file" / "c.csv")
