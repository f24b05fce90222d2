"""Data slimming in whole runs: nothing changes when it is off, resuming is exact, one program per size."""

import functools
from dataclasses import replace

import numpy as np
import pytest

from jaxseg import build, defaults
from jaxseg.arch import train_macs
from jaxseg.data import datasets
from jaxseg.data.dance import DataSlimming
from jaxseg.data.dance_plan import SlimPlan
from jaxseg.data.plan import TrainPlan
from jaxseg.errors import UserError
from jaxseg.methods.dance_data import output_stride, slimmed
from jaxseg.models import zoo
from jaxseg.training import run, steps
from jaxseg.training.loop import Every
from tests.fakes import FakeSplit, small_arch
from tests.training.test_run import phase, plan, run_in_pieces

Q = tuple(np.linspace(0, 1, 12).tolist())
OFF = DataSlimming(ratios=(1.0,), edges=(), tau_drop=0.0, w_min=1.0)
SETTINGS = DataSlimming(ratios=(0.5, 1.0), edges=(0.5,), warm_epochs=1)


def run_of(settings, **changes):
    """The small network on twelve images, crops of 32 x 40 px at stride 8."""
    phases = [phase("one", 9)]
    if settings:
        phases = slimmed(phases, small_arch(), settings, Q)
    return plan(phases, every=Every(log=2, save=1), **changes)


@pytest.fixture(scope="module")
def slim(tmp_path_factory):
    return run.train(tmp_path_factory.mktemp("slim"), run_of(SETTINGS))


def test_switched_off_a_run_is_the_plain_one(tmp_path, slim):
    """T3: every bit of the state, and what it cost."""
    plain = run.train(tmp_path / "plain", run_of(None))
    off = run.train(tmp_path / "off", run_of(OFF))
    assert off["state_digest"] == plain["state_digest"]
    assert off["train_macs"] == plain["train_macs"] > slim["train_macs"]
    assert slim["state_digest"] != plain["state_digest"]


@pytest.mark.parametrize("stops", [(2, 3, 4), (5, 8)])
def test_resuming_is_exact_at_any_step(slim, tmp_path, stops):
    again = run_in_pieces(tmp_path, lambda: run_of(SETTINGS), stops)
    assert again["state_digest"] == slim["state_digest"]
    assert again["train_macs"] == slim["train_macs"]


def test_worker_processes_change_nothing(slim, tmp_path, capsys):
    again = run.train(tmp_path, run_of(SETTINGS, num_workers=2, notes=("how many of each size",)))
    assert "how many of each size" in capsys.readouterr().out
    assert again["state_digest"] == slim["state_digest"]


def test_macs_are_those_of_the_sizes_that_were_seen(slim):
    """T4: the log against the sum over the plan, and against the closed form."""
    arch, own = small_arch(), run_of(SETTINGS).phases[0].plan
    cost = lambda size: 4 * train_macs(zoo.blocks(arch), *size, lambda name: True)  # noqa: E731
    sizes = [own.at(t).size_px for t in range(9)]
    assert slim["train_macs"] == sum(map(cost, sizes)) and len(set(sizes)) == 2
    assert sizes[:3] == [(32, 40)] * 3  # the warm epoch
    # Crops of 64 px, where no side needs rounding, over many epochs.
    (long,) = slimmed([phase("main", 1)], arch, replace(SETTINGS, warm_epochs=0), Q)
    wide = replace(long.plan, size_px=(64, 64))
    spent = sum(cost(wide.at(t).size_px) for t in range(wide.steps_in(300)))
    assert spent / (300 * 3 * cost((64, 64))) == pytest.approx(
        SETTINGS.cost_frac(np.array(Q)), rel=0.01
    )


def test_warm_epochs_are_of_the_run_and_not_of_each_phase():
    first, second = slimmed([phase("one", 7), phase("two", 3, seed=1)], small_arch(), SETTINGS, Q)
    assert (first.plan.slimming.warm_epochs, second.plan.slimming.warm_epochs) == (1, 0)
    assert (first.plan.seed, second.plan.seed) == (0, 1)


