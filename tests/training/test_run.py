"""Whole runs on a tiny data set: resuming is exact, whatever a phase does to the network."""

import functools
import json
from dataclasses import replace

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxseg.arch import to_json
from jaxseg.data.plan import TrainPlan
from jaxseg.data.transforms import Augment
from jaxseg.errors import UserError
from jaxseg.inference.artifact import Card, load_model
from jaxseg.models import segmenter, zoo
from jaxseg.models.segmenter import Segmenter
from jaxseg.training import run, steps
from jaxseg.training.keeper import best_of_network
from jaxseg.training.loop import Every
from jaxseg.training.optim import Optim
from jaxseg.training.parallel import Parallel
from jaxseg.training.phases import Phase
from tests.fakes import COLORS, FakeSplit, small_arch

SIZE_PX = (32, 40)
AUGMENT = Augment(
    scale_min=0.5,
    scale_max=2.0,
    flip_prob=0.5,
    color_jitter=0.3,
    blur_prob=0.5,
    fill=(124, 116, 104),
)


def phase(name, num_steps, seed=0, **changes):
    make = functools.partial(
        steps.supervised, loss=steps.Loss(), mean=(0.5,) * 3, std=(0.25,) * 3, ema_decay=0.9
    )
    settings = dict(plan=TrainPlan(12, 4, seed=seed, size_px=SIZE_PX), optim=Optim())
    return Phase(name, num_steps, make, **{**settings, **changes})


def plan(phases, arch=None, **changes):
    card = Card(
        class_names=("red", "green", "blue"),
        class_colors=COLORS,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        data={"name": "fake"},
        evaluation={},
    )
    settings = dict(
        arch=arch or small_arch(),
        phases=tuple(phases),
        parallel=Parallel.over("jit", 4),
        train_split=FakeSplit("train", 12),
        eval_split=FakeSplit("val", 5),
        augment=AUGMENT,
        card=card,
        config={"seed": 7, "max_steps": 0},
        seed=7,
        every=Every(log=2, evaluate=3, save=1),
        ema=True,
        num_pictures=2,
        keep_last=30,
        tensorboard=False,
    )
    return run.Plan(**{**settings, **changes})


def run_in_pieces(folder, make_plan, stops):
    """One process would be killed at each stop; a new plan object each time, as a new process has."""
    for stop in (*stops, 0):
        record = run.train(folder, replace(make_plan(), max_steps=stop))
    return record


def two_phases():
    return plan([phase("head_first", 3, trainable=("head",)), phase("all", 4, seed=1)])


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An uninterrupted run of two phases."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, run.train(folder, two_phases())


def test_a_run_leaves_everything_it_promises(straight):
    folder, record = straight
    assert record["step"] == 7 and len(record["state_digest"]) == 64
    assert [e["phase"] for e in record["evidence"]] == ["head_first", "all"]
    for name in ("run.json", "config.json", "log.jsonl", "pictures/curves.png"):
        assert (folder / name).stat().st_size > 0
    assert len(list((folder / "pictures").glob("overlays_*.png"))) >= 2
    arch, variables, card = load_model(folder / "model")
    assert arch == small_arch() and card.origin["step"] == 7
    assert (folder / "model_best" / "arch.json").exists()
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert {"phase", "train", "eval"} == {line["kind"] for line in lines}
    wait = [line["wait_frac"] for line in lines if line["kind"] == "train"]
    assert all(0 <= w <= 1 for w in wait)


@pytest.mark.parametrize("stops", [(), (3,), (4,), (5,)])
def test_the_best_is_of_the_network_that_the_run_ends_with(tmp_path, monkeypatch, stops):
    """The second phase has another network, which scores worse; of equal scores the later counts."""
    first = small_arch()
    other = replace(first, head=replace(first.head, dropout=0.25))

    def scores(arch, state, step):
        miou = {4: 0.1, 5: 0.3, 6: 0.3}.get(step, 0.9)
        found = {"split": "val", "miou": miou, "aacc": 0.5, "loss": 1.0, "wall_s": 0.1}
        return found | {"iou": [miou] * 3}

    def make():
        change = {"on_enter": lambda arch, state: (other, state), "seed": 1}
        often = Every(log=2, evaluate=1, save=1)
        return plan([phase("first", 3), phase("second", 3, **change)], every=often)

    monkeypatch.setattr(run, "Evaluator", lambda *_: scores)
    run_in_pieces(tmp_path, make, stops)
    arch, _, card = load_model(tmp_path / "model_best")
    assert arch == other and card.origin["step"] == 6
    lines = [
        {"kind": "phase", "step": 0},
        {"kind": "eval", "step": 3, "miou": 0.7},
        {"kind": "phase", "step": 3, "arch": json.loads(to_json(other))},
        {"kind": "eval", "step": 4, "miou": None},
    ]
    assert best_of_network(lines[:2], small_arch()) == 0.7
    assert best_of_network(lines, small_arch()) == -1.0 and best_of_network(lines, other) == 0.7


