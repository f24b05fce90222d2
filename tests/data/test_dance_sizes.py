"""At which size an image is answered: the rule of training, image by image."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from jaxseg.data.dance import DataSlimming
from jaxseg.data.dance_scores import MEASURES, score_at, unseen
from jaxseg.data.dance_sizes import SizeRule
from jaxseg.errors import UserError

RULE = SizeRule("spatial_information", (0.5, 0.75, 1.0), (0.2, 0.6), 16)
SCORES = np.array([0.1, 0.5, 0.2, 0.2, 0.9, 0.4, 0.7])


@pytest.mark.parametrize("kind", ["global", "minmax"])
def test_a_complexity_has_the_rank_that_it_is_asked_for(kind):
    for q in (0.05, 1 / 3, 0.5, 2 / 3, 0.99):
        assert unseen(score_at(q, SCORES, kind), SCORES, kind) == pytest.approx(q)
    with np.errstate(all="raise"):
        assert (
            score_at(0.4, np.ones(3), kind) == -np.inf and score_at(0.6, np.ones(3), kind) == np.inf
        )


def test_training_images_keep_their_sizes():
    """Where ranks are global, the rule is the plan's."""
    settings = DataSlimming(rank="global")
    scores = np.random.default_rng(0).random(200)
    rule = SizeRule.learnt(settings, scores, 16)
    ratios = np.asarray(rule.ratios)[np.digitize(scores, rule.limits)]
    assert (ratios == settings.ratio(unseen(scores, scores, "global"))).all()
    assert set(ratios) == {0.5, 0.75, 1.0}


def test_an_image_is_made_smaller_by_its_complexity():
    flat = np.full((96, 128, 3), 90, np.uint8)
    noisy = np.random.default_rng(0).integers(0, 256, flat.shape, np.uint8)
    assert MEASURES["spatial_information"](noisy, None) > 0.6
    assert RULE.ratio(flat) == 0.5 and RULE.ratio(noisy) == 1.0
    assert RULE.smaller(flat).shape == (48, 64, 3) and RULE.smaller(noisy) is noisy
    stripes = np.zeros_like(flat)
    stripes[:, 64:] = 255  # 8 / W = 0.0625, in the lowest bin; a limit below it puts it higher
    middle = replace(RULE, limits=(0.05, 0.6))
    assert middle.ratio(stripes) == 0.75
    expected = cv2.resize(stripes, (96, 80), interpolation=cv2.INTER_AREA)  # 72 -> 80, of 16 px
    np.testing.assert_array_equal(middle.smaller(stripes), expected)


def test_what_has_no_rule():
    for changes in (
        {"measure": "label_boundary"},
        {"shuffled": True},
        {"ratios": (1.0,), "edges": ()},
    ):
        assert SizeRule.learnt(replace(DataSlimming(), **changes), SCORES, 8) is None
    assert SizeRule.learnt(DataSlimming(), np.ones(5), 8) is None
    one = SizeRule.learnt(DataSlimming(ratios=(0.5,), edges=()), SCORES, 8)
    assert one.limits == () and one.ratio(np.zeros((8, 8, 3), np.uint8)) == 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"measure": "label_boundary"},
        {"measure": 3},
        {"ratios": [0.5, 0.75, 2.0]},
        {"ratios": [0.5, 0.75, 1]},
        {"ratios": "abc"},
        {"limits": [0.6, 0.2]},
        {"limits": [0.2]},
        {"limits": [0.2, float("nan")]},
        {"stride": 0},
        {"stride": 16.0},
        {"more": 1},
    ],
)
def test_a_record_from_anybody_is_checked(change):
    assert SizeRule.from_dict(RULE.to_dict()) == RULE
    with pytest.raises(UserError, match="sizes by complexity: got") as error:
        SizeRule.from_dict({**RULE.to_dict(), **change})
    assert "\n" not in str(error.value)
