"""Events that wait for masks to settle: when they come, that they are the same on a resume, and the masks by hand."""

import functools
import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.methods import dance, early_bird
from jaxseg.training import run
from jaxseg.training import state as states
from jaxseg.training.loop import Every
from jaxseg.training.report import read_log
from tests.fakes import small_arch
from tests.methods.test_dance import ALL, slimmed_plan
from tests.training.test_run import phase, plan, run_in_pieces

GATED = functools.partial(ALL, share=0.5, events=2, done=0.75, look_every=1)


def with_masks(rows):
    arch, main = small_arch(), phase("main", 8)
    state = states.create(arch, main, 0, ema=False)
    return state.replace(extra={early_bird.MASKS: jnp.asarray(rows, jnp.int8)})


def test_the_largest_stay():
    scores = {"a": np.array([0.3, 0.1, 0.3]), "b": np.array([0.2, 0.3])}
    assert early_bird.largest(scores, 2).tolist() == [1, 0, 1, 0, 0]  # ties by order
    assert early_bird.largest(scores, 4).tolist() == [1, 0, 1, 1, 1]
    assert early_bird.largest(scores, 0).tolist() == [0] * 5


def test_stable_is_against_each_of_the_masks_before():
    row = [1] * 8 + [0] * 2
    moved = [1] * 7 + [0, 1, 0]  # two of ten differ
    assert early_bird.is_stable(with_masks([row] * 5), share=0.0)
    assert early_bird.is_stable(with_masks([row] * 4 + [moved]), share=0.2)
    assert not early_bird.is_stable(with_masks([row] * 4 + [moved]), share=0.1)
    assert not early_bird.is_stable(with_masks([row] * 4 + [[-1] * 10]), share=0.9)


def ended(folder):
    return [
        (e["phase"], e["steps"], e["ended_by"])
        for e in json.loads((folder / "run.json").read_text())["evidence"]
    ]


@pytest.fixture(scope="module")
def soon(tmp_path_factory):
    """Looks at every step, and nearly anything is stable: each event comes after five looks."""
    folder = tmp_path_factory.mktemp("soon")
    pieces = dance.slimmed([phase("main", 16)], small_arch(), GATED(stable=0.99))
    return folder, run.train(folder, plan(pieces, every=Every(log=1, save=3)))


def test_events_come_as_soon_as_they_may_and_the_run_keeps_its_length(soon):
    folder, record = soon
    assert ended(folder) == [
        ("main", 5, "until"),
        ("main_slim_1", 5, "until"),
        ("main_slim_2", 6, "steps"),
    ]
    assert record["step"] == 16
    rates = [x["learning_rate"] for x in read_log(folder / "log.jsonl") if x["kind"] == "train"]
    plain = folder.with_name("plain")
    run.train(plain, plan([phase("main", 16)], every=Every(log=1, save=16)))
    usual = [x["learning_rate"] for x in read_log(plain / "log.jsonl") if x["kind"] == "train"]
    assert rates == usual  # one stretch, wherever it was cut


def test_what_never_settles_goes_at_the_latest_date(tmp_path):
    """Five looks of every third step do not fit in before."""
    settings = GATED(stable=1e-9, look_every=3)
    run.train(tmp_path, slimmed_plan(settings, steps=16))
    assert ended(tmp_path) == [
        ("main", 12, "steps"),
        ("main_slim_1", 0, "steps"),
        ("main_slim_2", 4, "steps"),
    ]


@pytest.mark.parametrize("stops", [(3, 5, 7), pytest.param((1, 10, 11), marks=pytest.mark.slow)])
def test_resuming_is_exact(soon, tmp_path, stops):
    _, straight = soon
    make = functools.partial(slimmed_plan, GATED(stable=0.99), steps=16)
    resumed = run_in_pieces(tmp_path, make, stops)
    assert resumed["state_digest"] == straight["state_digest"]
    assert resumed["train_macs"] == straight["train_macs"]
    assert resumed["evidence"] == straight["evidence"]


def test_looking_changes_nothing_else(tmp_path):
    """Gates that open at the latest date are the run whose events all come then."""
    settings = GATED(stable=1e-9, look_every=3)
    run.train(tmp_path / "gated", slimmed_plan(settings, steps=16))
    at_once = replace(settings, stable=0.0, events=1)
    run.train(tmp_path / "once", slimmed_plan(at_once, steps=16))
    gated, once = (
        [x["loss"] for x in read_log(tmp_path / name / "log.jsonl") if x["kind"] == "train"]
        for name in ("gated", "once")
    )
    assert gated[:4] == once[:4]