@pytest.mark.parametrize("stops", [(1,), (2, 3), (3, 4), (5,), (6, 7)])
def test_resuming_is_exact_at_any_step(straight, tmp_path, stops):
    """Stops inside a phase, at its very end, and right after entering the next."""
    assert run_in_pieces(tmp_path, two_phases, stops)["state_digest"] == straight[1]["state_digest"]
    steps_told = [
        x["step"]
        for x in map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
        if x["kind"] == "train"
    ]
    assert steps_told == sorted(set(steps_told))


def test_a_run_that_was_cut_is_not_scored_again(tmp_path, capsys):
    make = lambda: replace(two_phases(), max_steps=2)  # noqa: E731
    record = run.train(tmp_path, make())
    scores = lambda: (tmp_path / "log.jsonl").read_text().count('"kind": "eval"')  # noqa: E731
    assert scores() == 1
    assert run.train(tmp_path, make()) == record and scores() == 1
    assert "already finished at step 2" in capsys.readouterr().out
    # A record that is missing, or of an earlier end, is written again.
    (tmp_path / "run.json").write_text(json.dumps({**record, "step": 1}))
    again = run.train(tmp_path, make())
    assert (again["step"], again["state_digest"], scores()) == (2, record["state_digest"], 1)


def test_worker_processes_change_nothing(straight, tmp_path):
    record = run_in_pieces(tmp_path, lambda: replace(two_phases(), num_workers=2), (4,))
    assert record["state_digest"] == straight[1]["state_digest"]


def test_a_pmap_run_trains_and_resumes_exactly(tmp_path):
    def make():
        return replace(two_phases(), parallel=Parallel.over("pmap", 4))

    whole = run.train(tmp_path / "whole", make())
    assert run_in_pieces(tmp_path / "pieces", make, (2,))["state_digest"] == whole["state_digest"]


def test_a_finished_run_says_so_and_stays(straight, capsys):
    folder, record = straight
    again = run.train(folder, two_phases())
    assert again == json.loads((folder / "run.json").read_text())
    assert again["state_digest"] == record["state_digest"] and again["wall_s"] == record["wall_s"]
    assert "already finished at step 7" in capsys.readouterr().out


def test_another_config_is_refused_by_key(straight):
    changed = replace(two_phases(), config={"seed": 8, "max_steps": 5})
    with pytest.raises(UserError, match="seed 7 -> 8"):
        run.train(straight[0], changed)


def test_first_phase_trains_the_head_only(tmp_path):
    only = plan([phase("head_first", 3, trainable=("head",))], ema=False)
    run.train(tmp_path, only)
    _, variables, _ = load_model(tmp_path / "model")
    fresh = zoo.init(small_arch(), jax.random.split(jax.random.PRNGKey(7))[0])
    np.testing.assert_array_equal(
        variables["params"]["block_00"]["conv1"]["kernel"],
        fresh["params"]["block_00"]["conv1"]["kernel"],
    )


# A phase that narrows the network: shapes of parameters, statistics, optimiser and EMA change.


def narrowed_block(arch, keep):
    """`arch` whose block_02 has `keep` inner channels."""
    blocks = list(arch.backbone.blocks)
    blocks[2] = replace(blocks[2], widths=(keep, blocks[2].widths[1]))
    return replace(arch, backbone=replace(arch.backbone, blocks=tuple(blocks)))


