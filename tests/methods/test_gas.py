"""The search after GAS: its latency term by hand, one step that teaches weights and choices, a run that derives."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg.errors import UserError
from jaxseg.inference import edge_times
from jaxseg.inference.artifact import load_model
from jaxseg.methods import gas as method
from jaxseg.models import gas
from jaxseg.models.backbones.gas import CANDIDATES, genotype_of
from jaxseg.training import run
from jaxseg.training.report import read_log
from jaxseg.training.steps import Now
from tests.models.test_gas import alphas, supernet
from tests.training.test_run import SIZE_PX, phase, plan, run_in_pieces


def test_gradient_of_the_latency_by_hand():
    """G5: and no unit changes it."""
    table = np.array([[[1.0, 2.0, 4.0]]])
    logits = jnp.log(jnp.array([[[0.5, 0.3, 0.2]]]))

    def soft(search, now):
        return jax.nn.softmax(search["log_alpha"])

    for unit in (1.0, 1000.0):

        def loss(logits, unit=unit):
            search = {"search": {"log_alpha": logits}}
            return method.latency_penalty(search, None, sample=soft, table=unit * table, beta=0.005)

        grad = jax.grad(loss)(logits)
        np.testing.assert_allclose(grad[0, 0], [-1.184e-3, 7.895e-5, 1.105e-3], rtol=1e-3)
    assert method.expected_latency(jax.nn.softmax(logits), table) == pytest.approx(1.9)


def test_the_temperature_falls_in_a_line():
    settings = method.Settings(101)
    found = [float(settings.temperature(jnp.int32(t))) for t in (0, 50, 100)]
    np.testing.assert_allclose(found, [1.0, 0.515, 0.03], rtol=1e-5)


@pytest.mark.parametrize("guide", ["graph", "none"])
def test_latency_alone_drives_edges_to_what_is_cheap(guide):
    """G7: with the cross-entropy switched off. A guide can hold a cell's edges together; then not all get there."""
    arch = supernet(3, guide=guide)
    search = gas.initial(arch, jax.random.PRNGKey(0))
    rng = np.random.default_rng(0)
    table = 1 + rng.permuted(np.broadcast_to(np.arange(8.0), (3, 5, 8)), axis=-1)
    settings = method.Settings(300)
    sample = functools.partial(method.sampled, arch=arch, settings=settings)
    tx = optax.adam(0.05)

    @jax.jit
    def step(search, opt, t):
        now = Now(t, jax.random.fold_in(jax.random.PRNGKey(1), t))
        loss = functools.partial(method.latency_penalty, sample=sample, table=table, beta=1.0)
        grad = jax.grad(lambda s: loss({"search": s}, now))(search)
        updates, opt = tx.update(grad, opt)
        return optax.apply_updates(search, updates), opt

    opt = tx.init(search)
    for t in range(300):
        search, opt = step(search, opt, jnp.int32(t))
    found = np.asarray(gas.guided(arch, search)).argmax(-1)
    if guide == "none":
        np.testing.assert_array_equal(found, table.argmin(-1))
    spent = np.take_along_axis(table, found[..., None], axis=-1).mean()
    assert spent < 0.7 * table.mean()


def test_a_table_of_latencies_is_added_up(tmp_path):
    arch = supernet(3)
    table = edge_times.reckoned(arch, (32, 32))
    assert table.shape == (3, 5, 8) and (table >= 0).all()
    zero, skip = CANDIDATES.index("zero"), CANDIDATES.index("skip")
    assert (table[..., zero] == 0).all()
    assert table[0, 0, skip] == 0 < table[1, 0, skip]  # cell 1 reduces
    assert table[1, 4, skip] == 0  # but not from x1
    found = gas.genotype(alphas(3))
    small = gas.derived(arch, found)
    one_hot = np.asarray(gas.best(alphas(3)))
    expected = method.expected_latency(one_hot, table)
    assert edge_times.latency_of(small, table) == pytest.approx(float(expected))


@pytest.fixture(scope="module")
def record():
    arch = supernet(3)
    return edge_times.measure(arch, (32, 32), rounds=2, say=lambda line: None) | {"device": "here"}


def test_a_measured_table(record, tmp_path):
    file = tmp_path / "table.json"
    file.write_text(json.dumps(record))
    table = edge_times.read_table(file, supernet(3), {"device": "here"})
    assert (table[..., CANDIDATES.index("conv")] > 0).all()
    assert (table[..., CANDIDATES.index("zero")] == 0).all()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"device": "elsewhere"}, "measured elsewhere.*any_device"),
        ({"kind": "x"}, "not a table"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"size_px": [32]}, "size_px"),
        ({"size_px": [64, 64]}, "has no time of"),
        ({"entries": {}}, "has no time of"),
    ],
)
def test_tables_that_do_not_fit_are_refused(record, tmp_path, change, said):
    file = tmp_path / "table.json"
    file.write_text(json.dumps(record | change))
    with pytest.raises(UserError, match=said) as error:
        edge_times.read_table(file, supernet(3), {"device": "here"})
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot read"):
        edge_times.read_table(tmp_path / "no", supernet(3), None)


def searched_plan():
    arch = supernet(3)
    table = edge_times.reckoned(arch, SIZE_PX)
    settings = method.Settings(4)
    return plan(method.searched([phase("main", 3)], arch, settings, table, 0), arch)


def test_a_run_searches_derives_trains_and_resumes(tmp_path):
    straight = run.train(tmp_path / "straight", searched_plan())
    assert [e["phase"] for e in straight["evidence"]] == ["search", "main"]
    arch, variables, _ = load_model(tmp_path / "straight" / "model")
    assert len(genotype_of(arch.backbone)) == 3 and "search" not in variables["params"]
    pictures = tmp_path / "straight" / "pictures"
    assert {p.name for p in pictures.glob("*_0000004.png")} >= {
        "alphas_0000004.png",
        "cells_0000004.png",
    }
    told = [x for x in read_log(tmp_path / "straight" / "log.jsonl") if "gas_genotype" in x][-1]
    assert tuple(map(tuple, told["gas_genotype"])) == genotype_of(arch.backbone)
    resumed = run_in_pieces(tmp_path / "pieces", searched_plan, (2, 5))
    assert resumed["state_digest"] == straight["state_digest"]


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"beta": -1.0}, {"coldest": 0.0}, {"warmest": 0.01}]
)
def test_mistakes_are_one_line(changes):
    with pytest.raises(UserError) as error:
        method.Settings(**{"steps": 9, **changes})
    assert "gas." in str(error.value) and "\n" not in str(error.value)
