"""After GAS: golden values of the guide, sampling, cells by hand, and that a derived network is the searched one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.arch import from_json, to_json
from jaxseg.errors import UserError
from jaxseg.models import gas, zoo
from jaxseg.models.backbones.gas import (
    BY_HAND,
    CANDIDATES,
    check_choices,
    genotype_of,
    nodes_of,
    reductions,
)
from jaxseg.models.backbones.gas_mixed import variables_of

K = 3


def supernet(cells=3, **options):
    return zoo.named("gas", K, width=0.125, cells=cells, genotype=(), dropout=0.0, **options)


# --- The guide ---

TWO = {k: jnp.eye(2) for k in ("w1", "w2", "phi1", "w_g", "phi2")}


def test_golden_value_of_the_graph():
    """G1."""
    moved, adjacency = gas.graph(jnp.eye(2), jnp.diag(jnp.array([2.0, 1.0])), **TWO)
    np.testing.assert_allclose(adjacency, [[0.88080, 0.11920], [0.26894, 0.73106]], atol=1e-5)
    np.testing.assert_allclose(moved, [[2.88080, 0.05960], [0.26894, 1.86553]], atol=1e-5)


def weights(seed=0, q=8, d=64):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (q, q), "w2": (q, q), "phi1": (q, d), "w_g": (d, d), "phi2": (d, q)}
    return {k: rng.normal(size=s).astype(np.float32) / np.sqrt(s[0]) for k, s in shapes.items()}


def alphas(cells, seed=1):
    return np.random.default_rng(seed).normal(size=(cells, 5, 8)).astype(np.float32)


def test_the_graph_is_its_equation_in_numpy():
    w = {k: v.astype(np.float64) for k, v in weights().items()}
    a, b = alphas(2).astype(np.float64)
    logits = (a @ w["w1"]) @ (b @ w["w2"]).T
    e = np.exp(logits - logits.max(1, keepdims=True))
    adjacency = e / e.sum(1, keepdims=True)
    hidden = b @ w["phi1"]
    expected = a + 0.5 * (adjacency @ hidden @ w["w_g"] + hidden) @ w["phi2"]
    moved, found = gas.graph(*alphas(2), **weights())
    np.testing.assert_allclose(found, adjacency, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)


def test_edges_keep_their_place():
    """G2: permuting both cells permutes the result; permuting the older one alone changes it."""
    a, b = alphas(2)
    order = np.array([3, 0, 4, 1, 2])
    moved, _ = gas.graph(a, b, **weights())
    both, _ = gas.graph(a[order], b[order], **weights())
    np.testing.assert_allclose(both, moved[order], rtol=1e-4, atol=1e-5)
    one, _ = gas.graph(a, b[order], **weights())
    assert np.abs(one - moved).max() > 0.1
    nothing = weights() | {"phi2": np.zeros((64, 8), np.float32)}
    np.testing.assert_array_equal(gas.graph(a, b, **nothing)[0], a)


@pytest.mark.parametrize("guide", ["graph", "link", "identity", "none"])
def test_a_cell_feels_itself_and_the_one_before(guide):
    """G3, G6."""
    arch = supernet(4, guide=guide)
    search = gas.initial(arch, jax.random.PRNGKey(0))
    search["log_alpha"] = jnp.asarray(alphas(4))
    jacobian = jax.jacobian(lambda a: gas.guided(arch, {**search, "log_alpha": a}))(
        search["log_alpha"]
    )
    felt = np.abs(np.asarray(jacobian)).max(axis=(1, 2, 4, 5)) > 0
    expected = np.eye(4, dtype=bool) | (np.eye(4, k=-1, dtype=bool) & (guide != "none"))
    np.testing.assert_array_equal(felt, expected)


def test_sizes_of_the_guide():
    """G6: 5248 weights a pair."""
    made = gas.initial(supernet(4), jax.random.PRNGKey(0))
    assert made["log_alpha"].shape == (4, 5, 8)
    assert sum(v.size for k, v in made.items() if k != "log_alpha") == 3 * 5248
    assert abs(float(made["log_alpha"].mean()) - 1) < 0.01
    shared = gas.initial(supernet(4, guide="none", sharing="shared"), jax.random.PRNGKey(0))
    assert set(shared) == {"log_alpha"} and shared["log_alpha"].shape == (2, 5, 8)
    logits = gas.guided(supernet(4, guide="none", sharing="shared"), shared)
    kinds = [int(k in reductions(4)) for k in range(4)]
    np.testing.assert_array_equal(logits, shared["log_alpha"][np.array(kinds)])


# --- Sampling ---


@pytest.mark.parametrize("temperature, sharp", [(1.0, 0.665), (0.03, 0.987)])
def test_who_wins_follows_the_probabilities(temperature, sharp):
    """G4."""
    logits = jnp.log(jnp.array([0.5, 0.3, 0.2]))
    many = jnp.broadcast_to(logits, (200_000, 3))
    z = gas.sampled(many, jnp.float32(temperature), jax.random.PRNGKey(0))
    np.testing.assert_allclose(np.bincount(z.argmax(1)) / 200_000, [0.5, 0.3, 0.2], atol=5e-3)
    assert z.max(1).mean() == pytest.approx(sharp, abs=3e-3)
    if temperature == 1:
        np.testing.assert_allclose(z.mean(0), [0.448, 0.314, 0.238], atol=2e-3)


# --- Cells ---


def test_what_a_genotype_means():
    arch = zoo.named("gas", K, cells=6)
    assert genotype_of(arch.backbone) == tuple(BY_HAND[k % 4] for k in range(6))
    assert from_json(to_json(arch)) == arch and arch.family == "segmenter"
    strides = [b.out_stride for b in zoo.blocks(arch)[:-1]]
    assert strides == [4, 4, 4, 8, 8, 16, 16]
    cell = zoo.blocks(arch)[3]  # reduces: G10
    own = {layer.name: layer.stride for layer in cell.layers}
    assert own["edge0_skip"] == own["edge1_separable_depthwise"] == 2 and own["newer"] == 1
    inner = zoo.blocks(zoo.named("gas", K, cells=6, genotype=[("conv",) * 5] * 6))[3]
    assert inner.layer("edge4_conv").stride == 1 and inner.layer("edge3_conv").stride == 2


def test_nodes_without_edges_are_left_out():
    assert nodes_of(("zero",) * 4 + ("conv",)) == {}  # x1 is not there to be read
    assert nodes_of(("zero", "zero", "skip", "zero", "conv")) == {"x2": [2]}
    one = zoo.named("gas", K, cells=3, genotype=[("zero", "zero", "skip", "zero", "conv")] * 3)
    assert [b.out_channels for b in zoo.blocks(one)[1:4]] == [8, 16, 32]
    assert not zoo.blocks(one)[1].has("newer")
    with pytest.raises(UserError, match="a cell of zeros"):
        check_choices("x", ("zero",) * 4 + ("conv",))


def test_the_best_edge_comes_back_where_nothing_is_left():
    logits = np.zeros((1, 5, 8))
    logits[..., CANDIDATES.index("zero")] = 9.0
    logits[0, 3, CANDIDATES.index("separable_4")] = 8.0
    logits[0, 4, CANDIDATES.index("conv")] = 8.5  # from x1, which is not there
    assert gas.genotype(logits) == (("zero", "zero", "zero", "separable_4", "zero"),)


def test_a_derived_network_is_the_searched_one_with_its_weights():
    """G9, for a random choice on every edge."""
    arch = supernet()
    variables = jax.device_get(zoo.init(arch, jax.random.PRNGKey(0)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: x + 0.1 * rng.random(x.shape, np.float32), variables)
    x = jnp.asarray(rng.normal(size=(1, 32, 32, 3)), jnp.float32)
    whole = jax.jit(zoo.module(arch).apply)
    compared = 0
    for seed in range(6):
        variables["params"]["search"]["log_alpha"] = alphas(3, seed)
        small = gas.derived(arch, gas.genotype(gas.guided(arch, variables["params"]["search"])))
        parts = {
            kind: {
                b.name: variables_of(b, variables[kind][b.name])
                for b in zoo.blocks(small)
                if b.name in variables[kind]
            }
            for kind in variables
        }
        if any(len(nodes_of(c)) < 2 for c in genotype_of(small.backbone)):
            continue  # others read fewer channels then
        compared += 1
        expected = zoo.module(small).apply(parts, x).logits
        np.testing.assert_allclose(whole(variables, x).logits, expected, rtol=1e-4, atol=1e-4)
    assert compared >= 2


@pytest.mark.parametrize(
    "options, said",
    [
        ({"genotype": [("conv",) * 5] * 2}, "gas.genotype: got 2 cells"),
        ({"genotype": [("conv",) * 4] * 3}, "4 operations"),
        ({"genotype": [("convv",) * 5] * 3}, "did you mean 'conv'"),
        ({"cells": 2}, "gas.cells"),
    ],
)
def test_mistakes_are_one_line(options, said):
    with pytest.raises(UserError, match=said) as error:
        zoo.blocks(zoo.named("gas", K, **{"cells": 3, **options}))
    assert "\n" not in str(error.value)


def test_cells_of_a_search_are_guided_alike():
    arch = supernet()
    blocks = list(arch.backbone.blocks)
    blocks[2] = dataclasses.replace(blocks[2], choices=("none", "own"))
    other = dataclasses.replace(
        arch, backbone=dataclasses.replace(arch.backbone, blocks=tuple(blocks))
    )
    with pytest.raises(UserError, match="the same of all"):
        zoo.blocks(other)
    with pytest.raises(UserError, match="no neighbours"):
        gas.check_guide("graph", "shared")