def narrow(arch, state, *, keep=12):
    """Keeps the first inner channels of block_02, in every tree that has them."""

    def cut(path, leaf):
        names = [str(getattr(p, "key", getattr(p, "name", ""))) for p in path]
        if "block_02" not in names or not getattr(leaf, "ndim", 0):
            return leaf
        if "conv1" in names:
            return leaf[..., :keep]
        return leaf[:, :, :keep] if "conv2" in names and leaf.ndim == 4 else leaf

    kept = {
        name: jax.tree_util.tree_map_with_path(cut, getattr(state, name))
        for name in ("params", "batch_stats", "opt_state", "ema")
    }
    extra = {"kept": np.arange(keep, dtype=np.int32)}
    return narrowed_block(arch, keep), state.replace(**kept, extra=extra)


@pytest.mark.parametrize("fresh_optimiser", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_phase_may_change_every_shape_and_resumes_exactly(tmp_path, fresh_optimiser):
    def make():
        slim = phase("slim", 4, seed=1, on_enter=narrow, fresh_optimiser=fresh_optimiser)
        return plan([phase("wide", 3), slim])

    whole = run.train(tmp_path / "whole", make())
    pieces = run_in_pieces(tmp_path / "pieces", make, (2, 3, 4, 6))
    assert whole["state_digest"] == pieces["state_digest"]
    arch, variables, _ = load_model(tmp_path / "pieces" / "model")
    assert arch == narrowed_block(small_arch(), 12)
    assert variables["params"]["block_02"]["conv1"]["kernel"].shape[-1] == 12
    wide_macs = 3 * run.train(tmp_path / "one", plan([phase("wide", 1)]))["train_macs"]
    assert wide_macs < whole["train_macs"] < wide_macs * 7 / 3


def test_a_run_that_was_cut_between_two_phases_goes_on(tmp_path):
    def make():
        phases = [phase("all", 2), phase("head", 2, seed=1, trainable=("head",))]
        return plan(phases, every=Every())  # else the last step of the first phase is saved as such

    whole = run.train(tmp_path / "whole", make())
    pieces = run_in_pieces(tmp_path / "pieces", make, (2,))
    assert whole["state_digest"] == pieces["state_digest"]


def test_until_ends_a_phase_early_and_resumes_exactly(tmp_path):
    def make():
        early = phase("early", 100, until=lambda state: int(state.step) >= 4, until_every=2)
        return plan([early, phase("late", 2, seed=1)])

    whole = run.train(tmp_path / "whole", make())
    assert whole["evidence"][0] == {"phase": "early", "steps": 4, "ended_by": "until"}
    assert whole["step"] == 6
    pieces = run_in_pieces(tmp_path / "pieces", make, (3, 4, 5))
    assert whole["state_digest"] == pieces["state_digest"]


# A made-up family whose carry is two maps: nothing outside the family may notice.


class TwoMaps(Segmenter):
    """Every block after the stem sees the sum of the two latest maps."""

    def run(self, carry, start, stop, train=False):
        taps = {}
        for i in range(start, stop):
            new, old = carry if i > 1 else (carry, None)
            fits = old is not None and old.shape == new.shape
            made, tap = super().run(new + old if fits else new, i, i + 1, train)
            taps |= tap
            carry = (made, new) if i else made
        return carry, taps


def test_a_family_with_two_maps_as_carry_trains_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setitem(zoo.FAMILIES, "two_maps", zoo.Family(segmenter.blocks, TwoMaps))
    arch = replace(small_arch(), family="two_maps")
    assert isinstance(zoo.module(arch), nn.Module)
    variables = zoo.init(arch, jax.random.PRNGKey(0))
    module, image = zoo.module(arch), np.ones((1, 64, 64, 3), np.float32)
    n = len(arch.backbone.blocks)
    whole, _ = module.apply(variables, image, 0, n, method="run")
    for k in range(1, n):
        half, _ = module.apply(variables, image, 0, k, method="run")
        rest, _ = module.apply(variables, half, k, n, method="run")
        np.testing.assert_array_equal(whole[0], rest[0])
    assert len(whole) == 2
    make = lambda: plan([phase("main", 4)], arch=arch)  # noqa: E731
    straight = run.train(tmp_path / "whole", make())
    pieces = run_in_pieces(tmp_path / "pieces", make, (1, 3))
    assert straight["state_digest"] == pieces["state_digest"]
    assert load_model(tmp_path / "pieces" / "model")[0].family == "two_maps"