def test_one_program_per_size(slim, tmp_path):
    traced = []

    def make_step(arch, own, **options):
        step = steps.supervised(
            arch,
            own,
            loss=steps.Loss(),
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
            ema_decay=0.9,
            **options,
        )

        @functools.wraps(step)
        def watched(state, batch):
            traced.append(batch["label"].shape[1:])
            return step(state, batch)

        return watched

    made = run_of(SETTINGS)
    made = replace(made, phases=(replace(made.phases[0], make_step=make_step),))
    assert run.train(tmp_path, made)["state_digest"] == slim["state_digest"]
    seen = {made.phases[0].plan.at(t).size_px for t in range(9)}
    assert len(seen) == 2 and sorted(traced) == sorted(seen)


def test_the_stride_is_the_network_s():
    assert output_stride(small_arch()) == 8
    assert output_stride(zoo.named("deeplabv3plus_resnet18", 3, width=0.125)) == 16
    with pytest.raises(UserError, match="output stride of 8 px"):
        tiny = DataSlimming(ratios=(0.1, 1.0), edges=(0.5,))
        slimmed([phase("one", 1)], small_arch(), tiny, Q)


# --- From a config ---


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(datasets, "describe", lambda name, dir: FakeSplit().spec)
    monkeypatch.setattr(
        build, "open_split", lambda data, split: FakeSplit(split, 4 if split == "val" else 12)
    )
    monkeypatch.setattr(build, "architecture", lambda config, spec: small_arch())
    config = defaults.get_config()
    config.data.height_px = config.data.width_px = 64
    config.data.batch_size, config.eval.batch_size = 2, 4
    return config


def test_a_measure_alone_changes_nothing(config):
    plain = build.training_plan(config, name="x").phases[0].plan
    config.dance.data.measure = "jpeg"
    own = build.training_plan(config, name="x").phases[0].plan
    assert isinstance(own, SlimPlan) and type(plain) is TrainPlan
    for t in range(20):
        np.testing.assert_array_equal(own.at(t).indices, plain.at(t).indices)
        assert own.at(t).size_px == plain.at(t).size_px and (own.at(t).weight == 1).all()


def test_the_section_of_the_config(config):
    section = config.dance.data
    section.measure, section.ratios, section.edges = "label_boundary", (0.5, 1.0), (0.5,)
    section.tau_drop, section.w_min, section.warm_epochs = 0.2, 0.5, 0
    made = build.training_plan(config, name="x")
    own = made.phases[0].plan
    expected = DataSlimming("label_boundary", "within_group", (0.5, 1.0), (0.5,))
    assert own.slimming == expected and len(own.q) == 12 and own.seed == config.seed
    stride = output_stride(made.arch)
    assert own.stride == stride and own.sizes_px() == {0.5: (32, 32), 1.0: (64, 64)}
    assert made.notes[0] == "data slimming:" and made.notes[-1].split()[:2] == ["all", "12"]
    # Early exits learn from slimmed images too.
    config.mess.num_exits = 2
    later = build.training_plan(config, name="x").phases
    assert [p.plan.slimming for p in later] == [expected] * 2
    assert later[1].plan.seed != later[0].plan.seed


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tau_drop": 0.2}, "dance.data.measure: got ''; expected the measure"),
        ({"measure": "jpg"}, "did you mean 'jpeg'"),
        ({"measure": "jpeg", "ratios": (0.5, 2.0)}, "dance.data.ratios"),
        ({"measure": "jpeg", "ratios": ("a",)}, "dance.data.ratios.*expected numbers"),
        ({"measure": "jpeg", "drop_rule": "stepp"}, "did you mean 'step'"),
        ({"measure": "jpeg", "ratios": (0.05, 1.0), "edges": (0.5,)}, "output stride of"),
        (
            {
                "measure": "jpeg",
                "rank": "minmax",
                "tau_drop": 0.99,
                "drop_rule": "step",
                "d_max": 1.0,
            },
            None,  # the greatest rank is 1 and stays
        ),
    ],
)
def test_mistakes_are_one_line(config, changes, said):
    for key, value in changes.items():
        config.dance.data[key] = value
    if said is None:
        build.training_plan(config, name="x")
        return
    with pytest.raises(UserError, match=said) as error:
        build.training_plan(config, name="x")
    assert "\n" not in str(error.value)
