"""Few bits after BFCN: what convolutions are given, the ladder as phases, mistakes as one line."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxseg.arch import from_json, to_json
from jaxseg.conversion.calibrated import calibrated
from jaxseg.errors import UserError
from jaxseg.inference.artifact import load_model
from jaxseg.layers.conv import conv2d
from jaxseg.methods import bfcn
from jaxseg.models import zoo
from jaxseg.numbers import BitsArch, Grid, IntegerArch, NumbersArch
from jaxseg.training import run
from tests.fakes import NUM_CLASSES as K
from tests.training.test_run import phase, plan, run_in_pieces

ONE_TWO = BitsArch(1, 2, 8)


@pytest.mark.parametrize("name", ["deeplabv3plus_resnet18", "gas"])
def test_convolutions_are_given_few_bits(name):
    """B1, in whole networks: all but what reads the image, 8 bits at the ends."""
    options = {"cells": 3} if name == "gas" else {}
    arch = bfcn.architecture(zoo.named(name, K, width=0.125, dropout=0.0, **options), ONE_TWO)
    assert from_json(to_json(arch)) == arch
    seen = []

    def watched(x, kernel, **options):
        seen.append((x, kernel))
        return conv2d(x, kernel, **options)

    variables = zoo.init(arch, jax.random.PRNGKey(0))
    x = jax.random.normal(jax.random.PRNGKey(1), (1, 32, 32, 3))
    with jax.disable_jit():
        zoo.module(arch, conv_op=watched).apply(variables, x)
    few = 0
    for x, kernel in seen:
        kinds = len(np.unique(np.abs(kernel).round(5))), len(np.unique(np.sign(kernel)))
        if x.shape[-1] == 3:
            continue
        assert x.min() >= 0 and x.max() <= 1
        steps = np.asarray(x) * (255 if kinds[0] > 1 else 3)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
        assert kinds[0] == 1 or kinds[0] <= 128
        few += kinds == (1, 2)
    assert few > len(seen) / 2


def ladder(stage=0.5):
    settings = bfcn.Settings(ONE_TWO, ("32/32",), stage)
    arch = zoo.named("fcn_resnet18", K, width=0.125, output_stride=32, dropout=0.0)
    return plan(bfcn.decayed([phase("main", 4)], settings), arch)


def test_the_ladder_trains_and_resumes(tmp_path):
    """B5: a stage goes on from the weights before it, at half the learning rate, for its share of the steps."""
    phases = ladder().phases
    assert [(p.name, p.steps) for p in phases] == [("main", 4), ("main_w1a2", 2)]
    longer = bfcn.decayed(phases[:1], bfcn.Settings(ONE_TWO, ("32/32", "4/4"), 0.25))
    assert [(p.name, p.steps) for p in longer[1:]] == [("main_w4a4", 1), ("main_w1a2", 1)]
    rates = [p.optim.learning_rate for p in longer]
    np.testing.assert_allclose(rates, [rates[0], rates[0] / 2, rates[0] / 4])
    assert len({p.plan.seed for p in longer}) == 3
    straight = run.train(tmp_path / "straight", ladder())
    arch, variables, _ = load_model(tmp_path / "straight" / "model")
    assert arch.numbers.bits == ONE_TWO
    resumed = run_in_pieces(tmp_path / "pieces", ladder, (5,))
    assert resumed["state_digest"] == straight["state_digest"]
    entered, state = longer[1].on_enter(arch, variables)
    assert state is variables and entered.numbers.bits == BitsArch(4, 4, 8)
    with pytest.raises(UserError, match="few bits"):
        calibrated(arch, variables, (0.5,) * 3, (0.2,) * 3, lambda: [])


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: BitsArch(reach=0.0), "reach of activations: got 0.0; expected above 0"),
        (lambda: BitsArch(9), "bits of weights: got 9; expected 1 to 8, or 32"),
        (lambda: bfcn.Settings(ONE_TWO, ("8",)), "bfcn.ladder: got '8'"),
        (lambda: bfcn.Settings(ONE_TWO, ("4/4", "8/8")), "no more bits than in the stage before"),
        (lambda: bfcn.Settings(ONE_TWO, ("4/1",)), "no more bits than in the stage before"),
        (lambda: bfcn.Settings(BitsArch(), ("8/8",)), "below 32"),
        (lambda: bfcn.Settings(ONE_TWO, stage=0.0), "bfcn.stage"),
        (
            lambda: replace(NumbersArch(bits=ONE_TWO), integer=IntegerArch(weights=Grid(8))),
            "no integer grids",
        ),
    ],
)
def test_mistakes_are_one_line(make, said):
    with pytest.raises(UserError) as error:
        make()
    assert said in str(error.value) and "\n" not in str(error.value)
