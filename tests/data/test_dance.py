"""Data slimming: its maps by hand, and what is said of them."""

from dataclasses import replace

import numpy as np
import pytest

from jaxseg.data import dance_report
from jaxseg.data.dance import DataSlimming, configured
from jaxseg.data.dance_scores import Scores
from jaxseg.errors import UserError

USUAL = DataSlimming()
OFF = DataSlimming(ratios=(1.0,), edges=(), tau_drop=0.0, w_min=1.0)


def uniform(n):
    """The middles of n equal parts of [0, 1]."""
    return (np.arange(n) + 0.5) / n


def test_golden_values_of_the_maps():
    np.testing.assert_allclose(USUAL.drop([0, 0.1, 0.2]), [0.5, 0.25, 0], atol=1e-12)
    q = uniform(60_000)
    assert USUAL.drop(q).mean() == pytest.approx(0.05, abs=1e-6)
    np.testing.assert_allclose(USUAL.gain([0, 0.5, 1]), [0.5, 0.75, 1], atol=1e-12)
    np.testing.assert_allclose(USUAL.weights(np.array([0, 0.5, 1])), [2 / 3, 1, 4 / 3], atol=1e-6)
    keep, ratio = 1 - USUAL.drop(q), USUAL.ratio(q)
    assert USUAL.cost_frac(q) == pytest.approx(0.591667, abs=1e-6)
    assert (keep * ratio**2).sum() / keep.sum() == pytest.approx(0.622807, abs=1e-6)
    assert replace(USUAL, tau_drop=0).cost_frac(q) == pytest.approx(0.604167, abs=1e-6)
    sure = replace(USUAL, drop_rule="step", d_max=1.0)
    assert sure.drop([0, 0.19, 0.2, 1]).tolist() == [1, 1, 0, 0]
    # The control: every image with the same probability, the most complex one too.
    assert replace(sure, d_max=0.4, tau_drop=1.0).drop([0, 0.5, 1]).tolist() == [0.4] * 3
    assert replace(USUAL, weight_sign=-1).gain([0, 0.5, 1]).tolist() == [1, 0.75, 0.5]
    assert OFF.drop(q).max() == 0 and set(OFF.ratio(q)) == {1} and set(OFF.gain(q)) == {1}
    assert USUAL.sorts and USUAL.changes and not OFF.sorts and not OFF.changes
    assert not replace(OFF, w_min=0.5).sorts and replace(OFF, w_min=0.5).changes


@pytest.mark.parametrize(
    "settings", [USUAL, replace(USUAL, drop_rule="step", d_max=1.0, tau_drop=0.4)]
)
def test_the_maps_are_monotone_and_weights_have_mean_one(settings):
    """T2."""
    q = np.sort(np.random.default_rng(0).random(999))
    assert (np.diff(settings.ratio(q)) >= 0).all() and (np.diff(settings.drop(q)) <= 0).all()
    weights = settings.weights(q)
    assert weights.dtype == np.float32 and (np.diff(weights) >= 0).all()
    assert weights.astype(np.float64).mean() == pytest.approx(1, abs=1e-7)
    assert (np.diff(replace(settings, weight_sign=-1).weights(q)) <= 0).all()


BAD = {
    "measure": ("spacial_information", "did you mean 'spatial_information'"),
    "rank": ("within", "one of global, minmax, within_group"),
    "ratios": ((0.0, 0.5, 1.0), r"ascending, in \(0, 1\]"),
    "edges": ((0.5,), "2 ascending numbers"),
    "tau_drop": (1.5, "a number in"),
    "d_max": (-0.1, "a number in"),
    "w_min": (0.0, "a number in"),
    "weight_sign": (0, "1 or -1"),
    "warm_epochs": (-1, "0 or more"),
}


@pytest.mark.parametrize("key", BAD)
def test_settings_that_cannot_be(key):
    value, said = BAD[key]
    with pytest.raises(UserError, match=said) as error:
        DataSlimming(**{key: value})
    assert f"dance.data.{key}" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("ratios", [(), (0.5, 0.5), (1.0, 0.5), (0.5, 1.1)])
def test_ratios_that_cannot_be(ratios):
    with pytest.raises(UserError, match="dance.data.ratios"):
        DataSlimming(ratios=ratios, edges=(0.5,))


def test_the_report_counts_groups():
    q = np.array([0.0, 0.1, 0.5, 0.9, 0.2, 1.0])
    found = Scores(np.arange(6.0), ("a", "a", "a", "a", "b", "b"))
    text = dance_report.render("made up", found, q, USUAL).splitlines()
    assert len(text) == 1 + 10 + 1 + 3 + 1
    a, b, everything = (line.split() for line in text[-4:-1])
    assert a == ["a", "4", "0.300", "50.0%", "25.0%", "25.0%", "18.8%", "0.688"]
    assert b[:6] == ["b", "2", "0.600", "50.0%", "0.0%", "50.0%"] and everything[:2] == ["all", "6"]
    assert dance_report.examples(q, USUAL, 2) == [[0, 1], [2], [3, 5]]
    one = dance_report.shares(Scores(np.zeros(2), ("", "")), np.array([0.5, 0.5]), OFF)
    assert len(one) == 2 and one[1].split() == ["all", "2", "0.500", "100.0%", "0.0%", "1.000"]


def test_without_a_measure_nothing_may_be_switched_on():
    off = {"ratios": (1.0,), "edges": (), "tau_drop": 0.0, "w_min": 1.0}
    assert configured("", **off) is None
    assert configured("jpeg", **off) == replace(OFF, measure="jpeg")
    with pytest.raises(UserError, match="dance.data.measure: got ''; expected the measure"):
        configured("", **{**off, "w_min": 0.5})
